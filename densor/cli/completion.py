"""Completion of command lines, as scripts for bash, zsh and fish made from the parsers."""

import argparse
import importlib
from collections.abc import Iterator
from typing import NamedTuple

from densor.cli.dispatch import COMMANDS


class Option(NamedTuple):
    """One option of a command, by all its names."""

    names: tuple[str, ...]
    takes_value: bool
    help: str


def options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    """All options of a parser that its help shows."""
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            about = (action.help or "") % {"default": action.default}
            names = tuple(action.option_strings)
            yield Option(names, action.nargs != 0, " ".join(about.split()))


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All commands with their parsers; the one without a name is ''."""
    for name in ("", *COMMANDS):
        module = importlib.import_module(f"densor.cli.commands.{name.replace('-', '_') or 'files'}")
        yield name, module.parser()


def about(parser: argparse.ArgumentParser) -> str:
    """The first sentence of what a command does."""
    text = " ".join((parser.description or "").split())
    return text.partition(". ")[0].partition(": ")[0].rstrip(".")


def bash() -> str:
    """For bash: options after a dash, commands as the first word, files everywhere."""
    cases = "\n".join(
        f"    {name or '*'}) options={_quoted(' '.join(_names(parser)))} ;;"
        for name, parser in sorted(commands(), reverse=True)
    )
    return f"""# bash completion of densor
_densor() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} options
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  elif [[ $COMP_CWORD == 1 ]]; then
    COMPREPLY=($(compgen -W "{" ".join(COMMANDS)}" -- "$word") $(compgen -f -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _densor densor
"""


def zsh() -> str:
    """For zsh: the same, with what each option does."""
    described = "\n".join(
        f"    {_quoted(f'{name}:{about(parser)}')}" for name, parser in commands() if name
    )
    cases = "\n".join(
        f"    ({name or '*'}) _arguments -s {' '.join(_specs(parser))} '*:file:_files' ;;"
        for name, parser in sorted(commands(), reverse=True)
    )
    return f"""#compdef densor
_densor() {{
  local -a commands=(
{described}
  )
  if (( CURRENT == 2 )) && [[ ${{words[2]}} != -* ]]; then
    _describe command commands
    _files
    return
  fi
  local command=${{words[2]}}
  case $command in
{cases}
  esac
}}
compdef _densor densor
"""


def fish() -> str:
    """For fish."""
    lines = ["# fish completion of densor"]
    for name, parser in commands():
        seen = f"__fish_seen_subcommand_from {name}" if name else "__fish_use_subcommand"
        if name:
            lines.append(
                f"complete -c densor -n __fish_use_subcommand -a {name} -d {_fish(about(parser))}"
            )
        for option in options(parser):
            words = " ".join(
                f"-{'l' if flag.startswith('--') else 's'} {flag.lstrip('-')}"
                for flag in option.names
            )
            value = " -r" if option.takes_value else ""
            lines.append(f"complete -c densor -n '{seen}' {words}{value} -d {_fish(option.help)}")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def _names(parser: argparse.ArgumentParser) -> list[str]:
    return [name for option in options(parser) for name in option.names]


def _specs(parser: argparse.ArgumentParser) -> Iterator[str]:
    for option in options(parser):
        help_text = option.help.replace("[", "(").replace("]", ")").replace(":", ";")
        value = ":value:_files" if option.takes_value else ""
        for name in option.names:
            yield _quoted(f"{name}[{help_text}]{value}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
