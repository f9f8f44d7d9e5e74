"""What simulating from log-probabilities costs: a text in one pass, one position after the other, a question a token.

    python benchmarks/simulation_modes.py                       a random model of 100 M parameters, made on the spot
    python benchmarks/simulation_modes.py --model PATH --contexts 8 --tokens 64 --threads 2

*all_at_once*: the simulator, exact reading, on the provider `transformers`. *position by position*: the same tables read up to
one slot at a time, through the same provider, which batches and keeps the shared beginning. *plain*: the same with the model
alone, a forward pass over all that comes before each slot, one at a time and without a cache, as the definition has it; timed on
some of the slots. *one_at_a_time*: the simulator, which asks a question of its own for every token. All of them in one run;
seconds of the process's own on a CPU, so that other programs do not count. The values of the first three are compared.
"""

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from local_model import clock, make_model

from autointerp.catalog.records import Context, Label
from autointerp.llm import Answer, Request
from autointerp.llm.local.loaded import load
from autointerp.llm.provider import ProviderOptions
from autointerp.llm.providers.transformers import TransformersProvider
from autointerp.score import Settings, Simulated, simulators
from autointerp.score.readings import NUMBERS, read_numbers
from autointerp.vocabulary import Vocabulary

_TEXTS = " the| of| a| run|ning|,|.|\n| bank| loan| said| he| she| was| cold| rain|(|)|def| return| 3| March|un|usual"
WORDS = _TEXTS.split("|")
LABEL = Label("Rain", "rain and wet weather; weakly other weather")
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])


def contexts_of(count: int, tokens: int) -> list[Context]:
    draw = random.Random(0)
    rows = [np.array(draw.choices(range(len(WORDS)), k=tokens), np.int32) for _ in range(count)]
    return [Context(n, "test", "band", 1, row, np.zeros(tokens, np.float32)) for n, row in enumerate(rows)]


class Line:
    """A provider behind an `ask`, which keeps what it was asked."""

    def __init__(self, model: str, batch: int) -> None:
        self.model, self.asked = model, list[Request]()
        self.provider = TransformersProvider(ProviderOptions(model=model, concurrency=batch))
        self.provider.connect()

    async def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        reply = await self.provider.send(request, self.provider.payload(self.model, request))
        return Answer("", reply.text, "stop", "", reply.usage, logprobs=reply.logprobs)


def timed(model: str, batch: int, work: Callable[[Line], Awaitable[object]]) -> tuple[float, object, list[Request]]:
    """Seconds without loading the model, what came of it, and what was asked."""

    async def run() -> tuple[float, object, list[Request]]:
        line = Line(model, batch)
        started = clock()
        found = await work(line)
        elapsed = clock() - started
        await line.provider.close()
        return elapsed, found, line.asked

    return asyncio.run(run())


def simulate(name: str, contexts: Sequence[Context]) -> Callable[[Line], Awaitable[list[Simulated]]]:
    by = simulators.get(name).configured(Settings(reading="exact", offers=("prompt_logprobs",)))
    return lambda line: by(LABEL, contexts, 1.0, line.ask, VOCABULARY)


def by_position(tables: Sequence[Request]) -> Callable[[Line], Awaitable[list[list[float]]]]:
    """Each slot by a request that ends with it."""

    async def read(line: Line, asked: Request, slot: int) -> float:
        text = f"{str(asked.continuation)[:slot]}0"
        one = Request(asked.messages, logprobs=0, continuation=text, slots=(slot,), among=NUMBERS)
        (top,) = [token.top for token in (await line.ask(one)).logprobs if token.top]
        return read_numbers(top, ten_in_one=keeps_digits_apart(line.model)).expected

    async def work(line: Line) -> list[list[float]]:
        return [list(await asyncio.gather(*(read(line, one, slot) for slot in one.slots or ()))) for one in tables]

    return work


def keeps_digits_apart(model: str, known: dict[str, bool] = {}) -> bool:  # noqa: B006 - a cache
    if model not in known:
        known[model] = len(load(model, None, "cpu", "auto").prompts.encode_continuation("\t10")) > 2
    return known[model]


def plain(model: str, asked: Request, slots: Sequence[int], device: str) -> tuple[float, list[float]]:
    """Seconds and values of some slots of one table, with the model alone."""
    loaded = load(model, None, device, "auto")
    prompt = loaded.prompts.encode(asked.messages)
    values, started = [], clock()
    for slot in slots:
        before = [*prompt, *loaded.prompts.encode_continuation(str(asked.continuation)[:slot])]
        chance = np.zeros(11)
        first = _next(loaded.model, before, loaded.device)
        for number in NUMBERS:
            ids = loaded.prompts.encode_continuation(f"\t{number}")[1:]
            chance[int(number)] = first[ids[0]]
            if len(ids) == 2:
                chance[10] *= _next(loaded.model, [*before, ids[0]], loaded.device)[ids[1]]
                chance[1] -= chance[10]
        values.append(float(chance @ np.arange(11) / chance.sum()))
    return clock() - started, values


def _next(model: torch.nn.Module, ids: Sequence[int], device: str) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1].float()
    return torch.softmax(logits, -1).double().cpu().numpy()


@click.command()
@click.option("--model", type=click.Path(exists=True), help="A folder of your own; default: a random model.")
@click.option("--contexts", default=4, help="Texts for all_at_once.")
@click.option("--few", default=1, help="Texts for the others, which are slower.")
@click.option("--tokens", default=64, help="Tokens of a text.")
@click.option("--batch", default=32, help="Requests at once.")
@click.option("--threads", default=1)
def main(model: str | None, contexts: int, few: int, tokens: int, batch: int, threads: int) -> None:
    """Print seconds a text of each way, and the ratios."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = model or str(make_model(Path(folder)))
        texts = contexts_of(contexts, tokens)
        fast, simulated, asked = timed(path, batch, simulate("all_at_once", texts))
        tables = [one for one in asked if one.slots and len(one.slots) == tokens][:few]
        slow, positions, _ = timed(path, batch, by_position(tables))
        some = list(tables[0].slots or ())[:: max(1, tokens // 8)]
        naive, values = plain(path, tables[0], some, device)
        single, _, questions = timed(path, batch, simulate("one_at_a_time", texts[:few]))
    a, b, c, d = fast / contexts, slow / few, naive * tokens / len(some), single / few
    expected = [one.expected for one in simulated]  # type: ignore[attr-defined]
    worst = max(float(np.abs(expected[i] - np.array(row)).max()) for i, row in enumerate(positions))  # type: ignore[arg-type]
    at = [tables[0].slots.index(slot) for slot in some]  # type: ignore[union-attr]
    naive_worst = float(np.abs(expected[0][at] - np.array(values)).max())
    print(f"{device}, {threads} threads, texts of {tokens} tokens; seconds a text\n")
    for name, seconds in (("all_at_once", a), ("position by position", b), ("plain", c), ("one_at_a_time", d)):
        print(f"{name:22} {seconds:9.3f} s   {seconds / a:7.1f} x")
    print(f"\nlargest difference of a value, 0..10: {worst:.1e} (position by position), {naive_worst:.1e} (plain)")
    print(f"requests a text: 1 (all_at_once), {len(questions) / few:.0f} (one_at_a_time)")


if __name__ == "__main__":
    main()
