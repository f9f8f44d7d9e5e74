"""Every source of documents, and the clear refusal of each kind of bad one."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autointerp.errors import UserError
from autointerp.subject.corpora import open_corpus
from autointerp.subject.stdlib import stdlib_documents


def read(source: object, field: str = "text") -> dict[str, str]:
    return {document.doc_id: document.text for document in open_corpus(str(source), field)}


def test_files_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('"two"\n{"text": "three"}\n{"text": ""}\n')
    (tmp_path / "c.json").write_text(json.dumps(["four", {"text": "five"}]))
    pq.write_table(pa.table({"text": ["six", None, "seven"]}), tmp_path / "d.parquet")
    assert read(tmp_path / "a.txt") == {"a.txt": "one"}
    assert read(tmp_path / "b.jsonl") == {"b.jsonl:1": "two", "b.jsonl:2": "three"}
    assert read(tmp_path / "c.json") == {"c.json:0": "four", "c.json:1": "five"}
    assert read(tmp_path / "d.parquet") == {"d.parquet:0": "six", "d.parquet:2": "seven"}


def test_a_folder_is_read_whole_in_an_order_of_its_names_alone(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/x.py", "y.md", "z.txt", "ignored.bin"):
        (tmp_path / name).write_text(name)
    assert set(read(tmp_path)) == {"sub/x.py", "y.md", "z.txt"}
    assert list(read(tmp_path)) == list(read(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{broken\n', ["line 2", "not valid JSON"]),
        ("a.jsonl", b'{"body": "x"}\n', ["line 1", "body", "--text-field"]),
        ("a.json", b'{"text": "x"}', ["list", "dict"]),
        ("a.parquet", b"PAR1 not really", ["Parquet"]),
        ("a.txt", b"caf\xe9 au lait", ["byte 3", "UTF-8"]),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert all(word in str(error.value) for word in [str(tmp_path / name), *words]), error.value


def test_parquet_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="body"):
        read(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "body") == {"a.parquet:0": "x"}


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text files"):
        read(tmp_path)


def test_the_standard_library_is_real_text_with_unique_names() -> None:
    documents = list(stdlib_documents())
    names = [document.doc_id for document in documents]
    assert len(set(names)) == len(names)
    by_name = {document.doc_id: document.text for document in documents}
    assert "def dumps(" in by_name["stdlib/json/__init__.py"]
    assert by_name["builtin/math"].startswith("math\n") and "math.sqrt" in by_name["builtin/math"]
    assert "topics/if" in by_name
    assert not any("/test/" in name or "site-packages" in name for name in names)
    assert sum(len(text) for text in by_name.values()) > 4_000_000


def test_the_order_of_the_standard_library_is_a_hash_of_names() -> None:
    names = [document.doc_id for document in open_corpus("stdlib")]
    assert names != sorted(names) and sorted(names) == sorted(d.doc_id for d in stdlib_documents())
