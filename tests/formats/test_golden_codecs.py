"""Golden chunks: every one is decoded, or refused, as it was meant; see support/codec_cases.py."""

import hashlib
from dataclasses import replace

import pytest
from cases import check_each, in_groups
from codec_cases import CodecCase, read_cases
from reference.reading import Refused

import densor

CASES = read_cases()


def by_package(case: CodecCase) -> None:
    if case.error is None:
        assert hashlib.sha256(case.by_package()).hexdigest() == case.sha256
        return
    with pytest.raises(densor.DensorError) as error:
        case.by_package()
    assert type(error.value).__name__ == case.error


def by_reference(case: CodecCase) -> None:
    if case.error is None:
        assert hashlib.sha256(case.by_reference()).hexdigest() == case.sha256
        return
    with pytest.raises(Refused) as refused:
        case.by_reference()
    assert f"{refused.value.reason.title()}Error" == case.error


@in_groups(CASES)
def test_package(cases: list[CodecCase]) -> None:
    check_each(cases, by_package)


@in_groups(CASES)
def test_reference(cases: list[CodecCase]) -> None:
    check_each(cases, by_reference)


def test_every_wrong_case_is_named() -> None:
    """The others beside it are looked at, and what does not raise fails as well."""
    good, bad = (
        next(case for case in CASES if (case.error is None) == sound) for sound in (True, False)
    )
    other = replace(good, name="other", sha256="")
    sound = replace(good, name="sound", error="FormatError")
    check_each([good, bad], by_package)
    for check in (by_package, by_reference):
        with pytest.raises(AssertionError) as error:
            check_each([other, good, bad, sound], check)
        assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["other", "sound"]


def test_good_ones_and_refusals_of_codecs_are_there() -> None:
    found = {(case.model[0], case.error is None) for case in CASES if case.model}
    assert {(7, True), (7, False), (3, True), (3, False)} <= found
