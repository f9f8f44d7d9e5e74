"""From a lexicon rule to a sentence that a person likes to read. Pure: rules and a vocabulary in, plain text out.

A pattern is said as the token it fires on and what stands before it: `"st" after "po"`. Tokens are quoted with everything
visible: ↵ for a newline, → for a tab, · for a space where it stands at an end. Only what was measured is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autointerp.explain.lexicon_rules import NOTHING, Pattern, Rule
from autointerp.vocabulary import Vocabulary

UNCLEAR = 0.15  # a rule that explains less of the variance than this explains nothing
_TOLD = 0.35  # nor does a sentence that speaks of less of the activation than this
_MOST = 0.7  # of a token's activation after one context: then the context is part of what is told
_MAX_TOKENS = 5
_MAX_TITLE_WORDS = 8
_MAX_TITLE = 60
_FEW = 2  # tokens in a title, which other features may have, too
_STRONG, _WEAK = 6.0, 2.5
_VISIBLE = {"\n": "↵", "\t": "→", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class Words:
    """A label's text."""

    title: str
    description: str
    kind: str


def describe(rule: Rule, vocabulary: Vocabulary, n_active: int, example: str = "") -> Words:
    """Title, description and kind of a rule learnt from `n_active` activating windows. `example`: a token at which the feature is
    strongest, with what stands around it; a title that is but a token says it, or what often stands before the token."""
    told = _told(rule, vocabulary)
    if not told:
        return Words(
            "Unclear: no pattern found", "No token or run of tokens was found that goes with its activation.", "unclear"
        )
    title = _title([item.short for item in told])
    more = told[0].often or (f"as in {_quoted(example)}" if example.strip() else "")
    if not all(item.is_bare for item in told) or sum(item.n_shown for item in told) > _FEW:
        more = ""  # such titles are seldom those of other features, too
    if n_active < 3:
        seen = "one text" if n_active == 1 else f"{n_active} texts"
        return Words(_title([title], "Too few examples: "), f"Seen in {seen} only, on {told[0].phrase}.", "unclear")
    mass = sum(item.mass for item in told)
    if rule.explained < UNCLEAR or mass < _TOLD:
        most = "; ".join(item.phrase for item in told)
        said = f"No clear pattern. Most often on {most}; that is {mass:.0%} of its activation."
        return Words(_with_more(_title([title], "Unclear: "), more), said, "unclear")
    graded = [f"{item.phrase} ({_strength(item.value)})" for item in told]
    tail = f"; {1 - mass:.0%} of its activation falls elsewhere" if mass < 0.75 else ""
    return Words(_with_more(title, more), f"Fires on {'; '.join(graded)}{tail}.", _kind(told))


@dataclass(frozen=True, slots=True)
class _Told:
    """One thing that the label says: a pattern with all that hangs on it, and its share of the activation.

    `is_bare`: no context is told; `often`: the one in which it has most of its activation, "" where none has a tenth of it.
    `n_shown`: tokens that look different.
    """

    phrase: str
    short: str
    kind: str
    mass: float
    value: float
    is_bare: bool
    often: str
    n_shown: int


def _told(rule: Rule, vocabulary: Vocabulary) -> list[_Told]:
    """What carries most of the activation: up to three things, each at least a tenth of it, or the first alone.

    A token is told with its left context if most of its activation comes after that context, and else by itself. If the
    strongest pattern is none of these it is told, too, in the last place.
    """
    whole = [pattern.mass for pattern in rule.patterns]
    for index in range(len(rule.patterns) - 1, -1, -1):  # children stand after their parents
        parent = rule.patterns[index].parent
        if parent >= 0:
            whole[parent] += whole[index]
    found: dict[str, _Told] = {}
    for root in (index for index, pattern in enumerate(rule.patterns) if pattern.parent < 0):
        index = _narrowed(rule, whole, root)
        pattern = rule.patterns[index]
        phrase, short = (_phrase(pattern, rule, vocabulary, most) for most in (_MAX_TOKENS, 2))
        before = found.get(phrase)  # " read" and "read" are told alike
        mass = whole[index] + (before.mass if before else 0.0)
        value = max(_value(rule, whole, index), before.value if before else 0.0)
        often = before.often if before and before.often else _often(rule, whole, index, vocabulary)
        kind = _kind_of(pattern, rule, vocabulary)
        n_shown = len({_shown(token, vocabulary) for token in _path(pattern, rule)[0].tokens})
        found[phrase] = _Told(phrase, short, kind, mass, value, pattern.parent < 0, often, n_shown)
    ranked = sorted((item for item in found.values() if item.mass > 0), key=lambda item: (-item.mass, item.phrase))
    told = [item for item in ranked[:3] if item.mass >= 0.1] or ranked[:1]
    strongest = max(ranked, key=lambda item: (item.value, item.mass), default=None)
    best_told = max((item.value for item in told), default=0.0)
    if strongest in told or strongest is None or strongest.mass < 0.03 or strongest.value < 1.5 * best_told:
        return told
    return [*told[:2], strongest]


