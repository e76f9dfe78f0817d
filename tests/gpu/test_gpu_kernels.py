"""What the CUDA kernels take on each architecture, against docs/bench/gpu_kernels.csv.

Needs NVRTC, from a package or a toolkit, but no GPU; skipped without it.
"""

import pytest

from bench import gpu_kernels
from bench.gpu_kernels import ARCHITECTURES, Nvrtc, Usage, find_nvrtc, read_table, usage
from densor.gpu.backend import FILES, kernels, part

MOST_REGISTERS = {"huffman": 48, "rans": 80, "palette": 64}
MOST_SHARED = 34 << 10


def key(one: Usage) -> tuple[str, int]:
    return one.kernel, one.architecture


def most_registers(one: Usage) -> int:
    return MOST_REGISTERS[one.kernel.split("_")[0]]


def test_table_is_complete() -> None:
    """Every kernel on every architecture stands in the committed table, within the limits."""
    table = read_table()
    names = [name for file in FILES for name in kernels(part(file))]
    assert {key(one) for one in table} == {(name, a) for name in names for a in ARCHITECTURES}
    for one in table:
        assert one.registers <= most_registers(one) and one.shared <= MOST_SHARED, one
        assert one.stack == 0 and one.spills == 0, one


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled(architecture: int) -> None:
    """No spills anywhere; the same compiler makes of the kernels just what the table says."""
    path = find_nvrtc()
    if path is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc")
    table = {key(one): one for one in read_table()}
    for found in usage(Nvrtc(path), architecture):
        assert found.registers <= most_registers(found) and found.shared <= MOST_SHARED, found
        assert found.stack == 0 and found.spills == 0, found
        wanted = table[key(found)]
        if found.nvrtc == wanted.nvrtc and None not in (found.loop, wanted.loop):
            assert found == wanted


def test_hot_loop() -> None:
    """Instructions that a rare branch passes over are told apart."""
    code = [
        (0x00, "MOV R0, R1 "),
        (0x10, "LDS R2, [R0] "),
        (0x20, "@P0 BRA 0x50 "),
        (0x30, "LDS R3, [R0] "),
        (0x40, "IADD3 R0, R0, R3 "),
        (0x50, "STG.E.128 [R4], R0 "),
        (0x60, "@!P1 BRA 0x10 "),
        (0x70, "EXIT "),
        (0x80, "LDS R5, [R0] "),  # out of the loop's way, and back into it
        (0x90, "BRA 0x50 "),
    ]
    assert gpu_kernels.hot_loop(code, (r"\bLDS\b", r"STG"), r"\bLDS\b") == (4, 6)
