"""What a label and its scores cost in tokens: prompts of every explainer and scorer for the features of a run folder.

    autointerp sample --out RUN_DIR
    python benchmarks/prompt_cost.py --out RUN_DIR
    python benchmarks/prompt_cost.py --out RUN_DIR --features 50 --encoding o200k_base
    python benchmarks/prompt_cost.py --out RUN_DIR --only fuzzing --only "highlighted + simulation + detection"

Every explainer and scorer runs on a few features with an `ask` that sends nothing and answers as the mock provider does; tokens
are counted by tiktoken (which must be installed, and fetches its encodings once). Uncached are the tokens that no earlier request
of the same row began with, counted as prompt caches do:

- none: nothing is cached.
- 1,024: beginnings of 1,024 tokens or more, in steps of 128, as OpenAI has it.
- any: beginnings of any length, in steps of 16, as vLLM has it.

The first request of each beginning pays for it. The rows of the pipelines follow the run: the label, then each scorer in turn on
the same texts. The answers are the mock's, and a label's length is a guess. The least that an answer can have is counted where
that is known: a silent text in a simulation is its number, and a verdict is a number and 0 or 1. Message and schema
overheads, which differ by provider, are not counted.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click

from autointerp.catalog.reading import EvidenceReader, read_vocabulary
from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.explain import explainers
from autointerp.explain import stage as explaining
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.types import Answer, Ask, Request, RequestFailed
from autointerp.run_folder import catalog_path, saved_config
from autointerp.score import Means, scorers
from autointerp.score.parts import scorers_for, silent_contexts
from autointerp.score.pool import scored_contexts
from autointerp.score.tasks import for_scorer, with_evidence
from autointerp.score.writing import Task

DELPHI = 37_000  # prompt tokens a latent, explain + detection + fuzzing at its defaults (measured for design/peers.md)
AIM = 7_500
TITLE = "An example of a label"
# With the feature's number: where labels were the same, features would share answers about their common silent windows.
SENTENCE = "The word of example {}, after a verb of motion, in running text; weakly also its plural."
CACHES = {"none": (0, 0), "1,024": (1024, 128), "any": (16, 16)}  # the least that is cached, and the step
STEP = 16

# Scorers whose answers are all about as long as the mock's.
_VERDICTS = ("fuzz", "delphi24_detection", "delphi24_fuzz", "specificity", "saebench25")

Encode = Callable[[str], list[int]]


@dataclass
class Cost:
    """Tokens of the requests for some features. `uncached`: prompt tokens by the kind of cache."""

    features: int = 0
    requests: int = 0
    uncached: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CACHES, 0))
    least: int | None = 0  # of the answers; None where it is not known


class Dry:
    """An `ask` that counts, remembers what was begun, and answers by itself."""

    def __init__(self, encode: Encode) -> None:
        self._encode, self._mock = encode, MockProvider()
        self._begun: set[tuple[int, int]] = set()
        self._asked: set[tuple[str | int, ...]] = set()

    def into(self, cost: Cost) -> Ask:
        async def ask(request: Request) -> Answer:
            parts = [message.content for message in request.messages] + [request.continuation or ""]
            reply = await self._mock.send(request, self._mock.payload("m", request))
            answer = Answer("key", reply.text, reply.finish, "m", reply.usage, logprobs=reply.logprobs)
            if (*parts, request.sample) in self._asked:  # the journal has it
                return answer
            self._asked.add((*parts, request.sample))
            tokens = self._encode("\n".join(parts).strip("\n"))
            known = self._known(tokens)
            cost.requests += 1
            for name, (least, step) in CACHES.items():
                cached = known // step * step if step and known >= least else 0
                cost.uncached[name] += len(tokens) - cached
            shortest = _shortest(request, reply.text)
            cost.least = None if shortest is None or cost.least is None else cost.least + len(self._encode(shortest))
            return answer

        return ask

    def _known(self, tokens: list[int]) -> int:
        """How many first tokens an earlier request had, in whole steps; remembers this one's."""
        known, state = 0, 0
        for end in range(STEP, len(tokens) + 1, STEP):
            state = hash((state, *tokens[end - STEP : end]))
            if (end, state) in self._begun and known == end - STEP:
                known = end
            self._begun.add((end, state))
        return known


def _shortest(request: Request, answered: str) -> str | None:
    """The shortest answer that is complete: nothing is active."""
    if request.embed or request.purpose == "surprisal":
        return ""
    if request.purpose in _VERDICTS:
        return answered
    if request.purpose not in ("simulate", "rerank", "detect"):
        return None
    if request.continuation is not None or request.logprobs is not None:
        return "" if request.continuation is not None else "0"
    texts = json.loads(answered)["texts"]
    return json.dumps({"texts": [[text[0], 0] if request.purpose == "detect" else [text[0]] for text in texts]})


