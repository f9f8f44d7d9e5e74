"""The configuration's sections on what is made of it: labels, their grades, what they cost, the report."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from autointerp.config_fields import BaseUrls, KeyVariable, Section, Words, listed
from autointerp.metric_names import USUAL_METRIC, MetricName, parse_metric

# The explainers where none is named: without a model, and with one.
NO_MODEL, WITH_MODEL = "lexicon", "highlighted"


class ExplainConfig(Section):
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


class ExemplarsConfig(Section):
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


class ScoreConfig(Section):
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
    """Test contexts in which the feature does not fire, for each scorer; default: 100 where its grading is free, else 50. See
    docs/scoring.md."""
    logprobs: bool | None = None
    """Ask for the log-probabilities of verdicts, for their AUROC; default: where the model runs on this machine."""
    controls: Annotated[tuple[Literal["shuffled", "generic", "empty"], ...], BeforeValidator(listed)] = (
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
    rank_by: str = USUAL_METRIC
    """The metric whose lower bound orders the catalog: r_corpus, r_balanced, or scorer.metric, as detection.balanced_accuracy."""
    random_directions: int = Field(default=0, ge=0, le=512)
    """Random directions that `run` explains and scores in the features' stead, for p-values; 0: none. See autointerp null."""
    adaptive: bool | Literal["halving"] = False
    """Simulate contexts in rounds, each feature only until enough is known of it. true: it stops when its interval says so, an
    error of 5 % at most; halving: after each round the better half goes on, and no error is controlled. See docs/scoring.md."""
    rounds: int = Field(default=4, ge=2, le=8)
    """Rounds of adaptive scoring; after each a feature that goes on has twice as many contexts, after the last all of them."""
    target_width: float | None = Field(default=None, ge=0, le=2)
    """A feature is done when the interval of its score, as adaptive scoring has it, is so narrow; 0: never for that. Default:
    0.3, and 0 where top_k or threshold says what is wanted. Not for halving."""
    top_k: int | None = Field(default=None, ge=1)
    """So many features are to be found that are best; others are done when they surely are not among them. Halving: so many at
    least go on. Turns adaptive on where that is not named."""
    threshold: float | None = Field(default=None, ge=-1, le=1)
    """A feature is done when its score is surely above or below this. Turns adaptive on where that is not named. Not for
    halving."""

    def ranked(self) -> MetricName:
        """Scorer and metric of the ranking. Raises UserError where it names none."""
        return parse_metric(self.rank_by)


class SpendingConfig(Section):
    """What answers may cost."""

    budget: float | None = Field(default=None, gt=0, le=1e9)
    """Money, in US dollars, that the journal of the run's folder may come to; nothing is sent that could pass it."""
    prices: str | None = None
    """A TOML file of prices that come before the packaged ones; see docs/providers.md."""


class ReportConfig(Section):
    """The HTML report."""

    title: str | None = None
    """Heading of the report; default: the names of model and SAE."""
    limit: int | None = Field(default=None, ge=1)
    """Show only the first so many features of the ranking."""
