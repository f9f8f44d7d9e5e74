"""A run's configuration: a sentence for every field. How it comes about is in `config_reading`.

The resolved configuration is written into the catalog with the results; it never holds a key, only the name of the
environment variable that does.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _variable_name(name: str | None) -> str | None:
    """A key that was given in place of its variable's name must not be saved, nor shown."""
    if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("not the name of an environment variable (the key itself must not be given here)")
    return name


def _listed(words: object) -> object:
    """Words with commas between them as a tuple; what is a list already as it is."""
    return tuple(word.strip() for word in words.split(",") if word.strip()) if isinstance(words, str) else words


def _urls(given: object) -> object:
    """One URL, several, or none as a tuple."""
    return () if given is None else _listed(given)


def _without_secrets(urls: tuple[str, ...]) -> tuple[str, ...]:
    """A base URL is saved with the run: no password, no query."""
    if any(sign in url for url in urls for sign in "?#@"):
        raise ValueError("a base URL must have no user, query or fragment; give the key by its environment variable")
    return urls


Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
BaseUrls = Annotated[tuple[str, ...], BeforeValidator(_urls), AfterValidator(_without_secrets)]
KeyVariable = Annotated[str | None, AfterValidator(_variable_name)]


# The explainers where none is named: without a model, and with one.
NO_MODEL, WITH_MODEL = "lexicon", "highlighted"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SubjectConfig(_Section):
    """The language model under study."""

    model: str = "demo"
    """A local folder or Hugging Face id; "demo" is the embedded demo model."""
    revision: str | None = None
    """A branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The arithmetic of the forward pass; auto: float32 on a CPU, the weights' own type on a GPU."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""


class SaeConfig(_Section):
    """The dictionary."""

    path: str = "demo"
    """A local folder or file, a Hugging Face id (owner/name/sub/folder), or saelens:RELEASE/ID; "demo" is the embedded SAE."""
    format: str | None = None
    """Name of the format where it cannot be told from the files; see docs/sae-formats.md."""
    hookpoint: str | None = None
    """Module path such as model.layers.2 (":in" for its input) or TransformerLens name; default: the SAE's own."""


class CorpusConfig(_Section):
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


class SampleConfig(_Section):
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


class NegativesConfig(_Section):
    """Hard negatives: windows in which a feature could be expected to fire and does not."""

    per_kind: int = Field(default=0, ge=0, le=1000)
    """Hard negatives kept of each kind for each feature, shared out over the splits like the samples; 0: none are looked for."""
    tries: int = Field(default=2, ge=1, le=20)
    """Windows that are read for each negative wanted: in some of them the feature turns out to fire."""

    def identity(self) -> str:
        """The settings that decide which there are; "0": none."""
        return f"{self.per_kind} of {self.tries}" if self.per_kind else "0"


class SteeringConfig(_Section):
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


class ExplainConfig(_Section):
    """Who writes the labels."""

    explainer: str = NO_MODEL
    """Name of the explainer; lexicon asks no model. Default: lexicon, and highlighted where a model is named for labels."""
    candidates: int = Field(default=4, ge=2, le=10)
    """Labels that best_of_k chooses from."""
    inner: str = WITH_MODEL
    """Who writes the labels that best_of_k chooses from, and the one that refine begins with."""
    steps: int = Field(default=3, ge=1, le=9)
    """Times that refine has a label written anew, at most."""
    patience: int = Field(default=1, ge=1, le=9)
    """Steps without a better score after which refine ends."""
    errors: int = Field(default=4, ge=1, le=20)
    """False alarms that refine shows at a step, at most, and as many misses."""
    investigate_steps: int = Field(default=12, ge=1, le=100)
    """Calls of tools that investigate may make for a feature."""
    investigate_tokens: int = Field(default=80_000, ge=1000)
    """Tokens of questions and answers after which investigate makes no more calls and answers; each turn reads all before it."""
    provider: str = "openai"
    """Who answers explainers and simulators that ask a model, such as openai, anthropic or files:DIR; see docs/providers.md."""
    model: str | None = None
    """The model that writes labels."""
    base_url: BaseUrls = ()
    """Address of an OpenAI- or Anthropic-compatible server; several for provider http."""
    api_key_env: KeyVariable = None
    """Environment variable that holds the key; default: the provider's own."""
    concurrency: int = Field(default=32, ge=1)
    """Requests in flight at most; the broker begins with fewer and sends as many as the server bears."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds until an unanswered request counts as failed and is tried again."""
    include_rare: bool = False
    """Label features that fire in fewer than 20 documents, too."""
    prompt_dir: str | None = None
    """A folder of your own prompts (NAME.j2); one that is there comes before the packaged one of the same name."""