class Trial:
    """Parts of a run, tried on some of its features."""

    def __init__(self, config: Config, catalog: Catalog, ids: Sequence[int], encode: Encode) -> None:
        self.config, self.catalog, self.ids, self.encode = config, catalog, ids, encode
        self.vocabulary = read_vocabulary(catalog)
        self.contexts = 0.0

    def explained(self, name: str, dry: Dry) -> Cost:
        return asyncio.run(self._explained(name, dry))

    async def _explained(self, name: str, dry: Dry) -> Cost:
        explainer, cost = explaining.explainer_for(self.config, name), Cost()
        reader = EvidenceReader(self.catalog, seed=0, silent=explaining.SILENT)
        for evidence in reader.read(self.ids, explainer.splits, negatives=True):
            try:
                await explainer(evidence, dry.into(cost), self.vocabulary)
                cost.features += 1
            except RequestFailed:
                continue
        return cost

    def label_cost(self, name: str) -> list[Cost]:
        return [self.explained(name, Dry(self.encode))]

    def score_cost(self, names: Sequence[str], simulator: str | None = None) -> list[Cost]:
        return list(self.scored(names, Dry(self.encode), simulator).values())

    def pipeline_cost(self, explainer: str) -> list[Cost]:
        """A label and its two scores, which share the caches."""
        dry = Dry(self.encode)
        return [self.explained(explainer, dry), *self.scored(["simulation", "detection"], dry).values()]

    def scored(self, names: Sequence[str], dry: Dry, simulator: str | None = None) -> dict[str, Cost]:
        return asyncio.run(self._scored(names, dry, simulator))

    async def _scored(self, names: Sequence[str], dry: Dry, simulator: str | None) -> dict[str, Cost]:
        """The scorers in turn, for each feature; the costs of each."""
        wanted = {"scorers": tuple(dict.fromkeys(["simulation", *names]))}
        chosen = self.config.score.model_copy(update=wanted | ({"simulator": simulator} if simulator else {}))
        config = self.config.model_copy(update={"score": chosen})
        parts = {name: scorer for name, scorer in scorers_for(config).items() if name in names}
        costs = {name: Cost(len(self.ids)) for name in names}
        reader = EvidenceReader(self.catalog, seed=0, silent=silent_contexts(config))
        tasks = [
            Task(feature, "", Label(TITLE, SENTENCE.format(feature)), "", None, tuple(parts)) for feature in self.ids
        ]
        contexts = 0
        for task, evidence in with_evidence(config, reader, tasks):
            contexts += max(len(scored_contexts(for_scorer(config, scorer, evidence))) for scorer in parts.values())
            for name, scorer in parts.items():
                ask = dry.into(costs[name])
                await scorer(task.label, for_scorer(config, scorer, evidence), Means(self.vocabulary, ask, ask))
        self.contexts = contexts / len(self.ids)
        return costs


def line(stage: str, name: str, costs: Iterable[Cost]) -> str:
    costs = list(costs)
    if not all(cost.features for cost in costs):
        return f"| {stage} | {name} | – | – | – | – | applies to none of these features |"

    def per(values: Iterable[tuple[int, int]]) -> float:
        return sum(value / features for value, features in values)

    requests = per((cost.requests, cost.features) for cost in costs)
    uncached = " | ".join(f"{per((cost.uncached[cache], cost.features) for cost in costs):,.0f}" for cache in CACHES)
    known = [(cost.least, cost.features) for cost in costs if cost.least is not None]
    return f"| {stage} | {name} | {requests:.1f} | {uncached} | {f'{per(known):,.0f}' if known else '–'} |"


def table(trial: Trial, only: Sequence[str]) -> Iterable[str]:
    """A row for each part by itself, and for whole pipelines; of those named, if any are."""
    yield "| stage | part | requests | uncached: no cache | from 1,024 | any length | answers, at least |"
    yield "|---|---|---|---|---|---|---|"
    # With tools on the subject model at hand an explainer asks other things than here.
    asking = [name for name, part in explainers.items() if part.needs_model and "tools" not in part.needs]
    rows: list[tuple[str, str, Callable[[], Iterable[Cost]]]] = []
    for name in asking:
        rows.append(("explain", name, partial(trial.label_cost, name)))
    alone = [name for name, part in scorers.items() if part.wants.model and not part.wants.bench]
    for name in dict.fromkeys(
        ["simulation", "embedding", *alone, "bills23_top_random", "bills23_random", "transluce24"]
    ):
        rows.append(("score", name, partial(trial.score_cost, [name])))
    for simulator in ("all_at_once", "one_at_a_time"):
        for name in ("simulation", "bills23_top_random"):
            rows.append(("score", f"{name} by {simulator}", partial(trial.score_cost, [name], simulator)))
    for name in ("token_activation", "highlighted"):
        rows.append(("all", f"{name} + simulation + detection", partial(trial.pipeline_cost, name)))
    for stage, name, costs in rows:
        if not only or name in only:
            yield line(stage, name, costs())


@click.command()
@click.option("--out", type=click.Path(path_type=Path, exists=True), required=True, help="A sampled run folder.")
@click.option("--features", type=int, default=30, show_default=True, help="How many, evenly over the run's.")
@click.option("--encoding", default="o200k_base", show_default=True, help="Of tiktoken.")
@click.option("--only", multiple=True, metavar="PART", help="Only this row of the table; several times for several.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE", help="As for the program's commands.")
def main(out: Path, features: int, encoding: str, only: tuple[str, ...], settings: tuple[str, ...]) -> None:
    import tiktoken

    coder = tiktoken.get_encoding(encoding)

    def encode(text: str) -> list[int]:
        return list(coder.encode(text, disallowed_special=()))

    given = dict(one.partition("=")[::2] for one in settings)
    config = load_config(None, {"score.simulator": "logprob_free", **given}, base=saved_config(out))
    with Catalog.open(catalog_path(out)) as catalog:
        todo = explaining.features_to_label(catalog, "", config.explain.include_rare)
        ids = [todo[index * len(todo) // features] for index in range(features)] if features < len(todo) else todo
        trial = Trial(config, catalog, ids, encode)
        for row in table(trial, only):
            print(row, flush=True)
        each = config.score.texts_per_request
        print(f"\n{len(ids)} features of {out.name}, tokens of {encoding} a feature; {trial.contexts:.0f} contexts are scored, "
              f"{each} a request")  # fmt: skip
    print(
        f"aim for all: {AIM:,}; delphi, explain + detection + fuzzing at its defaults: {DELPHI:,} prompt tokens a latent"
    )


if __name__ == "__main__":
    main()
