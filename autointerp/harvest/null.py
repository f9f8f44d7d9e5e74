"""Random directions as dense as features: the null that a dictionary's scores are to be compared with.

A direction is uniform on the unit sphere of the SAE's input space, after the SAE's own normalisation of inputs. It fires
where its projection exceeds a threshold, and the threshold is the quantile of the projection at which it fires as often as a
sampled feature of the dictionary: over random windows of the explain split, exactly. Then it is harvested, explained and
scored as the features are, in a folder of its own below the run's. What labels score there, structure of the model and of the
text gives to anything that fires so often: a direction stands for nothing that a dictionary has found.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.store import Catalog
from autointerp.config import Config, SaeConfig
from autointerp.errors import UserError
from autointerp.files import link_folder
from autointerp.harvest.runs import NULL, Run
from autointerp.hashing import sample_key, stable_hash
from autointerp.progress import progress
from autointerp.subject.windows import Windows

if TYPE_CHECKING:
    from torch import Tensor

    from autointerp.harvest.forward import Reader
    from autointerp.harvest.plan import Plan
    from autointerp.sae import SAE
    from autointerp.sae.files import Config as Settings

_TOKENS = 1 << 18  # that thresholds are calibrated on, as far as the explain split has them
_TOGETHER = 16  # directions of like density
FOLDER = "directions"


def null_run(run: Run) -> Run:
    """The run of the random directions of `run`, with the same settings and no controls of its own."""
    config, out = run.config, run.out / NULL
    score = config.score.model_copy(update={"controls": (), "control_features": 0, "random_directions": 0})
    sample = config.sample.model_copy(update={"features": "all", "loss_recovered": False})
    sae = SaeConfig(path=str((out / FOLDER).resolve()), format="directions")
    return Run(config.model_copy(update={"sae": sae, "also": (), "score": score, "sample": sample}), out)


def make_directions(run: Run, count: int, plan: Path) -> dict[int, int]:
    """Write the directions below the run's folder, unless they are there; direction → the feature whose density it has.

    `plan`: the folder of the run's plan; it is linked, so that the corpus is not tokenised again. Raises UserError where the
    sampling is not finished, where no feature fires often enough, or where there are directions of another number.
    """
    from autointerp.harvest.setup import open_readers
    from autointerp.sae.formats.directions import read_facts, write_directions

    folder = run.out / NULL / FOLDER
    known = read_facts(folder)
    if known is not None:
        return _known(known, count)
    matched = list(matched_features(run, count).items())
    matched = (matched * math.ceil(count / len(matched)))[:count]
    reader = open_readers([run])[0]
    directions = random_directions(reader.sae, count, run.config.seed, str(reader.hookpoint))
    link_folder(plan, folder.parent / "plan")
    density = np.array([share for _, share in matched])
    threshold = calibrate(reader, directions, density, _plan(run.config, reader, folder.parent), run.config)
    features = [feature for feature, _ in matched]
    write_directions(folder, directions, threshold, {"matched": features})
    return dict(enumerate(features))


def _known(facts: "Settings", count: int) -> dict[int, int]:
    matched = facts.need("matched")
    if not isinstance(matched, list) or not all(type(feature) is int for feature in matched):
        raise facts.wrong("matched", "a list of features")
    if len(matched) != count:
        where = facts.path.parent.parent
        raise UserError(
            f"{where} holds {len(matched)} random directions, and {count} are asked for; delete that folder first, or ask for "
            f"{len(matched)} (score.random_directions)"
        )
    return dict(enumerate(matched))


def matched_features(run: Run, count: int) -> dict[int, float]:
    """feature → density of `count` features, or of all there are, drawn by hash from those that fire in 20 documents or
    more."""
    if run.facts() is None:
        raise UserError(f"{run.out}: the sampling is not finished; run first: autointerp sample --out {run.out}")
    with Catalog.open(run.catalog) as catalog:
        rows = catalog.rows(
            "SELECT feature_id, density FROM features WHERE flag IS DISTINCT FROM 'dead' AND flag IS DISTINCT FROM 'rare' "
            "ORDER BY feature_id"
        )
    if not rows:
        raise UserError(
            f"{run.out}: every feature is dead or rare, so there is no density to match; take more of the corpus"
        )
    ids = np.array([feature for feature, _ in rows], np.uint64)
    order = np.argsort(sample_key(run.config.seed, stable_hash("random directions"), ids), kind="stable")
    return dict(rows[index] for index in order[:count].tolist())


def random_directions(sae: "SAE", count: int, seed: int, hook: str) -> "SAE":
    """`count` directions, uniform on the unit sphere, that read what `sae` reads; they fire where a projection is above 0."""
    import torch

    from autointerp.sae import SAE

    # RandomState's stream is frozen for good, unlike that of numpy's newer generators.
    generator = np.random.RandomState(stable_hash("random directions", seed) % 2**32)
    drawn = generator.standard_normal((count, sae.d_in))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    weights = torch.from_numpy(drawn.astype(np.float32)).to(sae.device)
    zeros = torch.zeros(count, device=sae.device)
    return SAE(
        activation="relu", encoder=weights, b_enc=zeros, decoder=weights, b_dec=torch.zeros(sae.d_in, device=sae.device),
        input_norm=sae.input_norm, center_input=sae.center_input, transcoder=True, hook_in=hook, hook_out=hook,
        prepend_bos=sae.prepend_bos,
    )  # fmt: skip


def calibrate(
    reader: "Reader", directions: "SAE", density: NDArray[np.float64], plan: "Plan", config: Config
) -> "Tensor":
    """The threshold of each direction [n] at which it fires on a share `density` of the tokens of random explain-split
    windows."""
    share = min(1.0, _TOKENS / max(1, plan.n_tokens * plan.windows_per_split[0] // plan.n_windows))

    def chosen(part: int) -> Windows:
        windows = plan.part(part)
        keys = sample_key(config.seed, stable_hash("calibrate"), windows.window_id)
        return _only(windows, np.flatnonzero((windows.split == 0) & (keys.astype(np.float64) < share * 2.0**64)))

    held = Largest(density, sum(len(chosen(part).tokens) for part in range(plan.n_parts)))
    with progress("calibrate", held.n_tokens, "tokens") as advance:
        for part in range(plan.n_parts):
            windows, batch = chosen(part), config.sample.batch_windows
            for begin in range(0, len(windows), batch):
                end = min(begin + batch, len(windows))
                held.add(directions.preactivations(reader.hidden(windows, begin, end).hidden).cpu())
                advance(int(windows.offsets[end] - windows.offsets[begin]), "")
    if not held.n:
        raise UserError(
            "the explain split of the corpus has no token to calibrate random directions on; take more of it"
        )
    return held.thresholds()


class Largest:
    """Of columns of projections [N, n], which come in parts, the largest: as many as each column's threshold needs, and few more.

    `n_tokens`: the tokens that the projections are of, those included that the harvest leaves out (special ones, sinks).
    """

    def __init__(self, density: NDArray[np.float64], n_tokens: int) -> None:
        import torch

        self.n, self.n_tokens = 0, n_tokens
        self._above = np.maximum(np.round(density * n_tokens), 1).astype(np.int64)
        groups = np.array_split(np.argsort(self._above, kind="stable"), max(1, len(density) // _TOGETHER))
        self._columns = [torch.from_numpy(group) for group in groups]  # those of a group keep equally many
        self._held = [torch.zeros(0, len(group)) for group in groups]

    def add(self, projections: "Tensor") -> None:
        """Take up further ones."""
        import torch

        self.n += len(projections)
        for number, columns in enumerate(self._columns):
            both = torch.cat([self._held[number], projections[:, columns]])
            most = int(self._above[columns.numpy()].max(initial=0)) + 1
            self._held[number] = both.topk(min(most, len(both)), dim=0).values

    def thresholds(self) -> "Tensor":
        """The values [n] that round(density · n_tokens) of each column exceed: at least one, and not all."""
        import torch

        found = torch.zeros(len(self._above))
        for columns, held in zip(self._columns, self._held, strict=True):
            above = np.minimum(self._above[columns.numpy()], max(1, self.n - 1))
            place, column = torch.from_numpy(above), torch.arange(len(columns))
            found[columns] = (held[place - 1, column] + held[place.clamp(max=self.n - 1), column]) / 2
        return found


def _only(windows: Windows, chosen: NDArray[np.intp]) -> Windows:
    lengths = np.diff(windows.offsets)[chosen]
    pieces = [windows.tokens[windows.offsets[index] : windows.offsets[index + 1]] for index in chosen]
    return Windows(
        windows.window_id[chosen], windows.doc[chosen], windows.start[chosen], windows.split[chosen],
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(pieces) if pieces else windows.tokens[:0],
    )  # fmt: skip


def _plan(config: Config, reader: "Reader", out: Path) -> "Plan":
    from autointerp.harvest.runs import plan_fingerprint
    from autointerp.harvest.stage import plan_of

    return plan_of(config, reader, out, plan_fingerprint(config, prepend_bos=bool(reader.shift)))
