"""Asks N questions and notes every answer that it got; `test_crash` kills it and looks at what is asked again.

Usage: crash_client.py BASE_URL JOURNAL NOTES N CONCURRENCY. A note is "number from_journal", written at once.
"""

import asyncio
import os
import sys
from pathlib import Path

from autointerp.llm import Broker, Journal, Message, Request, open_provider


async def main(base_url: str, folder: str, notes: str, count: int, concurrency: int) -> None:
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def one(broker: Broker, number: int) -> None:
        answer = await broker.ask(Request([Message("user", f"question {number}")]))
        os.write(out, f"{number} {int(answer.from_journal)}\n".encode())

    with Journal(Path(folder)) as journal:
        async with Broker(open_provider("http", base_url=base_url), "m", journal, concurrency=concurrency) as broker:
            await asyncio.gather(*(one(broker, number) for number in range(count)))


if __name__ == "__main__":
    address, journal_folder, notes_file, how_many, at_once = sys.argv[1:]
    asyncio.run(main(address, journal_folder, notes_file, int(how_many), int(at_once)))
