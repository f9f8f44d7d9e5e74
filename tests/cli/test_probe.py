"""`autointerp probe` on the tiny run: what it prints, where its labels come from, what it refuses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autointerp.catalog.store import Catalog
from autointerp.cli import cli
from autointerp.errors import UserError
from autointerp.harvest.forward import Reader
from autointerp.harvest.probe import probe as probe_text
from autointerp.sae import load_sae
from autointerp.subject.hookpoints import Hookpoint
from autointerp.subject.model import load_subject
from tests.cli.test_bad_input import options

TEXT = "the cat sat on a mat"
HOSTILE = "\x1b[31mred\x1b[0m [bold]x[/bold] \u202e\x9b2J\r\nend"


def call(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments], input=stdin, catch_exceptions=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    out = tmp_path_factory.mktemp("probe") / "run"
    for command in ("sample", "explain"):
        result = call(command, *options(tiny_settings, sample__features="0-11"), "--out", out)
        assert result.exit_code == 0, result.output
    with Catalog.open(out / "catalog.duckdb", write=True) as catalog:
        catalog.connection.execute("UPDATE explanations SET title = ? WHERE feature_id = 1", [HOSTILE])
    return out


def lines(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_has_the_harvests_values_and_the_catalogs_labels(folder: Path, tiny_model: Path, tiny_sae: Path) -> None:
    records = lines(call("probe", "--out", folder, "--text", TEXT, "--features", "all", "--top", 24, "--json"))
    subject = load_subject(str(tiny_model), device="cpu", dtype="float32")
    reader = Reader(subject, load_sae(tiny_sae), Hookpoint("model.layers.1", "out"), prepend_bos=True)
    expected = probe_text(reader, TEXT, window=23)
    assert "".join(record["text"] for record in records) == TEXT
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        known = {row[0]: row[1:] for row in catalog.rows("SELECT feature_id, title, max_activation FROM catalog")}
    for record, row in zip(records, expected, strict=True):
        assert (record["index"], record["token"]) == (row.index, row.token)
        assert [one["feature"] for one in record["features"]] == row.feature.tolist()
        assert [one["activation"] for one in record["features"]] == pytest.approx(row.activation.tolist(), rel=1e-6)
        for one in record["features"]:
            assert (one["title"], one["max_activation"]) == known.get(one["feature"], (None, None))
    assert {one["feature"] > 11 for record in records for one in record["features"]} == {True, False}


def test_table_and_summary(folder: Path) -> None:
    result = call("probe", "--out", folder, "--text", TEXT, "--top", 2)
    assert result.exit_code == 0
    tokens, _, summary = result.stdout.partition("\n\n")
    assert tokens.splitlines()[0].split() == ["#", "token", "feature", "activation", "of", "max", "label"]
    shown = [line for line in tokens.splitlines()[1:] if line.split()[0].isdigit() and '"' in line[:20]]
    assert [line.split('"')[1] for line in shown] == ["the", " cat", " sat", " on", " a", " mat"]
    assert "features fire on 6 tokens" in summary.splitlines()[0]
    assert "only the run's own features are shown: 0-11" in result.stderr
    records = lines(call("probe", "--out", folder, "--text", TEXT, "--feature", "0-11", "--json"))
    best = max(
        ((one["activation"], one["feature"], r["index"]) for r in records for one in r["features"]), default=None
    )
    assert best is not None
    first = summary.splitlines()[2].split()
    assert (int(first[0]), float(first[1]), int(first[3])) == (best[1], pytest.approx(best[0], rel=1e-3), best[2])


def test_only_the_features_that_are_named(folder: Path) -> None:
    chosen = ["--feature", "1", "--feature", "4-6", "--features", "9"]
    records = lines(call("probe", "--out", folder, "--text", TEXT, *chosen, "--json"))
    found = {one["feature"] for record in records for one in record["features"]}
    assert found and found <= {1, 4, 5, 6, 9} and len(records) == 6
    assert lines(call("probe", "--out", folder, "--text", TEXT, "--feature", "3", "--json"))[0]["features"] == []
    dead = call("probe", "--out", folder, "--text", TEXT, "--feature", "3")
    assert dead.exit_code == 0 and "no feature fires on these 6 tokens" in dead.stdout


def test_nothing_raw_reaches_the_terminal(folder: Path) -> None:
    text = "cat\x1b]0;owned\x07 \x9b31m\u202e\u200b é\r\n\tmat"
    for style in ([], ["--json"]):
        result = call("probe", "--out", folder, "--feature", "0-23", *style, "--text", text)
        assert result.exit_code == 0
        assert all(char.isprintable() or char == "\n" for char in result.output)
        assert "\\u001b" in result.stdout
    table = call("probe", "--out", folder, "--feature", "1", "--text", TEXT).stdout
    assert "⟨U+001B⟩[31mred" in table and "[bold]x[/bold]" in table and "⟨U+009B⟩2J↵end" in table.replace("\n", "")
    records = lines(call("probe", "--out", folder, "--feature", "1", "--text", text, "--json"))
    titles = [one["title"] for record in records for one in record["features"]]
    assert set(titles) == {HOSTILE}  # JSON escapes what a terminal must not see; the text itself is whole
    assert [record["text"] for record in records][-3:] != [] and "<0xC3>" in [record["text"] for record in records]


def test_sql_and_ranking_are_harmless_too(folder: Path) -> None:
    query = 'SELECT title AS "a\x1b[1m" FROM catalog WHERE feature_id = 1'
    for style in ("table", "json"):
        result = call("sql", query, "--out", folder, "--format", style)
        assert result.exit_code == 0 and "red" in result.stdout
        assert all(char.isprintable() or char == "\n" for char in result.output)
    assert call("sql", "SELECT 'a\x1b'", "--out", folder, "--format", "csv").stdout.endswith(
        "a\x1b\n"
    )  # not a terminal
    assert call("score", "--out", folder).exit_code == 0
    with Catalog.open(folder / "catalog.duckdb", write=True) as catalog:
        best = catalog.value("SELECT feature_id FROM ranks WHERE rank = 1")
        catalog.connection.execute("UPDATE explanations SET title = ? WHERE feature_id = ?", [HOSTILE, best])
    scored = call("score", "--out", folder)
    assert scored.exit_code == 0 and "⟨U+001B⟩[31mred" in scored.stdout
    assert all(char.isprintable() or char == "\n" for char in scored.output)


def test_a_file_and_standard_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    arguments = ["probe", "--out", folder, "--json", "--feature", "0-5"]
    expected = call(*arguments, "--text", TEXT).stdout
    assert call(*arguments, "--file", tmp_path / "text.txt").stdout == expected
    assert call(*arguments, "--file", "-", stdin=TEXT).stdout == expected != ""


def test_a_long_text_is_read_in_windows_and_said_so(folder: Path) -> None:
    long = call("probe", "--out", folder, "--text", TEXT * 5, "--json")
    records = lines(long)
    assert "tokens and is read in 2 windows of 23" in long.stderr and records[23]["window"] == 1
    assert records[23]["position"] == 0 and "windows" not in call("probe", "--out", folder, "--text", TEXT).stderr
    # Windows longer than the model's context of 64 are cut to it: BOS and 63 tokens.
    wide = lines(call("probe", "--out", folder, "--text", TEXT * 15, "--json", "--set", "corpus.window=5000"))
    assert next(record["index"] for record in wide if record["window"] == 1) == 63


def test_without_a_catalog(tiny_model: Path, tiny_sae: Path, tmp_path: Path) -> None:
    named = ["--model", tiny_model, "--sae", tiny_sae]
    result = call("probe", *named, "--text", TEXT)
    assert result.exit_code == 0 and "label" not in result.output and "of max" not in result.output
    result = call("probe", *named, "--hookpoint", "model.layers.0", "--text", TEXT, "--json")
    assert lines(result)[0]["features"][0]["title"] is None
    result = call("probe", *named, "--out", tmp_path / "new", "--text", TEXT)
    assert result.exit_code == 0 and "no catalog in" in result.stderr and not (tmp_path / "new").exists()


def test_labels_of_another_hookpoint_are_not_shown(folder: Path) -> None:
    result = call("probe", "--out", folder, "--hookpoint", "model.layers.0", "--text", TEXT)
    assert result.exit_code == 0 and "another model, SAE or hookpoint" in result.stderr
    assert "label" not in result.stdout
    assert "another" not in call("probe", "--out", folder, "--device", "cpu", "--text", TEXT).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "takes one text"),
        (["--text", "a", "--file", "b"], "takes one text"),
        (["--text", ""], "the text is empty"),
        (["--text", "\udce9"], "not UTF-8"),
        (["--text", "cat", "--feature", "99"], "feature 99 is out of range"),
        (["--text", "cat", "--feature", "x"], "neither an id nor a range"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: list[str], words: str) -> None:
    result = call("probe", "--out", folder, *arguments)
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception) and "\n" not in str(result.exception)


def test_more_mistakes(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "not UTF-8" in str(call("probe", "--file", tmp_path / "latin.txt").exception)
    assert "not UTF-8" in str(call("probe", "--file", "-", stdin=b"caf\xe9").exception)
    assert isinstance(call("probe", "--file", tmp_path / "none.txt").exception, FileNotFoundError)
    assert "no run here" in str(call("probe", "--out", tmp_path / "none", "--text", "x").exception)
    assert call("probe", "--top", "0", "--text", "x").exit_code == 2
