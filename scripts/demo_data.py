"""What the demo's scripts share: which files are held out, and documents as token ids."""

import hashlib
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from autointerp.subject.documents import Document

BOS = "<|bos|>"


def held_out(doc_id: str) -> bool:
    """One document in 25, by a hash of its name: the same on every machine."""
    return int.from_bytes(hashlib.sha256(doc_id.encode()).digest()[:4], "big") % 25 == 0


def tokenize_documents(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[np.ndarray]:
    """One array of token ids a document, each beginning with BOS."""
    encoded = tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"]
    return [np.array([tokenizer.bos_token_id, *ids]) for ids in encoded]
