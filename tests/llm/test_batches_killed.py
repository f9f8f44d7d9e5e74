"""A process that is killed at any moment: every question is submitted once, every answer used once."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llm.batch_server import BatchServer

ROOT = Path(__file__).resolve().parents[2]
COUNT = 150


class Clients:
    """Starts clients, one at a time."""

    def __init__(self, process: "subprocess.Popen[str]", server: BatchServer) -> None:
        self._process = process
        self._server = server

    def run(self, name: str, folder: Path, *, count: int, crash_at: int | None = None, after: float = 0.0) -> int:
        """The exit code of a client (negative: the signal), killed after `after` seconds if that is not 0."""
        assert self._process.stdin is not None and self._process.stdout is not None
        url = self._server.openai_url if name == "openai" else self._server.anthropic_url
        order = {"name": name, "url": url, "folder": str(folder), "count": count, "crash_at": crash_at, "after": after}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as running:
        running.takes = 0.03
        yield running


@pytest.fixture
def clients(server: BatchServer) -> Iterator[Clients]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    command = [sys.executable, "-m", "tests.llm.batch_driver"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        yield Clients(process, server)
        assert process.stdin is not None
        process.stdin.close()


def check(server: BatchServer, folder: Path, count: int, *, twice: bool) -> None:
    """Each question was submitted once, each answer is in the journal once, and it is the right one.

    `twice`: there was a second question about each answer.
    """
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    expected = [f"answer to question {number}" for number in range(count)]
    if twice:
        expected += [f"answer to and then? {answer}" for answer in expected]
    assert len({entry["key"] for entry in entries}) == len(entries)
    assert sorted(entry["text"] for entry in entries) == sorted(expected)
    assert set(server.accepted.values()) == {1} and len(server.accepted) == len(expected)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_killed_at_random_moments(server: BatchServer, clients: Clients, name: str, tmp_path: Path) -> None:
    chance = random.Random(name)
    killed, code = 0, -1
    while code != 0:
        after = chance.uniform(0.02, 0.12) if killed < 30 else 0.0
        code = clients.run(name, tmp_path, count=COUNT, after=after)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
    assert killed >= 10
    check(server, tmp_path, COUNT, twice=True)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_killed_at_every_step(server: BatchServer, clients: Clients, name: str, tmp_path: Path) -> None:
    """Each step of submitting and taking over, once, in a folder of its own."""
    for step in range(100):
        folder = tmp_path / f"{step}"
        server.accepted.clear()
        code = clients.run(name, folder, count=2, crash_at=step)
        if code != 0:
            assert code == -signal.SIGKILL
            assert clients.run(name, folder, count=2, crash_at=-1) == 0
        check(server, folder, 2, twice=False)
        if code == 0:
            break
    assert 18 <= step < 99
