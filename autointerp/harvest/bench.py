"""The subject model at hand, for explainers that experiment: `open_bench` gives what autointerp/explain/bench.py asks for.

What is read from the catalog is read once, when the bench is opened: its answers do not change as labels are written. Calls may
come from several threads; the model does one thing at a time.
"""

import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.devices import free_memory, is_broken_device, is_out_of_memory
from autointerp.errors import UserError
from autointerp.explain.bench import Bench, BrokenBenchError, Continuations, Neighbour, TooLargeError
from autointerp.explain.stage import explainer_key
from autointerp.harvest.forward import Reader
from autointerp.harvest.lens import nearest
from autointerp.harvest.probe import text_windows
from autointerp.harvest.runs import Run
from autointerp.harvest.setup import open_readers
from autointerp.harvest.tokens import special_ids, token_bytes
from autointerp.harvest.writing import adding, directions, output_site
from autointerp.subject.interventions import intervene
from autointerp.subject.windows import Windows, cut_document, join
from autointerp.vocabulary import Vocabulary

_BASELINE = "lexicon"
_MOST_CHARACTERS = 100_000  # of a text: far more than a window holds
_MOST_TOKENS = 128  # of a continuation


@dataclass(frozen=True, slots=True)
class Known:
    """What the catalog says: each feature's maximum over the harvest, its baseline label, and neighbours, nearest first."""

    maxima: dict[int, float]
    titles: dict[int, str]
    neighbours: dict[int, list[tuple[int, float]]]


def open_bench(config: Config, catalog: Catalog) -> Bench:
    """The bench of a run: model and SAE loaded, the catalog's facts read.

    Raises UserError where the model or the SAE cannot be had, do not fit each other or into memory; BrokenBenchError where the
    device fails.
    """
    try:
        with on_device():
            [reader] = open_readers([Run(config, catalog.path.parent)])
    except TooLargeError as error:
        raise UserError(f"the subject model and its dictionary do not fit: {error}") from None
    return SubjectBench(config, reader, read_known(config, catalog))


def read_known(config: Config, catalog: Catalog) -> Known:
    """See `Known`. Titles are those of the lexicon's labels, which are written before all others: those of another explainer
    come one after the other, and a bench would answer otherwise at the next start.
    """
    near: dict[int, list[tuple[int, float]]] = {}
    for feature, neighbour, cosine in catalog.rows(
        "SELECT feature_id, neighbour_id, cosine FROM neighbours ORDER BY feature_id, rank"
    ):
        near.setdefault(feature, []).append((neighbour, cosine))
    titles = catalog.rows(
        "SELECT feature_id, title FROM explanations WHERE status = 'ok' AND explainer_key = ?",
        [explainer_key(config, _BASELINE)],
    )
    return Known(dict(catalog.rows("SELECT feature_id, max_activation FROM features")), dict(titles), near)


