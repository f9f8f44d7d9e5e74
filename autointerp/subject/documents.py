"""A document: a named piece of text, or a conversation. Everything downstream that must be independent hangs on documents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is one of ROLES, so that it cannot stand for anything else in a template."""

    role: str
    content: str


# What a chat template may be given as a role: it is written between a template's own marks, where any other word could
# make a special token (`<|` + role + `|>`).
ROLES = frozenset({"system", "developer", "user", "assistant", "model", "tool", "function", "ipython", "human", "gpt", "bot",
                   "context", "documents", "critic", "observation"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Document:
    """`doc_id` names the text for people and for the split hash; it must be unique within a corpus.

    A conversation has `messages` and no `text`: the model's chat template makes its tokens.
    """

    doc_id: str
    text: str
    messages: tuple[Message, ...] = ()

    @property
    def characters(self) -> int:
        """Characters of its own, without those of a chat template."""
        return len(self.text) + sum(len(message.content) for message in self.messages)
