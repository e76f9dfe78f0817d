"""Small golden archives: every one is read, or refused, as it was meant."""

import pytest
from archive_cases import ArchiveCase, digest_of, error_of, read_archives
from cases import check_each, in_groups
from reference.reading import Refused

import densor

CASES = read_archives()


def by_package(case: ArchiveCase) -> None:
    try:
        found = case.by_package()
    except densor.DensorError as error:
        assert type(error).__name__ == case.error
        return
    if not case.lenient:
        assert case.error is None
    if case.error is None:
        assert digest_of(found) == case.sha256


def by_reference(case: ArchiveCase) -> None:
    if case.error is None:
        assert digest_of(case.by_reference()) == case.sha256
        return
    with pytest.raises(Refused) as refused:
        case.by_reference()
    assert error_of(refused.value.reason) == case.error


@in_groups(CASES)
def test_package(cases: list[ArchiveCase]) -> None:
    check_each(cases, by_package)


@in_groups(CASES)
def test_reference(cases: list[ArchiveCase]) -> None:
    check_each(cases, by_reference)


def test_every_kind_of_error_is_there() -> None:
    errors = {case.error for case in CASES}
    names = ("Truncated", "Checksum", "Unsupported", "Limit", "Format")
    assert errors >= {None, *(f"{name}Error" for name in names)}
    assert all(case.error == "FormatError" or case.error is None for case in CASES if case.lenient)
    assert sum(not case.lenient for case in CASES) > len(CASES) // 2
