"""What asking costs: the broker over the bare clients, its memory, and how soon a long run goes on after a restart.

    python benchmarks/broker.py                            requests per second and CPU, every path, two delays, two widths
    python benchmarks/broker.py --path thin --features 100
    python benchmarks/broker.py --bookkeeping              what journal and broker cost a request, without a network
    python benchmarks/broker.py --memory --features 10000  resident memory while features go by
    python benchmarks/broker.py --restart                  a journal of a million answers, to the first new request

A server in a process of its own answers at once, or after 50 ms ± 30 %. A feature is 41 requests: an explanation of 8 KB, then
40 scorings of 1 to 4 KB under a system message of 1 KB, asked together; features are admitted as others finish. All paths run
in one process, in turn, after a small round each to warm up; CPU is that of the client's process; medians of the repeats.
- *bare aiohttp*: `session.post` of the JSON text, `json.loads` of the reply;
- *SDK, post*: the official client with its aiohttp transport, as our provider calls it: `client.post`, `json.loads`;
- *SDK, create*: the same client as people use it: `client.chat.completions.create`;
- *SDK path*: broker, journal and the provider `openai`;
- *thin path*: broker, journal and the provider `http`.
"""

import asyncio
import gc
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from autointerp.concurrent import concurrently
from autointerp.llm import Broker, Capabilities, Journal, Message, Reply, Request, Usage, open_provider
from autointerp.llm.chat import chat_payload

DELAY_S, JITTER = 0.05, 0.3
SCORINGS = 40
SYSTEM = ("You will see a label and a text; say of each word whether the label describes it. " * 13)[:1024]
FILLER = "The quick brown fox jumps over the lazy dog, said the <<caption>> under the picture. " * 100
ANSWER = json.dumps({"texts": [{"id": f"t{number}", "active": [[3, " caption", 7]]} for number in range(5)]})

Ask = Callable[[Request], Awaitable[object]]


def explanation(feature: int) -> Request:
    return Request(
        [Message("system", SYSTEM), Message("user", f"feature {feature} {FILLER[:7168]}")], 500, purpose="explain"
    )


def scoring(feature: int, number: int) -> Request:
    length = 1024 + 3072 * number // (SCORINGS - 1)
    text = f"feature {feature} item {number} {FILLER[:length]}"
    return Request([Message("system", SYSTEM), Message("user", text)], 200, temperature=0.0, purpose="score")


async def label(ask: Ask, feature: int) -> None:
    """The requests of one feature."""
    await ask(explanation(feature))
    await asyncio.gather(*(ask(scoring(feature, number)) for number in range(SCORINGS)))


async def all_features(ask: Ask, features: range, at_once: int) -> None:
    async for _ in concurrently(features, lambda feature: label(ask, feature), at_once):
        pass


# -- the server ------------------------------------------------------------------------------------------------------------


async def serve() -> None:
    """Speak chat completions on a free port, whose number is printed, until standard input ends. The delay is in the path."""
    from aiohttp import web

    usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    reply = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    text = json.dumps(reply).encode()
    draw = random.Random(0)

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        if request.path.startswith("/slow"):
            await asyncio.sleep(DELAY_S * draw.uniform(1 - JITTER, 1 + JITTER))
        return web.Response(body=text, content_type="application/json")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, __file__, "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)


# -- the paths -------------------------------------------------------------------------------------------------------------


def body_of(request: Request) -> dict[str, Any]:
    """What our providers send, for the clients that are called without them."""
    body = chat_payload("m", request)
    body["max_tokens"] = body.pop("max_completion_tokens")
    return body


def at_most(concurrency: int, ask: Ask) -> Ask:
    slots = asyncio.Semaphore(concurrency)

    async def limited(request: Request) -> object:
        async with slots:
            return await ask(request)

    return limited


@asynccontextmanager
async def bare(base_url: str, concurrency: int, folder: Path) -> AsyncIterator[Ask]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(request: Request) -> object:
            data = json.dumps(body_of(request)).encode()
            async with session.post(f"{base_url}/chat/completions", data=data) as response:
                return json.loads(await response.read())["choices"][0]["message"]["content"]

        yield at_most(concurrency, ask)


@asynccontextmanager
async def sdk(base_url: str, concurrency: int, folder: Path, *, create: bool) -> AsyncIterator[Ask]:
    import httpx2
    import openai

    transport = openai.DefaultAioHttpClient(limits=httpx2.Limits(max_connections=1000), timeout=None)
    async with openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0, http_client=transport) as client:

        async def post(request: Request) -> object:
            response = await client.post("/chat/completions", body=body_of(request), cast_to=httpx2.Response)
            return json.loads(response.content)["choices"][0]["message"]["content"]

        async def by_create(request: Request) -> object:
            return (await client.chat.completions.create(**body_of(request))).choices[0].message.content

        yield at_most(concurrency, by_create if create else post)


