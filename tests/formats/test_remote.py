"""Files behind URLs: memory, a web server that counts what it sends, a store like S3."""

import contextlib
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import model_file, safetensors_bytes, weights
from paths import ROOT

import densor
from densor.files.append import append
from densor.files.shards import ShardOptions, compress_shard
from densor.formats.container import wire
from densor.formats.damage.repair import repair
from densor.formats.io.urls import is_url, join, label, name_of, plain

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # noqa: E402


@pytest.fixture
def memory() -> Iterator[dict[str, Any]]:
    """The files of `memory://`, by path; empty before and after."""
    store: dict[str, Any] = MemoryFileSystem.store
    store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield store
    store.clear()


def put(path: str, data: bytes) -> str:
    """Places a file; returns its URL."""
    MemoryFileSystem().pipe_file(path, data)
    return f"memory://{path}"


def got(store: dict[str, Any], path: str) -> bytes:
    found: bytes = store[path].getvalue()
    return found


# What a URL is


@pytest.mark.parametrize(
    "text", ["s3://b/x", "memory://x", "simplecache::s3://b/x", "HTTP://h/", "a+b.c-d://x"]
)
def test_urls(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize(
    "thing", ["x", "C://x", "./s3://x", "s3:/b/x", "://x", "-://", b"s3://b", Path("s3://b"), None]
)
def test_no_urls(thing: object) -> None:
    assert not is_url(thing)


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", Path("a\0b")])
def test_no_paths(path: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(densor.compress(b"x"))
    for call in (
        lambda: densor.compress_file(path, tmp_path / "y"),
        lambda: densor.compress_file(tmp_path / "x", path),
        lambda: densor.open(path),
        lambda: densor.pack([path], tmp_path / "y"),
        lambda: append(path, tmp_path / "x"),
        lambda: repair(path),
    ):
        with pytest.raises(densor.ArgumentError, match="no path"):
            call()
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_file_urls_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b%20ü"
    assert plain(path.as_uri()) == str(path)
    assert plain(f"file://localhost{tmp_path}") == str(tmp_path)
    assert plain("file://elsewhere/x") == "file://elsewhere/x"
    assert plain("memory://x") == "memory://x"
    assert plain(path) is path
    path.write_bytes(model_file())
    packed, restored = tmp_path / "packed", tmp_path / "restored"
    densor.compress_file(path.as_uri(), packed.as_uri(), verify=True)
    densor.decompress_file(packed.as_uri(), restored.as_uri())
    assert restored.read_bytes() == model_file()
    with pytest.raises(densor.FileError, match="exists"):
        densor.compress_file(path.as_uri(), packed.as_uri())
    with densor.open(packed.as_uri()) as file:
        assert file.files() == [path.name]


def test_names_and_labels() -> None:
    assert name_of("s3://bucket/a/b.bin") == "b.bin"
    assert name_of("https://host/a/b%20c.bin?sig=1#x") == "b c.bin"
    assert name_of("https://host") == "" == name_of("https://host?a=/b")
    assert name_of("https://[/x") == "x"
    assert name_of("zip://in/b.bin::s3://bucket/x.zip") == "b.bin"
    assert label("https://me:word@host/x?signature=1") == "https://host/x"
    assert label("s3://key:secret@bucket/x?y") == "s3://bucket/x?y"
    assert label("plain/path") == "plain/path"
    assert join("memory://", "a/b") == "memory://a/b"
    assert join("s3://bucket/dir/", "a") == join("s3://bucket/dir", "a") == "s3://bucket/dir/a"


# Memory


def test_files_to_and_from_memory(memory: dict[str, Any], tmp_path: Path) -> None:
    source = put("/in/model.safetensors", model_file())
    sizes = densor.compress_file(source, "memory://out/m.densor", verify=True)
    assert sizes.stored == len(got(memory, "/out/m.densor"))
    assert densor.verify_file("memory://out/m.densor")[0].meta.name == "model.safetensors"
    densor.decompress_file("memory://out/m.densor", "memory://back")
    assert got(memory, "/back") == model_file()
    densor.decompress_file("memory://out/m.densor", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == model_file()
    assert not [name for name in memory if name.endswith(".tmp")]


def test_time_of_the_source_is_kept(memory: dict[str, Any], tmp_path: Path) -> None:
    source = put("/x", b"x" * 100)
    densor.compress_file(source, tmp_path / "x.densor")
    densor.decompress_file(tmp_path / "x.densor", tmp_path / "x")
    wanted = memory["/x"].modified.timestamp()
    assert (tmp_path / "x").stat().st_mtime == pytest.approx(wanted, abs=1e-3)


def test_tensors_to_and_from_memory(memory: dict[str, Any]) -> None:
    tensors = {"a": np.arange(1000, dtype=np.float32), "b": np.ones((3, 0), np.int8)}
    densor.save_file(tensors, "memory://t.densor", metadata={"k": "v"})
    with pytest.raises(densor.FileError, match=r"memory://t\.densor: already exists"):
        densor.save_file(tensors, "memory://t.densor", overwrite=False)
    found = densor.load_file("memory://t.densor")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    with densor.Writer("memory://w.densor") as writer:
        writer.add_tensor("x", tensors["a"])
        writer.add_file(put("/some/file.bin", b"content"))
    with densor.open("memory://w.densor") as file:
        assert (file.keys(), file.files()) == (["x"], ["file.bin"])
        assert file.read_file("file.bin") == b"content"
        assert np.array_equal(file.get_slice("x")[10:20], tensors["a"][10:20])


def test_folders_to_and_from_memory(memory: dict[str, Any], tmp_path: Path) -> None:
    for name in ("config.json", "deep/er/model.safetensors", "deep/[x]*?.bin"):
        put(f"/model/{name}", model_file() if name.endswith("s") else name.encode())
    put("/single.txt", b"single")
    densor.pack(["memory://model", "memory://single.txt"], "memory://model.densor")
    done = densor.extract("memory://model.densor", tmp_path)
    names = ["config.json", "deep/[x]*?.bin", "deep/er/model.safetensors", "single.txt"]
    assert done == names
    assert (tmp_path / "deep/er/model.safetensors").read_bytes() == model_file()
    assert densor.extract("memory://model.densor", "memory://to/folder") == names
    assert got(memory, "/to/folder/deep/[x]*?.bin") == b"deep/[x]*?.bin"
    with pytest.raises(densor.FileError, match="exists"):
        densor.extract("memory://model.densor", "memory://to/folder")
    densor.extract("memory://model.densor", "memory://one", ["single.txt"])
    assert [name for name in memory if name.startswith("/one")] == ["/one/single.txt"]


def test_a_base_behind_a_url(memory: dict[str, Any], tmp_path: Path) -> None:
    old, new = weights("bf16", 64, 512), weights("bf16", 64, 512).copy()
    new[3] ^= 1
    base = put("/old", safetensors_bytes({"w": ("BF16", (64, 512), old.tobytes())}))
    after = put("/new", safetensors_bytes({"w": ("BF16", (64, 512), new.tobytes())}))
    sizes = densor.compress_file(after, "memory://d", base=base)
    assert sizes.stored < sizes.original // 10
    densor.decompress_file("memory://d", tmp_path / "new", base=base)
    assert (tmp_path / "new").read_bytes() == got(memory, "/new")
    assert [d.changes is not None for d in densor.archives.differences(base, after)] == [True]


def test_a_failure_leaves_what_was_there(memory: dict[str, Any]) -> None:
    archive = densor.compress(b"some bytes" * 1000)
    put("/damaged", archive[:-60] + bytes(60))
    put("/target", b"before")
    with pytest.raises(densor.DensorError):
        densor.decompress_file("memory://damaged", "memory://target", overwrite=True)
    assert got(memory, "/target") == b"before"
    with pytest.raises(ZeroDivisionError), densor.Writer("memory://none") as writer:
        writer.add_tensor("x", np.ones(10))
        _ = 1 / 0
    assert sorted(memory) == ["/damaged", "/target"]


def test_a_source_that_changes_is_noticed(memory: dict[str, Any]) -> None:
    source = put("/x", b"x" * 1000)
    with pytest.raises(densor.FileError, match="changed while it was read"):
        densor.compress_file(
            source, "memory://y", progress=lambda size: put("/x", b"y" * 1000) and None
        )
    assert sorted(memory) == ["/x"]


def test_what_is_not_there(memory: dict[str, Any]) -> None:
    with pytest.raises(densor.FileError, match="memory://x: no such file"):
        densor.compress_file("memory://x", "memory://y")
    with pytest.raises(densor.FileError, match="memory://x: no such file"):
        densor.open("memory://x")
    put("/dir/x", b"")
    with pytest.raises(densor.FileError, match="memory://dir: is a folder"):
        densor.compress_file("memory://dir", "memory://y")
    with pytest.raises(densor.UnsupportedError, match="nosuch"):
        densor.open("nosuch://x")
    with pytest.raises(densor.ArgumentError, match="names no file"):
        densor.compress_file("memory://dir/x", "memory://dir/")
    with pytest.raises(densor.FileError, match="memory://dir: is a folder"):
        densor.compress_file("memory://dir/x", "memory://dir", overwrite=True)


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://[::1/x", "reference://x", "zip://a::memory://b", "memory://\0"],
)
def test_what_is_no_url_of_a_file(url: str, memory: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"x" * 500)
    archive, out = tmp_path / "x.densor", tmp_path / "out"
    densor.compress_file(source, archive)
    for work in (
        lambda: densor.open(url),
        lambda: densor.compress_file(url, out),
        lambda: densor.compress_file(source, out, base=url),
        lambda: densor.decompress_file(url, out),
        lambda: densor.pack([url], out),
    ):
        with pytest.raises(densor.DensorError):
            work()
        assert not out.exists()
    for write in (
        lambda: densor.compress_file(source, url, overwrite=True),
        lambda: densor.extract(archive, url, overwrite=True),
    ):
        with contextlib.suppress(densor.DensorError):  # some can be written to
            write()


def test_names_that_urls_cannot_have(memory: dict[str, Any], capsys: Any) -> None:
    put("/x/Foo", b"one" * 100)
    put("/x/Foo::Bar", b"two" * 100)
    code, _, err = run(capsys, "-r", "-f", "memory://x")
    assert code == 1 and "URLs have no names with ::" in err
    assert got(memory, "/x/Foo") == b"one" * 100


def test_an_archive_does_not_take_the_place_of_its_base(memory: dict[str, Any]) -> None:
    base = put("/base.bin", b"base" * 100)
    with pytest.raises(densor.ArgumentError, match="is the base"):
        densor.compress_file(io.BytesIO(b"base" * 99), base, base=base, overwrite=True)
    assert got(memory, "/base.bin") == b"base" * 100


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("far", "no.such.FS", errtxt="Install farfs", clobber=True)
    with pytest.raises(densor.UnsupportedError, match="far://x: Install farfs"):
        densor.open("far://x")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(densor.UnsupportedError, match=r'pip install "densor\[remote\]"'):
        densor.open("memory://x")


def test_fsspec_is_imported_for_urls_alone(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    code = (
        "import sys, densor\n"
        "from densor.cli.main import main\n"
        "densor.compress_file('x', 'y'); main(['pack', '-q', 'z', 'x', 'y']); densor.open('z')\n"
        "sys.exit('fsspec' in sys.modules)"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)


# A store whose uploads appear when they are complete


class StoreFile(AbstractBufferedFile):  # type: ignore[misc]
    """Sends parts, as S3 does; `commit` makes a file of them."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        if len(self.parts) > self.fs.most_parts:
            raise OSError("no more parts")
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        self.fs.files[self.path] = b"".join(self.parts)

    def discard(self) -> None:
        self.fs.discarded.append(self.path)


class Store(AbstractFileSystem):  # type: ignore[misc]
    """An object store in memory."""

    protocol = "store"
    files: ClassVar[dict[str, bytes]] = {}
    discarded: ClassVar[list[str]] = []
    most_parts = 100

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path not in self.files:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.files[path]), "type": "file", "ETag": "1"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> StoreFile:
        return StoreFile(self, path, mode, **options)

    def cat_file(self, path: str, start: int = 0, end: int = 0, **_: Any) -> bytes:
        return self.files[self._strip_protocol(path)][start:end]

    def rm_file(self, path: str) -> None:
        del self.files[path]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    """The store, empty, known as one whose uploads appear at close."""
    from densor.formats.io import remote

    fsspec.register_implementation("store", Store, clobber=True)
    monkeypatch.setattr(remote, "_APPEAR_AT_CLOSE", frozenset({"store"}))
    monkeypatch.setattr(remote, "_PART", 1000)
    Store.files.clear()
    Store.discarded.clear()
    return Store


def test_upload(store: type[Store], tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(5000)
    densor.compress_file(io.BytesIO(data), "store://x/y", verify=True)
    out = io.BytesIO()
    densor.decompress_file("store://x/y", out)
    assert out.getvalue() == data
    with densor.Writer("store://z") as writer:
        writer.add_tensor("a", np.arange(4))
    assert densor.load_file("store://z")["a"].tolist() == [0, 1, 2, 3]
    assert list(store.files) == ["x/y", "z"] and not store.discarded


def test_a_failed_upload_is_discarded(store: type[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store.files["x"] = b"before"
    with pytest.raises(ZeroDivisionError), densor.Writer("store://x", overwrite=True) as writer:
        writer.add_tensor("a", np.random.default_rng(1).random(5000))
        _ = 1 / 0
    monkeypatch.setattr(store, "most_parts", 0)
    data = io.BytesIO(np.random.default_rng(1).bytes(5000))
    with pytest.raises(densor.FileError, match="store://x: no more parts"):
        densor.compress_file(data, "store://x", overwrite=True)
    assert store.files == {"x": b"before"} and store.discarded == ["x", "x"]


def test_a_damaged_upload_is_removed(store: type[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StoreFile.commit

    def damage(self: StoreFile) -> None:
        whole(self)
        data = bytearray(store.files[self.path])
        data[len(data) // 2] ^= 1
        store.files[self.path] = bytes(data)

    monkeypatch.setattr(StoreFile, "commit", damage)
    with pytest.raises(densor.FileError, match="verification of what was written failed"):
        densor.compress_file(io.BytesIO(b"x" * 5000), "store://x", verify=True)
    assert not store.files

    def other(self: StoreFile) -> None:
        store.files[self.path] = densor.compress(b"another")

    monkeypatch.setattr(StoreFile, "commit", other)
    with pytest.raises(densor.FileError, match="holds something else"):
        densor.compress_file(io.BytesIO(b"x" * 5000), "store://x", verify=True)
    assert not store.files


# A web server


class Web:
    """Files on a local web server, and the bytes of bodies that it has sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.requests = 0
        self.ranges = True
        self.surplus = b""  # sent behind each part that is asked for
        self.tag = "one"
        self.said: int | None = None  # the size that HEAD tells, where that is another
        self.status: int | None = None  # of all answers, where there are none
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(False)

            def do_GET(self) -> None:
                self._answer(True)

            def _answer(self, body: bool) -> None:
                data = web.files.get(self.path.partition("?")[0])
                if data is None or web.status is not None:
                    self.send_response(web.status or 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                wanted = self.headers.get("Range") if web.ranges else None
                if wanted:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    piece = data[int(first) : int(last) + 1] + web.surplus
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                else:
                    piece = data
                    self.send_response(200)
                self.send_header("Accept-Ranges", "bytes" if web.ranges else "none")
                self.send_header("ETag", web.tag)
                said = len(piece) if body or web.said is None else web.said
                self.send_header("Content-Length", str(said))
                self.end_headers()
                if body:
                    web.sent += len(piece)
                    web.requests += 1
                    self.wfile.write(piece)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    server = Web()
    yield server
    server.close()


def many_tensors(count: int, rows: int) -> dict[str, Any]:
    return {f"w{i}": weights("bf16", rows, 1024) ^ np.uint16(i) for i in range(count)}


def test_one_tensor_over_http_takes_its_bytes_alone(web: Web) -> None:
    tensors = many_tensors(40, 300)
    web.files["/m.densor"] = archive = densor.save(tensors)
    index = len(archive) - int.from_bytes(archive[-16:-8], "little")
    with densor.open(f"{web.url}/m.densor") as file:
        opening = web.sent
        assert opening <= index + (1 << 16) + wire.HEADER_SIZE
        assert web.requests <= 5
        stored = file.info("w7").stored
        assert np.array_equal(file.get_tensor("w7"), tensors["w7"])
        models = 4 * 4096
        assert web.sent - opening <= stored + models
        assert web.sent < len(archive) / 8
        before, requests = web.sent, web.requests
        file.get_slice("w9")[5:7]
        assert web.sent - before <= file.info("w9").stored + models
        assert web.requests - requests <= 4


def test_many_chunks_take_few_requests(web: Web) -> None:
    tensor = weights("bf16", 7000, 1024)
    web.files["/m.densor"] = archive = densor.save({"w": tensor})
    with densor.open(f"{web.url}/m.densor", threads=3) as file:
        before = web.sent, web.requests
        assert file.info("w").stored > 8 << 20
        assert np.array_equal(file.get_tensor("w"), tensor)
        assert web.requests - before[1] <= 3
        assert web.sent - before[0] <= len(archive)
        before = web.sent, web.requests
        assert np.array_equal(file.get_slice("w")[3000:3001], tensor[3000:3001])
        assert web.requests - before[1] <= 1 and web.sent - before[0] <= 1 << 20


def test_packing_a_file_from_http_fetches_it_once(web: Web, tmp_path: Path) -> None:
    web.files["/model.safetensors"] = model_file()
    densor.pack([f"{web.url}/model.safetensors"], tmp_path / "m.densor")
    assert web.sent == len(model_file())
    assert densor.extract(tmp_path / "m.densor", tmp_path) == ["model.safetensors"]


def test_files_from_http(web: Web, tmp_path: Path) -> None:
    web.files["/a/model.safetensors"] = model_file()
    sizes = densor.compress_file(f"{web.url}/a/model.safetensors?x=1", tmp_path / "m.densor")
    assert sizes.original == len(model_file())
    web.files["/m.densor"] = (tmp_path / "m.densor").read_bytes()
    densor.decompress_file(f"{web.url}/m.densor", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == model_file()
    with densor.open(tmp_path / "m.densor") as file:
        assert file.files() == ["model.safetensors"] and len(file)


def test_a_server_without_ranges(web: Web, tmp_path: Path) -> None:
    web.ranges = False
    web.files["/model.safetensors"] = model_file()
    densor.compress_file(f"{web.url}/model.safetensors", tmp_path / "m.densor")
    web.files["/m.densor"] = (tmp_path / "m.densor").read_bytes() + bytes(1 << 17)
    with pytest.raises(densor.FileError, match="does not serve parts"):
        densor.open(f"{web.url}/m.densor")
    web.files["/m.densor"] = (tmp_path / "m.densor").read_bytes()
    densor.decompress_file(f"{web.url}/m.densor", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == model_file()


def test_parts_longer_than_asked_for_are_refused(web: Web, tmp_path: Path) -> None:
    web.surplus = b"surplus"
    web.files["/x"] = np.random.default_rng(3).bytes((8 << 20) + 5000)
    with pytest.raises(densor.FileError, match="does not serve parts"):
        densor.compress_file(f"{web.url}/x", tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [-5000, -1, 1, 1 << 60])
def test_a_size_that_is_no_size(more: int, web: Web, tmp_path: Path) -> None:
    web.files["/x"] = data = np.random.default_rng(4).bytes(20_000)
    densor.compress_file(f"{web.url}/x", tmp_path / "whole")
    web.said = len(data) + more
    with pytest.raises(densor.FileError, match=r"longer than the server said|has 20000 bytes"):
        densor.compress_file(f"{web.url}/x", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_refuses(status: int, web: Web, tmp_path: Path) -> None:
    web.files["/x"], web.status = b"x", status
    with pytest.raises(densor.FileError, match=f"/x: {status}"):
        densor.compress_file(f"{web.url}/x", tmp_path / "x")


def test_a_shard_of_unknown_time_is_packed_anew(web: Web, tmp_path: Path) -> None:
    url, target = f"{web.url}/x", str(tmp_path / "x.densor")
    for text, verify, skipped in (
        (b"one" * 100, False, False),
        (b"two" * 100, False, False),  # as many bytes
        (b"two" * 100, True, True),
        (b"six" * 100, True, False),
    ):
        web.files["/x"] = text
        done = compress_shard(url, target, ShardOptions(level=1, verify=verify))
        assert done.skipped == skipped
        assert densor.decompress(Path(target).read_bytes()) == text


def test_faults_of_http(web: Web, tmp_path: Path) -> None:
    url = f"{web.url}/x?signature=secret"
    with pytest.raises(densor.FileError, match="/x: no such file") as caught:
        densor.compress_file(url, tmp_path / "x")
    assert "secret" not in str(caught.value)
    web.files["/x"] = b"x" * 1000
    with pytest.raises(densor.FileError, match="not possible with this kind of URL"):
        densor.compress_file(io.BytesIO(b"x"), f"{web.url}/x", overwrite=True)

    def change(size: int) -> None:
        web.tag = "two"

    with pytest.raises(densor.FileError, match="changed while it was read"):
        densor.compress_file(url, tmp_path / "x", progress=change)
    nobody = "http://127.0.0.1:1/x"
    with pytest.raises(densor.FileError, match=f"{nobody}: ") as caught:
        densor.compress_file(f"{nobody}?signature=secret", tmp_path / "x")
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# The command line


def run(capsys: Any, *argv: str) -> tuple[int, str, str]:
    from densor.cli.main import main

    capsys.readouterr()
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_command_line(
    memory: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    put("/d/model.safetensors", model_file())
    do: Callable[..., tuple[int, str, str]] = lambda *argv: run(capsys, *argv)  # noqa: E731
    assert do("-q", "memory://d/model.safetensors")[0] == 0
    assert do("memory://d/model.safetensors")[1:] == (
        "",
        "densor: memory://d/model.safetensors.densor: already exists; use -f (overwrite=True) to "
        "replace it\n",
    )
    code, _, err = do("memory://d/model.safetensors", "-o", "here.densor")
    assert code == 0 and err.startswith("memory://d/model.safetensors: ")
    assert do("-q", "-d", "memory://d/model.safetensors.densor", "-o", "back")[0] == 0
    assert (tmp_path / "back").read_bytes() == model_file()
    assert do("-t", "memory://d/model.safetensors.densor")[0] == 0
    assert (
        "memory://d/model.safetensors.densor" in do("-l", "memory://d/model.safetensors.densor")[1]
    )
    assert "model.safetensors" in do("list", "memory://d/model.safetensors.densor")[1]
    assert "format version" in do("info", "memory://d/model.safetensors.densor")[1]
    assert do("pack", "-q", "memory://all.densor", "memory://d", "back")[0] == 0
    assert do("extract", "-q", "memory://all.densor", "-C", "memory://out", "back")[0] == 0
    assert got(memory, "/out/back") == model_file()
    assert do("--rm", "memory://d/model.safetensors")[0] == 2
    assert do("-q", "--rm", "back", "-o", "memory://moved")[0] == 0
    assert not (tmp_path / "back").exists() and "/moved" in memory
    assert do("https://host/x.densor?y", "-d") == (
        2,
        "",
        "densor: https://host/x.densor: name the output with -o; see densor --help\n",
    )
    code, _, err = do("memory://nosuch", "-o", "x")
    assert (code, err) == (1, "densor: memory://nosuch: no such file\n")
    assert do("-f", "memory://moved", "-o", "memory://moved")[0] == 1
    put("/tree/a", b"a" * 100)
    put("/tree/deep/b", b"b" * 100)
    assert do("-q", "-r", "memory://tree")[0] == 0
    assert {"/tree/a.densor", "/tree/deep/b.densor"} < set(memory)
    assert do("-q", (tmp_path / "here.densor").as_uri(), "-d", "-o", f"file://{tmp_path}/x")[0] == 0
    assert (tmp_path / "x").read_bytes() == model_file()
