"""A process that is killed at any moment has paid for nothing twice: only what was in flight is asked again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from autointerp.llm import Journal
from tests.llm.server import LlmServer

COUNT = 80
CONCURRENCY = 4
DEADLINE_S = 120.0


def notes_in(path: Path) -> list[tuple[int, bool]]:
    """The whole lines of the client's notes: question and whether the journal answered it."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [(int(line.split()[0]), line.split()[1] == "1") for line in lines]


def start(server: LlmServer, folder: Path, notes: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.llm.crash_client", server.openai_url, str(folder), str(notes)]
    return subprocess.Popen(
        [*command, str(COUNT), str(CONCURRENCY)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def asked(server: LlmServer) -> Counter[int]:
    return Counter(int(body["messages"][0]["content"].removeprefix("question ")) for body in list(server.bodies))


def journalled(folder: Path) -> list[str]:
    with Journal(folder, read_only=True) as journal:
        return [entry.key for entry in journal.entries()]


def stop(client: subprocess.Popen[bytes], kill: signal.Signals, notes: Path, chance: random.Random) -> None:
    """Send the signal at a random moment after a random number of new answers."""
    enough, deadline = chance.randint(1, 12), time.monotonic() + DEADLINE_S
    while sum(not from_journal for _, from_journal in notes_in(notes)) < enough:
        assert client.poll() is None, "the client ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.04))
    client.send_signal(kill)


def test_a_killed_run_asks_again_only_for_what_was_in_flight(llm_server: LlmServer, tmp_path: Path) -> None:
    chance = random.Random(0)
    llm_server.delay = 0.02
    returned: dict[int, int] = {}  # question -> how often it had been asked when its answer was first returned
    in_flight = stopped = 0
    kept: list[str] = []
    for number, kill in enumerate([signal.SIGKILL] * 5 + [signal.SIGINT, None]):
        notes, sent_before, kept_before = tmp_path / f"notes-{number}", llm_server.total, len(kept)
        client = start(llm_server, tmp_path / "journal", notes)
        if kill is not None:
            stop(client, kill, notes, chance)
        code = client.wait(DEADLINE_S)
        stopped += code != 0
        assert kill is not None or code == 0  # on a busy machine a signal may come after the end
        time.sleep(0.1)  # requests that had left the client arrive
        counts, kept = asked(llm_server), journalled(tmp_path / "journal")
        for question, _ in notes_in(notes):
            times = returned.setdefault(question, counts[question])
            assert counts[question] == times, f"question {question} was asked again after its answer was returned"
        lost = (llm_server.total - sent_before) - (len(kept) - kept_before)
        assert 0 <= lost <= CONCURRENCY
        in_flight += lost
    assert sorted(returned) == list(range(COUNT))
    assert stopped >= 3
    assert len(kept) == len(set(kept)) == COUNT
    assert llm_server.total - COUNT == in_flight  # duplicates beyond what was in flight at a kill: none
