"""How a metric is named, wherever one is: scorer.metric, such as detection.balanced_accuracy; without a dot one of simulation."""

from typing import NamedTuple

from autointerp.errors import UserError

USUAL_SCORER, USUAL_METRIC = "simulation", "r_corpus"


class MetricName(NamedTuple):
    """A scorer and one of its metrics."""

    scorer: str
    metric: str

    def __str__(self) -> str:
        return f"{self.scorer}.{self.metric}"


USUAL = MetricName(USUAL_SCORER, USUAL_METRIC)


def parse_metric(text: str) -> MetricName:
    """The metric that is named. Raises UserError for what is no name of one."""
    scorer, dot, metric = text.strip().rpartition(".")
    if not metric or (dot and not scorer):
        raise UserError(f"{text!r} names no metric; expected scorer.metric such as detection.balanced_accuracy, or a metric of "
                        f"{USUAL_SCORER} such as {USUAL_METRIC}")  # fmt: skip
    return MetricName(scorer or USUAL_SCORER, metric)
