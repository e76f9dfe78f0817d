"""One run on a GPU that settles what cannot be known without one.

    python -m bench.gpu_run --out FOLDER [--only NAME ...] [--emulate]

Each section runs in a process of its own with a limit of its own: an illegal access ends the CUDA
context of a process, and with it all that would have come after. Every number is a line of JSON in
`FOLDER/run.jsonl` as soon as it is known. Sections come in the order of their worth, so that the
last ones fall out where time does. `--emulate` tries all of it on the CPU, at small sizes: what
needs a GPU is skipped there and says so. Exit status 1 where a section failed or was wrong.

Needs numpy, numba, zstandard, constriction, xxhash, safetensors and tqdm; for a GPU, CuPy 14 and
torch. No network.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from densor.gpu import Backend, Block, backend
from densor.gpu.palette import BATCHES, PaletteMatrix
from densor.gpu.samples import planar, scales, weights

Line = dict[str, Any]
TOTAL = 560  # seconds
_ROUNDS = 20
PLANAR_CHUNK, SCALES_CHUNK = 1 << 19, 1 << 20  # elements of a chunk, as the codecs cut them
SHAPES = {"4096 x 4096": (4096, 4096), "14336 x 4096": (14336, 4096)}
CHUNKS = (1, 8, 64, 512)  # of scale contexts, for latency and throughput apart


class Section(NamedTuple):
    """Seconds that it may take, what it does, and whether it needs a GPU."""

    limit: int
    run: Callable[[Backend, bool], Iterator[Line]]
    needs_gpu: bool = False


def machine(on: Backend, emulated: bool) -> Iterator[Line]:
    """Versions, clocks, and what a copy and a read reach: the denominators."""
    from densor.cli import gpu_check

    yield {"machine": gpu_check.machine(on)}
    for program in ("nvidia-smi",):
        path = shutil.which(program)
        if path is not None and not emulated:
            query = "--query-gpu=name,clocks.sm,clocks.mem,power.draw,temperature.gpu"
            done = subprocess.run(
                [path, query, "--format=csv,noheader"], capture_output=True, text=True, check=False
            )
            yield {"clocks": done.stdout.strip()}
    size = 1 << (20 if emulated else 32)
    source, target = on.new("U8", (size,)), on.new("U8", (size,))

    def copy() -> None:
        target[...] = source

    yield timed("copy, counted once", copy, on, size, emulated)


def correctness(on: Backend, emulated: bool) -> Iterator[Line]:
    """All kernels at the edges and at the size of chunks, damage, entry points, models."""
    from densor.cli import gpu_check

    for result in gpu_check.run(on, 1 << (16 if emulated else 20), False):
        yield {**dataclasses.asdict(result), "wrong": not result.right}


def sanitizer(on: Backend, emulated: bool) -> Iterator[Line]:
    """compute-sanitizer over each kind of kernel at a small size."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        yield {"skipped": "no compute-sanitizer"}
        return
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m"]
        command += ["bench.gpu_run", "--section", "small"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        tail = (done.stdout + done.stderr).splitlines()[-3:]
        yield {"tool": tool, "status": done.returncode, "wrong": done.returncode != 0, "says": tail}


def small(on: Backend, emulated: bool) -> Iterator[Line]:
    """Every kernel once, for the sanitizer."""
    for codec in (planar, scales):
        for dtype in ("BF16", "F16", "F32", "F8_E4M3"):
            data = weights(dtype, 1 << 16, 1024)
            out = on.empty(data.size)
            Block([codec(data, dtype, 1024, 1 << 16)], on, host=False).decode_into([out])
            yield {"codec": codec.__name__, "dtype": dtype, "wrong": differs(on, out, data)}


def differs(on: Backend, out: Any, data: Any) -> bool:
    """Whether what was decoded is not what was packed."""
    return bool((on.read(out) != data).any())


def streams(on: Backend, emulated: bool) -> Iterator[Line]:
    """Waits and lifetimes: long work on either stream, memory that is dropped and used again."""
    import torch

    from densor.torch.device import Device

    place = torch.device("cuda", torch.cuda.current_device())
    device, torch_cuda = Device(on, place), cast(Any, torch.cuda)
    data = weights("BF16", 1 << 22, 4096)
    packed = planar(data, "BF16", 4096, PLANAR_CHUNK)
    block = Block([packed], on, host=False)
    wanted = torch.from_numpy(data).to(place)
    for sleeper in ("side", "current"):
        wrong = 0
        for _ in range(10):
            out = device.memory(data.size)
            if sleeper == "side":
                with device._stream.work():
                    torch_cuda._sleep(50_000_000)
            else:
                torch_cuda._sleep(50_000_000)
            device.start(block, [out])
            device.join()
            wrong += not torch.equal(out, wanted)
            device.start(block, [out])
            del out  # its memory must not be given away while the decoding writes to it
            other = torch.full((data.size,), 255, dtype=torch.uint8, device=place)
            device.join()
            wrong += int((other != 255).any())
        yield {"sleeps": sleeper, "wrong": bool(wrong)}


def kernels(on: Backend, emulated: bool) -> Iterator[Line]:
    """GB/s of each kernel with chunks as archives have them; scale contexts also by chunks."""
    elements = 1 << (16 if emulated else 28)
    for dtype in ("BF16", "F16", "F32", "F8_E4M3"):
        for codec, chunk in ((planar, PLANAR_CHUNK), (scales, SCALES_CHUNK)):
            yield decoding(on, codec, dtype, elements, chunk, emulated)
    for name, (rows, columns) in SHAPES.items():
        size = elements if emulated else rows * columns
        yield {"shape": name, **decoding(on, planar, "BF16", size, PLANAR_CHUNK, emulated)}
    for count in CHUNKS:
        chunk = 1 << (10 if emulated else 16)
        yield {"chunks": count, **decoding(on, scales, "BF16", count * chunk, chunk, emulated)}


def decoding(
    on: Backend, codec: Callable[..., Any], dtype: str, elements: int, chunk: int, emulated: bool
) -> Line:
    """One kernel at one size."""
    columns = 1024
    data = weights(dtype, elements, columns)
    block = Block([codec(data, dtype, columns, chunk)], on, host=False)
    out = on.empty(data.size)
    block.decode_into([out])
    line = timed(", ".join(block.kernels), block.launch, on, data.size, emulated)
    line |= {"dtype": dtype, "elements": elements, "resident": block.resident / data.size}
    return {**line, "wrong": differs(on, out, data)}


def timed(what: str, run: Callable[[], object], on: Backend, size: int, emulated: bool) -> Line:
    """Median GB/s by CUDA events, or, without a GPU, that it ran."""
    run()
    if emulated or on.name != "cuda":
        return {"what": what}
    import cupy

    with on._device, on._stream():  # type: ignore[attr-defined]
        times = []
        for _ in range(_ROUNDS):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    middle = statistics.median(times)
    return {"what": what, "GB/s": size / middle / 1e9, "best": size / min(times) / 1e9}


def products(on: Backend, emulated: bool) -> Iterator[Line]:
    """The palette's products, beside torch's where there is a GPU; 1 to 8 tokens."""
    for name, (rows, columns) in SHAPES.items():
        if emulated:
            rows, columns = 64, 256
        bits = weights("BF16", rows * columns, columns).view("<u2").reshape(rows, columns)
        matrix = PaletteMatrix(bits, on)
        for batch in BATCHES:
            x = on.new("BF16", (batch, columns))
            on.write(on.wrap(x), weights("BF16", batch * columns, columns, seed=2))
            y = on.new("F32", (batch, rows))
            line = timed("palette", partial(matrix.multiply, x, y), on, bits.nbytes, emulated)
            yield {"shape": name, "tokens": batch, **line}
            if not emulated and hasattr(x, "data_ptr"):
                yield {"shape": name, "tokens": batch, **plain_product(on, bits, x)}


def plain_product(on: Backend, bits: Any, x: Any) -> Line:
    """torch's product of plain weights, of which as many are used in turns as fill 1 GiB."""
    import torch

    copies = max(1, (1 << 30) // bits.nbytes)
    plain = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).to(x.device)
    held = [plain.clone() for _ in range(copies)]
    turn = iter(range(1 << 30))

    def run() -> None:
        torch.nn.functional.linear(x, held[next(turn) % copies])

    return timed("torch", run, on, bits.nbytes, False)


def layer(on: Backend, emulated: bool) -> Iterator[Line]:
    """Models that stay packed: bits in every mode, a CUDA graph, time beside the plain model."""
    from densor.torch.check import check_models

    for what, right, note in check_models(on, 1 << (14 if emulated else 26), not emulated):
        yield {"what": what, "note": note, "wrong": not right}


def anchor(on: Backend, emulated: bool) -> Iterator[Line]:
    """nvCOMP on the same card, where it is installed."""
    from densor.cli import gpu_check

    for result in gpu_check.time_nvcomp(on, 1 << 27):
        yield dataclasses.asdict(result)


SECTIONS = {
    "machine": Section(40, machine),
    "correctness": Section(120, correctness),
    "sanitizer": Section(60, sanitizer, needs_gpu=True),
    "streams": Section(40, streams, needs_gpu=True),
    "kernels": Section(120, kernels),
    "products": Section(60, products),
    "layer": Section(60, layer),
    "anchor": Section(30, anchor, needs_gpu=True),
}
HIDDEN = {"small": Section(60, small)}


def one_section(name: str, emulated: bool) -> None:
    """A section in this process, its lines to standard output."""
    section = {**SECTIONS, **HIDDEN}[name]
    if section.needs_gpu and emulated:
        print(json.dumps({"skipped": "needs a GPU"}), flush=True)
        return
    if not emulated:
        import torch  # whose memory and streams are used

        torch.cuda.init()  # type: ignore[no-untyped-call]
    for line in section.run(backend("emulate" if emulated else "cuda"), emulated):
        print(json.dumps(line, default=float), flush=True)


def run_section(name: str, limit: float, emulated: bool, out: Any) -> tuple[int, bool]:
    """Lines and whether all went well; each line is in the file when it comes."""
    command = [sys.executable, "-m", "bench.gpu_run", "--section", name]
    command += ["--emulate"] * emulated
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines, right, start = 0, True, time.monotonic()
    errors: list[str] = []
    watch = Watch(process, limit, errors)
    assert process.stdout is not None
    for text in process.stdout:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        right = right and not line.get("wrong", False)
        lines += 1
        write(out, {"section": name, **line})
    status = process.wait()
    watch.join()
    if status:
        reason = "took too long" if watch.late else " | ".join(errors[-3:])
        write(out, {"section": name, "failed": status, "reason": reason[-500:]})
    seconds = round(time.monotonic() - start, 1)
    write(out, {"section": name, "seconds": seconds, "lines": lines})
    return lines, right and not status


class Watch:
    """Collects what a process says on standard error, and ends it after its time."""

    def __init__(self, process: "subprocess.Popen[str]", limit: float, errors: list[str]) -> None:
        import threading

        self.late = False
        self._process = process
        self._timer = threading.Timer(limit, self._end)
        self._timer.daemon = True
        self._timer.start()
        self._reader = threading.Thread(target=self._read, args=(errors,), daemon=True)
        self._reader.start()

    def _end(self) -> None:
        self.late = True
        self._process.kill()

    def _read(self, errors: list[str]) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            errors.append(line.rstrip())
            del errors[:-20]

    def join(self) -> None:
        """After the process has ended."""
        self._timer.cancel()
        self._reader.join(5)


def write(out: Any, line: Line) -> None:
    """A line to the file and to the terminal."""
    text = json.dumps(line, default=float)
    out.write(text + "\n")
    out.flush()
    os.fsync(out.fileno())
    print(text, flush=True)


def why_not() -> str | None:
    """Why nothing can run here, in a line; found in a process of its own, as everything is."""
    code = "import densor.gpu; densor.gpu.backend('cuda')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return last[0].removeprefix("densor.errors.")


def main(argv: list[str]) -> int:
    """Runs the sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-run"))
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS))
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--section", choices=[*SECTIONS, *HIDDEN], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.section:
        one_section(args.section, args.emulate)
        return 0
    reason = None if args.emulate else why_not()
    if reason is not None:
        print(f"no section can run: {reason}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    begin, wrong = time.monotonic(), []
    with (args.out / "run.jsonl").open("a", encoding="utf-8") as out:
        for name in args.only or SECTIONS:
            left = TOTAL - (time.monotonic() - begin)
            if left < 5:
                write(out, {"section": name, "skipped": "no time left"})
                continue
            limit = min(SECTIONS[name].limit, left) if not args.emulate else left
            lines, right = run_section(name, limit, args.emulate, out)
            if not right or not lines:
                wrong.append(name)
    print(f"failed: {', '.join(wrong)}" if wrong else "all sections ran")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
