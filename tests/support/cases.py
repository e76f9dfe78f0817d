"""Many small cases in one test: a test of its own for each would take longer than the cases do."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import pytest

_SIZE = 32


class Named(Protocol):
    """A case."""

    @property
    def name(self) -> str: ...


Case = TypeVar("Case", bound=Named)


def in_groups(cases: Sequence[Named]) -> pytest.MarkDecorator:
    """The argument `cases` of a test: all of them, some at a time."""
    groups = [cases[at : at + _SIZE] for at in range(0, len(cases), _SIZE)]
    return pytest.mark.parametrize("cases", groups, ids=[group[0].name for group in groups])


def check_each(cases: Sequence[Case], check: Callable[[Case], object]) -> None:
    """Checks all, whatever becomes of each; fails with the names of those that are wrong."""
    wrong: dict[str, BaseException] = {}
    for case in cases:
        try:
            check(case)
        except (Exception, pytest.fail.Exception) as error:
            wrong[case.name] = error
    if wrong:
        text = "\n".join(f"{name}: {error!r:.300}" for name, error in wrong.items())
        raise AssertionError(text) from next(iter(wrong.values()))
