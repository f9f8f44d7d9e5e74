"""What a label and its score cost in tokens: prompts of every explainer and simulator for the features of a run folder.

    autointerp sample --out RUN_DIR
    python benchmarks/prompt_cost.py --out RUN_DIR
    python benchmarks/prompt_cost.py --out RUN_DIR --features 50 --encoding o200k_base

Every explainer and simulator runs on a few features with an `ask` that sends nothing and answers as the mock provider does;
tokens are counted by tiktoken (which must be installed, and fetches its encodings once). *beginning*: what all requests of a
stage begin with, which providers with prompt caching charge at a tenth once it is as long as they ask (OpenAI: 1,024 tokens).
Answers are the mock's, so their length says nothing; their limit is --max-tokens of the part.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import click

from autointerp.catalog.reading import EvidenceReader, read_vocabulary
from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.config_reading import load_config
from autointerp.explain import explainers
from autointerp.explain import stage as explaining
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.types import Answer, Request, RequestFailed
from autointerp.pipeline import catalog_path, saved_config
from autointerp.score import simulators
from autointerp.score import stage as scoring
from autointerp.score.simulation import scored_contexts

DELPHI = 37_000  # prompt tokens a latent, explain + detection + fuzzing at its defaults (measured for design/peers.md)
TITLE = "An example of a label"
SENTENCE = "The word of an example, after a verb of motion, in running text; weakly also its plural."


@dataclass
class Counted:
    """Token counts of the requests for some features."""

    features: int = 0
    requests: int = 0
    prompt: int = 0
    beginning: int = 0


class Dry:
    """An `ask` that counts and answers by itself."""

    def __init__(self, encode: object) -> None:
        self.encode = encode
        self.texts: list[str] = []
        self._mock = MockProvider()

    async def __call__(self, request: Request) -> Answer:
        self.texts.append("\n".join(message.content for message in request.messages))
        reply = await self._mock.send(request, self._mock.payload("m", request))
        return Answer("key", reply.text, reply.finish, "m", reply.usage)

    def counted(self, features: int) -> Counted:
        tokens = [self.encode(text) for text in self.texts]  # type: ignore[operator]
        return Counted(features, len(tokens), sum(map(len, tokens)), _common(tokens) * len(tokens))


def _common(lists: list[list[int]]) -> int:
    """How many first tokens all have in common; 0 of a single list."""
    columns = zip(*lists, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)) if len(lists) > 1 else 0


async def explain_cost(name: str, config: object, catalog: Catalog, ids: Sequence[int], dry: Dry) -> Counted:
    explainer = explaining.explainer_for(config, name)  # type: ignore[arg-type]
    vocabulary = read_vocabulary(catalog)
    labelled = 0
    for evidence in EvidenceReader(catalog, seed=0, silent=explaining.SILENT).read(
        ids, explainer.splits, negatives=True
    ):
        try:
            await explainer(evidence, dry, vocabulary)
            labelled += 1
        except RequestFailed:
            continue
    return dry.counted(labelled)


async def score_cost(name: str, config: object, catalog: Catalog, ids: Sequence[int], dry: Dry) -> tuple[Counted, int]:
    """The count, and the contexts that were simulated."""
    reader = EvidenceReader(catalog, seed=0, silent=config.score.silent)  # type: ignore[attr-defined]
    vocabulary, n_contexts = read_vocabulary(catalog), 0
    tasks = [scoring.Task(feature, "", Label(TITLE, SENTENCE), "", None) for feature in ids]
    for task, evidence in scoring.with_evidence(config, reader, tasks):  # type: ignore[arg-type]
        contexts = [scoring.blinded(context) for context in scored_contexts(evidence)]
        n_contexts += len(contexts)
        await simulators.get(name)(task.label, contexts, evidence.max_activation, dry, vocabulary)
    return dry.counted(len(tasks)), n_contexts


def line(stage: str, name: str, found: Counted, note: str = "") -> str:
    if not found.features:
        return f"| {stage} | {name} | – | – | – | – | applies to none of these features |"
    per = found.features
    share = found.beginning / found.prompt
    return (f"| {stage} | {name} | {found.requests / per:.1f} | {found.prompt / per:,.0f} | {share:.0%} | "
            f"{(found.prompt - found.beginning) / per:,.0f} | {note} |")  # fmt: skip


@click.command()
@click.option("--out", type=click.Path(path_type=Path, exists=True), required=True, help="A sampled run folder.")
@click.option("--features", type=int, default=30, show_default=True, help="How many, evenly over the run's.")
@click.option("--encoding", default="o200k_base", show_default=True, help="Of tiktoken.")
def main(out: Path, features: int, encoding: str) -> None:
    import tiktoken

    coder = tiktoken.get_encoding(encoding)

    def encode(text: str) -> list[int]:
        return list(coder.encode(text, disallowed_special=()))

    config = load_config(None, {}, base=saved_config(out))
    with Catalog.open(catalog_path(out)) as catalog:
        todo = explaining.features_to_label(catalog, "", config.explain.include_rare)
        ids = [todo[index * len(todo) // features] for index in range(features)] if features < len(todo) else todo
        print(f"\n{len(ids)} features of {out.name}, tokens of {encoding} a feature\n")
        print("| stage | part | requests | prompt tokens | of these the common beginning | without it | |")
        print("|---|---|---|---|---|---|---|")
        for name in explainers.names():
            if explainers.get(name).needs_model:
                print(
                    line("explain", name, asyncio.run(explain_cost(name, config, catalog, ids, Dry(encode)))),
                    flush=True,
                )
        for name in simulators.names():
            if simulators.get(name).needs_model:
                found, contexts = asyncio.run(score_cost(name, config, catalog, ids, Dry(encode)))
                print(line("score", name, found, f"{contexts / len(ids):.0f} contexts"), flush=True)
    print(f"\ndelphi, explain + detection + fuzzing at its defaults: {DELPHI:,} prompt tokens a latent")


if __name__ == "__main__":
    main()