class ExemplarsConfig(_Section):
    """Which contexts explainers are shown, all of the explain split."""

    top: int = Field(default=5, ge=0, le=200)
    """Of the strongest windows."""
    banded: int = Field(default=15, ge=0, le=200)
    """In turn from all bands of the feature's activations, weak ones included."""
    silent: int = Field(default=0, ge=0, le=200)
    """Random windows in which the feature does not fire."""
    negatives: int = Field(default=0, ge=0, le=200)
    """Hard negatives, as far as `autointerp negatives` has found some."""
    window: int = Field(default=32, ge=4, le=512)
    """Tokens of each text, cut around the peak."""
    show: Literal["levels", "marks", "both"] = "both"
    """Activations as whole numbers 0 to 10, as marks around the active tokens, or both, where the explainer leaves the choice."""


class ScoreConfig(_Section):
    """How labels are graded."""

    scorers: Words | None = None
    """Protocols by which labels are graded, with commas; default: simulation, and detection where a model simulates."""
    simulator: str | None = None
    """Name of the simulator; default: lexicon for lexicon labels, else logprob_free."""
    provider: str | None = None
    """Who answers simulators; default: as for explainers, and then base_url and api_key_env are theirs, too."""
    model: str | None = None
    """The model that simulates; default: the one that writes labels."""
    base_url: BaseUrls = ()
    """Address of the server that answers simulators."""
    api_key_env: KeyVariable = None
    """Environment variable that holds its key; default: the provider's own."""
    embedder: str | None = None
    """The model that makes vectors of texts, for the scorer embedding."""
    embed_provider: str | None = None
    """Who answers for it; default: as for explainers, and then its address and key variable are theirs, too."""
    embed_base_url: BaseUrls = ()
    """Address of the server that answers for the embedder."""
    embed_api_key_env: KeyVariable = None
    """Environment variable that holds its key; default: the provider's own."""
    embed_label_prefix: str = ""
    """Put before a label for the embedder, as its model card says of queries, such as "query: "."""
    embed_text_prefix: str = ""
    """Put before a text for the embedder, as its model card says of documents, such as "passage: "."""
    embed_dimensions: int | None = Field(default=None, ge=1)
    """Only so many first numbers of each vector, of embedders that were made for that; the journal gets smaller."""
    per_band: int = Field(default=5, ge=1)
    """Test contexts drawn from each band, as far as sampled."""
    texts_per_request: int = Field(default=25, ge=1, le=100)
    """Texts that a model is shown in one request; they share its instructions."""
    silent: int | None = Field(default=None, ge=1)
    """Test contexts in which the feature does not fire; default: 100 where grading is free, else 50. See docs/scoring.md."""
    logprobs: bool | None = None
    """Ask for the log-probabilities of verdicts, for their AUROC; default: where the model runs on this machine."""
    controls: Annotated[tuple[Literal["shuffled", "generic", "empty"], ...], BeforeValidator(_listed)] = (
        "shuffled",
        "generic",
    )
    """Labels that are graded in place of a sample of features' own: another feature's, one for all, none at all."""
    control_features: int | None = Field(default=None, ge=0)
    """Features in each of these controls; default: 1,000 where grading is free, else 50 (shuffled) and 20 (the others)."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples for the intervals."""
    reading: Literal["auto", "exact", "bills23"] = "auto"
    """How log-probabilities are read; exact: of all numbers; bills23: of the 15 likeliest tokens; auto: exact if possible."""
    calibration: int | None = Field(default=None, ge=0, le=1000)
    """Contexts of the rerank split that are simulated to learn the scale; default: 10 where simulating is free, else 0, none."""
    rank_by: str = "r_corpus"
    """The metric whose lower bound orders the catalog: r_corpus, r_balanced, or scorer.metric, as detection.balanced_accuracy."""
    random_directions: int = Field(default=0, ge=0, le=512)
    """Random directions that `run` explains and scores in the features' stead, for p-values; 0: none. See autointerp null."""
    adaptive: bool = False
    """Simulate contexts in rounds, each feature only until enough is known of it; see docs/scoring.md."""
    rounds: int = Field(default=4, ge=2, le=8)
    """Rounds of adaptive scoring; after each a feature that goes on has twice as many contexts, after the last all of them."""
    target_width: float = Field(default=0.3, ge=0, le=2)
    """A feature is done when the interval of its score, as adaptive scoring has it, is so narrow; 0: never for that."""
    top_k: int | None = Field(default=None, ge=1)
    """So many features are to be found that are best; others are done when they surely are not among them."""
    threshold: float | None = Field(default=None, ge=-1, le=1)
    """A feature is done when its score is surely above or below this."""

    def ranked(self) -> tuple[str, str]:
        """Scorer and metric of the ranking."""
        scorer, dot, metric = self.rank_by.rpartition(".")
        return (scorer, metric) if dot else ("simulation", metric)


