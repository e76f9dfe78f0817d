"""Memory stays bounded, however large the file: measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import SUPPORT

SIZE = 600_000_000
LIMIT = 600_000_000  # bytes of memory, interpreter and libraries included

PROGRAM = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
sys.path.insert(0, {package!r})
import numpy as np
import densor
from helpers import weights

def generate(path, size, kind):
    # Weights that differ from block to block, made from one block cheaply.
    block = weights("bf16", 1024, 4096)
    header = b'{{"w":{{"dtype":"BF16","shape":[%d,4096],"data_offsets":[0,%d]}}}}'
    rows = size // 8192
    header = header % (rows, rows * 8192)
    with open(path, "wb") as file:
        if kind == "safetensors":
            file.write(len(header).to_bytes(8, "little") + header)
        left, number = rows * 8192, 0
        while left:
            data = (block ^ np.uint16(number & 7)).tobytes()[:left]
            if kind != "repeats":
                data = data[:-8] + number.to_bytes(8, "little") if len(data) > 8 else data
            file.write(data)
            left -= len(data)
            number += 1

def peak():
    # The peak in rusage can be that of the process that forked this one.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

folder, kind, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plain, packed, restored = folder / "plain", folder / "packed", folder / "restored"
generate(plain, size, kind)
found = {{"before": peak()}}
densor.compress_file(plain, packed, 1 if kind == "bytes" else 3, threads=2)
found["compress"] = peak()
densor.decompress_file(packed, restored, threads=2)
found["decompress"] = peak()
with densor.open(packed, threads=2) as file:
    if kind == "safetensors":
        file.get_slice("w")[-3:]
found["slice"] = peak()
with plain.open("rb") as a, restored.open("rb") as b:
    while True:
        piece = a.read(1 << 24)
        assert piece == b.read(1 << 24)
        if not piece:
            break
found["ratio"] = packed.stat().st_size / plain.stat().st_size
print(json.dumps(found))
"""


def peaks(folder: Path, kind: str, size: int) -> dict[str, float]:
    import densor

    package = str(Path(densor.__file__).parent.parent)
    program = PROGRAM.format(here=str(SUPPORT), package=package)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), kind, str(size)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    found = peaks(tmp_path, "safetensors", SIZE)
    assert max(found[step] for step in ("compress", "decompress", "slice")) <= LIMIT, found
    assert found["ratio"] < 0.7


ONE_THREAD = """
import sys
from pathlib import Path
import densor
way, source, target, threads = sys.argv[1:]
work = densor.compress_file if way == "compress" else densor.decompress_file
work(source, target, threads=int(threads))
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
"""
MOST_PER_THREAD = 72 << 20  # a batch, what comes of it, and work space


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_per_thread(tmp_path: Path) -> None:
    from helpers import random_state

    import densor

    plain, packed = tmp_path / "plain", tmp_path / "packed"
    bits = random_state("memory").integers(0, 1 << 16, 1 << 26, np.uint16)
    plain.write_bytes(bits.tobytes())
    densor.compress_file(plain, packed, dtype="bf16")
    for way, source in (("compress", plain), ("decompress", packed)):
        found = []
        for threads in (1, 5):
            target = tmp_path / f"{way}{threads}"
            command = [sys.executable, "-c", ONE_THREAD, way, source, target, str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(int(done.stdout))
            target.unlink()
        assert found[1] <= found[0] + 5 * MOST_PER_THREAD, (way, found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "repeats"])
def test_large_files_of_other_kinds(kind: str, tmp_path: Path) -> None:
    found = peaks(tmp_path, kind, SIZE)
    assert max(found[step] for step in ("compress", "decompress")) <= LIMIT, found


IN_MEMORY = """
import json, sys
from pathlib import Path
sys.path.insert(0, {package!r})
import densor

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

small, packed = (Path(path).read_bytes() for path in sys.argv[1:])
densor.decompress(small, threads=2)  # all is loaded
before = peak()
data = densor.decompress(packed, threads=2)
print(json.dumps({{"size": len(data), "more": peak() - before}}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_bytes_are_restored_without_a_second_copy(tmp_path: Path) -> None:
    from helpers import weights

    import densor

    data = b"".join((weights("bf16", 1024, 4096) ^ np.uint16(k)).tobytes() for k in range(24))
    paths = []
    for size in (1 << 22, len(data)):
        paths.append(tmp_path / str(size))
        paths[-1].write_bytes(densor.compress(data[:size], dtype="bf16"))
    package = str(Path(densor.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", IN_MEMORY.format(package=package), *map(str, paths)],
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["size"] == len(data) and found["more"] < 1.3 * len(data)
