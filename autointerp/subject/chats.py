"""Conversations made tokens by the model's own chat template, without trust in what the messages say.

The template's special tokens become special tokens. The same characters within a message stay ordinary text, so that a
corpus cannot forge a turn: before the template is rendered every control token in a message is put between two marks
(noncharacters of Unicode, which no text contains), and what is found between marks afterwards is tokenised as text. As
the template works on the messages themselves, all that it does with them (trimming, cutting out a chain of thought) is
done as in training; and a conversation without such text is tokenised in one piece, exactly as the model's users do it.

Turn marks that are ordinary text in a template, such as "[INST]", cannot be told from the same text in a message.
"""

import re
from collections.abc import Sequence
from typing import Any

from autointerp.errors import DataError, UserError
from autointerp.subject.documents import ROLES, Document, Message

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_ANY_MARK = re.compile(f"[{_OPEN}{_CLOSE}]")
# A template may cut between two marks; a lone mark still parts the text on its sides.
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}|[{_OPEN}{_CLOSE}]")
# Some templates write today's date. This is what the Llama templates fall back to: the same tokens on every day.
_DATE = "26 Jul 2024"


class ChatEncoder:
    """Tokenises conversations for one Hugging Face tokenizer. Raises UserError if it has no chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        if not template:
            raise UserError(
                "the corpus holds conversations, and the model's tokenizer has no chat template; "
                "take a chat model, or name a field that holds text with --text-field"
            )
        control = _control_tokens(tokenizer, str(template))
        self._control_ids = frozenset(control.values())
        longest_first = sorted(control, key=lambda text: (-len(text), text))
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._inner = InnerText(tokenizer)

    def encode(self, documents: Sequence[Document]) -> list[list[int]]:
        """Token ids of each conversation, without the BOS that a template begins with. Raises DataError."""
        rendered = [self._rendered(document) for document in documents]
        clean = [text for text in rendered if not _ANY_MARK.search(text)]
        options = {"add_special_tokens": False, "split_special_tokens": False, "verbose": False}
        ids = iter(self.tokenizer(clean, **options)["input_ids"] if clean else [])
        encoded = [self._encode_marked(text) if _ANY_MARK.search(text) else next(ids) for text in rendered]
        return [self._without_bos(ids) for ids in encoded]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to where the assistant's next turn begins, with the BOS that a template writes.

        A template that can leave out a chain of thought is told to. Raises DataError.
        """
        document = Document("the request", "", tuple(messages))
        return self._encode_marked(self._rendered(document, add_generation_prompt=True, enable_thinking=False))

    def _rendered(self, document: Document, **options: bool) -> str:
        messages = [{"role": one.role, "content": self._marked(one.content)} for one in document.messages]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, date_string=_DATE, **options)
        except Exception as error:  # a template is a program, and may raise anything; this is one item of many
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            reason = "".join(char if char.isprintable() else "?" for char in first_line[:200])  # it may quote a message
            raise DataError(
                f"{document.doc_id}: the model's chat template refuses this conversation ({reason}); mend it or leave it out"
            ) from error
        return str(text)

    def _marked(self, content: str) -> str:
        return self._control.sub(lambda found: f"{_OPEN}{found[0]}{_CLOSE}", _ANY_MARK.sub("", content))

    def _encode_marked(self, text: str) -> list[int]:
        if not _ANY_MARK.search(text):
            return _ids(self.tokenizer, text, split_special_tokens=False)
        ids: list[int] = []
        for index, piece in enumerate(_MARKED.split(text)):
            if piece:
                ids += self.encode_text(piece) if index % 2 else self._inner.encode(piece, split_special_tokens=False)
        return ids

    def encode_text(self, piece: str) -> list[int]:
        """Token ids of ordinary text within a conversation, no control token among them whatever its characters are.

        A control token that is not declared special is only kept apart by cutting it up.
        """
        ids = self._inner.encode(piece, split_special_tokens=True)
        if self._control_ids.isdisjoint(ids):
            return ids
        return [token for char in piece for token in self._inner.encode(char, split_special_tokens=True)]

    def _without_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id  # the harvest prepends it to each window where it is wanted
        return ids[1:] if ids and bos is not None and ids[0] == bos else ids


class InnerText:
    """Tokenises a piece within a text. SentencePiece vocabularies put a space at the beginning of a text, so the piece is
    tokenised after a newline, which is then taken away."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._newline = _ids(tokenizer, "\n", split_special_tokens=False)

    def encode(self, piece: str, *, split_special_tokens: bool) -> list[int]:
        """Token ids; with `split_special_tokens` the characters of a special token are ordinary text."""
        ids = _ids(self._tokenizer, "\n" + piece, split_special_tokens=split_special_tokens)
        if ids[: len(self._newline)] == self._newline:
            return ids[len(self._newline) :]
        # the newline is part of a longer token
        return _ids(self._tokenizer, piece, split_special_tokens=split_special_tokens)


def _ids(tokenizer: Any, text: str, *, split_special_tokens: bool) -> list[int]:
    options = {"add_special_tokens": False, "split_special_tokens": split_special_tokens, "verbose": False}
    return list(tokenizer(text, **options)["input_ids"])


def _control_tokens(tokenizer: Any, template: str) -> dict[str, int]:
    """Text and id of every token that means something to the template: the special ones, and those added tokens that
    its source names, or that are a role in brackets, which a template may put together (`<|` + role + `|>`)."""
    control = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    for token, added in tokenizer.added_tokens_decoder.items():
        text = added.content
        named = text in template and not text.isspace()
        if added.special or named or re.sub(r"[\W_]", "", text) in ROLES:
            control[text] = token
    return {text: token for text, token in control.items() if text}
