"""Evaluation against a known truth: planted features, and what explainers, simulators and judges make of them.

`planted` reads the features, `evidence` makes of them what explainers and simulators see, `suite` runs and grades.
"""

from autointerp.evaluate.planted import PlantedFeature, Sentence, load_suite


__all__ = ["PlantedFeature", "Sentence", "load_suite"]
