"""Bytes of tokens in every scheme: joined they are the text, and a part of a character is shown as one."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from autointerp.harvest.tokens import special_ids, token_bytes, vocabulary_table
from autointerp.vocabulary import Vocabulary
from tests.harvest import tokenizers_offline
from tests.harvest.tokenizers_offline import ALL, TEXTS

ADDS_A_SPACE = {"llama_2", "legacy_llama_2", "unigram"}


@cache
def tokenizer_of(scheme: str) -> Any:
    return ALL[scheme]()


def test_byte_level(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts, pieces = token_bytes(tokenizer, size=310)
    text = "the café → \n\t 漢"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(pieces[i] for i in ids) == text.encode()
    assert pieces[0] == b"" and texts[0] == "<s>"
    assert len(texts) == 310 and texts[309] == "<unused 309>"


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("scheme", ALL)
def test_joined_bytes_are_the_text(scheme: str, language: str) -> None:
    tokenizer, text = tokenizer_of(scheme), TEXTS[language]
    texts, pieces = token_bytes(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
    joined = b"".join(pieces[i] for i in ids)
    assert joined == (b" " if scheme in ADDS_A_SPACE else b"") + text.encode()
    assert Vocabulary(texts, pieces).join(ids).removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.parametrize("scheme", ALL)
def test_a_part_of_a_character_is_shown_as_its_bytes(scheme: str) -> None:
    tokenizer = tokenizer_of(scheme)
    rows = vocabulary_table(tokenizer).to_pylist()
    assert not any("\ufffd" in row["text"] for row in rows)
    ids = tokenizer("漢", add_special_tokens=False)["input_ids"]
    shown = "".join(rows[i]["text"] for i in ids).strip()
    assert shown == "<0xE6><0xBC><0xA2>"
    assert Vocabulary([row["text"] for row in rows], [row["bytes"] for row in rows]).join(ids).strip() == "漢"


def test_gemma_runs_of_spaces_are_spaces() -> None:
    tokenizer = tokenizer_of("gemma")
    texts, pieces = token_bytes(tokenizer)
    run = tokenizer.convert_tokens_to_ids("▁▁")
    assert run in tokenizer("a  b", add_special_tokens=False)["input_ids"]
    assert texts[run] == "▁▁" and pieces[run] == b"  "
    assert pieces[tokenizer.convert_tokens_to_ids("\n\n")] == b"\n\n"


def test_wordpiece_shows_a_space_before_each_word() -> None:
    tokenizer = tokenizers_offline.wordpiece()
    _, pieces = token_bytes(tokenizer)
    ids = tokenizer("the catat", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    assert b"".join(pieces[i] for i in ids) == b" the catat"


def test_special_tokens_without_a_role_are_special(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.add_tokens(["<think>"])
    turn, think = (tokenizer.convert_tokens_to_ids(text) for text in ("<|turn|>", "<think>"))
    assert turn not in tokenizer.all_special_ids
    assert special_ids(tokenizer) == {tokenizer.bos_token_id, turn}
    texts, pieces = token_bytes(tokenizer)
    assert (texts[turn], pieces[turn]) == ("<|turn|>", b"") and pieces[think] == b"<think>"


def test_the_table_shows_a_piece_of_a_character_reversibly(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = vocabulary_table(tokenizer).to_pylist()
    piece = next(row for row in rows if row["bytes"] == b"\xe2")
    assert piece["text"] == "<0xE2>"
    assert next(row for row in rows if row["bytes"] == b" cat")["text"] == " cat"