class SpendingConfig(_Section):
    """What answers may cost."""

    budget: float | None = Field(default=None, gt=0, le=1e9)
    """Money, in US dollars, that the journal of the run's folder may come to; nothing is sent that could pass it."""
    prices: str | None = None
    """A TOML file of prices that come before the packaged ones; see docs/providers.md."""


class ReportConfig(_Section):
    """The HTML report."""

    title: str | None = None
    """Heading of the report; default: the names of model and SAE."""
    limit: int | None = Field(default=None, ge=1)
    """Show only the first so many features of the ranking."""


class Config(_Section):
    """Everything that a run depends on."""

    subject: SubjectConfig = SubjectConfig()
    sae: SaeConfig = SaeConfig()
    also: tuple[SaeConfig, ...] = ()
    """Further dictionaries to read in the same pass over the corpus ([[also]]); each gets a run folder of its own."""
    corpus: CorpusConfig = CorpusConfig()
    sample: SampleConfig = SampleConfig()
    negatives: NegativesConfig = NegativesConfig()
    steering: SteeringConfig = SteeringConfig()
    explain: ExplainConfig = ExplainConfig()
    exemplars: ExemplarsConfig = ExemplarsConfig()
    score: ScoreConfig = ScoreConfig()
    spending: SpendingConfig = SpendingConfig()
    report: ReportConfig = ReportConfig()
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every draw: splits, samples, bootstrap, controls."""

    def explaining(self) -> "ModelAccess":
        """How explainers ask their model."""
        return self._access(self.explain, self.explain.provider, self.explain.model)

    def simulating(self) -> "ModelAccess":
        """How simulators ask theirs: as explainers do, as far as nothing else is said."""
        given = self.score if self.score.provider else self.explain
        return self._access(given, self.score.provider or self.explain.provider, self.score.model or self.explain.model)

    def embedding(self) -> "ModelAccess":
        """How the embedder is asked: as explainers ask, as far as nothing else is said, but never by batches."""
        score, explain = self.score, self.explain
        own = score.embed_provider is not None
        return ModelAccess(
            score.embed_provider or explain.provider.removesuffix("-batch"), score.embedder,
            score.embed_base_url if own else explain.base_url, score.embed_api_key_env if own else explain.api_key_env,
            explain.concurrency, explain.timeout_s, self.spending.budget, self.spending.prices, "embed",
        )  # fmt: skip

    def _access(self, given: "ExplainConfig | ScoreConfig", provider: str, model: str | None) -> "ModelAccess":
        return ModelAccess(
            provider, model, given.base_url, given.api_key_env, self.explain.concurrency, self.explain.timeout_s,
            self.spending.budget, self.spending.prices,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """How a model is reached, and what it may cost; `budget` in US dollars for the run's whole journal. `role`: what for."""

    provider: str
    model: str | None
    base_url: tuple[str, ...]
    api_key_env: str | None
    concurrency: int
    timeout_s: float
    budget: float | None
    prices: str | None
    role: Literal["ask", "embed"] = "ask"
