"""A key is planted, every failure is provoked with every log switched on, and every byte that came out is searched."""

import os
import subprocess
import sys
from pathlib import Path

KEY = "planted-4f9c1e77d2b84a06"
PARTLY = b"sk-pla********4a06"  # as servers quote a key that they refuse

PROGRAM = """
import asyncio, logging, sys, traceback, warnings
from pathlib import Path

logging.basicConfig(level=logging.DEBUG, filename="everything.log")
logging.captureWarnings(True)
warnings.simplefilter("always")

from autointerp.llm import Broker, Journal, Message, Request, open_provider
from tests.llm import server as serve

KEY = sys.argv[1]
ECHO = {"message": f"Incorrect API key provided: {KEY}. Bearer {KEY} sk-pla********4a06", "code": "x"}
BEHAVIOURS = [
    serve.status(400, ECHO), serve.status(500, ECHO), serve.status(500, f"<html>{KEY}"), serve.status(429, ECHO),
    serve.status(200, ECHO), serve.reset(), serve.half_sent(), serve.malformed(), serve.garbage(), serve.hang(),
    serve.refusal(), serve.length(), serve.empty(), serve.answer(),
    serve.status(401, ECHO), serve.status(403, ECHO), serve.status(404, ECHO), serve.status(402, ECHO),
]

def show(error):
    while error is not None:
        print(repr(error), str(error), vars(error))
        lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        print("".join(lines))
        error = error.__cause__ or error.__context__

async def main():
    seen = 0
    with serve.LlmServer() as server, Journal(Path("journal")) as journal:
        for name in ("openai", "anthropic", "http"):
            for number in range(len(BEHAVIOURS)):  # a local variable with the echo in it would be in the traces
                provider = open_provider(name, base_url=server.url_for(name))
                server.usual = BEHAVIOURS[number]
                timeout = 0.5 if server.usual.kind == "hang" else 60
                async with Broker(provider, "m", journal, retries=1, backoff=0.001, timeout=timeout, patience_s=0.1) as broker:
                    try:
                        print(await broker.ask(Request([Message("user", f"{number}")])))
                    except Exception as error:
                        assert type(error).__name__ in ("RequestFailed", "UserError"), error
                        seen += 1
                        show(error)
                    print(repr(provider), vars(broker), vars(provider))
        assert server.keys and all(KEY in key for key in server.keys)
    print("failures seen:", seen)

asyncio.run(main(), debug=True)
"""


def test_the_key_is_nowhere_but_in_the_request(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_API_KEY": KEY,
        "OPENAI_LOG": "debug",
        "ANTHROPIC_LOG": "debug",
    }
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, KEY], cwd=tmp_path, env=environment, capture_output=True, timeout=240
    )
    written = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    written |= {"stdout": done.stdout, "stderr": done.stderr}
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert b"failures seen: 51" in done.stdout  # 17 of 18 behaviours, three times
    assert b"[key]" in done.stdout  # the echoes were there, and were cleaned
    assert len(written["everything.log"]) > 10_000
    assert written["000001.jsonl"].count(b"\n") == 12  # answer, refusal, length, empty, three times
    leaks = {name: content[max(0, content.find(KEY.encode()) - 200) :][:300] for name, content in written.items()
             if KEY.encode() in content}  # fmt: skip
    assert not any(PARTLY in content for content in written.values())
    assert leaks == {}
