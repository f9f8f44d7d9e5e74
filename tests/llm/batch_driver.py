"""Stands in for the broker: asks, lets go, collects, writes a journal, and asks again from the start.

As a program it starts a client for each line of stdin, which asks questions (and one more about each answer,
unless it is to crash at a given step); tests kill it.
"""

import asyncio
import importlib
import inspect
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from autointerp.llm import CallFailed, Deferred, Message, ProviderOptions, Request, request_key
from autointerp.llm.batch_api import Pace
from autointerp.llm.batches import BatchProvider
from autointerp.llm.identity import payload_hash
from autointerp.llm.provider import DeferredProvider, Queued
from autointerp.llm.providers.anthropic_batch import AnthropicBatchProvider
from autointerp.llm.providers.openai_batch import OpenAIBatchProvider

FAST = Pace(first_look=0.02, longest_look=0.05, backoff=0.002, settle=0.05, tries=4)
PATIENT = Pace(first_look=0.02, longest_look=0.05, backoff=0.01, settle=0.25)
PROVIDERS: dict[str, Callable[..., BatchProvider]] = {
    "openai": OpenAIBatchProvider,
    "anthropic": AnthropicBatchProvider,
}
Asker = Callable[[str], Awaitable[str]]


class Driver:
    """`answers`, `failures`: by question. `deliveries` counts by question what was yielded."""

    def __init__(self, provider: DeferredProvider, journal: Path) -> None:
        self.provider = provider
        self.answers: dict[str, str] = {}
        self.failures: dict[str, CallFailed] = {}
        self.retries: Counter[str] = Counter()
        self.deliveries: Counter[str] = Counter()
        self._keys: dict[str, str] = {}
        self._journal: dict[str, str] = {}
        if journal.exists():
            for line in journal.read_text().split("\n")[:-1]:
                entry = json.loads(line)
                assert entry["key"] not in self._journal
                self._journal[entry["key"]] = entry["text"]
        journal.parent.mkdir(parents=True, exist_ok=True)
        self._out = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def ask(self, question: str) -> str:
        request = Request([Message("user", question)], max_tokens=50)
        payload = self.provider.payload("m", request)
        key = request_key(self.provider.name, "m", payload, 0)
        self._keys[key] = question
        if key in self._journal:
            self.answers[question] = self._journal[key]
            return self._journal[key]
        if question in self.failures:
            raise self.failures[question]
        await self.provider.queue(Queued(key, "m", payload, payload_hash(payload), "t", "h", 0, 50, len(question)))
        raise Deferred

    async def run(self, features: list[Callable[[Asker], Awaitable[object]]], rounds: int = 50) -> None:
        """Until every feature is done or has failed."""
        for _ in range(rounds):
            waiting = 0
            for feature in features:
                try:
                    await feature(self.ask)
                except Deferred:
                    waiting += 1
                except CallFailed:
                    pass
            if not waiting:
                return
            await self.collect()
        raise AssertionError("the features never end")

    async def collect(self) -> None:
        async for delivered in self.provider.collect():
            key = delivered.queued.key
            question = self._keys.get(key, key)
            self.deliveries[question] += 1
            if isinstance(delivered.outcome, CallFailed):
                if delivered.outcome.retryable:
                    self.retries[question] += 1
                    await self.provider.queue(delivered.queued)
                else:
                    self.failures[question] = delivered.outcome
            elif key not in self._journal:
                os.write(self._out, json.dumps({"key": key, "text": delivered.outcome.text}).encode() + b"\n")
                self._journal[key] = delivered.outcome.text

    def close(self) -> None:
        os.close(self._out)


def plain(number: int) -> Callable[[Asker], Awaitable[object]]:
    return lambda ask: ask(f"question {number}")


def two_steps(number: int) -> Callable[[Asker], Awaitable[object]]:
    async def feature(ask: Asker) -> str:
        return await ask(f"and then? {await ask(f'question {number}')}")

    return feature


async def main(name: str, base_url: str, folder: Path, count: int, crash_at: int | None) -> None:
    pace = FAST if crash_at is not None else PATIENT
    provider = PROVIDERS[name](ProviderOptions((base_url,), folder=folder), pace)
    provider._most_requests = 7
    driver = Driver(provider, folder / "journal.jsonl")
    if crash_at is not None and crash_at >= 0:
        kill_at_event(provider, crash_at)
    try:
        feature = two_steps if crash_at is None else plain
        await driver.run([feature(number) for number in range(count)], rounds=10_000)
    finally:
        await provider.close()


def kill_at_event(provider: BatchProvider, number: int) -> None:
    """Kill this process just before or just after its `number`-th step of submitting or taking over."""
    events = itertools.count()

    def event() -> None:
        if next(events) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def plain_call(*arguments: Any) -> Any:
            event()
            result = call(*arguments)
            if not inspect.isawaitable(result):
                event()
                return result

            async def awaited() -> Any:
                value = await result
                event()
                return value

            return awaited()

        return plain_call

    for owner, names in (
        (provider._store, ("intend", "accept", "release", "hand_over", "handed_over")),
        (provider._api, ("upload", "create", "fetch")),
    ):
        for name in names:
            setattr(owner, name, watched(getattr(owner, name)))


def serve() -> None:
    """Fork a client for each line of stdin and print how it ended: importing takes longer than running."""
    importlib.import_module("openai")
    importlib.import_module("anthropic")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(main(order["name"], order["url"], Path(order["folder"]), order["count"], order["crash_at"]))
                code = 0
            finally:
                os._exit(code)
        if order["after"]:
            time.sleep(order["after"])
            os.kill(child, signal.SIGKILL)  # one that has ended is a zombie still
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
