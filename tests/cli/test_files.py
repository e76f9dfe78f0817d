"""Single files: compress, restore, test, list, and what may go wrong with them."""

import io
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from helpers import model_file, safetensors_bytes

from densor.cli import streams

from .conftest import Ran

DATA = b"some text that repeats, " * 500
LINE = "a.txt: ?.?*% (12.0 kB => * B, a.txt.densor)"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one text, in which commands run."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_bytes(DATA)
    return tmp_path


def names() -> list[str]:
    """All files here, hidden ones too."""
    found = (Path(folder, name) for folder, _, files in os.walk(".") for name in files)
    return sorted(str(path) for path in found)


def archive(cli: Callable[..., Ran], name: str = "a.txt") -> bytes:
    """Compresses quietly; the archive."""
    assert cli("-q", name) == (0, b"", "")
    return Path(f"{name}.densor").read_bytes()


def test_compress_and_restore(cli: Callable[..., Ran], model_path: Path) -> None:
    before = model_path.read_bytes()
    os.chmod(model_path, 0o640)
    os.utime(model_path, ns=(10**18, 10**18))
    ran = cli("model.safetensors")
    assert ran.said("model.safetensors: ??.??% (* => *, model.safetensors.densor)")
    assert (ran.code, ran.out, model_path.read_bytes()) == (0, b"", before)
    model_path.unlink()
    ran = cli("-d", "model.safetensors.densor")
    assert ran.said("model.safetensors.densor: * => *, model.safetensors")
    assert model_path.read_bytes() == before
    assert model_path.stat().st_mode & 0o777 == 0o640
    assert model_path.stat().st_mtime_ns == 10**18
    assert "model.safetensors.densor" in names()


def test_closing_lines(cli: Callable[..., Ran]) -> None:
    Path("empty").touch()
    assert cli("a.txt", "empty").said(LINE, "empty: - (0 B => * B, empty.densor)")
    found = "densor: a.txt: no format that is known here, coded as bytes"
    assert cli("-v", "-f", "a.txt").said(found, f"{LINE} in *.?? s, * MB/s")
    assert cli("-t", "a.txt.densor").said("a.txt.densor: ok (12.0 kB)")
    assert cli("-tv", "a.txt.densor").said("a.txt.densor: ok (12.0 kB) in *.?? s, * MB/s")
    assert cli("-c", "a.txt").err == cli("-tq", "a.txt.densor").err == ""
    assert cli("-cv", "a.txt").said(found, "a.txt: ?.?*% (12.0 kB => * B, stdout) in *")


def test_what_is_not_followed_is_said(cli: Callable[..., Ran]) -> None:
    header = {"a": ("F32", (2000,), bytes(8000)), "b": ("F32", (2,), bytes(8))}
    Path("m.safetensors").write_bytes(safetensors_bytes(header).replace(b"2000", b"2001"))
    Path("odd.msgpack").write_bytes(b"\x81\xa1a")
    lines = cli("-v", "m.safetensors", "odd.msgpack").err.splitlines()
    found = [line for line in lines if line.startswith("densor: ") and "kernel" not in line]
    assert found == [
        "densor: m.safetensors: safetensors, 2 tensors; "
        "1 to be restored with the file only: 'a' (malformed)",
        "densor: odd.msgpack: no format that is known here, coded as bytes",
    ]
    assert "m.safetensors: safetensors" not in cli("-f", "m.safetensors").err


def test_combined_flags_and_order(cli: Callable[..., Ran]) -> None:
    assert cli("-kf9", "a.txt", "-T0").code == 0
    assert cli("-dc", "a.txt.densor") == (0, DATA, "")
    assert cli("a.txt.densor", "-c", "-d") == (0, DATA, "")
    assert cli("-dqfT1", "a.txt.densor", "-o", "b") == (0, b"", "")
    assert Path("b").read_bytes() == DATA
    assert cli("-d", "-o", "-", "a.txt.densor").out == DATA
    assert cli("-dc", "a.txt.densor", "a.txt.densor") == (0, DATA + DATA, "")


