"""What scorers ask and what metrics say, in plain words. A scorer or metric of another package has none, and needs none."""

_SCORERS = {
    "simulation": "Told only the label, a simulator says how strongly the feature fires at each token of a text.",
    "bills23_top_random": "Simulation as Bills et al. 2023 published it: the 5 strongest windows and 5 random ones.",
    "bills23_random": "Simulation on 10 random windows (Bills et al. 2023).",
    "transluce24": "Simulation on the strongest windows and a few random ones (Choi et al. 2024).",
    "detection": "Told only the label: is the feature active in this text?",
    "fuzzing": "Told only the label: do these marks stand on the tokens where the feature fires?",
    "delphi24_detection": "Detection as Paulo et al. 2024 published it.",
    "delphi24_fuzz": "Fuzzing as Paulo et al. 2024 published it.",
    "embedding": "Are texts with the feature nearer to the label, as vectors, than texts without it?",
    "surprisal": "Does the label help a language model to foresee texts with the feature?",
    "intruder": "No label: which of five texts is the one without the feature?",
    "specificity": "How exactly does the label name the tokens on which the feature fires, from 0 to 3?",
    "saebench25": "Told only the label: in which of 14 short texts is the feature active?",
    "generation": "A model writes texts that fit the label and near misses; does the feature tell them apart?",
    "sensitivity": "No label: a model writes texts like those that the feature fires on; does it fire there, too?",
    "responsiveness": "Does the feature follow the concept that the label names?",
}
_R = "correlation of simulated and true activations"
_METRICS = {
    "r_corpus": f"{_R}, weighted as in the corpus",
    "r_balanced": f"{_R}, firing and silent contexts weighing the same",
    "r": f"{_R}, all tokens alike",
    "abs_r": f"{_R} without its sign",
    "balanced_accuracy": "share of right answers, both kinds of texts weighing the same",
    "accuracy": "share of right answers",
    "accuracy_corrected": "share of right answers above chance",
    "auroc": "how often the side that should have the larger value has it",
    "auroc_balanced": "how often a firing token has the larger simulated value",
    "rating_by_mass": "mean rating, 0 to 3, weighted by activation",
    "fires": "share of the texts in which it fires",
    "responsiveness_balanced": "how often it is stronger in a text with the concept than in one without",
    "f1_corpus": "F1 of “the feature fires here”, weighted as in the corpus",
}


def scorer_words(scorer: str) -> str:
    """What is asked; "" where nobody has said it."""
    return _SCORERS.get(scorer, "")


def metric_words(metric: str) -> str:
    """What the number is; "" where nobody has said it."""
    return _METRICS.get(metric, "")


def signed(value: float, digits: int = 2) -> str:
    """A fixed number of decimals with a true minus sign, and no negative zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def interval(lo: float | None, hi: float | None, digits: int = 2) -> str:
    """Both ends; "" where there is no interval."""
    return "" if lo is None or hi is None else f"{signed(lo, digits)} to {signed(hi, digits)}"
