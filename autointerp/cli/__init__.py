"""The command line: thin commands that parse, call a stage and print. Nothing imports this package."""

import sys

import click

from autointerp import __version__
from autointerp.cli.again import rederive, retry
from autointerp.cli.compare import compare
from autointerp.cli.doctor import doctor
from autointerp.cli.estimate import estimate
from autointerp.cli.evaluate import evaluate
from autointerp.cli.journal import journal
from autointerp.cli.null import null
from autointerp.cli.probe import probe
from autointerp.cli.sql import sql
from autointerp.cli.stages import explain, negatives, report, run, sample, score, steer
from autointerp.cli.terminal import one_line
from autointerp.errors import Interrupted, UserError, WaitingError

__all__ = ["main"]

USER_ERROR = 2
WAITING = 75  # EX_TEMPFAIL of sysexits.h: not wrong, to be tried again
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="autointerp")
def cli() -> None:
    """Label the features of a sparse autoencoder, score the labels, publish a ranked catalog.

    \b
    The main job, on the embedded demo model and SAE:
        autointerp run
    on your own, with labels that ask no language model:
        autointerp run --model MODEL --sae SAE --corpus texts.jsonl --out reports/mine
    with labels written and simulated by a language model:
        autointerp run … --provider openai --label-model NAME
    what that will cost, once the sampling is done:
        autointerp estimate --out reports/mine --provider openai --label-model NAME
    then look, or try a text of your own:
        open reports/mine/report.html
        autointerp sql --out reports/mine "SELECT rank, title, score, lo FROM catalog LIMIT 20"
        autointerp probe --out reports/mine --text "…"

    Each stage can be run by itself: sample, negatives, steer, explain, score, null, report. Whatever is finished is kept: after
    an interruption, type the same command again.
    """


for command in (
    run, sample, negatives, steer, estimate, explain, score, null, report, retry, rederive, sql, compare, journal, probe,
    evaluate, doctor,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2; 75: others have to answer first; Ctrl-C is 130."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _stop("stopped; what is finished is kept: run the same command again to go on", INTERRUPTED)
    except (KeyboardInterrupt, Interrupted):
        _stop("stopped; what is finished is kept: run the same command again to go on", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except UserError as error:
        _stop(f"autointerp: {error}", WAITING if isinstance(error, WaitingError) else USER_ERROR)
    except OSError as error:
        _stop(f"autointerp: {_system_message(error)}", USER_ERROR)
    except Exception as error:
        if (message := _database_message(error)) is None:
            raise
        _stop(f"autointerp: {message}", USER_ERROR)


def _stop(message: str, code: int) -> None:
    click.echo(one_line(" ".join(message.split())), err=True)  # it may quote a file's name or a model's answer
    sys.exit(code)


def _system_message(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some and run the same command again: nothing finished is lost"
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{what}; check the path and its permissions, then run the same command again"


def _database_message(error: Exception) -> str | None:
    """One line for errors of the database."""
    if not type(error).__module__.startswith(("duckdb", "_duckdb")):
        return None
    text = " ".join(str(error).split())
    if "Could not set lock" in text or "Conflicting lock" in text:
        return (
            "the catalog is being written by another process; it can be read when that is done (autointerp journal stats can "
            "be asked meanwhile)"
        )
    if any(sign in text for sign in ("No space left", "Out of Memory", "out of disk", "Could not write")):
        return f"the catalog could not be written ({text}); free disk space or memory and run the same command again"
    return f"the database failed: {text}; if the catalog is damaged, delete catalog.duckdb in the run's folder and run again"
