"""`python -m densor` is the same as `densor`."""

from densor.cli.main import run

run()