def _narrowed(rule: Rule, whole: Sequence[float], index: int) -> int:
    """The longest run under a pattern that still carries most of its activation."""
    while True:
        below = [child for child, pattern in enumerate(rule.patterns) if pattern.parent == index]
        best = max(below, key=lambda child: whole[child], default=None)
        if best is None or whole[best] < _MOST * whole[index]:
            return index
        index = best


def _often(rule: Rule, whole: Sequence[float], index: int, vocabulary: Vocabulary) -> str:
    """The context below a pattern that carries the most of its activation, at least a tenth of it; else ""."""
    below = [child for child, pattern in enumerate(rule.patterns) if pattern.parent == index]
    best = max(below, key=lambda child: whole[child], default=None)
    if best is None or whole[best] < 0.1 * whole[index]:
        return ""
    return f"often {_context(_path(rule.patterns[_narrowed(rule, whole, best)], rule), vocabulary, 1)}"


def _value(rule: Rule, whole: Sequence[float], index: int) -> float:
    """The predicted activation of the run under a pattern that carries the most."""
    family = [index, *(child for child, pattern in enumerate(rule.patterns) if pattern.parent == index)]
    return max((rule.patterns[i] for i in family), key=lambda pattern: pattern.mass).value


def _strength(value: float) -> str:
    if value >= _STRONG:
        return "strongly"
    return "weakly" if value < _WEAK else "moderately"


def _path(pattern: Pattern, rule: Rule) -> list[Pattern]:
    """From the token itself to the farthest token back."""
    path = [pattern]
    while path[0].parent >= 0:
        path.insert(0, rule.patterns[path[0].parent])
    return path


def _phrase(pattern: Pattern, rule: Rule, vocabulary: Vocabulary, most: int = _MAX_TOKENS) -> str:
    path = _path(pattern, rule)
    return " ".join(filter(None, (_tokens(path[0].tokens, vocabulary, most), _context(path, vocabulary))))


def _context(path: Sequence[Pattern], vocabulary: Vocabulary, most: int = 3) -> str:
    """What a path says of the tokens before the last one; "" where it is that one alone."""
    context = path[1:]
    if not context:
        return ""
    begins = context[-1].tokens == (NOTHING,)
    context = context[:-1] if begins else context
    where = "at the start of a text" if begins else ""
    if not context:
        said = ""
    elif all(len({_shown(token, vocabulary) for token in step.tokens}) == 1 for step in context):
        said = _after(vocabulary.join(step.tokens[0] for step in reversed(context)), path[0].tokens, vocabulary)
    else:
        said = "after " + " then ".join(_tokens(step.tokens, vocabulary, most) for step in reversed(context))
    return " ".join(part for part in (said, where) if part)


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


def _with_more(title: str, more: str) -> str:
    """The title with what tells it from others of the same tokens, where that fits."""
    longer = f"{title} ({more})" if more else title
    return longer if len(longer) <= _MAX_TITLE + 20 else title


def _kind(told: Sequence[_Told]) -> str:
    """token, phrase, format, position or mixed, by what most of the told activation is on."""
    mass: dict[str, float] = {}
    for item in told:
        mass[item.kind] = mass.get(item.kind, 0.0) + item.mass
    kind, most = max(mass.items(), key=lambda pair: pair[1])
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