@contextmanager
def on_device() -> Iterator[None]:
    """Says in the words of `Bench` what fails on the device, and leaves other errors as they are. Where memory is too small the
    message holds no numbers: it is told to a model, whose next question must not depend on them.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_broken_device(error):
            text = str(error).strip().splitlines()[0][:200]
            raise BrokenBenchError(
                f"the device has failed ({text}); what was finished is kept: start again to go on from there"
            ) from error
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors
        free_memory()
        raise TooLargeError("out of memory") from None


class SubjectBench:
    """See `Bench`. `known` is what the catalog says."""

    def __init__(self, config: Config, reader: Reader, known: Known) -> None:
        self.reader, self.known = reader, known
        sizes: Any = reader.subject.model.config.get_text_config()
        self._context = getattr(sizes, "max_position_embeddings", None) or config.corpus.window + _MOST_TOKENS
        self._window = min(config.corpus.window, self._context) - reader.shift
        self._vocabulary = Vocabulary(*token_bytes(reader.subject.tokenizer, sizes.vocab_size))
        self._special = special_ids(reader.subject.tokenizer)
        self._lock = threading.Lock()

    def activations(self, feature_id: int, text: str) -> list[tuple[int, float]]:
        """(token, raw activation) of the text's tokens in order, of one window at most, as `autointerp probe` gives them.

        Empty for a text without tokens. Raises UserError for a feature that the SAE does not have.
        """
        windows = self._read(text)
        if not len(windows):
            return []
        tokens = windows.tokens[: windows.offsets[1]]
        with self._lock, on_device():
            found = self.reader.firings(windows, 0, 1, np.array([feature_id], np.int64))
        values = np.zeros(len(tokens), np.float32)
        values[found.position] = found.value
        return list(zip(tokens.tolist(), values.tolist(), strict=True))

    def peaks(self, feature_id: int, texts: Sequence[str]) -> list[float | None]:
        """The feature's maximum over each text, of one window at most, in one forward pass; None for a text without tokens.

        Raises UserError for a feature that the SAE does not have.
        """
        with self._lock, on_device():
            windows = [self._read(text) for text in texts]
        read = [index for index, found in enumerate(windows) if len(found)]
        peaks: list[float | None] = [None] * len(texts)
        if not read:
            return peaks
        first = join([cut_document(index, str(index), windows[index].tokens[: windows[index].offsets[1]], self._window, 0)
                      for index in read])  # fmt: skip
        with self._lock, on_device():
            found = self.reader.firings(first, 0, len(first), np.array([feature_id], np.int64))
        highest = np.zeros(len(read), np.float32)
        np.maximum.at(highest, found.row, found.value)
        for index, value in zip(read, highest.tolist(), strict=True):
            peaks[index] = value
        return peaks

    def nearest(self, feature_id: int, count: int) -> Sequence[Neighbour]:
        """The run's features with the most similar decoder directions: as the catalog has them, or computed where it has too few.

        Raises UserError for a feature that the run is not about.
        """
        self._maximum(feature_id)
        found = self.known.neighbours.get(feature_id, [])
        count = max(0, min(count, len(self.known.maxima) - 1))
        if len(found) < count:
            ids = np.array(sorted(self.known.maxima), np.int64)
            with self._lock, on_device():
                found = nearest(directions(self.reader.sae, ids.tolist()), ids, feature_id, count)
        return [Neighbour(other, cosine, self.known.titles.get(other)) for other, cosine in found[:count]]

    def steered(self, feature_id: int, prompt: str, strength: float, tokens: int) -> Continuations:
        """Greedy continuations of `tokens` tokens, or fewer where the model ends the text or its context is full.

        With the feature on, strength · maximum · direction is added at every token of the prompt and of what is written, BOS
        apart: as `autointerp steer` does it, so that its strengths mean the same here. Of a long prompt the end is read. The
        model runs in the type of the run, float32 on a CPU. Without a token the prompt is BOS; without BOS nothing is written.
        Raises UserError for a feature that never fires or is not of the run, and for an SAE that writes to no one place.
        """
        size = strength * self._maximum(feature_id)
        if not size and strength:
            raise UserError(f"feature {feature_id} never fires, so that there is no strength to switch it on with")
        with self._lock, on_device():
            added = directions(self.reader.sae, [feature_id]) * size
            ids, valid = self._prompt(prompt)
            limit = max(0, min(tokens, _MOST_TOKENS, self._context - ids.shape[1]))
            if ids.shape[1] == 0 or limit == 0:
                return Continuations("", "")
            return Continuations(*(self._continue(ids, valid, limit, one) for one in (None, added)))

    def _maximum(self, feature_id: int) -> float:
        if feature_id not in self.known.maxima:
            raise UserError(f"feature {feature_id} is not among the {len(self.known.maxima):,} features of this run")
        return self.known.maxima[feature_id]

    def _read(self, text: str) -> Windows:
        """The text's windows. What is no character (a lone surrogate) becomes U+FFFD: models do write such things."""
        return text_windows(self.reader, _sound(text)[:_MOST_CHARACTERS], self._window)

    def _prompt(self, text: str) -> tuple[Tensor, Tensor]:
        """Token ids [1, T], the last ones of a long text, with BOS where the run has it; and which of them are steered."""
        tokens = text_windows(self.reader, _sound(text)[-_MOST_CHARACTERS:], self._window).tokens[-self._window :]
        if len(tokens):
            ids, valid = self.reader.batch(cut_document(0, "prompt", tokens, len(tokens), seed=0), 0, 1)
        else:
            ids = np.full((1, self.reader.shift), self.reader.subject.tokenizer.bos_token_id or 0, np.int64)
            valid = np.zeros(ids.shape, np.bool_)
        device = self.reader.subject.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(valid).to(device)

    def _continue(self, ids: Tensor, valid: Tensor, tokens: int, added: Tensor | None) -> str:
        """What is written after `ids`, with `added` [1, d_out] at the site or as it is."""
        model, written = self.reader.subject.model, list[int]()
        site = None if added is None else output_site(self.reader)
        cache = None
        with torch.inference_mode():
            while len(written) < tokens:
                edits = {} if site is None or added is None else {site: adding(self.reader.sae, added)}
                with intervene(model, edits, mask=valid):
                    out = model(input_ids=ids, past_key_values=cache, use_cache=True)
                cache, best = out.past_key_values, int(out.logits[0, -1].float().argmax())
                if best in self._special:
                    break
                written.append(best)
                ids, valid = ids.new_tensor([[best]]), valid.new_ones((1, 1))
        return self._vocabulary.join(written)


def _sound(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which no tokenizer takes; pairs of them become their character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
