"""Text on its way to a terminal."""

import json

from hypothesis import given
from hypothesis import strategies as st

from autointerp.cli.terminal import json_line, one_line


def test_one_line() -> None:
    assert one_line("a\r\nb\nc\td\re") == "a↵b↵c→d↵e"
    assert one_line("\x1b[2J\x07\x9b\u202e\u200b") == "⟨U+001B⟩[2J⟨U+0007⟩⟨U+009B⟩⟨U+202E⟩⟨U+200B⟩"
    assert one_line("plain: é, 漢字, [bold]") == "plain: é, 漢字, [bold]"


@given(st.text())
def test_nothing_unprintable_is_left_and_json_is_reversible(text: str) -> None:
    assert one_line(text).isprintable() and json_line(text).isprintable()
    assert json.loads(json_line({"x": [text]})) == {"x": [text]}


def test_what_json_does_not_know() -> None:
    assert json_line({"a": b"\x01\xff", "b": 1.5}) == '{"a": "01ff", "b": 1.5}'
    assert json_line("\x9b\U000e0041") == '"\\u009b\\udb40\\udc41"'
