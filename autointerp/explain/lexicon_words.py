"""From a lexicon rule to a sentence that a person likes to read. Pure: rules and a vocabulary in, plain text out.

A pattern is said as the token it fires on and what stands before it: `"st" after "po"`. Tokens are quoted with everything
visible: ↵ for a newline, → for a tab, · for a space where it stands at an end. Only what was measured is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autointerp.explain.lexicon_rules import NOTHING, Pattern, Rule
from autointerp.vocabulary import Vocabulary

UNCLEAR = 0.15  # a rule that explains less of the variance than this explains nothing
_MAX_TOKENS = 5
_MAX_TITLE_WORDS = 8
_MAX_TITLE = 60
_STRONG, _WEAK = 6.0, 2.5
_VISIBLE = {"\n": "↵", "\t": "→", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class Words:
    """A label's text."""

    title: str
    description: str
    kind: str


def describe(rule: Rule, vocabulary: Vocabulary, n_active: int) -> Words:
    """Title, description and kind of a rule learnt from `n_active` activating windows."""
    ranked = sorted(rule.patterns, key=lambda p: (-p.mass, p.depth, p.tokens))
    main = _main(ranked)
    if not main:
        return Words(
            "Unclear: no pattern found", "No token or run of tokens was found that goes with its activation.", "unclear"
        )
    phrases = [_phrase(pattern, rule, vocabulary) for pattern in main]
    title = _title([_phrase(pattern, rule, vocabulary, most=2) for pattern in main])
    if n_active < 3:
        seen = "one text" if n_active == 1 else f"{n_active} texts"
        return Words(_title([title], "Too few examples: "), f"Seen in {seen} only, on {phrases[0]}.", "unclear")
    if rule.explained < UNCLEAR:
        said = f"No clear pattern. Most often on {phrases[0]}, but what was read explains little of its activation."
        return Words(_title([title], "Unclear: "), said, "unclear")
    graded = [f"{phrase} ({_strength(pattern)})" for phrase, pattern in zip(phrases, main, strict=True)]
    rest = 1.0 - sum(pattern.mass for pattern in main)
    tail = f"; {rest:.0%} of its activation falls elsewhere" if rest > 0.25 else ""
    return Words(title, f"Fires on {'; '.join(graded)}{tail}.", _kind(main, rule, vocabulary))


def _main(ranked: Sequence[Pattern]) -> list[Pattern]:
    """The patterns that carry most of the activation: up to three, each at least a tenth of it, or the first."""
    strong = [pattern for pattern in ranked[:3] if pattern.mass >= 0.1]
    return strong or [pattern for pattern in ranked[:1] if pattern.mass > 0]


def _strength(pattern: Pattern) -> str:
    if pattern.value >= _STRONG:
        return "strongly"
    return "weakly" if pattern.value < _WEAK else "moderately"


def _path(pattern: Pattern, rule: Rule) -> list[Pattern]:
    """From the token itself to the farthest token back."""
    path = [pattern]
    while path[0].parent >= 0:
        path.insert(0, rule.patterns[path[0].parent])
    return path


def _phrase(pattern: Pattern, rule: Rule, vocabulary: Vocabulary, most: int = _MAX_TOKENS) -> str:
    path = _path(pattern, rule)
    last = _tokens(path[0].tokens, vocabulary, most)
    context = path[1:]
    if not context:
        return last
    begins = context[-1].tokens == (NOTHING,)
    context = context[:-1] if begins else context
    where = "at the start of a text" if begins else ""
    if not context:
        said = ""
    elif all(len({_shown(token, vocabulary) for token in step.tokens}) == 1 for step in context):
        said = _after(vocabulary.join(step.tokens[0] for step in reversed(context)), path[0].tokens, vocabulary)
    else:
        said = "after " + " then ".join(_tokens(step.tokens, vocabulary, 3) for step in reversed(context))
    return " ".join(part for part in (last, said, where) if part)


def _tokens(tokens: Sequence[int], vocabulary: Vocabulary, most: int) -> str:
    shown: list[str] = []
    for token in tokens:
        text = _shown(token, vocabulary)
        if text not in shown:
            shown.append(text)
    if len(shown) > most:
        return ", ".join(shown[:most]) + f" and {len(shown) - most} like these"
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" or {shown[-1]}"


def _after(before: str, tokens: Sequence[int], vocabulary: Vocabulary) -> str:
    """What one run before the token is called: `completing "differen"` where the token goes on with a word of it."""
    forms = {vocabulary.text(token) for token in tokens}
    if len(forms) == 1 and before[-1:].isalnum() and next(iter(forms))[:1].isalnum():
        return f"completing {_quoted(before + forms.pop())}"
    return f"after {_quoted(before)}"


def _shown(token: int, vocabulary: Vocabulary) -> str:
    return "the start of a text" if token == NOTHING else _quoted(vocabulary.text(token))


def _quoted(text: str) -> str:
    """The text in quotes, what cannot be seen made visible. One leading space is how words begin, and is not shown."""
    if len(text) > 1 and text[0] == " " and text[1] != " ":
        text = text[1:]
    body = text.strip(" ")
    ends = "·" * (len(text) - len(text.lstrip(" "))) if body else "·" * len(text)
    tail = "·" * (len(text) - len(text.rstrip(" "))) if body else ""
    seen = "".join(_VISIBLE.get(char, char if char.isprintable() else f"\\u{ord(char):04x}") for char in body)
    quote = "'" if '"' in seen and "'" not in seen else '"'
    return f"{quote}{ends}{seen}{tail}{quote}"


def _title(phrases: Sequence[str], prefix: str = "") -> str:
    """As many of the phrases as fit."""
    title = prefix + phrases[0]
    for phrase in phrases[1:]:
        longer = f"{title}, {phrase}"
        if len(longer) > _MAX_TITLE or len(longer.split()) > _MAX_TITLE_WORDS:
            break
        title = longer
    words = title.split(" ")
    title = " ".join(words[:_MAX_TITLE_WORDS]) + (" …" if len(words) > _MAX_TITLE_WORDS else "")
    return title if len(title) <= _MAX_TITLE + 20 else title[: _MAX_TITLE + 19] + "…"


def _kind(main: Sequence[Pattern], rule: Rule, vocabulary: Vocabulary) -> str:
    """token, phrase, format, position or mixed, by what most of the told activation is on."""
    mass: dict[str, float] = {}
    for pattern in main:
        mass[_kind_of(pattern, rule, vocabulary)] = mass.get(_kind_of(pattern, rule, vocabulary), 0.0) + pattern.mass
    kind, most = max(mass.items(), key=lambda item: item[1])
    return kind if most >= 0.6 * sum(mass.values()) else "mixed"


def _kind_of(pattern: Pattern, rule: Rule, vocabulary: Vocabulary) -> str:
    path = _path(pattern, rule)
    if path[-1].tokens == (NOTHING,):
        return "position"
    words = {vocabulary.text(token).strip().lower() for token in path[0].tokens}
    if not any(char.isalnum() for word in words for char in word):
        return "format"
    if len(path) > 1:
        return "phrase"
    return "token" if len(words) <= 3 else "mixed"
