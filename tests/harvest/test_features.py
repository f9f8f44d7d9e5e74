"""Lists of features as people write them."""

from pathlib import Path

import pytest

from autointerp.errors import DataError, UserError
from autointerp.harvest.features import chosen_features, features_identity, parse_features


def test_ids_ranges_and_files(tmp_path: Path) -> None:
    assert parse_features("all", 3).tolist() == [0, 1, 2]
    assert parse_features(" 7, 2-4,3,, ", 8).tolist() == [2, 3, 4, 7]
    path = tmp_path / "features.txt"
    path.write_text("# mine\n5, 6  # both\n\n0-1\n", encoding="utf-8")
    assert parse_features(str(path), 8).tolist() == parse_features(f"@{path}", 8).tolist() == [0, 1, 5, 6]
    path.write_bytes(b"\xef\xbb\xbf1,2\r\n4\r\n")  # as Windows' Notepad writes it
    assert parse_features(str(path), 8).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("text", "says"),
    [("8", "out of range"), ("9" * 39, "out of range"), ("4-2", "write 2-4"), ("-1", "neither"), ("1-", "neither"),
     ("1e3", "neither"), ("\0", "neither"), ("²", "neither"), (" , ", "names no feature"), ("1" * 300, "neither")],
)  # fmt: skip
def test_what_is_no_list(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_features(text, 8)


def test_some_of_those_that_were_sampled() -> None:
    assert (
        chosen_features("all", 30, [2, 3, 4], "here") is None and chosen_features("2-4", 30, [2, 3, 4], "here") is None
    )
    assert chosen_features("4,2", 30, [2, 3, 4], "here") == {2, 4}
    with pytest.raises(
        UserError, match="here has no samples of 1, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 2 more; it has 3 of the SAE's"
    ):
        chosen_features("1-15", 30, [2, 3, 4], "here")
    with pytest.raises(UserError, match="there is no file gone"):
        chosen_features("@gone", 30, [2], "here")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "features.bin"
    path.write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(DataError, match=r"features.bin: not a text in UTF-8"):
        parse_features(str(path), 8)


def test_a_choice_of_features_is_known_by_what_its_file_lists(tmp_path: Path) -> None:
    path, other = tmp_path / "features.txt", tmp_path / "other.txt"
    path.write_text("# mine\n5, 6\n0-1\n", encoding="utf-8")
    other.write_text("0-1,5,6", encoding="utf-8")
    first = features_identity(str(path))
    assert first == features_identity(str(other)) and str(path) not in first
    path.write_text("5, 6\n0-2\n", encoding="utf-8")
    assert features_identity(str(path)) != first
    assert (features_identity("all"), features_identity("1,5-7")) == ("all", "1,5-7")
    path.unlink()
    with pytest.raises(UserError, match="no file has that name"):
        features_identity(str(path))
    assert features_identity("0-4000000000") == "0-4000000000"  # no list of them is made
