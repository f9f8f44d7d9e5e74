"""`python -m autointerp` is the command line."""

from autointerp.cli import main

main()
