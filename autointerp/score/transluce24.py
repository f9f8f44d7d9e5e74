"""The scorer of Choi et al. 2024, "Scaling Automatic Neuron Description" (Transluce).

As in Bills et al. 2023 simulated values are pooled, of 20 of the strongest windows and of five random ones. But a line from
simulated to true activations is fitted on the very data that are scored before they are correlated. The correlation with a line's
values is that with the values themselves but for the sign, which is lost: the score is |r|. A label that says the opposite of the
truth scores as high as the truth.

The paper writes several labels for a neuron and keeps the one that scores best on held-out windows. Here the explainer does that
(`best_of_k`, on the rerank split); any other label is scored as it is, as the best of one.
"""

from autointerp.score import scorers
from autointerp.score.protocols import Published

scorers.register("transluce24")(Published("transluce24", top=20, random=5, absolute=True))