def test_pipes(cli: Callable[..., Ran]) -> None:
    packed = cli(stdin=DATA)
    assert (packed.code, packed.err) == (0, "")
    assert cli("-d", stdin=packed.out) == (0, DATA, "")
    assert cli("-d", "-", stdin=packed.out) == (0, DATA, "")
    assert cli("-t", "-", stdin=packed.out).said("stdin: ok (12.0 kB)")
    assert cli("-", "-o", "x.densor", "--verify", stdin=DATA).said("stdin: ?.?*% (*, x.densor)")
    assert cli("-dc", "x.densor").out == DATA


def test_names_that_look_like_options_or_commands(cli: Callable[..., Ran]) -> None:
    for name in ("-x", "pack", "a:b\\c", "new\nline"):
        Path(name).write_bytes(DATA)
    assert cli("--", "-x").said("-x: *, -x.densor)")
    assert cli("./pack").said("pack: *, ./pack.densor)")
    assert cli("a:b\\c").said("a:b\\c: *")
    assert cli("new\nline").said("new\\nline: *, new\\nline.densor)")
    for name in ("-x", "./pack", "a:b\\c", "new\nline"):
        assert cli("-dc", "--", f"{name}.densor").out == DATA


def test_levels_and_hash(cli: Callable[..., Ran], model_path: Path) -> None:
    sizes = []
    for level in "19":
        assert cli(f"-{level}qf", "model.safetensors", "--sha256").code == 0
        sizes.append(Path("model.safetensors.densor").stat().st_size)
    assert sizes[0] > sizes[1]
    ran = cli("-l", "model.safetensors.densor")
    lines = ran.text.splitlines()
    assert lines[0].split() == [
        *("stored", "original", "ratio", "entries", "tensors", "check", "archive"),
    ]
    assert re.search(r" 1 +\d+ +sha256  model.safetensors.densor$", lines[1])


def test_dtype(cli: Callable[..., Ran]) -> None:
    Path("raw").write_bytes(model_file())
    cli("-q", "raw", "-o", "typed", "--dtype", "int16")
    assert cli("-dc", "typed").out == model_file()


def test_recursion(cli: Callable[..., Ran]) -> None:
    Path("deep/er").mkdir(parents=True)
    Path("deep/b").write_bytes(DATA)
    Path("deep/er/c").write_bytes(DATA)
    ran = cli("-r", "deep", "a.txt")
    assert ran.said("deep/b: *", "deep/er/c: *", "a.txt: *")
    assert cli("-r", "deep").code == 1, "they exist"
    for name in ("deep/b", "deep/er/c"):
        Path(name).unlink()
    assert cli("-rt", "deep").said("deep/b.densor: ok *", "deep/er/c.densor: ok *")
    assert cli("-rdq", "deep") == (0, b"", "")
    assert Path("deep/er/c").read_bytes() == DATA
    assert cli("-rdqf", "deep").code == 0


def test_recursion_says_what_it_leaves_out(cli: Callable[..., Ran]) -> None:
    Path("deep").mkdir()
    Path("deep/b").write_bytes(DATA)
    Path("deep/link").symlink_to("..")
    Path("deep/gone").symlink_to("nowhere")
    ran = cli("-r", "deep")
    assert ran.code == 1
    assert ran.said(
        "densor: deep/link: symbolic link to a folder, not followed",
        "densor: deep/gone: not a regular file",
        "deep/b: *",
    )


def test_rm(cli: Callable[..., Ran]) -> None:
    assert cli("--rm", "a.txt").said(LINE)
    assert names() == ["a.txt.densor"]
    assert cli("-d", "--rm", "a.txt.densor").code == 0
    assert names() == ["a.txt"]
    assert cli("--rm", "--keep", "a.txt").code == 0
    assert names() == ["a.txt", "a.txt.densor"]


