"""The catalog does not depend on how the work was cut: bit for bit, from made-up firings through shards and the merge."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autointerp.catalog.store import Catalog
from autointerp.config import Config, SampleConfig
from autointerp.errors import DataError
from autointerp.harvest.keep import concatenate
from autointerp.harvest.merge import merge_shards
from autointerp.harvest.plan import Plan, PlanSettings, make_plan
from autointerp.harvest.shards import finished_shards, missing_parts, share, write_shard
from autointerp.harvest.sketch import BatchWindows, Firings, Sketch
from autointerp.harvest.stage import sample
from autointerp.hashing import mix
from autointerp.subject.documents import Document
from autointerp.subject.windows import Windows, per_split
from tests.harvest.test_harvest import configured, dump

WINDOW, FEATURES, SEED = 8, 9, 3
SAMPLE = SampleConfig(top=7, per_band=6, bands=3)


class Letters:
    """A tokenizer whose tokens are letters."""

    added_tokens_decoder: dict[int, object] = {}  # noqa: RUF012 - as a tokenizer has it
    all_special_ids: list[int] = []  # noqa: RUF012
    is_fast = False

    def __call__(self, text: list[str], **options: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) % 32 for letter in one] for one in text]}


def plan_in(folder: Path) -> Plan:
    rng = np.random.default_rng(1)
    documents = [Document(f"d{i}", "".join(rng.choice(list("abcdefgh"), rng.integers(1, 60)))) for i in range(60)]
    return make_plan(documents, Letters(), folder / "plan", PlanSettings(WINDOW, None, 30, SEED, 16), "x")  # type: ignore[arg-type]


def firings_of(windows: Windows, begin: int, end: int) -> Firings:
    """Feature f fires where a hash of (window, position, f) says so; feature 0 nearly always, feature 8 never."""
    found = []
    for row, index in enumerate(range(begin, end)):
        n = windows.offsets[index + 1] - windows.offsets[index]
        position, feature = np.meshgrid(np.arange(n), np.arange(FEATURES - 1), indexing="ij")
        place = windows.window_id[index] ^ mix((position * FEATURES + feature).astype(np.uint64))
        hashed = mix(place)
        fires = hashed % np.uint64(10) < np.where(feature == 0, 9, 1 + feature // 3).astype(np.uint64)
        value = (np.float32(1) + (hashed >> np.uint64(20)) % np.uint64(1000)).astype(np.float32) / np.float32(7)
        found.append((feature[fires], np.full(fires.sum(), row), position[fires], value[fires]))
    feature, row, position, value = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((position, row, feature))
    read = np.concatenate([np.arange(n, dtype=np.uint16) for n in np.diff(windows.offsets[begin : end + 1])])
    return Firings(feature[order].astype(np.int32), row[order].astype(np.int32), position[order].astype(np.uint16),
                   value[order].astype(np.float32), read)  # fmt: skip


def harvest(plan: Plan, root: Path, parts: range, batch: int) -> None:
    sketch = Sketch(FEATURES, top=per_split(SAMPLE.top), per_band=per_split(SAMPLE.per_band), seed=SEED, window=WINDOW)
    pool, tokens = plan.pool(), 0
    for part in parts:
        windows = plan.part(part)
        tokens += len(windows.tokens)
        for begin in range(0, len(windows), batch):
            end = min(begin + batch, len(windows))
            facts = BatchWindows(windows.window_id[begin:end], windows.doc[begin:end], windows.split[begin:end],
                                 np.isin(windows.window_id[begin:end], pool))  # fmt: skip
            sketch.update(firings_of(windows, begin, end), facts)
    if parts:
        write_shard([sketch], root, parts.start, parts.stop, "x", tokens)


def catalog_of(plan: Plan, root: Path, path: Path) -> dict[str, list[tuple[object, ...]]]:
    with Catalog.open(path, write=True) as catalog, catalog.transaction():
        folders = [shard.folder / "0" for shard in finished_shards(root, "x")]
        merge_shards(catalog, plan, folders, np.arange(FEATURES), SAMPLE, d_sae=FEATURES)
    return dump(path)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_in(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    folder = tmp_path_factory.mktemp("whole")
    harvest(plan, folder / "shards", range(plan.n_parts), 5)
    return catalog_of(plan, folder / "shards", folder / "c.duckdb")


def test_the_plan_has_enough_parts(plan: Plan, whole: dict[str, list[tuple[object, ...]]]) -> None:
    assert plan.n_parts >= 8 and len(whole["contexts"]) > 200
    flags = [row[8] for row in sorted(whole["features"])]
    assert flags[0] == "dense" and flags[8] == "dead" and set(flags[1:8]) == {"dense", None}


@given(
    cuts=st.one_of(st.sampled_from([1, 2, 7, 20]).map(lambda n: [share(8, i, n) for i in range(1, n + 1)]),
                   st.permutations(range(8)).map(lambda order: [range(p, p + 1) for p in order])),
    batch=st.sampled_from([1, 3, 32]),
)  # fmt: skip
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_gives_the_same_catalog(
    plan: Plan, whole: dict[str, list[tuple[object, ...]]], cuts: Sequence[range], batch: int
) -> None:
    n = plan.n_parts
    scaled = [range(c.start * n // 8, c.stop * n // 8) for c in cuts]  # empty shards are among them
    with tempfile.TemporaryDirectory() as folder:
        for parts in scaled:
            harvest(plan, Path(folder) / "shards", parts, batch)
        found = catalog_of(plan, Path(folder) / "shards", Path(folder) / "c.duckdb")
    assert found == whole


def test_overlapping_shards_count_once(plan: Plan, whole: dict[str, list[tuple[object, ...]]], tmp_path: Path) -> None:
    root, n = tmp_path / "shards", plan.n_parts
    for parts in (range(0, 3), range(0, 5), range(4, n), range(2, 4)):
        harvest(plan, root, parts, 4)
    assert missing_parts(n, finished_shards(root, "x")) == list(range(5, n))  # 4 … n overlaps 0 … 5 and is not taken
    harvest(plan, root, range(5, n), 4)
    assert catalog_of(plan, root, tmp_path / "c.duckdb") == whole
    assert finished_shards(root, "another run") == []


def test_a_broken_marker_marks_nothing(plan: Plan, tmp_path: Path) -> None:
    harvest(plan, tmp_path, range(2), 4)
    [marker] = tmp_path.glob("*/COMPLETE.json")
    for text in ("", "{", "[]", '{"fingerprint": "x"}', '{"fingerprint": "x", "begin": "a", "end": 2, "n_tokens": 1}'):
        marker.write_text(text)
        assert finished_shards(tmp_path, "x") == []


@pytest.mark.parametrize("table", ["features", "histograms", "contexts"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "absent", "bit", "footer"])
def test_a_damaged_shard_is_named(plan: Plan, tmp_path: Path, table: str, damage: str) -> None:
    root = tmp_path / "shards"
    harvest(plan, root, range(plan.n_parts), 4)
    [path] = root.glob(f"*/0/{table}.parquet")
    content = path.read_bytes()
    middle = len(content) // 3
    if damage == "absent":
        path.unlink()
    elif damage in ("bit", "footer"):  # of the first page's data, or of the statistics: only the digest tells
        at = (
            pq.read_metadata(path).row_group(0).column(0).data_page_offset + 60
            if damage == "bit"
            else len(content) - 40
        )
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    else:
        path.write_bytes(content[:middle] if damage == "cut" else b"PAR1" + bytes(middle) + content[4 + middle :])
    with pytest.raises(DataError) as error:
        catalog_of(plan, root, tmp_path / "c.duckdb")
    assert str(root) in str(error.value) and "run" in str(error.value) and "\n" not in str(error.value)
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        assert catalog.value("SELECT count(*) FROM contexts") == 0


def test_samples_are_uniform() -> None:
    """Chi-square over 400 seeds of the sketch itself: each of 24 windows is drawn equally often. A biased draw fails."""
    from scipy.stats import chisquare

    n = 24
    windows = BatchWindows(mix(np.arange(n, dtype=np.uint64)), np.arange(n, dtype=np.uint32), np.zeros(n, np.uint8),
                           np.zeros(n, np.bool_))  # fmt: skip
    rows = np.arange(n, dtype=np.int32)
    same = Firings(np.zeros(n, np.int32), rows, np.zeros(n, np.uint16), np.ones(n, np.float32), np.zeros(n, np.uint16))
    drawn = np.zeros(n)
    for seed in range(400):
        sketch = Sketch(1, top=(1, 1, 1), per_band=(6, 1, 1), seed=seed, window=4)
        for begin in range(0, n, 5):
            part = slice(begin, begin + 5)
            facts = BatchWindows(windows.window_id[part], windows.doc[part], windows.split[part], windows.in_pool[part])
            count = len(facts.doc)
            found = (same.feature[part], rows[:count], same.position[part], same.value[part], same.read[part])
            sketch.update(Firings(*found), facts)
        drawn += np.isin(windows.window_id, concatenate(sketch.sample.blocks()).window)
    assert drawn.sum() == 400 * 6
    assert chisquare(drawn).pvalue > 0.001
    tilted = drawn * np.linspace(0.7, 1.3, n)
    assert chisquare(tilted * drawn.sum() / tilted.sum()).pvalue < 0.001  # such a tilt would be seen


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_batches_of_a_real_model(tiny_settings: dict[str, object], tmp_path: Path, threads: int) -> None:
    import torch

    before = torch.get_num_threads()
    config: Config = configured(tiny_settings, sample__batch_windows=7)
    try:
        torch.set_num_threads(1)
        sample(configured(tiny_settings), tmp_path / "one")
        torch.set_num_threads(threads)
        sample(config, tmp_path / "other")
    finally:
        torch.set_num_threads(before)
    one, other = (dump(tmp_path / name / "catalog.duckdb") for name in ("one", "other"))
    for table in ("documents", "windows", "vocabulary", "histograms", "strata", "output_tokens"):
        assert one[table] == other[table], table
    # Activations may differ in their last digits, as the shape of the product decides how it is summed.
    for a, b in zip(one["contexts"], other["contexts"], strict=True):
        assert (*a[:6], a[7], *a[9:]) == (*b[:6], b[7], *b[9:])
        assert a[6] == pytest.approx(b[6], rel=1e-4) and a[8] == pytest.approx(b[8], rel=1e-4)
