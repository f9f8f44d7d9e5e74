"""The study of the metrics: sanity and recovery, as tables."""

from collections.abc import Sequence

from autointerp.errors import UserError
from autointerp.evaluate.concepts import read_corpus, units
from autointerp.evaluate.coverage import NOISES, Recovery, recovery
from autointerp.evaluate.sanity import DESIGNS, FIT, Falls, check, planted
from autointerp.evaluate.tables import Table
from autointerp.hashing import stable_hash
from autointerp.subject.stdlib import stdlib_documents

_DENSITIES = ((0.0, 3e-4), (3e-4, 1e-3), (1e-3, 1e-2), (1e-2, 1.0))


_SAMPLES = ((5, 25), (5, 50), (5, 100), (10, 50))  # contexts a band, silent contexts
_RECOVERED = 8  # units of each family whose intervals are looked at


def study(windows: int, length: int, per_family: int, trials: int, seed: int) -> list[Table]:
    """Both tables, of concepts planted in windows of `length` words of the running interpreter's standard library.

    Raises UserError where it is too small."""
    documents = sorted(stdlib_documents(), key=lambda document: stable_hash("evaluate", document.doc_id))
    try:
        corpus = read_corpus((document.text for document in documents), windows, length)
    except ValueError as error:
        raise UserError(f"--windows {windows}: {error}") from None
    falls = check((planted(unit, corpus, seed) for unit in units(corpus, per_family, seed)), DESIGNS)
    chosen = list(units(corpus, min(per_family, _RECOVERED), seed))
    recovered = [
        one
        for noise in NOISES
        for per_band, silent in _SAMPLES
        for one in recovery(corpus, chosen, noise, trials=trials, per_band=per_band, silent=silent, seed=seed)
    ]
    return [sanity_table(falls), recovery_table(recovered)]


def sanity_table(found: Sequence[Falls]) -> Table:
    """A row a design and metric: the share of units in which it fell, with Wilson's 95 % interval; extra by density as well."""
    header = ["contexts", "metric", "missing part", "extra claim", "fit",
              *(f"extra claim, density {low:g} to {high:g}" for low, high in _DENSITIES)]  # fmt: skip
    rows = []
    for design, metric in dict.fromkeys((one.design, one.metric) for one in found):
        units = [one for one in found if (one.design, one.metric) == (design, metric)]
        missing, extra = (sum(getattr(one, label) for one in units) for label in ("missing", "extra"))
        fit = "yes" if min(missing, extra) >= FIT * len(units) else "no"
        rows.append([design, metric, _share(missing, len(units)), _share(extra, len(units)), fit, *_by_density(units)])
    return Table("does the score fall?", header, rows)


def _by_density(units: Sequence[Falls]) -> list[str]:
    cells = []
    for low, high in _DENSITIES:
        inside = [one.extra for one in units if low <= one.density < high]
        cells.append(f"{sum(inside) / len(inside):.2f} of {len(inside)}" if inside else "–")
    return cells


def recovery_table(found: Sequence[Recovery]) -> Table:
    """A row a metric, noise and number of contexts."""
    header = [
        "metric",
        "oracle",
        "contexts",
        "trials",
        "covered",
        "truth below",
        "truth above",
        "width",
        "bias",
        "no interval",
    ]
    rows = [
        [one.metric, one.noise, f"5 × {one.per_band} + {one.silent}", f"{one.trials:,}", f"{one.covered:.1%}",
         f"{one.too_high:.1%}", f"{one.too_low:.1%}", f"{one.width:.3f}", f"{one.bias:+.4f} ± {one.bias_error:.4f}",
         f"{one.without}"]
        for one in found
    ]  # fmt: skip
    return Table("do 95 % intervals hold the truth?", header, rows)


def _share(hits: int, count: int) -> str:
    """With the score interval of Wilson (1927), which stays inside 0 … 1."""
    share, square = hits / count, 1.96**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = 1.96 / (1 + square / count) * (share * (1 - share) / count + square / (4 * count**2)) ** 0.5
    return f"{share:.2f} ({middle - half:.2f} … {middle + half:.2f})"
