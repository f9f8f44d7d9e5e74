"""Evaluation against a known truth: planted features, and what explainers, simulators and judges make of them.

`planted` reads the features, `evidence` makes of them what explainers and simulators see, `suite` runs them, `grades`
sums up by family, `tables` says it.
"""

from autointerp.evaluate.planted import PlantedFeature, Sentence, load_suite
from autointerp.evaluate.suite import Finding, Findings, evaluate

__all__ = ["Finding", "Findings", "PlantedFeature", "Sentence", "evaluate", "load_suite"]
