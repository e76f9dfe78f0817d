"""What the CUDA kernels take on each architecture: registers, shared memory, instructions.

    python -m bench.gpu_kernels        # writes docs/bench/gpu_kernels.csv

Needs NVRTC but no GPU and no driver: `pip install nvidia-cuda-nvrtc`. With
`nvidia-cuda-cuobjdump` and `nvidia-cuda-nvdisasm` instructions are counted too.
"""

import csv
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from densor.gpu.backend import FILES, kernels, part, source

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
TABLE = Path(__file__).parent.parent / "docs" / "bench" / "gpu_kernels.csv"
_LOG = re.compile(
    r"properties for (\w+)\s*\n.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s*\n.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
)
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,5})\*/\s+(.*?);", re.MULTILINE)
_FUNCTION = re.compile(r"^\s*Function : (\w+)\s*$", re.MULTILINE)
_BRANCH = re.compile(r"\bBRA(?:\.U)? (?:!?U?P\d, )?`?\(?0x([0-9a-f]+)")


@dataclass(frozen=True)
class Usage:
    """Of one kernel; `shared`, `stack`, `spills` in bytes. `loop`: instructions per 256 elements
    and warp where nothing rare happens, `longest`: with all that is rare; None if not counted."""

    kernel: str
    architecture: int
    nvrtc: str
    registers: int
    shared: int
    stack: int
    spills: int
    loop: int | None = None
    longest: int | None = None


def find_nvrtc() -> Path | None:
    """The library of one of the packages that have it, the newest; None if there is none."""
    found: list[Path] = []
    for folder in sys.path:
        found += Path(folder or ".").glob("nvidia/*/lib/libnvrtc.so.*")
    return max(found, key=lambda path: path.name) if found else None


class Nvrtc:
    """NVIDIA's runtime compiler."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, text: str, architecture: int) -> tuple[bytes, str]:
        """The cubin and the log, which tells of registers; RuntimeError if it does not compile."""
        library, program = self._library, ctypes.c_void_p()
        options = [f"--gpu-architecture=sm_{architecture}", "-std=c++17", "--ptxas-options=-v"]
        raw = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"k.cu", 0, None, None)
        failed = library.nvrtcCompileProgram(program, len(options), raw)
        log = self._text("ProgramLog", program).decode().rstrip("\0")
        if failed:
            raise RuntimeError(log)
        cubin = self._text("CUBIN", program)
        library.nvrtcDestroyProgram(ctypes.byref(program))
        return cubin, log

    def _text(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


def _tool(name: str) -> str | None:
    """A program of one of the packages, or of an installed toolkit."""
    for folder in sys.path:
        for path in Path(folder or ".").glob(f"nvidia/*/bin/{name}"):
            return str(path)
    return shutil.which(name)


def disassemble(cubin: bytes) -> dict[str, list[tuple[int, str]]] | None:
    """Addresses and instructions of each kernel; None without the tools."""
    dump, decoder = _tool("cuobjdump"), _tool("nvdisasm")
    if dump is None or decoder is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        paths = os.pathsep.join([str(Path(decoder).parent), os.environ["PATH"]])
        done = subprocess.run(
            [dump, "-sass", file.name],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": paths},
        )
    pieces = _FUNCTION.split(done.stdout)[1:]
    return {
        name: [(int(at, 16), text) for at, text in _INSTRUCTION.findall(body)]
        for name, body in zip(pieces[::2], pieces[1::2], strict=True)
    }


def hot_loop(code: list[tuple[int, str]], inside: tuple[str, ...], rare: str) -> tuple[int, int]:
    """Instructions of the shortest loop that has all of `inside`: without what is rare, and all.

    Rare is what a forward branch within the loop can pass over, if it holds a match of `rare`.
    """
    branches = []
    for at, text in code:
        found = _BRANCH.search(text)
        if found:
            branches.append((at, int(found[1], 16)))
    apart = [at for at, text in code if "EXIT" in text]  # behind which stands what is rare
    loops = [
        (target, at)
        for at, target in branches
        if target <= at and not any(target <= other <= at for other in apart)
    ]
    with_it = [
        (at - target, target, at)
        for target, at in loops
        if all(
            any(target <= a <= at and re.search(wanted, text) for a, text in code)
            for wanted in inside
        )
    ]
    _, begin, end = min(with_it)
    body = {at: text for at, text in code if begin <= at <= end}
    skipped: set[int] = set()
    for at, target in branches:
        if begin <= at < target <= end:
            over = [a for a in body if at < a < target]
            if any(re.search(rare, body[a]) for a in over):
                skipped.update(over)
    return len(body) - len(skipped), len(body)


def count(kernel: str, code: list[tuple[int, str]]) -> tuple[int, int]:
    """Instructions per 256 elements and warp of the loop that the kernel spends its time in."""
    if kernel.startswith("huffman"):  # a group of 8 elements, or of 16, per thread
        usual, longest = hot_loop(code, (r"STG\.E\.128", r"\bLDS\b"), r"\bLDS\b")
        share = 2 if kernel == "huffman_byte" else 1
        return usual // share, longest // share
    if kernel.startswith("rans"):  # some steps of 32 elements, with tables in shared memory
        usual, longest = hot_loop(code, (r"\bLDS\.U8\b",), r"\bVOTE|\bBRA .*0x")
        return 8 * usual // _steps(), 8 * longest // _steps()
    if kernel.startswith("palette_product"):  # 8 elements per thread and row of x
        return hot_loop(code, (r"\bLDS\b", r"\bFFMA\b"), r"\bSHFL\b|\bVOTE\b")
    return hot_loop(code, (r"\bLDS\b",), r"\bSHFL\b|\bVOTE\b")


def _steps() -> int:
    """Steps that one turn of the loop of rANS does."""
    found = re.search(r"#define AHEAD (\d+)u", source("rans.cu"))
    assert found is not None
    return int(found[1])


def usage(nvrtc: Nvrtc, architecture: int) -> list[Usage]:
    """All kernels on one architecture."""
    found = []
    for name in FILES:
        cubin, log = nvrtc.compile(source(name), architecture)
        code = disassemble(cubin)
        told = {match[0]: [int(n or 0) for n in match[1:]] for match in _LOG.findall(log)}
        for kernel in kernels(part(name)):
            stack, stores, loads, registers, shared = told[kernel]
            counts = (None, None) if code is None else count(kernel, code[kernel])
            spills = stores + loads
            found.append(
                Usage(
                    kernel, architecture, nvrtc.version, registers, shared, stack, spills, *counts
                )
            )
    return found


def read_table() -> list[Usage]:
    """The committed table."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [field.name for field in fields(Usage) if field.name not in ("kernel", "nvrtc")]
    return [
        Usage(**{k: (int(v) if v else None) if k in numbers else v for k, v in row.items()})  # type: ignore[arg-type]
        for row in rows
    ]


def main() -> None:
    """Writes the table."""
    path = find_nvrtc()
    if path is None:
        sys.exit("needs NVRTC: pip install nvidia-cuda-nvrtc")
    nvrtc = Nvrtc(path)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Usage)], lineterminator="\n")
        writer.writeheader()
        for architecture in ARCHITECTURES:
            for one in usage(nvrtc, architecture):
                print(one)
                writer.writerow(asdict(one))


if __name__ == "__main__":
    main()
