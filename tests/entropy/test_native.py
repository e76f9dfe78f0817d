"""Kernels on disk: what is loaded is what was compiled, and nothing else."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import parquet_files
import pytest

from densor.entropy import deferred, kernel_files, native
from densor.entropy.compile_lock import compile_lock

fcntl = pytest.importorskip("fcntl")

MODULE, NAME = "densor.entropy.huffman.kernels", "unpack_lengths"

pytestmark = pytest.mark.skipif(
    deferred.is_checked() or not native.usable(), reason="kernels are not kept here"
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of one kernel."""
    folder = tmp_path_factory.mktemp("kernels")
    run(folder, f"ready('{MODULE}', '{NAME}')")
    return folder


def run(folder: Path, code: str) -> str:
    """What a process prints that has this folder for kernels."""
    program = f"import sys; from densor.entropy.deferred import *; {code}"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_kept_kernel_needs_no_compiler(kept: Path) -> None:
    code = f"f = ready('{MODULE}', '{NAME}'); import numpy as np; a = np.zeros(4, np.uint8)"
    check = "print(f(np.array([0x21, 0x43], np.uint8), 4, a), a.tolist(), 'numba' in sys.modules)"
    assert run(kept, f"{code}; {check}") == "3840 [1, 2, 3, 4] False\n"


def test_a_kernel_can_be_compiled_by_another_process(tmp_path: Path) -> None:
    take = f"f = ready('{MODULE}', '{NAME}'); import numpy as np; a = np.zeros(4, np.uint8)"
    code = f"with compiled_apart(): {take}"
    check = "print(f(np.array([0x21, 0x43], np.uint8), 4, a), a.tolist(), 'numba' in sys.modules)"
    assert run(tmp_path, f"exec({code!r}); {check}") == "3840 [1, 2, 3, 4] False\n"
    failing = f"sys.executable = '/nowhere'; exec({code!r}); {check}"
    assert run(tmp_path / "other", failing) == "3840 [1, 2, 3, 4] True\n"


