"""The scorers of Bills et al. 2023, "Language models can explain neurons in language models".

`bills23_top_random` is the score that the paper reports: the simulated expected values of five of the strongest windows and of
five random ones, 64 tokens each, are pooled and correlated with the true activations. `bills23_random` is the same on random
windows alone, ten of them, of which most say nothing of a rare feature: then it is undefined.
"""

from autointerp.score import scorers
from autointerp.score.protocols import Published

for _protocol in (Published("bills23_top_random", top=5, random=5), Published("bills23_random", top=0, random=10)):
    scorers.register(_protocol.name)(_protocol)
