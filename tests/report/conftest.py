"""A small catalog and its report, made once; chromium, where the machine has one."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from autointerp.report import write_report
from tests.report.reading import Report, read_report
from tests.report.synthetic import build_catalog

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def small_catalog() -> Iterator[duckdb.DuckDBPyConnection]:
    """24 features over 300 windows. Read it only: it is shared."""
    with build_catalog() as connection:
        yield connection


@pytest.fixture
def fresh() -> Iterator[duckdb.DuckDBPyConnection]:
    """A catalog of one's own, to change."""
    with build_catalog(8, 120) as connection:
        yield connection


@pytest.fixture(scope="session")
def small_report_path(small_catalog: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(small_catalog, tmp_path_factory.mktemp("report") / "report.html", title="A small catalog").path


@pytest.fixture(scope="session")
def small_report(small_report_path: Path) -> Report:
    return read_report(small_report_path)


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], str]:
    """The document as chromium has it after its script ran: `dump(path, fragment)`."""
    browser = next((found for found in map(shutil.which, _NAMES) if found), None)
    if browser is None:
        pytest.skip(f"no browser to open a report with: none of {', '.join(_NAMES)} is installed")

    def run(path: Path, fragment: str = "") -> str:
        profile = tmp_path_factory.mktemp("profile")
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000",
                 f"--user-data-dir={profile}", "--dump-dom")  # fmt: skip
        command = [browser, *flags, path.as_uri() + fragment]
        return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode("utf-8")

    return run
