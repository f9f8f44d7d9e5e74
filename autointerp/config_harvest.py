"""The configuration's sections on what is read: model, dictionary, corpus, samples, negatives, steering."""

from typing import Literal

from pydantic import Field

from autointerp.config_fields import Section


class SubjectConfig(Section):
    """The language model under study."""

    model: str = "demo"
    """A local folder or Hugging Face id; "demo" is the embedded demo model."""
    revision: str | None = None
    """A branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The arithmetic of the forward pass; auto: float32 on a CPU, the weights' own type on a GPU."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""


class SaeConfig(Section):
    """The dictionary."""

    path: str = "demo"
    """A local folder or file, a Hugging Face id (owner/name/sub/folder), or saelens:RELEASE/ID; "demo" is the embedded SAE."""
    format: str | None = None
    """Name of the format where it cannot be told from the files; see docs/sae-formats.md."""
    hookpoint: str | None = None
    """Module path such as model.layers.2 (":in" for its input) or TransformerLens name; default: the SAE's own."""


class CorpusConfig(Section):
    """The text that features are looked at on."""

    source: str = "stdlib"
    """stdlib, a file, a folder of texts or of .jsonl or .parquet shards, or hf:NAME[:CONFIG[:SPLIT]]; see docs/corpora.md."""
    text_field: str = "text"
    """The field or column that holds the text, or a list of chat messages."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Stop after so many tokens; none takes the whole corpus."""
    window: int = Field(default=128, ge=2, le=65535)
    """Length of a row of the forward pass, with BOS where it is prepended."""
    prepend_bos: bool | None = None
    """Whether each window begins with BOS; default: as the SAE was trained, else where the tokenizer has one."""


class SampleConfig(Section):
    """Which contexts are kept for each feature."""

    features: str = "all"
    """all, ids and ranges such as 0-999,2048, or a file with one id or range a line."""
    top: int = Field(default=40, ge=1, le=10_000)
    """Strongest windows kept for each feature, shared out over the splits: half to explain, a tenth to rerank, else to test."""
    bands: int = Field(default=5, ge=1, le=50)
    """Bands of the activating windows by their peak, near-quantiles of the feature's own."""
    per_band: int = Field(default=16, ge=1, le=10_000)
    """Uniformly drawn windows kept for each band, shared out over the splits in the same way."""
    pool: int = Field(default=512, ge=8, le=65535)
    """Windows of the shared uniform random pool; silent contexts come from it."""
    max_norm: float | None = Field(default=None, gt=0)
    """Leave out tokens whose hidden state is longer than this: attention sinks. doctor shows how long they are."""
    batch_windows: int = Field(default=32, ge=1)
    """Windows a forward pass; more need more memory, the result is the same."""
    part_windows: int = Field(default=512, ge=1)
    """Windows a part of the harvest, the unit of resumption; a part ends where a document does."""
    checkpoint_s: float = Field(default=30.0, ge=0)
    """Seconds until unfinished work is written; long runs do it less often, so that it costs little. 0: after every part."""
    allow_mismatch: bool = False
    """Go on although the conformance gate says that SAE and model do not fit."""
    loss_recovered: bool = False
    """Measure the loss recovered as well: four full forward passes over 20 thousand tokens. It can be asked for later."""


class NegativesConfig(Section):
    """Hard negatives: windows in which a feature could be expected to fire and does not."""

    per_kind: int = Field(default=0, ge=0, le=1000)
    """Hard negatives kept of each kind for each feature, shared out over the splits like the samples; 0: none are looked for."""
    tries: int = Field(default=2, ge=1, le=20)
    """Windows that are read for each negative wanted: in some of them the feature turns out to fire."""

    def identity(self) -> str:
        """The settings that decide which there are; "0": none."""
        return f"{self.per_kind} of {self.tries}" if self.per_kind else "0"


class SteeringConfig(Section):
    """What the model says otherwise when a feature is switched on."""

    enabled: bool = False
    """Measure it in `run`, and show it to the explainers output and dual; `autointerp steer` sets it."""
    features: str = "all"
    """all that fire, ids and ranges such as 0-999,2048, or a file with one id or range a line."""
    kl: float = Field(default=0.25, gt=0, le=10)
    """How far the predictions are to move: mean KL(clean || steered), nats. Strengths are found for it."""
    max_strength: float = Field(default=16.0, ge=0.01, le=1000)
    """The largest strength that is tried, in units of the feature's maximum; who needs more has what it reached recorded."""
    prompts: int = Field(default=16, ge=1, le=1000)
    """Random pieces of the corpus, of the explain split, that are read; the same for all features."""
    length: int = Field(default=24, ge=1, le=1024)
    """Tokens of each piece; what is predicted after each token of its second half is compared."""
    tokens: int = Field(default=10, ge=1, le=100)
    """Tokens kept each way: those that become likelier, and less likely."""
    floor: float = Field(default=1e-4, ge=0, lt=1)
    """Only tokens with so large a mean probability, clean or steered: the others' changes are noise."""
    batch_rows: int = Field(default=64, ge=1)
    """Pieces a forward pass; more need more memory, the result is the same."""

    def identity(self) -> dict[str, object]:
        """The settings that the measured tokens of a feature depend on."""
        return self.model_dump(exclude={"enabled", "features", "batch_rows"})
