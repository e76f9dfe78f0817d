"""`densor completion`: a script that completes command lines."""

import argparse

from densor.cli import console
from densor.cli.arguments import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of `densor completion`."""
    parser = Parser(
        "completion",
        description="Writes a script that completes command lines, for example\n"
        '  eval "$(densor completion bash)"       in ~/.bashrc\n'
        "  densor completion fish > ~/.config/fish/completions/densor.fish",
    )
    parser.add_argument("shell", choices=["bash", "fish", "zsh"])
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints it."""
    from densor.cli.completion import SHELLS

    console.put(SHELLS[args.shell]().rstrip())
    return 0
