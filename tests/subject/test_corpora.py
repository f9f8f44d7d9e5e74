"""Every source of documents, and the clear refusal of each kind of bad one."""

import gzip
import json
import os
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autointerp.errors import DataError, UserError
from autointerp.subject.corpora import open_corpus
from autointerp.subject.documents import Document, Message
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


def test_a_folder_of_shards_is_one_corpus_in_the_order_of_names(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text(f'{{"text": "{folder} 1"}}\n\n{{"text": "{folder} 3"}}\n')
    (tmp_path / "a" / "y.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    (tmp_path / "a" / "z.ndjson.zst").write_bytes(pa.compress(b'"packed too"\n', "zstd", asbytes=True))
    pq.write_table(pa.table({"text": ["row"]}), tmp_path / "c.parquet")
    (tmp_path / "README.md").write_text("about the shards")
    (tmp_path / ".hidden.txt").write_text("hidden")
    expected = {"a/x.jsonl:1": "a 1", "a/x.jsonl:3": "a 3", "a/y.jsonl.gz:1": "packed", "a/z.ndjson.zst:1": "packed too",
                "b/x.jsonl:1": "b 1", "b/x.jsonl:3": "b 3", "c.parquet:0": "row"}  # fmt: skip
    assert list(read(tmp_path).items()) == list(expected.items())
    assert read(str(tmp_path) + "/") == expected  # names do not depend on how the folder was named


def test_a_folder_of_two_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_text('"line"\n')
    with pytest.raises(UserError, match=r"a\.txt.*b\.jsonl.*one kind"):
        read(tmp_path)


def test_a_zstandard_file_of_several_frames(tmp_path: Path) -> None:
    frames = [pa.compress(f'"document {index}"\n'.encode(), "zstd", asbytes=True) for index in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert list(read(tmp_path / "a.jsonl.zst").values()) == ["document 0", "document 1", "document 2"]


def peak_of_reading(path: Path) -> tuple[int, int]:
    """Documents, and the most bytes that Python and Arrow held at once."""
    tracemalloc.start()
    arrow = count = 0
    before = pa.total_allocated_bytes()
    for _ in open_corpus(str(path)):
        count += 1
        arrow = max(arrow, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, peak + arrow


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_memory_does_not_grow_with_a_file(tmp_path: Path, name: str) -> None:
    draw = random.Random(0)
    text = ["".join(draw.choices("abcdefgh ", k=1000)) for _ in range(3000)]
    peaks = []
    for copies in (2, 8):
        if name == "a.parquet":
            table = pa.table({"text": text * copies, "number": range(3000 * copies)})
            pq.write_table(table, tmp_path / name, row_group_size=10**6, use_dictionary=False)
        else:
            raw = "".join(json.dumps({"text": one}) + "\n" for one in text).encode() * copies
            packed = {"gz": gzip.compress(raw, 1) if name.endswith("gz") else b"", "jsonl": raw,
                      "zst": pa.compress(raw, "zstd", asbytes=True)}  # fmt: skip
            (tmp_path / name).write_bytes(packed[name.rsplit(".", 1)[-1]])
        count, peak = peak_of_reading(tmp_path / name)
        assert count == 3000 * copies
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 12_000_000, peaks


def test_a_file_is_read_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n"two"\n{broken\n')
    documents = open_corpus(str(tmp_path / "a.jsonl"))
    assert [next(documents).text, next(documents).text] == ["one", "two"]
    with pytest.raises(DataError, match="line 3"):
        next(documents)


def test_a_plain_text_takes_no_more_than_twice_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat\r\n" * 400_000, newline="")
    tracemalloc.start()
    [document] = open_corpus(str(tmp_path / "a.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(document.text) == 13 * 400_000 and peak < 2.2 * len(document.text)


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "a"},
        {"type": "text", "text": "b"}]}, {"role": "tool", "content": None}]  # fmt: skip
MESSAGES = (Message("user", "hi"), Message("assistant", "ab"), Message("tool", ""))


def test_conversations(tmp_path: Path) -> None:
    lines = [CHAT, [], None, [{"role": "user", "content": ""}], "plain"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    assert list(open_corpus(str(tmp_path / "a.jsonl"), "messages")) == [
        Document("a.jsonl:1", "", MESSAGES), Document("a.jsonl:5", "plain"),
    ]  # fmt: skip
    rows = [[{"role": "user", "content": "hi", "name": None}], None, []]
    pq.write_table(pa.table({"messages": rows}), tmp_path / "a.parquet")
    assert list(open_corpus(str(tmp_path / "a.parquet"), "messages")) == [Document("a.parquet:0", "", MESSAGES[:1])]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"from": "human", "value": "hi"}], ["message 0", "from", "role"]),
        (["hi"], ["message 0", "a string"]),
        ([{"role": "user", "content": "x"}, {"role": "endoftext", "content": "x"}], ["message 1", "endoftext", "user"]),
        ([{"role": ["user"], "content": "x"}], ["message 0", "not known"]),
        ([{"role": "user", "content": 3}], ["message 0", "a number"]),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], ["part 0", "image", "text"]),
        ([{"role": "user", "content": ["x"]}], ["part 0", "a string"]),
        ([{"role": "user", "content": "\ud800"}], ["message 0", "\\ud800"]),
    ],
)
def test_bad_conversations(tmp_path: Path, messages: object, words: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text('"fine"\n' + json.dumps({"text": messages}) + "\n")
    assert_refused(tmp_path / "a.jsonl", ["line 2", *words])


def assert_refused(path: Path, words: list[str]) -> None:
    """A DataError of one line, which can be printed, that names the file and holds the words."""
    with pytest.raises(DataError) as error:
        read(path)
    message = str(error.value)
    message.encode("utf-8")
    assert all(word in message for word in [str(path), *words]) and "\n" not in message and len(message) < 700, message


GZ = gzip.compress(b'"a document"\n' * 1000 + json.dumps(random.Random(0).randbytes(5000).hex()).encode())
ZST = pa.compress(json.dumps(random.Random(0).randbytes(5000).hex()).encode(), "zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'"x"\n{"text": "a\\ud800b"}\n', ["line 2", "character 1", "\\ud800", "remove"]),
        ("a.json", b'["x", "\\udfff"]', ["element 1", "\\udfff"]),
        ("a.jsonl", b"[" * 200_000 + b"\n", ["line 1", "nested"]),
        ("a.json", b'{"a":' * 200_000, ["nested"]),
        ("a.jsonl", b'"x"\n"caf\xe9"\n', ["line 2", "byte 4", "UTF-8"]),
        ("a.jsonl", '"x"\n'.encode("utf-16"), ["line 1", "UTF-8"]),
        ("a.json", b'["\xff"]', ["byte 2", "UTF-8"]),
        ("a.jsonl", b'"x"\n17\n', ["line 2", "a number", "object"]),
        ("a.jsonl", b"null\n", ["line 1", "null"]),
        ("a.jsonl", b'["x"]\n', ["line 1", "a list"]),
        ("a.jsonl", b'{"text": 3}\n', ["line 1", "a number", "--text-field"]),
        ("a.jsonl", b'{"text": {"a": "b"}}\n', ["line 1", "an object"]),
        ("a.jsonl", b'{"text": true}\n', ["line 1", "true or false"]),
        ("a.jsonl", json.dumps({f"field {n} " + "x" * 100: n for n in range(5000)}).encode(), ["line 1", "field 0", "…"]),
        ("a.jsonl.gz", GZ[: len(GZ) // 2], ["cannot be read", "whole"]),
        ("a.jsonl.gz", b"not packed at all", ["cannot be read", "Not a gzipped file"]),
        ("a.jsonl.gz", GZ[:2000] + b"\0" * 500 + GZ[2500:], ["cannot be read"]),
        ("a.jsonl.zst", ZST[: len(ZST) // 2], ["cannot be read"]),
        ("a.jsonl.zst", b"not packed at all", ["cannot be read"]),
        ("a.json", b"", ["not valid JSON"]),
        ("a.parquet", b"", ["Parquet"]),
        ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", ["Parquet"]),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, words)


def test_long_numbers_beside_the_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '\ufeff{"id": ' + "7" * 100_000 + ', "x": NaN, "text": "fine"}\n', encoding="utf-8"
    )
    assert read(tmp_path / "a.jsonl") == {"a.jsonl:1": "fine"}


def test_empty_files_have_no_documents(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_bytes(b"")
        assert read(tmp_path / name) == {}
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
    assert read(tmp_path / "a.txt") == {}


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autointerp.subject.corpora.files._MAX_LINE", 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'"x"\n"' + b"x" * 10**6))
    assert_refused(tmp_path / "a.jsonl.gz", ["line 2", "one document a line"])


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array([b"x"]), "binary"),
        (pa.array([["x"]]), "list"),
        (pa.array([None]), "null"),
        (pa.array([1]), "int64"),
        (pa.array([{"a": "x"}]), "struct"),
    ],
)
def test_parquet_columns_of_other_types(tmp_path: Path, column: pa.Array, found: str) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert_refused(tmp_path / "a.parquet", ["'text'", found, "--text-field"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_columns_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["x", None, "x", "y"]).cast(kind)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == {"a.parquet:0": "x", "a.parquet:2": "x", "a.parquet:3": "y"}


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_parquet_with_damaged_pages(tmp_path: Path, compression: str) -> None:
    draw = random.Random(0)
    text = ["".join(draw.choices("abcdefgh ", k=1000)) for _ in range(2000)]
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": text}), path, compression=compression, use_dictionary=False, write_page_checksum=True
    )
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 5000] = bytes(byte ^ 0x5A for byte in raw[middle : middle + 5000])
    path.write_bytes(raw)
    assert_refused(path, ["row", "Parquet"])


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    strings = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    assert_refused(tmp_path / "a.parquet", ["row 1", "UTF-8"])


def test_files_that_change_vanish_or_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"one"\n' * 10)
    documents = open_corpus(str(path))
    next(documents)
    with path.open("a") as file:
        file.write('"more"\n')
    with pytest.raises(DataError, match="changed while it was read"):
        list(documents)
    documents = open_corpus(str(path))
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        list(documents)
    path.mkdir()
    (path / "sub").mkdir()
    (path / "a.txt").write_text("x")
    real = os.scandir

    def forbidden(folder: object) -> object:
        if str(folder).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)  # type: ignore[call-overload]

    monkeypatch.setattr("os.scandir", forbidden)
    assert_refused(path, ["sub", "Permission denied"])


def test_odd_names(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 5000, "~nobody-of-this-name/x", "caf\udce9.txt", "/dev/null"):
        with pytest.raises(UserError, match=r"cannot be read|no such file") as error:
            open_corpus(name)
        assert len(str(error.value)) < 500
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    assert_refused(tmp_path, ["dangling.txt", "No such file"])
    (tmp_path / "dangling.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    assert_refused(tmp_path, ["pipe.txt", "not a file"])
    (tmp_path / "pipe.txt").unlink()
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")).write_text("x")
    assert_refused(tmp_path, ["not UTF-8", "rename"])


def hub_folder(folder: Path) -> Path:
    """A data set as the hub lays it out: two configurations, one of them with two splits and two shards."""
    (folder / "en").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["one", ""], "id": [1, 2]}), folder / "en" / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"text": ["three", None], "id": [3, 4]}), folder / "en" / "train-00001-of-00002.parquet")
    pq.write_table(pa.table({"text": ["held out"], "id": [5]}), folder / "en" / "test-00000-of-00001.parquet")
    pq.write_table(pa.table({"messages": [CHAT[:1]], "id": [6]}), folder / "chat.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  default: true\n  data_files:\n  - split: train\n    path: en/train-*.parquet\n"
        "  - split: test\n    path: en/test-*.parquet\n- config_name: chat\n  data_files: chat.parquet\n---\nA data set.\n"
    )
    return folder


