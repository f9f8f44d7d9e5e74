"""Bytes of tokens in the two schemes, spaces and broken characters included."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from autointerp.harvest.tokens import token_bytes, vocabulary_table


def test_byte_level(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts, pieces = token_bytes(tokenizer, size=310)
    text = "the café → \n\t 漢"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(pieces[i] for i in ids) == text.encode()
    assert pieces[0] == b"" and texts[0] == "<s>"
    assert len(texts) == 310 and texts[309] == "<unused 309>"


def test_sentencepiece_style() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "▁a": 4, **{f"<0x{b:02X}>": 5 + b for b in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    _, pieces = token_bytes(fast)
    ids = fast("a a é", add_special_tokens=False)["input_ids"]
    assert b"".join(pieces[i] for i in ids) == "a a é".encode()


def test_the_table_shows_a_piece_of_a_character_reversibly(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = vocabulary_table(tokenizer).to_pylist()
    piece = next(row for row in rows if row["bytes"] == b"\xe2")
    assert piece["text"] == "<0xE2>"
    assert next(row for row in rows if row["bytes"] == b" cat")["text"] == " cat"
