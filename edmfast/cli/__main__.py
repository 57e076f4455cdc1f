"""Run the command line as `python -m edmfast.cli`."""

from edmfast.cli.main import main

main()
