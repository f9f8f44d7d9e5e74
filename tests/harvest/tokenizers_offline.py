"""Tokenizers of every scheme that models use, trained on a few sentences: real pipelines, small vocabularies."""

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

TEXTS = {
    "english": "The quick brown fox didn't jump over 12 lazy dogs,  twice:\n\n    def f(x):\n\treturn x ** 2\n",
    "chinese": "今天天气很好，我们去公园散步。机器学习很有意思！\n生僻字：𠮷龘",
    "hindi": "नमस्ते दुनिया, क्षत्रिय ज्ञान की बात करते हैं।",
    "arabic": "مرحبا بالعالم، كيف حالك اليوم؟ السلام عليكم",
    "emoji": "family 👨‍👩‍👧‍👦 flag 🏳️‍🌈 wave 👋🏽!",
    "spaces": "a  b   c    d\n\n\n  e",
}
CORPUS = [*(text for name, text in TEXTS.items() if name in ("english", "hindi")), "the cat sat on the mat " * 3]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA_3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")  # fmt: skip


def gpt2() -> Any:
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama_3() -> Any:
    split = pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated")
    return _byte_level(pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)]))


def neox() -> Any:
    """Byte-level with runs of spaces as added tokens, and Unicode normalisation."""
    made = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())
    made.add_tokens([AddedToken(" " * count, normalized=True, special=False) for count in (3, 2)])
    return made


def _byte_level(pre_tokenizer: Any, normalizer: Any = None) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>")


def _sentencepiece_bpe(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges as SentencePiece would learn them: spaces are "▁", words are not cut beforehand."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # Characters of other scripts are left out of the alphabet, so that they fall back to bytes.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[a-z]*"), behavior="isolated")
    trainer = trainers.BpeTrainer(vocab_size=120, limit_alphabet=60, show_progress=False)
    tokenizer.train_from_iterator([CORPUS[0], "▁▁▁▁ ▁▁ ▁▁▁▁", CORPUS[-1]], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [*special, *BYTES, *(token for token in model["vocab"] if token not in special)]
    return {token: index for index, token in enumerate(tokens)}, [tuple(pair) for pair in model["merges"]]


def llama_2(legacy_prefix: bool = False) -> Any:
    """Byte fallback, and a space put before the text: by Metaspace, or by a normaliser as in older files."""
    vocabulary, merges = _sentencepiece_bpe(["<unk>", "<s>", "</s>"])
    made = LlamaTokenizer(vocab=vocabulary, merges=merges)
    if legacy_prefix:
        backend = made.backend_tokenizer
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
        return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return made


def gemma() -> Any:
    """Byte fallback, no space before the text; runs of newlines and of "▁" are added tokens that are not special."""
    vocabulary, merges = _sentencepiece_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    for run in ("\n", "\n\n", "▁▁", "▁▁▁", "<start_of_turn>", "<end_of_turn>"):
        vocabulary.setdefault(run, len(vocabulary))
    made = GemmaTokenizer(vocab=vocabulary, merges=merges)
    made.add_tokens([AddedToken(run, normalized=False, special=False) for run in ("\n", "\n\n", "▁▁", "▁▁▁")])
    turns = [AddedToken(turn, normalized=False, special=True) for turn in ("<start_of_turn>", "<end_of_turn>")]
    made.add_tokens(turns, special_tokens=True)
    return made


def unigram() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([CORPUS[0], CORPUS[-1]], trainer)
    pieces = [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]
    vocabulary = [pieces[0], ("<s>", 0.0), *((byte, -20.0) for byte in BYTES), *pieces[1:]]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def wordpiece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]")


def legacy_llama_2() -> Any:
    return llama_2(legacy_prefix=True)


ALL = {made.__name__: made for made in (gpt2, llama_3, neox, llama_2, legacy_llama_2, gemma, unigram)}