def test_rm_keeps_what_is_not_safe(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = archive(cli)
    Path("a.txt.densor").unlink()
    ran = cli("--rm", "a.txt", "-o", "/dev/null")
    assert ran.code == 1 and names() == ["a.txt"]
    Path("x.densor").write_bytes(packed)
    ran = cli("-d", "--rm", "x.densor", "-o", "/dev/null")
    assert ran.said("densor: x.densor: output is no regular file; not removed")
    from densor.files import new_archive

    def damaged(*_: object) -> None:
        raise new_archive.FileError("verification of what was written failed: x")

    monkeypatch.setattr(new_archive, "check_written", damaged)
    ran = cli("--rm", "a.txt")
    assert ran.said("densor: a.txt: verification of what was written failed: x")
    assert names() == ["a.txt", "x.densor"]


def test_rm_of_a_file_that_changes(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:

    from densor.files import new_archive

    monkeypatch.setattr(new_archive, "check_written", lambda *_: Path("a.txt").write_bytes(b"new"))
    assert cli("--rm", "a.txt").said("densor: a.txt: changed while it was read; not removed")
    assert Path("a.txt").read_bytes() == b"new"


def test_goes_on_after_an_error(cli: Callable[..., Ran]) -> None:
    ran = cli("nosuch", ".", "a.txt")
    assert ran.code == 1
    assert ran.said(
        "densor: nosuch: No such file or directory",
        "densor: .: is a folder; use -r for the files in it, or densor pack",
        LINE,
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("nosuch", "nosuch: No such file or directory"),
        ("quantise", "quantise: No such file or directory; the command is called quantize"),
        ("-t a.txt", "a.txt: not a densor archive"),
        ("-l a.txt", "a.txt: *"),
        ("-d x.densor", "x.densor: not a densor archive"),
        ("-t nosuch.densor", "nosuch.densor: No such file or directory"),
        ("a.txt -o folder", "folder: is a folder"),
        ("a.txt -o nosuch/x", "nosuch/x: No such file or directory"),
        ("a.txt -o a.txt/x", "a.txt/x: Not a directory"),
        ("a.txt -f -o a.txt", "a.txt: input and output are the same file"),
        ("a.txt -f -o link", "a.txt: input and output are the same file"),
        ("a.txt -o x.densor", "x.densor: already exists; use -f to overwrite it"),
    ],
)
def test_errors(cli: Callable[..., Ran], argv: str, message: str) -> None:
    Path("folder").mkdir()
    Path("x.densor").write_bytes(DATA)
    os.link("a.txt", "link")
    before = names()
    ran = cli(*argv.split())
    assert ran.said(f"densor: {message}"), ran.err
    assert (ran.code, ran.out, names()) == (1, b"", before)
    assert Path("a.txt").read_bytes() == DATA == Path("x.densor").read_bytes()


def test_existing_output(cli: Callable[..., Ran]) -> None:
    archive(cli)
    kept = "densor: a.txt: already exists; use -f to overwrite it"
    assert cli("-d", "a.txt.densor").said(kept)
    Path("a.txt").write_bytes(b"old")
    assert cli("-df", "a.txt.densor").code == 0
    assert Path("a.txt").read_bytes() == DATA


def newer(packed: bytes) -> bytes:
    """The archive with a header of the next format version."""
    fields = packed[:8] + struct.pack("<H", 2) + packed[10:24]
    return fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields)) + packed[32:]


@pytest.mark.parametrize("option", ["-d", "-t"])
def test_bad_archives(cli: Callable[..., Ran], option: str) -> None:
    packed = archive(cli)
    Path("a.txt").unlink()
    faulty = {
        "archive ends *": packed[:-1],
        "archive ends within its header": packed[:20],
        "archive ends before its END frame": packed[:32],
        "*damaged": packed[:100] + bytes([packed[100] ^ 1]) + packed[101:],
        "header of the archive is damaged": packed[:9] + b"\1" + packed[10:],
        "data after the end of the archive": packed + b"x",
        "written in format version 2, *": newer(packed),
        "not a densor archive": b"PK" + packed,
    }
    for message, content in faulty.items():
        Path("a.txt.densor").write_bytes(content)
        ran = cli(option, "a.txt.densor")
        assert ran.said(f"densor: a.txt.densor: {message}"), ran.err
        assert (ran.code, ran.out, names()) == (1, b"", ["a.txt.densor"])


@pytest.mark.parametrize("option", ["-t", "-d"])
def test_max_size(cli: Callable[..., Ran], option: str) -> None:
    archive(cli)
    Path("a.txt").unlink()
    ran = cli(option, "--max-size", "11K", "a.txt.densor")
    assert ran.said("densor: a.txt.densor: *11264 bytes allowed")
    assert (ran.code, names()) == (1, ["a.txt.densor"])
    assert cli(option, "--max-size", "12KiB", "a.txt.densor").code == 0


