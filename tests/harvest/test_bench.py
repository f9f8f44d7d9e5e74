"""The subject at hand: activations as `probe` gives them, neighbours as the catalog has them, continuations by hand."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.explain.bench import Bench, BrokenBenchError, Continuations, TooLargeError
from autointerp.explain.stage import explain
from autointerp.harvest.bench import SubjectBench, open_bench
from autointerp.harvest.probe import probe
from autointerp.harvest.stage import sample
from autointerp.harvest.tokens import token_bytes
from autointerp.subject.interventions import intervene
from autointerp.vocabulary import Vocabulary

torch.set_num_threads(1)
WINDOW = 23


@pytest.fixture(scope="module")
def config(tiny_settings: dict[str, object]) -> Config:
    return load_config(None, tiny_settings)


@pytest.fixture(scope="module")
def out(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "run"
    sample(config, folder)
    with Catalog.open(folder / "catalog.duckdb", write=True) as catalog:
        explain(config, catalog, folder, "lexicon")
    return folder


@pytest.fixture(scope="module")
def bench(config: Config, out: Path) -> SubjectBench:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        found = open_bench(config, catalog)
    assert isinstance(found, SubjectBench)
    as_protocol: Bench = found
    return as_protocol  # type: ignore[return-value]


TEXTS = ["the cat sat on a mat", "<s> red", "é→𝛑 cat", "\x00\x07 late\r\n", "the dog ran home because it was late " * 9]


@pytest.mark.parametrize("text", TEXTS)
def test_activations_are_those_of_probe_over_the_first_window(bench: SubjectBench, text: str) -> None:
    for feature in range(24):
        rows = probe(bench.reader, text, window=WINDOW, features=np.array([feature]), batch_windows=1)
        first = [row for row in rows if row.window == 0]
        found = bench.activations(feature, text)
        assert [token for token, _ in found] == [row.token for row in first]
        assert [value for _, value in found] == [float(row.activation[0]) if len(row.feature) else 0.0 for row in first]
    assert any(value > 0 for feature in range(24) for _, value in bench.activations(feature, text))


def test_no_text_and_no_character(bench: SubjectBench) -> None:
    assert bench.activations(0, "") == []
    assert bench.activations(0, "cat \ud800 mat") == bench.activations(0, "cat \ufffd mat")
    assert bench.activations(0, "\ud835\uded1") == bench.activations(0, "𝛑")
    assert len(bench.activations(0, "a cat " * 10**6)) == WINDOW
    with pytest.raises(UserError, match="the SAE has 0 to 23"):
        bench.activations(24, "cat")


def test_neighbours_from_the_catalog_and_beyond(bench: SubjectBench, out: Path, config: Config) -> None:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        stored = catalog.rows("SELECT neighbour_id, cosine FROM neighbours WHERE feature_id = 6 ORDER BY rank")
        titles = dict(catalog.rows("SELECT feature_id, title FROM explanations"))
    found = bench.nearest(6, 3)
    assert [(one.feature_id, one.cosine, one.title) for one in found] == [
        (*row, titles.get(row[0])) for row in stored[:3]
    ]
    assert any(one.title for one in found)
    unit = torch.nn.functional.normalize(bench.reader.sae.W_dec, dim=1)
    order = [f for f in (unit @ unit[6]).argsort(descending=True).tolist() if f != 6]
    more = bench.nearest(6, 100)  # the catalog holds ten
    assert [one.feature_id for one in more] == order and len(order) == 23
    assert [one.cosine for one in more] == pytest.approx([float(unit[6] @ unit[f]) for f in order], abs=1e-6)
    assert bench.nearest(6, 0) == []
    with pytest.raises(UserError, match="not among the 24 features of this run"):
        bench.nearest(99, 3)


@pytest.mark.parametrize("strength", [4.0, -4.0])
def test_continuations_without_a_cache_are_the_same(bench: SubjectBench, strength: float) -> None:
    """The whole text is run again for every token, with the direction at every place but BOS."""
    reader, prompt = bench.reader, "the red cat sat"
    model = reader.subject.model
    added = reader.sae.W_dec[6] * bench.known.maxima[6] * strength
    vocabulary = Vocabulary(*token_bytes(reader.subject.tokenizer, 300))
    expected = []
    for change in (torch.zeros(16), added):
        ids = [0, *reader.subject.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        written: list[int] = []
        for _ in range(12):
            mask = torch.tensor([[False] + [True] * (len(ids) - 1)])
            with (
                torch.inference_mode(),
                intervene(model, {reader.hookpoint: lambda x, change=change: x + change}, mask=mask),
            ):
                best = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if best == 0:
                break
            written.append(best)
            ids.append(best)
        expected.append(vocabulary.join(written))
    found = bench.steered(6, prompt, strength, 12)
    assert found == Continuations(*expected) and found.clean != found.steered
    assert bench.steered(6, prompt, strength, 12) == found


def test_lengths_are_bounded_and_odd_prompts_taken(bench: SubjectBench) -> None:
    clean = bench.steered(6, "cat", 0.0, 5)
    assert clean.clean == clean.steered
    assert bench.steered(6, "cat", 1.0, 0) == Continuations("", "")
    assert bench.steered(6, "cat", 1.0, -3) == Continuations("", "")
    # A context of 64 tokens holds BOS, 23 tokens of the prompt, its end, and what is written.
    long = bench.steered(6, "the cat sat on a mat " * 400, 1.0, 10**6)
    assert long == bench.steered(6, "the cat sat on a mat " * 12, 1.0, 40)
    assert bench.steered(6, "\ud800\x00", 1.0, 3) == bench.steered(6, "\ufffd\x00", 1.0, 3)
    assert bench.steered(6, "", 1.0, 3).clean == bench.steered(5, "", 1.0, 3).clean
    with pytest.raises(UserError, match="never fires"):
        bench.steered(3, "cat", 1.0, 3)


def test_a_prompt_without_a_token_and_without_bos(bench: SubjectBench, config: Config) -> None:
    from autointerp.harvest.forward import Reader

    without = SubjectBench(
        config, Reader(bench.reader.subject, bench.reader.sae, bench.reader.hookpoint, prepend_bos=False), bench.known
    )
    assert without.steered(6, "", 1.0, 3) == Continuations("", "")
    assert len(without.activations(6, "the dog ran home because it was late " * 9)) == WINDOW + 1


def test_a_cross_layer_transcoder_reads_and_does_not_steer(bench: SubjectBench, config: Config) -> None:
    from autointerp.harvest.forward import Reader

    sae = replace(bench.reader.sae, transcoder=True, format="circuit_tracer_clt")
    other = SubjectBench(
        config, Reader(bench.reader.subject, sae, bench.reader.hookpoint, prepend_bos=True), bench.known
    )
    assert other.activations(6, "the cat") == bench.activations(6, "the cat")
    with pytest.raises(UserError, match="every layer from its own on"):
        other.steered(6, "cat", 1.0, 3)


def test_threads_do_not_disturb_each_other(bench: SubjectBench) -> None:
    def work(number: int) -> object:
        if number % 2:
            return bench.steered(6, "the cat", 4.0, 6)
        return bench.activations(6, "the cat sat on a mat")

    alone = [work(0), work(1)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(16))) == alone * 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"subject": {"model": "/nowhere/at/all"}}, "no such folder"),
        ({"sae": {"path": "/nowhere/at/all"}}, "nowhere"),
        ({"sae": {"hookpoint": "model.layers.77"}}, "no module"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(
    config: Config, out: Path, tmp_path: Path, changed: dict[str, dict[str, str]], message: str
) -> None:
    folder = Path(shutil.copytree(out, tmp_path / "run"))
    parts = {name: getattr(config, name).model_copy(update=fields) for name, fields in changed.items()}
    with Catalog.open(folder / "catalog.duckdb") as catalog, pytest.raises(UserError, match=message):
        open_bench(config.model_copy(update=parts), catalog)


def test_the_bench_keeps_what_the_catalog_said_when_it_was_opened(bench: SubjectBench) -> None:
    assert len(bench.known.maxima) == 24 and bench.known.maxima[3] == 0
    assert np.isfinite(list(bench.known.maxima.values())).all()


def test_peaks_are_those_of_the_single_texts(bench: SubjectBench) -> None:
    texts = ["", *TEXTS, "\ud800"]
    for feature in (0, 6, 23):
        singly = [max((value for _, value in bench.activations(feature, text)), default=None) for text in texts]
        found = bench.peaks(feature, texts)
        assert found[0] is None and [value is None for value in found] == [value is None for value in singly]
        assert [value or 0.0 for value in found] == pytest.approx(
            [value or 0.0 for value in singly], rel=1e-4, abs=1e-5
        )
    assert any(bench.peaks(feature, TEXTS) != [0.0] * len(TEXTS) for feature in range(24))
    assert bench.peaks(0, []) == [] and bench.peaks(0, [""]) == [None]
    with pytest.raises(UserError):
        bench.peaks(24, ["cat"])


@pytest.mark.parametrize(
    ("error", "becomes", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), TooLargeError, "^out of memory$"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
            TooLargeError,
            "^out",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), TooLargeError, "^out"),
        (MemoryError(), TooLargeError, "^out of memory$"),
        (
            RuntimeError("CUDA error: device-side assert triggered\nCompile with"),
            BrokenBenchError,
            "triggered.; what was",
        ),
        (torch.AcceleratorError("unspecified launch failure"), BrokenBenchError, "the device has failed .unspecified"),
        (RuntimeError("shape '[3]' is invalid"), RuntimeError, "shape"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_fails_on_the_device(
    bench: SubjectBench, monkeypatch: pytest.MonkeyPatch, error: Exception, becomes: type[Exception], says: str
) -> None:
    def fail(*given: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(bench.reader), "firings", fail)
        for call in (lambda: bench.activations(0, "the cat"), lambda: bench.peaks(0, ["the cat", "a dog"])):
            with pytest.raises(becomes, match=says) as caught:
                call()
            assert type(caught.value) is becomes
    assert len(bench.activations(0, "the cat")) > 0  # the lock is free


def test_a_model_that_does_not_fit_into_memory_is_not_at_hand(
    config: Config, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(runs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("autointerp.harvest.bench.open_readers", too_large)
    with (
        Catalog.open(out / "catalog.duckdb") as catalog,
        pytest.raises(UserError, match="do not fit: out of memory") as caught,
    ):
        open_bench(config, catalog)
    assert type(caught.value) is UserError
