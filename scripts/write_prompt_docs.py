"""Write docs/prompts.md: the request of each explainer of what activates a feature, for a made-up one.

python scripts/write_prompt_docs.py
"""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Label, Split
from autointerp.explain import Search, explainers
from autointerp.explain.at_hand import rehearsed
from autointerp.explain.exemplars import Selection
from autointerp.explain.refine import Refine
from autointerp.explain.toolbox import TOOLS
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.types import Answer, Ask, FailureKind, Message, Request, RequestFailed
from autointerp.prompts_loader import render
from autointerp.score import Means, Simulated, scorers, simulators
from autointerp.vocabulary import Vocabulary

NAMES = (
    "token_activation", "highlighted", "max_act_logits", "contrastive", "single_token", "output", "dual", "refine", "investigate",
)  # fmt: skip

CLASSIFYING = ("fuzzing", "delphi24_detection", "delphi24_fuzz", "intruder", "specificity", "saebench25")

HEAD = """# Prompts, as the model sees them

One request of each explainer that asks one of its own; [explainers.md](explainers.md) says when to use which. Of `dual`, which
asks as `token_activation` and as `output` do first, it is the third; of `refine`, which begins as its inner explainer does, it is
the one after the second label; of `investigate` it is the first, with its tools; `best_of_k` asks as its inner explainer does.
The feature is made up: it is active on the word *bank* where that is a place for money, a little on *lender*, and silent on the
banks of rivers.
Written by scripts/write_prompt_docs.py from the templates in prompts/; a test keeps it true.

The last part of the system prompts is the same (prompts/_label.j2), but for the output side. It is shown once, here, and below
as `[OUTPUT, as above]`.

"""

QUESTIONS = """
## logprob_free, detection

The simulator `logprob_free` and the scorer `detection` ask about the same texts in the same words ([scoring.md](scoring.md)), but
for the last three lines.

"""

SURPRISAL = """
## surprisal

The scorer `surprisal` asks for no answer: it gives one, and has its log-probabilities read. The other time the last
description is "Various unrelated sentences.".

"""

PROBABILITIES = """
## Simulators that read log-probabilities

`all_at_once` reads what the model expects in place of each "unknown"; `one_at_a_time` what it would answer, here for the last
token.
"""

_ACTIVE = (
    ("She paid the cheque into the *bank* on Monday , and the *bank* took a week", (18.0, 20.0)),
    ('The *bank* " raised its rates " again', (15.0,)),
    ("If no *bank* will give you a loan , ask a small *lender* first", (13.5, 2.6)),
    ("« Our *bank* » was the headline", (9.0,)),
)
_HARD = (
    ("token", "They sat on the grassy *bank* and watched the boats", 5),
    ("near", "The insurer refused to pay the claim in full", 1),
)
_SILENT = ("Turn left after the church and walk uphill", "import json\nprint ( x )")
_COMPARED = (  # of the rerank split
    ("The *bank* cashed the cheque at once", (15.0,)),
    ("A *bank* in Leeds has closed", (12.0,)),
    ("Reeds grew along the bank", ()),
)
_SAID = (
    {"title": "Cheques", "description": 'The word "cheque".', "kind": "token"},
    {"title": "The bank", "description": 'The word "bank" soon after "the" or "our".', "kind": "phrase"},
)
_PROMOTED = (" account", " loan", " branch", " teller", " robbery")
_SUPPRESSED = (" river", " shore")


def page() -> str:
    """The whole page."""
    shared = render("token_activation", data="", show="both").system
    shared = shared[shared.index("OUTPUT\n") :]
    parts = [HEAD, _fenced(shared)]
    for name in NAMES:
        system, user = _request(name)
        said = re.sub(re.escape(shared), "[OUTPUT, as above]", system.content)
        parts.append(f"\n## {name}\n\nSystem:\n\n{_fenced(said)}\nUser:\n\n{_fenced(user.content)}")
        if name == "investigate":
            tools = "\n".join(f"{tool.name}: {tool.description}\n{json.dumps(tool.parameters)}" for tool in TOOLS)
            parts.append(f"\nTools, each with the JSON schema of its arguments:\n\n{_fenced(tools)}")
    return "".join(parts) + _about_texts() + "".join(_of_scorer(name) for name in CLASSIFYING)