class Terminal(io.StringIO):
    """A terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = io.BytesIO()

    def isatty(self) -> bool:
        return True


def test_nothing_binary_to_a_terminal(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("b.bin").write_bytes(bytes(range(256)))
    archive(cli)
    archive(cli, "b.bin")

    def at_terminal(*argv: str) -> tuple[int, bytes, str]:
        out = Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", out)
            ran = cli(*argv)
        return ran.code, out.buffer.getvalue(), ran.err

    refused = "densor: a.txt: an archive is not written to a terminal; use -o FILE or -f\n"
    assert at_terminal("-c", "a.txt") == (1, b"", refused)
    assert at_terminal("-dc", "a.txt.densor") == (0, DATA, "")
    code, out, err = at_terminal("-dc", "b.bin.densor")
    assert (code, out) == (1, b"")
    assert err.startswith("densor: b.bin.densor: binary data is not written to a terminal;")
    assert at_terminal("-dcf", "b.bin.densor") == (0, bytes(range(256)), "")
    assert at_terminal("-cf", "a.txt")[0] == 0


def test_stdin_that_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(streams.FileError, match="stdin is a terminal"):
        streams.stdin(force=False)
    assert streams.stdin(force=True) is sys.stdin.buffer


def test_closed_streams(cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    archive(cli)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        for argv in (["-dc", "a.txt.densor"], ["-l", "a.txt.densor"], ["list", "a.txt.densor"]):
            ran = cli(*argv)
            assert ran.code == 1 and ran.said("densor: *stdout is closed")
    monkeypatch.setattr(sys, "stderr", None)
    assert cli("-f", "a.txt").code == 0


def test_one_name_that_tells_nothing_does_not_stop_the_others(cli: Callable[..., Ran]) -> None:
    Path("b.txt").write_bytes(DATA)
    for name in ("a.txt", "b.txt"):
        archive(cli, name)
        Path(name).unlink()
    Path("other.xz").write_bytes(b"x")
    ran = cli("-d", "a.txt.densor", "other.xz", "b.txt.densor", ".densor")
    assert ran.code == 1 and ran.err.count("does not end with .densor") == 2
    assert Path("a.txt").read_bytes() == Path("b.txt").read_bytes() == DATA
    assert cli("-d", "other.xz").code == 2
    assert cli("-t", "a.txt.densor", "other.xz", "b.txt.densor").code == 1


def test_what_is_there_stays_where_nothing_is_forced(cli: Callable[..., Ran]) -> None:
    before = archive(cli)
    Path("link").symlink_to("kept")
    Path("kept").write_bytes(b"kept")
    Path("none").symlink_to("nowhere")
    for command in (
        ("a.txt",),
        ("-d", "a.txt.densor"),
        ("a.txt", "-o", "link"),
        ("a.txt", "-o", "none"),
    ):
        ran = cli(*command)
        assert ran.code == 1 and "already exists" in ran.err
    assert Path("a.txt").read_bytes() == DATA and Path("a.txt.densor").read_bytes() == before
    Path("a.txt").unlink()
    Path("a.txt").symlink_to("kept")
    assert cli("-qdf", "a.txt.densor").code == 0  # takes the place of the link
    assert not Path("a.txt").is_symlink() and Path("kept").read_bytes() == b"kept"
    for target in ("a.txt", "./a.txt"):
        assert "same file" in cli("-f", "a.txt", "-o", target).err
    os.link("a.txt", "hard")
    assert "same file" in cli("-f", "a.txt", "-o", "hard").err
    assert Path("a.txt").read_bytes() == DATA


@pytest.mark.skipif(os.name != "posix", reason="POSIX only")
def test_an_archive_is_no_program(cli: Callable[..., Ran]) -> None:
    os.chmod("a.txt", 0o6755)
    archive(cli)
    Path("a.txt").unlink()
    assert cli("-qd", "a.txt.densor").code == 0
    for name in ("a.txt", "a.txt.densor"):
        assert Path(name).stat().st_mode & 0o7777 == 0o755
