"""Kill a run with SIGKILL at random moments, rerun it to the end, and compare its catalog with an undisturbed run's.

    python scripts/check_kill.py --kills 10 -- run --out reports/killed

Everything after `--` is an autointerp command with an --out folder; the undisturbed run goes into the same folder + "-whole".
Exit code 1 if the catalogs differ.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from autointerp.catalog.digest import table_digests
from autointerp.catalog.store import Catalog


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--kills", type=int, default=10)
@click.option("--seed", type=int, default=0)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(kills: int, seed: int, arguments: tuple[str, ...]) -> None:
    at = arguments.index("--out") + 1
    out = Path(arguments[at])
    whole = out.with_name(out.name + "-whole")
    for folder in (out, whole):
        shutil.rmtree(folder, ignore_errors=True)
    undisturbed = [*arguments[:at], str(whole), *arguments[at + 1 :]]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "autointerp", *undisturbed], check=True, stdout=subprocess.DEVNULL)
    span = time.monotonic() - began
    print(f"undisturbed: {span:.1f} s", flush=True)
    draw = random.Random(seed)
    done = 0
    while done < kills:
        # Lives are short, so that the kills are spread over the whole job: what is finished stays, and the next goes on.
        moment = draw.uniform(0.02, 0.35) * span + 3
        process = subprocess.Popen([sys.executable, "-m", "autointerp", *arguments], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            process.wait(timeout=moment)
            print(f"life {done + 1}: ended by itself within {moment:.1f} s; starting over", flush=True)
            shutil.rmtree(out)
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        done += 1
        parts = len(list(out.glob("shards/*/COMPLETE.json")))
        print(
            f"kill {done} after {moment:.1f} s; {parts} parts done, catalog {(out / 'catalog.duckdb').exists()}",
            flush=True,
        )
    subprocess.run([sys.executable, "-m", "autointerp", *arguments], check=True, stdout=subprocess.DEVNULL)
    digests = []
    for folder in (whole, out):
        with Catalog.open(folder / "catalog.duckdb") as catalog:
            digests.append(table_digests(catalog))
    different = sorted(name for name in digests[0] if digests[0][name] != digests[1].get(name))
    print(f"{len(digests[0])} tables compared; different: {', '.join(different) or 'none'}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