def _about_texts() -> str:
    """The two questions about texts that scorers ask."""
    sent: list[Request] = []

    async def ask(request: Request) -> Answer:
        sent.append(request)
        raise RequestFailed(FailureKind.TIMEOUT, "this is a question only")

    evidence, vocabulary = _feature()
    contexts = [replace(one, split="test", kind="silent" if one.band == 0 else "band") for one in evidence.contexts]
    label = Label("Bank: a place for money", "the word 'bank' where it is a place for money; weakly 'lender'")
    asyncio.run(simulators.get("logprob_free")(label, contexts, 1.0, ask, vocabulary))
    asyncio.run(scorers.get("detection")(label, replace(evidence, contexts=contexts), Means(vocabulary, ask)))
    simulated, judged = (request.messages for request in sent)
    last = judged[1].content.split("\n")[-3:]
    shown = (f"{QUESTIONS}System:\n\n{_fenced(simulated[0].content)}\nUser:\n\n{_fenced(simulated[1].content)}\n"
            f"The last three lines of `detection`:\n\n{_fenced(chr(10).join(last))}")  # fmt: skip
    sent.clear()
    asyncio.run(scorers.get("surprisal")(label, replace(evidence, contexts=contexts[:1]), Means(vocabulary, ask)))
    system, user = sent[-1].messages
    shown += (f"{SURPRISAL}System:\n\n{_fenced(system.content)}\nUser:\n\n{_fenced(user.content)}\n"
              f"The answer that is given:\n\n{_fenced(str(sent[-1].continuation))}")  # fmt: skip
    return shown + _from_probabilities(label, contexts[:1], vocabulary)


def _from_probabilities(label: Label, contexts: Sequence[Context], vocabulary: Vocabulary) -> str:
    """What the simulators are shown that read log-probabilities."""
    sent: list[Request] = []

    async def ask(request: Request) -> Answer:
        sent.append(request)
        reply = await MockProvider().send(request, {})
        return Answer("key", reply.text, "stop", "model", logprobs=reply.logprobs)

    parts = [PROBABILITIES]
    for name in ("all_at_once", "one_at_a_time"):
        asyncio.run(simulators.get(name)(label, contexts, 1.0, ask, vocabulary))
        system, user = sent[-1].messages
        parts.append(f"\n### {name}\n\nSystem:\n\n{_fenced(system.content)}\nUser:\n\n{_fenced(user.content)}")
        if sent[-1].continuation is not None:
            parts.append(f"\nThe model's answer, given to it:\n\n{_fenced(sent[-1].continuation)}")
    return "".join(parts)


def _of_scorer(name: str) -> str:
    """The first request of a classifying scorer that asks one of its own; of `fuzzing` all but the shared instructions."""
    sent: list[Request] = []

    async def ask(request: Request) -> Answer:
        sent.append(request)
        raise RequestFailed(FailureKind.TIMEOUT, "this is a question only")

    evidence, vocabulary = _feature()
    active = [_of_test(one, name, "band") for one in evidence.of("explain", ("top",))]
    silent = [_of_test(one, name, "silent") for one in evidence.of("explain", ("silent",))]
    hard = [_of_test(one, name, one.kind) for one in evidence.of("explain", ("near", "token"))]
    top = [replace(one, kind="top", window_id=200 + number) for number, one in enumerate(active[:2])]
    random = [replace(one, kind="random", window_id=300 + number) for number, one in enumerate((silent + hard) * 3)]
    given = replace(
        evidence, contexts=[*active, *silent, *hard, *top, *random], stratum_windows={("test", 0): 99, ("test", 1): 9}
    )
    label = Label("Bank: a place for money", "the word 'bank' where it is a place for money; weakly 'lender'")
    asyncio.run(scorers.get(name)(label, given, Means(vocabulary, ask)))
    system, user = sent[0].messages
    instructions = "" if name == "fuzzing" else f"System:\n\n{_fenced(system.content)}\n"
    return f"\n## {name}\n\n{instructions}User:\n\n{_fenced(user.content)}"