@pytest.fixture
def there(kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file, in a folder of its own."""
    (found,) = kept.iterdir()
    copy = tmp_path / found.name
    copy.write_bytes(found.read_bytes())
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return copy


def test_a_damaged_file_is_not_used(there: Path) -> None:
    assert deferred.on_disk(MODULE, NAME) is not None
    whole = there.read_bytes()
    for at in (0, 30, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        there.write_bytes(damaged)
        assert deferred.on_disk(MODULE, NAME) is None
    for size in (0, 10, 40, len(whole) - 1):
        there.write_bytes(whole[:size])
        assert deferred.on_disk(MODULE, NAME) is None


def test_other_sources_are_noticed(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_files, "_digest", lambda paths: "another")
    assert deferred.on_disk(MODULE, NAME) is None


def test_sources_that_changed_under_a_process(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by an upgrade: what it imported is older than what it could read, or would note down."""
    source = deferred.source_of(MODULE)
    found = kernel_files.find(source, NAME)
    assert found is not None
    monkeypatch.setattr(kernel_files, "_STARTED", source.stat().st_ctime - 1)
    assert deferred.on_disk(MODULE, NAME) is None
    there.unlink()
    kernel_files.keep(source, NAME, [source], found)
    assert not there.exists()


def test_other_settings_have_files_of_their_own(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert deferred.on_disk(MODULE, NAME) is None


def test_arguments_are_checked(there: Path) -> None:
    function = deferred.on_disk(MODULE, NAME)
    assert function is not None
    packed, lengths = np.zeros(2, np.uint8), np.zeros(4, np.uint8)
    assert function(packed, 4, lengths) == 0
    read_only = lengths.copy()
    read_only.flags.writeable = False
    assert function(read_only[:2], np.int64(4), lengths) == 0
    for wrong in (
        (packed, 4),
        (packed, 4, lengths, 0),
        (None, 4, lengths),
        (packed, "4", lengths),
        (packed, 4.0, lengths),
        (packed, 4, read_only),
        (packed, 4, np.zeros(8, np.uint8)[::2]),
        (packed, 4, lengths.view(np.int8)),
        (packed, 4, lengths.view(np.uint16)),
        (packed, 4, lengths.reshape(2, 2)),
        (packed, 4, lengths.tobytes()),
    ):
        with pytest.raises(TypeError):
            function(*wrong)
    with pytest.raises(OverflowError):
        function(packed, 1 << 64, lengths)


def test_nothing_to_write_to(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_bytes(b"")
    assert run(nowhere, f"print(ready('{MODULE}', '{NAME}') is not None)") == "True\n"


WAITING = f"""
import densor.entropy.compile_lock as lock
from densor.entropy import kernel_files

kept, wait, keep = [], lock._wait, kernel_files.keep
kernel_files.keep = lambda *arguments: (kept.append(arguments[1]), keep(*arguments))

def noted(number):
    print("waits", flush=True)
    wait(number)

lock._wait = noted
function = ready({MODULE!r}, {NAME!r})
print(kept, function is not None)
"""


@pytest.mark.parametrize("made", [True, False])
def test_what_another_process_compiles_is_waited_for(there: Path, made: bool) -> None:
    """And taken from it, or compiled here if nothing came of that."""
    there.rename(there.with_suffix(".aside"))
    with (
        compile_lock([there.with_name(f"{there.name}.lock")]),
        subprocess.Popen(
            [sys.executable, "-c", f"from densor.entropy.deferred import *\n{WAITING}"],
            env={**os.environ, "NUMBA_CACHE_DIR": str(there.parent)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        if made:
            there.with_suffix(".aside").rename(there)
        else:
            os.truncate(there.with_suffix(".aside"), 0)
        threading.Timer(0.1, _opened, [there]).start()
        assert process.stdout.read() == f"{[] if made else [NAME]} True\n"
    assert there.exists()
    assert not list(there.parent.glob("*.lock"))


def _opened(there: Path) -> None:
    """Ends the lock, as the end of its process does."""
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").endswith(f"{there.name}.lock"):
                fcntl.flock(int(number), fcntl.LOCK_UN)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_keep_a_lock(tmp_path: Path) -> None:
    """Workers may be forked while another thread compiles."""
    ready, done = os.pipe()
    with compile_lock([tmp_path / "lock"]):
        waiting = os.open(tmp_path / "lock", os.O_RDWR)
        child = os.fork()
        if child == 0:
            os.read(ready, 1)
            os._exit(0)
    try:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.write(done, b"!")
        os.waitpid(child, 0)
        for number in (waiting, ready, done):
            os.close(number)


def test_who_holds_a_lock_for_too_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densor.entropy.compile_lock._PATIENCE", 0.05)
    with compile_lock([tmp_path / "lock"]), compile_lock([tmp_path / "lock"]):
        pass
    assert not list(tmp_path.iterdir())


def test_what_needs_numba_is_compiled_once(tmp_path: Path) -> None:
    """Such a kernel comes from numba's cache in the next process."""
    module, name = "densor.codec.circuit.training.kernels", "all_features"
    code = (
        "import numba.core.event as e; seen = []; "
        "listener = type('Listener', (e.Listener,), {'on_start': lambda self, event: "
        "seen.append(event.data['dispatcher'].py_func.__name__), 'on_end': lambda *a: None}); "
        f"e.register('numba:compile', listener()); ready('{module}', '{name}'); "
        f"print('{name}' in seen)"
    )
    assert [run(tmp_path, code) for _ in range(3)] == ["True\n", "False\n", "False\n"]
    assert deferred.on_disk(module, name) is None


@pytest.mark.parametrize("level", [1, 3, 6])
def test_no_run_needs_the_compiler_twice(level: int, tmp_path: Path) -> None:
    """Once its kernels are on disk, nothing of numba or LLVM is imported for weights."""
    code = (
        "import numpy as np, densor; a = np.random.default_rng(1).normal(size=(256, 300));"
        "b = (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16); "
        f"blob = densor.compress(b, {level}, dtype='bf16'); "
        "assert (densor.decompress(blob) == b).all(); "
        "print([name for name in ('numba', 'llvmlite') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    shown = [
        subprocess.run(
            [sys.executable, "-c", f"import sys; {code}"],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert shown[-1] == "[]\n"


@pytest.mark.parametrize(("share", "way"), [(0.002, "few_decoder"), (0.2, "decoder")])
def test_no_run_needs_the_compiler_twice_for_changes(share: float, way: str) -> None:
    code = (
        "import numpy as np, densor, sys; r = np.random.default_rng(1); "
        "a = r.normal(size=(256, 300)).astype(np.float32).view(np.uint32) >> 16; "
        f"a = a.astype(np.uint16); b = a + (r.random(a.shape) < {share}).astype(np.uint16); "
        "blob = densor.compress(b, dtype='bf16', base=a); "
        "assert (densor.decompress(blob, base=a) == b).all(); "
        f"print('densor.codec.delta.{way}' in sys.modules, "
        "[name for name in ('numba', 'llvmlite') if name in sys.modules])"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert shown[-1] == "True []\n"


@pytest.mark.parametrize("fault", ["no folder", "full disk", "a file that was cut"])
def test_what_numba_keeps_need_not_be_kept(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of kernels that need numba: its cache raises where it cannot be read or written."""
    from numba import types
    from numba.core import caching, config

    from densor.entropy.jit import kernel

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def compiled() -> int:
        return int(_made(fault, kernel, types).compiled()(41))

    if fault == "no folder":
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    elif fault == "full disk":

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    else:
        assert compiled() == 42
        (index,) = tmp_path.rglob("*.nbi")
        index.write_bytes(b"")
        deferred._compilers.pop((__name__, fault))
    try:
        assert compiled() == 42
    finally:
        deferred._compilers.pop((__name__, fault))


def _made(name: str, kernel: Any, types: Any) -> Any:
    @kernel(types.int64(types.int64), name=name)
    def one_more(number: int) -> int:
        return number + 1

    return one_more


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_run_needs_the_compiler_twice_for_tables(kind: str, tmp_path: Path) -> None:
    rows, decoder = 9000, {"csv": "table", "parquet": "pages"}[kind]
    drawn = np.random.default_rng(1).integers(0, 30, (rows, 3)).tolist()
    if kind == "csv":
        lines = [f"{i},{a + b},name {b},{c / 4}\n" for i, (a, b, c) in enumerate(drawn)]
        (tmp_path / "a").write_text("".join(["number,sum,name,share\n", *lines]))
    else:
        columns = [
            parquet_files.Column("a", "i8", [(a + b).to_bytes(8, "little") for a, b, _ in drawn]),
            parquet_files.Column("b", "text", [b"name %d" % c for _, _, c in drawn]),
        ]
        (tmp_path / "a").write_bytes(parquet_files.file(columns, page_rows=rows, group_rows=rows))
    code = (
        "import densor, sys; densor.compress_file('a', 'b', overwrite=True); "
        "densor.decompress_file('b', 'c', overwrite=True); "
        f"print('densor.codec.{decoder}.decoder' in sys.modules, "
        "[name for name in ('numba', 'llvmlite') if name in sys.modules])"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert shown[-1] == "True []\n"
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()
