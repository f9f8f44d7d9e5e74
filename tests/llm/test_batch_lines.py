"""Lines of batch files: which are taken, which are none, and that none is read beyond its bound."""

from pathlib import Path
from typing import Any

import pytest

from autointerp.llm import CallFailed, wire
from autointerp.llm.batch_lines import check_lines, json_line, read_lines


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b'{"a":1}\n\n  \n{"b":2}\n', [(1, {"a": 1}, True), (4, {"b": 2}, True)]),
        (b'{"a":1}\r\n[1]\nx\n{"b":', [(1, {"a": 1}, True), (2, None, True), (3, None, True), (4, None, False)]),
        (b'{"a":1}', [(1, {"a": 1}, False)]),
        (b'{"a":"' + b"x" * 50 + b'"}\n{"b":2}\n', [(1, None, True), (2, {"b": 2}, True)]),
        (b'{"a":"' + b"x" * 50, [(1, None, False)]),
        (b" " * 50 + b'\n{"b":2}\n', [(1, None, True), (2, {"b": 2}, True)]),
        (b'{"a":"0123456789"}\n', [(1, {"a": "0123456789"}, True)]),  # 19 bytes
        (b'{"a":"0123456789x"}\n', [(1, {"a": "0123456789x"}, True)]),  # 20
        (b'{"a":"0123456789xy"}\n', [(1, None, True)]),  # 21
        (b"[" * 15 + b"\n", [(1, None, True)]),
    ],
)
def test_lines_up_to_twenty_bytes(
    tmp_path: Path, content: bytes, found: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 20)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    assert list(read_lines(path)) == found
    if all(record is not None for _, record, _ in found):
        check_lines(path)
    else:
        with pytest.raises(CallFailed, match="not JSON lines") as caught:
            check_lines(path)
        assert caught.value.retryable


def test_a_line_is_ascii() -> None:
    assert json_line({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}\n'