def _of_test(context: Context, name: str, kind: str) -> Context:
    """A context of the test split; for `saebench25` as long as its windows are, with the text over and over."""
    times = -(-24 // len(context.tokens)) if name == "saebench25" else 1
    activations = np.concatenate([context.activations, np.zeros(len(context.tokens) * (times - 1), np.float32)])
    return replace(context, split="test", kind=kind, tokens=np.tile(context.tokens, times), activations=activations)


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _request(name: str) -> tuple[Message, ...]:
    sent: list[Request] = []

    async def ask(request: Request) -> Answer:
        sent.append(request)
        plain = {"title": "Bank", "description": "A bank.", "kind": "token"}
        said = _SAID[min(len(sent), len(_SAID)) - 1] if name == "refine" else plain
        return Answer("key", json.dumps(said), "stop", "model")

    evidence, vocabulary = _feature()
    chosen = Selection(top=4, banded=0, negatives=2, silent=1, show="both")
    part = _ExampleRefine() if name == "refine" else explainers.get(name)
    explainer = rehearsed(part.configured(chosen, None, Search(steps=2, errors=2)))
    with suppress(RequestFailed):  # the made-up answer does not fit the third question of `dual`
        asyncio.run(explainer(evidence, ask, vocabulary))
    return sent[{"dual": -2, "refine": -1}.get(name, 0)].messages[:2]


class _Reader:
    """What a reader makes of the made-up labels of `refine`. It asks nobody."""

    needs_model, needs, version = False, (), "1"

    async def __call__(
        self, label: Label, contexts: Sequence[Context], maximum: float, ask: Ask | None, vocabulary: Vocabulary
    ) -> list[Simulated]:
        return [Simulated(one.window_id, self._predicted(label, one, vocabulary), "ok") for one in contexts]

    def _predicted(self, label: Label, context: Context, vocabulary: Vocabulary) -> np.ndarray:
        words = [vocabulary.text(token).strip().lower() for token in context.tokens]
        if label.title == _SAID[0]["title"]:
            places = [place for place, word in enumerate(words) if word == "cheque"]
        else:
            near = [{*words[max(0, place - 2) : place]} & {"the", "our"} for place in range(len(words))]
            places = [place for place, word in enumerate(words) if word == "bank" and near[place]]
        expected = np.zeros(len(words), np.float32)
        expected[places] = 8
        return expected


class _ExampleRefine(Refine):
    def _simulator(self) -> _Reader:
        return _Reader()


def _feature() -> tuple[FeatureEvidence, Vocabulary]:
    words: dict[str, int] = {}

    def tokens(text: str) -> np.ndarray:
        pieces = re.findall(r"(?:^| )\S+|\n\S+", text.replace("*", ""))
        return np.array([words.setdefault(piece, len(words)) for piece in pieces], np.int32)

    def context(number: int, split: Split, text: str, active: tuple[float, ...]) -> Context:
        ids = tokens(text)
        activations = np.zeros(len(ids), np.float32)
        activations[[place for place, word in enumerate(text.split()) if word.startswith("*")]] = active
        kind, band = ("top", 1) if active else ("silent", 0)
        return Context(number, split, kind, band, ids, activations)

    contexts = [context(number, "explain", text, active) for number, (text, active) in enumerate(_ACTIVE)]
    for number, (kind, text, place) in enumerate(_HARD, 10):
        ids = tokens(text)
        cause = int(ids[place]) if kind == "token" else 4
        contexts.append(Context(number, "explain", kind, 0, ids, np.zeros(len(ids), np.float32), cause, place))
    for number, text in enumerate(_SILENT, 20):
        ids = tokens(text)
        contexts.append(Context(number, "explain", "silent", 0, ids, np.zeros(len(ids), np.float32)))
    contexts += [context(number, "rerank", text, active) for number, (text, active) in enumerate(_COMPARED, 30)]
    promoted, suppressed = ([words.setdefault(text, len(words)) for text in side] for side in (_PROMOTED, _SUPPRESSED))
    vocabulary = Vocabulary(list(words), [word.encode() for word in words])
    logits = {"promoted_logits": (4.1, 3.8, 3.1, 2.2, 2.0), "suppressed_logits": (-1.4, -1.2)}
    return FeatureEvidence(0, 20.0, 0.001, contexts, {}, promoted, suppressed, **logits), vocabulary


if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("docs", "prompts.md").write_text(page(), encoding="utf-8")
