"""Files that ship with the package: prompts/ and data/, beside the package in a checkout and inside it in a wheel."""

from pathlib import Path

from autointerp.errors import DataError

_PACKAGE = Path(__file__).resolve().parent


def packaged(name: str) -> Path:
    """The folder `name` ("prompts", "data") as shipped."""
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise DataError(f"the package's folder {name!r} is missing beside {_PACKAGE}; reinstall autointerp")