def test_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path / "cache"))
    folder = hub_folder(tmp_path / "set")
    assert read(f"hf:{folder}") == {"set:0": "one", "set:2": "three"}
    assert read(f"hf:{folder}:en:test") == {"set:en:test:0": "held out"}
    assert list(open_corpus(f"hf:{folder}:chat", "messages")) == [Document("set:chat:0", "", MESSAGES[:1])]
    for source, words in [
        (f"hf:{folder}:fr", "could not be opened"),
        (f"hf:{folder}:en:validation", "could not be opened"),
        (f"hf:{folder}:en:test:more", "hf:NAME:CONFIG:SPLIT"),
        (f"hf:{folder}:chat", "no column 'text'"),
    ]:
        with pytest.raises(UserError, match=words) as error:
            read(source)
        assert "\n" not in str(error.value)
    raw = bytearray((folder / "en" / "train-00001-of-00002.parquet").read_bytes())
    raw[4:60] = b"\xff" * 56
    (folder / "en" / "train-00001-of-00002.parquet").write_bytes(raw)
    with pytest.raises(DataError, match=r"row 2 cannot be read"):
        read(f"hf:{folder}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_damage_at_random_is_an_error_or_harmless(tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    texts = ["the café 漢 " * 5 + str(index) for index in range(40)]
    lines = "".join(
        json.dumps({"text": text}, ensure_ascii=index % 2 == 0) + "\n" for index, text in enumerate(texts)
    ).encode()
    pq.write_table(pa.table({"text": texts}), tmp_path / "whole.parquet", write_page_checksum=True)
    whole = {"a.jsonl": lines, "a.json": json.dumps(texts).encode(), "a.jsonl.gz": gzip.compress(lines),
             "a.jsonl.zst": pa.compress(lines, "zstd", asbytes=True),
             "a.parquet": (tmp_path / "whole.parquet").read_bytes()}[name]  # fmt: skip
    refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(draw.choice([1, 1, 5, 50])):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        (tmp_path / name).write_bytes(raw[: draw.choice([len(raw), draw.randrange(len(raw))])])
        try:
            for text in read(tmp_path / name).values():
                text.encode()
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(tmp_path / name))
    assert refused > 50
