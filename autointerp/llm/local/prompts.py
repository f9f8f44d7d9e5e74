"""Requests made tokens, and tokens made text again.

A tokenizer with a chat template gets the conversation by it, as `autointerp.subject.chats` does it: what a message says can
never become a control token. One without gets plain text:

    System:
    …

    User:
    …

    Assistant:

and the answer begins on the next line, so that its first token needs no space before it. Such an answer ends at the
model's end-of-text token or where it writes the next "User:" or "System:" itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from autointerp.errors import DataError
from autointerp.llm.types import Message
from autointerp.subject.chats import ChatEncoder, InnerText
from autointerp.subject.documents import Message as Turn

_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
_PROBE = "probe"


class Prompts:
    """Encodes for one Hugging Face tokenizer. `stop_texts` end an answer where the format has no token for it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._chat = ChatEncoder(tokenizer) if getattr(tokenizer, "chat_template", None) else None
        self._inner = InnerText(tokenizer)
        self._no_system = self._chat is not None and not self._takes_system(self._chat)
        self.stop_texts = () if self._chat else tuple(f"\n\n{role}:" for role in _ROLES.values())
        self._anchor = self._inner.encode("a", split_special_tokens=True)
        self.text_of = lru_cache(maxsize=65536)(self._text_of)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the conversation up to where the answer begins. Raises DataError if the chat template refuses it."""
        if self._chat is None:
            text = "".join(f"{_ROLES[one.role]}:\n{one.content}\n\n" for one in messages) + "Assistant:\n"
            options = {"add_special_tokens": True, "split_special_tokens": True, "verbose": False}
            ids = list(self.tokenizer(text, **options)["input_ids"])
            return ids[:-1] if ids[-1:] == [self.tokenizer.eos_token_id] else ids
        turns = [Turn(one.role, one.content) for one in messages]
        if self._no_system and len(turns) > 1 and turns[0].role == "system" and turns[1].role == "user":
            turns[:2] = [Turn("user", f"{turns[0].content}\n\n{turns[1].content}")]
        return self._chat.encode_prompt(turns)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokens of `text` as the beginning of the answer, none of them a control token."""
        return (
            self._inner.encode(text, split_special_tokens=True) if self._chat is None else self._chat.encode_text(text)
        )

    def turn_ends(self) -> frozenset[int]:
        """Tokens that the format puts right after an answer."""
        ends = {self.tokenizer.eos_token_id} - {None}
        if self._chat is not None:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
            rendered = self.tokenizer.apply_chat_template(turns, tokenize=False)
            after = rendered.rpartition(_PROBE)[2].lstrip()
            ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
            ends |= set(ids[:1]) & set(self.tokenizer.added_tokens_decoder)
        return frozenset(ends)

    def pieces(self, ids: Sequence[int], *, opening: bool = True) -> list[str]:
        """The text of each token; joined they are the text of all. A character that several tokens make up is the last
        one's, the others are empty; so are special tokens. `opening`: nothing was written before."""
        before = [] if opening else self._anchor
        tokens = [*before, *ids]
        start, end = 0, len(before)
        pieces = []
        for index in range(len(before), len(tokens)):
            known, longer = self._decode(tokens[start:end]), self._decode(tokens[start : index + 1])
            if longer.endswith("\ufffd") and index + 1 < len(tokens):
                pieces.append("")
                continue
            pieces.append(longer[len(known) :])
            start, end = end, index + 1
        return pieces

    def _text_of(self, token: int) -> str:
        """The text of one token within a text; special tokens by name."""
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        known = self.tokenizer.decode(self._anchor, **options)
        return str(self.tokenizer.decode([*self._anchor, token], **options))[len(known) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @staticmethod
    def _takes_system(chat: ChatEncoder) -> bool:
        """Gemma's templates, among others, refuse the role: the system message then opens the user's."""
        try:
            with_it = chat.encode_prompt([Turn("system", _PROBE), Turn("user", "?")])
        except DataError:
            return False
        return with_it != chat.encode_prompt([Turn("user", "?")])
