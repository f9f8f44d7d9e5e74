"""Numbers and strangers' texts as they go into the report's data."""

import math

from autointerp.report.text import visible


def shown(text: str | None) -> str | None:
    """Text of strangers as it is displayed; None where there is nothing to see."""
    return visible(text) if text and text.strip() else None


def figure(value: float | None, digits: int = 4) -> float | None:
    """A number short enough to ship, to `digits` significant digits; None for what is no finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
