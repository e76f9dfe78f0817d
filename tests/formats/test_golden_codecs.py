"""Golden chunks: every one is decoded, or refused, as it was meant; see support/codec_cases.py."""

import hashlib

import pytest
from codec_cases import CodecCase, read_cases
from reference.reading import Refused

import densor

CASES = read_cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_package(case: CodecCase) -> None:
    if case.error is None:
        assert hashlib.sha256(case.by_package()).hexdigest() == case.sha256
        return
    with pytest.raises(densor.DensorError) as error:
        case.by_package()
    assert type(error.value).__name__ == case.error


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_reference(case: CodecCase) -> None:
    if case.error is None:
        assert hashlib.sha256(case.by_reference()).hexdigest() == case.sha256
        return
    with pytest.raises(Refused) as refused:
        case.by_reference()
    assert f"{refused.value.reason.title()}Error" == case.error


def test_good_ones_and_refusals_of_codecs_are_there() -> None:
    found = {(case.model[0], case.error is None) for case in CASES if case.model}
    assert {(7, True), (7, False), (3, True), (3, False)} <= found