@asynccontextmanager
async def ours(base_url: str, concurrency: int, folder: Path, *, provider: str) -> AsyncIterator[Ask]:
    os.environ["OPENAI_API_KEY"] = "none"
    with Journal(Path(tempfile.mkdtemp(dir=folder))) as journal:
        async with Broker(open_provider(provider, base_url=base_url), "m", journal, concurrency=concurrency) as broker:
            yield broker.ask


Path_ = Callable[[str, int, Path], AbstractAsyncContextManager[Ask]]
PATHS: dict[str, tuple[str, Path_]] = {
    "bare": ("bare aiohttp", bare),
    "post": ("SDK, post", lambda *given: sdk(*given, create=False)),
    "create": ("SDK, create", lambda *given: sdk(*given, create=True)),
    "sdk": ("SDK path", lambda *given: ours(*given, provider="openai")),
    "thin": ("thin path", lambda *given: ours(*given, provider="http")),
}


class Figures(NamedTuple):
    """Requests per second of time, milliseconds of CPU a request."""

    rate: float
    cpu_ms: float


async def measure(path: str, base_url: str, concurrency: int, features: int, folder: Path) -> Figures:
    at_once = max(4, concurrency // 8)  # enough that a feature's single explanation never leaves a slot empty
    async with PATHS[path][1](base_url, concurrency, folder) as ask:
        await all_features(ask, range(10**6, 10**6 + at_once), at_once)  # connections, imports
        return await timed(ask, features, at_once)


async def timed(ask: Ask, features: int, at_once: int) -> Figures:
    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    await all_features(ask, range(features), at_once)
    requests = features * (1 + SCORINGS)
    return Figures(requests / (time.perf_counter() - began), 1000 * (time.process_time() - cpu) / requests)


def compare(names: list[str], features: int, repeats: int, widths: list[int], folder: Path) -> None:
    print(f"\n{features} features × {1 + SCORINGS} requests, medians of {repeats}\n")
    print(
        "| delay | concurrency | | requests/s | CPU ms a request | rate ÷ bare | rate ÷ SDK, post | rate ÷ SDK, create |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with server() as address:
        for delay, where in (("0", "fast"), ("50 ms", "slow")):
            for width in widths:
                rounds: list[dict[str, Figures]] = []
                for _ in range(repeats):
                    url = f"{address}/{where}/v1"
                    rounds.append({name: asyncio.run(measure(name, url, width, features, folder)) for name in names})
                for name in names:
                    print(f"| {delay} | {width} | {row(name, rounds)} |", flush=True)


def row(name: str, rounds: list[dict[str, Figures]]) -> str:
    def to(other: str) -> str:
        if other not in rounds[0]:
            return "–"
        return f"{statistics.median(found[name].rate / found[other].rate for found in rounds):.2f}"

    rate = statistics.median(found[name].rate for found in rounds)
    cpu = statistics.median(found[name].cpu_ms for found in rounds)
    return f"{PATHS[name][0]} | {rate:,.0f} | {cpu:.3f} | {to('bare')} | {to('post')} | {to('create')}"


# -- without a network -----------------------------------------------------------------------------------------------------


@dataclass
class Instant:
    """A provider that answers at once and keeps nothing."""

    name: str = "instant"
    capabilities: Capabilities = Capabilities(temperature=True, json_schema=True)  # noqa: RUF009

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        return chat_payload(model, request)

    def connect(self) -> None: ...

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        await asyncio.sleep(0)
        return Reply(ANSWER, model="m", usage=Usage(900, 60))

    async def close(self) -> None: ...


async def without_broker(features: int, width: int) -> float:
    provider = Instant()

    async def ask(request: Request) -> object:
        return await provider.send(request, provider.payload("m", request))

    return (await timed(at_most(width, ask), features, max(4, width // 8))).cpu_ms


async def with_broker(features: int, width: int, folder: Path, *, keep: bool) -> float:
    with Journal(Path(tempfile.mkdtemp(dir=folder))) as journal:
        if not keep:
            journal.append = lambda entry: None  # type: ignore[method-assign]
        async with Broker(Instant(), "m", journal, concurrency=width) as broker:
            return (await timed(broker.ask, features, max(4, width // 8))).cpu_ms


def bookkeeping(features: int, repeats: int, width: int, folder: Path) -> None:
    rounds = [
        (
            asyncio.run(without_broker(features, width)),
            asyncio.run(with_broker(features, width, folder, keep=False)),
            asyncio.run(with_broker(features, width, folder, keep=True)),
        )
        for _ in range(repeats)
    ]
    alone, broker, both = (statistics.median(found) for found in zip(*rounds, strict=True))
    print(f"\n{features} features × {1 + SCORINGS} requests, no network, concurrency {width}, medians of {repeats}\n")
    print("| | CPU ms a request |\n|---|---|")
    print(f"| making the request and its payload, semaphore | {alone:.3f} |")
    print(f"| broker | {broker - alone:.3f} |\n| journal | {both - broker:.3f} |")
    print(f"| **broker and journal** | **{both - alone:.3f}** |", flush=True)


# -- memory and restart ----------------------------------------------------------------------------------------------------


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def memory(features: int, width: int, folder: Path) -> None:
    steps = [n * 10**power for power in range(2, 9) for n in (1, 2, 5) if n * 10**power < features]
    print(
        "\n| features | answers | resident MB | bytes an answer since the line above | requests/s |\n|---|---|---|---|---|"
    )
    done, before = 0, resident_mb()
    with Journal(folder / "journal") as journal:
        async with Broker(Instant(), "m", journal, concurrency=width) as broker:
            for step in [*steps, features]:
                began = time.perf_counter()
                await all_features(broker.ask, range(done, step), max(4, width // 8))
                gc.collect()
                answers, now = (step - done) * (1 + SCORINGS), resident_mb()
                print(f"| {step:,} | {step * (1 + SCORINGS):,} | {now:.0f} | {1e6 * (now - before) / answers:.0f} "
                      f"| {answers / (time.perf_counter() - began):,.0f} |", flush=True)  # fmt: skip
                done, before = step, now


def long_journal(folder: Path, answers: int) -> None:
    """A journal of so many answers: a real line, again and again under other keys."""

    async def one() -> None:
        with Journal(folder) as journal:
            async with Broker(Instant(), "m", journal) as broker:
                await broker.ask(scoring(0, SCORINGS // 2))

    asyncio.run(one())
    [segment] = folder.glob("*.jsonl")
    line = segment.read_text()
    key = json.loads(line)["key"]
    with segment.open("a") as file:
        for number in range(1, answers):
            file.write(line.replace(key, hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest()))


async def first_new_request(folder: Path) -> None:
    """In a fresh process: prints the seconds until the journal was open, and until the first new answer was there."""
    began = time.perf_counter()
    with Journal(folder) as journal:
        opened = time.perf_counter() - began
        async with Broker(Instant(), "m", journal) as broker:
            assert (await broker.ask(scoring(0, SCORINGS // 2))).from_journal
            assert not (await broker.ask(scoring(os.getpid(), 0))).from_journal  # which no run before has asked
    print(json.dumps({"opened": opened, "answered": time.perf_counter() - began, "mb": resident_mb()}))


def restart(answers: int, repeats: int, folder: Path) -> None:
    long_journal(folder / "journal", answers)
    size = sum(path.stat().st_size for path in (folder / "journal").iterdir())
    found: dict[str, list[dict[str, float]]] = {"nothing but the answers": [], "the index of the run before": []}
    for _ in range(repeats):
        shutil.rmtree(folder / "copy", ignore_errors=True)
        shutil.copytree(folder / "journal", folder / "copy")
        for runs in found.values():
            began = time.perf_counter()
            command = [sys.executable, __file__, "--first-new", "--folder", str(folder / "copy")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append({**json.loads(done.stdout), "process": time.perf_counter() - began})
    print(f"\n{answers:,} answers, {size / 1e6:,.0f} MB; seconds, medians of {repeats}\n")
    print("| there is | journal open | first new answer | whole process | resident MB |\n|---|---|---|---|---|")
    for there, runs in found.items():
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        times = " | ".join(f"{median[name]:.2f}" for name in ("opened", "answered", "process"))
        print(f"| {there} | {times} | {median['mb']:.0f} |", flush=True)


@click.command()
@click.option("--features", type=int, help="How many, of 41 requests each. [default: 50; --memory: 100000]")
@click.option("--path", "names", type=click.Choice(list(PATHS)), multiple=True, help="[default: all]")
@click.option("--concurrency", "widths", type=int, multiple=True, help="Requests at a time. [default: 64 and 256]")
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--bookkeeping", "with_bookkeeping", is_flag=True, help="Broker and journal without a network.")
@click.option("--memory", "with_memory", is_flag=True, help="Resident memory while features go by, without a network.")
@click.option("--restart", "with_restart", is_flag=True, help="From a long journal to the first new request.")
@click.option("--answers", type=int, default=1_000_000, show_default=True, help="In the journal of --restart.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where journals are written. [default: a temporary one]"
)
@click.option("--serve", "as_server", is_flag=True, hidden=True)
@click.option("--first-new", is_flag=True, hidden=True)
def main(
    features: int | None, names: tuple[str, ...], widths: tuple[int, ...], repeats: int, with_bookkeeping: bool,
    with_memory: bool, with_restart: bool, answers: int, folder: Path | None, as_server: bool, first_new: bool,
) -> None:  # fmt: skip
    if as_server:
        asyncio.run(serve())
    elif first_new:
        assert folder is not None
        asyncio.run(first_new_request(folder))
    else:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            place, width = Path(scratch), (widths or (64,))[0]
            if with_memory:
                asyncio.run(memory(features or 100_000, width, place))
            elif with_restart:
                restart(answers, repeats, place)
            elif with_bookkeeping:
                bookkeeping(features or 50, repeats, width, place)
            else:
                compare(list(names or PATHS), features or 50, repeats, list(widths or (64, 256)), place)


if __name__ == "__main__":
    main()
