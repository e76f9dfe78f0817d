"""Weights that follow: whatever stores and killed processes do, what is applied is right."""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import densor
from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FileError,
    FormatError,
    LimitError,
)
from densor.sync import (
    FolderStore,
    MemoryStore,
    Publisher,
    SocketStore,
    StoreServer,
    Subscriber,
    UrlStore,
    changes,
    receivers,
)
from densor.sync import message as messages
from densor.sync import weights as sync_weights
from densor.sync.weights import Described
from tests.support.interrupts import interrupted

torch = pytest.importorskip("torch")


def weights_at(step: int) -> dict[str, np.ndarray]:
    """Weights of a training without chance: a few change from step to step."""
    rng = np.random.default_rng(5)
    found = {
        "a.weight": rng.integers(15000, 16500, (96, 130)).astype(np.uint16),
        "b.bias": rng.integers(0, 1 << 16, 77).astype(np.uint16),
        "c": rng.standard_normal((33, 5)).astype(np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "one": np.array(step, np.int64),
        "same": rng.integers(0, 255, 999).astype(np.uint8),
    }
    for i in range(1, step + 1):
        moved = np.random.default_rng(i)
        flat = found["a.weight"].reshape(-1)
        flat[moved.integers(0, flat.size, 60)] += 1
        found["c"].reshape(-1)[moved.integers(0, 165, 9)] *= np.float32(1.01)
    return found


def pieces_of(dtype: str, old: np.ndarray, new: np.ndarray) -> list[messages.Piece]:
    """Of a message of one tensor, which give the new one."""
    described = [Described("one", dtype, new.shape)]
    before, after = old.view(np.uint8).copy(), new.view(np.uint8)
    pieces = list(changes.encode(described, [after], [before], [0], changes.Coder()))
    for piece in pieces:
        changes.apply(piece, described, [before], 1, True, lambda _: None)
    assert before.tobytes() == after.tobytes()
    return pieces


def test_few_changes_of_a_small_tensor_take_a_small_message() -> None:
    rng = np.random.default_rng(3)
    old = (rng.standard_normal(384).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    for count in (1, 6, 40):
        new = old.copy()
        new[rng.choice(384, count, replace=False)] += np.uint16(1)
        (piece,) = pieces_of("BF16", old, new)
        assert piece.coding == changes.FEW
        assert len(piece.payload) < 100 + 4 * count


def test_a_small_tensor_is_an_archive_where_that_takes_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = np.arange(384, dtype=np.uint16)
    new = old.copy()
    new[7] += np.uint16(1)
    monkeypatch.setattr(changes.few, "encode", lambda *_: bytes(1000))
    (piece,) = pieces_of("BF16", old, new)
    assert piece.coding == changes.BLOB
    assert len(piece.payload) < 1000


def test_many_unchanged_tensors_between_two_cost_nothing() -> None:
    count = 5000
    described = [Described(str(i), "BF16", (4096,)) for i in range(count)]
    one = np.full(4096, 0x3F80, np.uint16)
    changed_one = one.copy()
    changed_one[::500] += np.uint16(1)
    far = [0, 1, count - 1]
    before = [one.copy().view(np.uint8) if i in far else one.view(np.uint8) for i in range(count)]
    after = [(changed_one if i in far else one).view(np.uint8) for i in range(count)]
    pieces = list(changes.encode(described, after, before, far, changes.Coder()))
    assert [(piece.first, piece.count) for piece in pieces] == [(0, 2), (count - 1, 1)]
    assert sum(len(piece.payload) for piece in pieces) < 1000
    for piece in pieces:
        changes.apply(piece, described, before, 1, True, lambda _: None)
    assert all(before[i].tobytes() == after[i].tobytes() for i in far)


def blank() -> dict[str, np.ndarray]:
    return {name: np.zeros_like(value) for name, value in weights_at(0).items()}


def assert_same(found: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        one, other = np.asarray(found[name]), np.asarray(value)
        assert one.shape == other.shape and one.tobytes() == other.tobytes(), name


def set_to(model: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        model[name][...] = value


def publish(store, steps, **options) -> Publisher:
    model = weights_at(0)
    publisher = Publisher(model, store, wait=True, **options)
    for step in steps:
        set_to(model, weights_at(step))
        publisher.step(step)
    publisher.close()
    return publisher


def stores(tmp_path: Path):
    yield MemoryStore()
    yield FolderStore(tmp_path / "folder")
    yield UrlStore(f"memory://sync-{os.getpid()}-{tmp_path.name}")


def test_follows_by_every_store(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        model, target = weights_at(0), blank()
        subscriber = Subscriber(target, store)
        assert subscriber.update() == 0 and subscriber.number == -1
        with Publisher(model, store, wait=True, full_every=3) as publisher:
            for step in range(8):
                set_to(model, weights_at(step))
                assert publisher.step(step)
                publisher.wait()
                assert subscriber.update() == 1
                assert (subscriber.number, subscriber.step) == (step, step)
                assert subscriber.problem is None
                assert_same(target, model)
                subscriber.verify()
        late = blank()
        follower = Subscriber(late, store)
        follower.update()
        assert_same(late, model)
        names = store.names()
        assert sum(name.startswith("full") for name in names) == 2
        assert len(names) < 8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_folder_holds_only_files(tmp_path: Path) -> None:
    """A device has no end, and who opens a pipe waits for a writer."""
    store = FolderStore(tmp_path)
    os.symlink("/dev/zero", tmp_path / "full-0")
    os.mkfifo(tmp_path / "full-1")
    for name in ("full-0", "full-1"):
        with pytest.raises(FileError, match="no file"):
            store.get(name, 1 << 30)


def test_weights_that_there_is_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    with Publisher(torch.nn.Linear(8, 8), store) as publisher:
        publisher.step()

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(receivers.np, "zeros", no_memory)
    subscriber = Subscriber(None, store, receive=lambda tensors: None)
    assert subscriber.update() == 0
    assert isinstance(subscriber.problem, LimitError) and "no memory" in str(subscriber.problem)


def test_by_socket() -> None:
    store = MemoryStore()
    with StoreServer(store) as server:
        target = blank()
        subscriber = Subscriber(target, server.url)
        publish(store, range(3))
        subscriber.wait_for(2, timeout=20)
        assert_same(target, weights_at(2))
        client = SocketStore(server.url)
        with pytest.raises(FileError):
            client.put("full-000000000001", b"")
        with pytest.raises(ArgumentError):
            client.get("../secret", 10)
        assert client.get("full-000000009999", 1 << 20) is None
        with pytest.raises(FileError):
            client.get(messages.name_of(messages.FULL, 0), 10)
        client.close()
    with pytest.raises(FileError):
        SocketStore(server.url, timeout=1).names()


def test_answers_go_to_who_asked() -> None:
    """After an interrupt, and in a child that has its parent's connection."""
    store = MemoryStore()
    store.put("a", b"A" * 1000)
    store.put("b", b"B")
    with StoreServer(store) as server:
        client = SocketStore(server.url)
        assert client.get("b", 10) == b"B"
        with held_back(store), interrupted():
            client.get("a", 1000)
        assert client.get("b", 10) == b"B"
        assert client.names() == ["a", "b"]

        def ask(name: str, wanted: bytes) -> None:
            for _ in range(50):
                assert client.get(name, 1000) == wanted

        child = multiprocessing.get_context("fork").Process(target=ask, args=("a", b"A" * 1000))
        child.start()
        ask("b", b"B")
        child.join(30)
        assert child.exitcode == 0
        client.close()


@contextlib.contextmanager
def held_back(store: MemoryStore) -> Iterator[None]:
    """Lets the store answer only once the block has ended."""
    gate = threading.Event()
    get = store.get

    def waits(name: str, limit: int) -> bytes | None:
        gate.wait(60)
        return get(name, limit)

    store.get = waits  # type: ignore[method-assign]
    try:
        yield
    finally:
        gate.set()
        store.get = get  # type: ignore[method-assign]


def test_a_server_that_sends_garbage() -> None:
    def serve(listener: socket.socket, answer: bytes) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

    for answer in (b"", b"abc", struct.pack("<Q", 1 << 62), struct.pack("<Q", 5) + b"\xff" * 5):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            context = multiprocessing.get_context("fork")
            child = context.Process(target=serve, args=(listener, answer), daemon=True)
            child.start()
            subscriber = Subscriber(blank(), f"tcp://127.0.0.1:{listener.getsockname()[1]}")
            assert subscriber.update() == 0
            assert subscriber.problem is not None
            child.kill()
            child.join()


class Faulty:
    """A store that loses, damages, repeats and reorders what it is given."""

    def __init__(self, seed: int) -> None:
        self.inner = MemoryStore()
        self.random = random.Random(seed)
        self.faults = True
        self.held: list[tuple[str, bytes]] = []

    def put(self, name: str, data: bytes) -> None:
        self.held.append((name, data))
        if self.faults and self.random.random() < 0.4:  # later
            return
        self.random.shuffle(self.held)
        for held in self.held:
            if not (self.faults and self.random.random() < 0.2):  # never
                self.inner.put(*held)
        self.held = []

    def get(self, name: str, limit: int) -> bytes | None:
        data = self.inner.get(name, limit)
        if data is None or not self.faults:
            return data
        fault = self.random.random()
        if fault < 0.1:
            at = self.random.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :]
        if fault < 0.2:
            return data[: self.random.randrange(len(data))]
        if fault < 0.3:
            return self.inner.get(self.random.choice(self.inner.names()), limit)
        if fault < 0.35:
            raise FileError("no answer")
        return data

    def names(self) -> list[str]:
        return self.inner.names()

    def remove(self, name: str) -> None:
        if self.random.random() < 0.8:
            self.inner.remove(name)


@pytest.mark.parametrize("seed", range(4))
def test_stores_with_faults(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("densor.sync.subscriber._PAUSE", 0)
    store = Faulty(seed)
    model = weights_at(0)
    target, late = blank(), blank()
    followers = [(Subscriber(target, store), target), (Subscriber(late, store), late)]
    with Publisher(model, store, wait=True, full_every=5) as publisher:
        for step in range(30):
            set_to(model, weights_at(step))
            publisher.step(step)
            publisher.wait()
            for subscriber, weights in followers[: 1 + (step % 7 == 0)]:
                subscriber.update()
                if subscriber.number >= 0:
                    assert_same(weights, weights_at(subscriber.step))
        store.faults = False
        for step in range(30, 37):
            set_to(model, weights_at(step))
            publisher.step(step)
        publisher.wait()
    for subscriber, weights in followers:
        subscriber.update()
        assert subscriber.step == 36
        assert_same(weights, model)


def test_every_damaged_byte_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("densor.sync.subscriber._FETCHES", 1)
    store = MemoryStore()
    publish(store, range(2))
    target = blank()
    subscriber = Subscriber(target, store)
    name = messages.name_of(messages.CHANGE, 1)
    data = store.get(name, 1 << 30)
    assert data is not None
    store.remove(name)
    subscriber.update()
    assert_same(target, weights_at(0))
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        store.put(name, bytes(damaged))
        assert subscriber.update() == 0 and subscriber.problem is not None
    assert_same(target, weights_at(0))
    store.put(name, data)
    assert subscriber.update() == 1
    assert_same(target, weights_at(1))


def test_hostile_messages_with_right_checksums() -> None:
    """Bodies that were changed before the checksum was made: an error, and never a crash."""
    store = MemoryStore()
    publish(store, range(3))
    change = messages.parse(store.get(messages.name_of(messages.CHANGE, 1), 1 << 30) or b"")
    chance = random.Random(1)
    for round in range(60):
        body = bytearray(change.body)
        for _ in range(chance.randrange(1, 4)):
            body[chance.randrange(min(len(body), 400))] = chance.randrange(256)
        if round % 4 == 0:
            body = body[: chance.randrange(len(body))]
        bad = messages.Message(2, 1, 1, change.before, change.after, bytes(body))
        forged = MemoryStore()
        forged.put("full-000000000000", store.get("full-000000000000", 1 << 30) or b"")
        forged.put(bad.name, messages.pack(bad))
        target = blank()
        subscriber = Subscriber(target, forged)
        subscriber.update()
        assert_same(target, weights_at(subscriber.step))
        assert subscriber.step in (0, 1)
        subscriber.verify()


def test_no_thread_changes_weights_once_a_message_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever catches the error puts a full copy there."""
    described = [Described(name, "BF16", (4096,)) for name in "ab"]
    old = [np.full(4096, 0x3F80, np.uint16) for _ in described]
    new = [data.copy() for data in old]
    for data in new:
        data[::500] += np.uint16(1)
    before, after = ([data.view(np.uint8) for data in both] for both in (old, new))
    (piece,) = changes.encode(described, after, before, [0, 1], changes.Coder())
    assert piece.coding == changes.FEW
    both_began = threading.Barrier(2, timeout=20)
    ended = []

    def decode(_few: object, _stream: object, data: np.ndarray) -> None:
        both_began.wait()
        if np.shares_memory(data, before[0]):
            raise FormatError("the first is bad")
        time.sleep(0.3)
        ended.append(True)

    monkeypatch.setattr(changes.few.few_decoder, "apply", decode)
    with pytest.raises(FormatError, match="the first is bad"):
        changes.apply(piece, described, before, 2, True, lambda _: None)
    assert ended


def test_weights_that_were_changed_by_hand() -> None:
    store = MemoryStore()
    model, target = weights_at(0), blank()
    subscriber = Subscriber(target, store)
    with Publisher(model, store, wait=True) as publisher:
        for step in range(3):
            set_to(model, weights_at(step))
            publisher.step(step)
            publisher.wait()
            subscriber.update()
            target["a.weight"][3, 3] ^= 1
            with pytest.raises(DensorError):
                subscriber.verify()
            subscriber.update()
            assert_same(target, model)
            target["a.weight"][3, 3] ^= 1
    assert subscriber.update() == 0  # nothing new, and nobody looked


def test_a_publisher_that_starts_again() -> None:
    store = MemoryStore()
    publish(store, range(3))
    target = blank()
    subscriber = Subscriber(target, store)
    subscriber.update()
    again = publish(store, range(1, 3))
    assert again.number == 4
    assert subscriber.update() == 2
    assert_same(target, weights_at(2))


def test_weights_amid_which_a_message_failed_have_no_number() -> None:
    store = MemoryStore()
    publish(store, range(3), full_every=2)
    target = blank()
    subscriber = Subscriber(target, store)
    assert subscriber.update() > 0 and (subscriber.number, subscriber.step) == (2, 2)
    for name in store.names():
        store.remove(name)
    publish(store, range(1, 2))
    good = store.get("full-000000000000", 1 << 30)
    assert good is not None
    found = messages.parse(good)
    forged = messages.Message(found.kind, 3, 3, found.before, b"?" * 16, found.body)
    store.put(forged.name, messages.pack(forged))
    assert subscriber.update() == 1  # the other one, once this one has failed
    assert (subscriber.number, subscriber.step) == (0, 1)
    assert_same(target, weights_at(1))
    store.remove("full-000000000000")
    assert subscriber.update() == 0
    assert (subscriber.number, subscriber.step) == (-1, -1)
    with pytest.raises(ChecksumError):
        subscriber.verify()


def test_a_training_that_begins_anew_is_a_problem() -> None:
    store = MemoryStore()
    publish(store, range(3))
    subscriber = Subscriber(blank(), store)
    subscriber.update()
    assert subscriber.problem is None
    for name in store.names():
        store.remove(name)
    assert subscriber.update() == 0 and subscriber.problem is None  # nothing is there yet
    publish(store, range(1))
    assert subscriber.update() == 0
    assert "the latest message is 0, the weights are those of 2" in str(subscriber.problem)


def test_a_model_that_gets_other_tensors_follows_on() -> None:
    store = MemoryStore()
    trained, served = torch.nn.Linear(9, 5), torch.nn.Linear(9, 5)
    subscriber = Subscriber(served, store)
    with Publisher(trained, store, wait=True) as publisher:
        for step in range(3):
            with torch.no_grad():
                trained.weight[1, step] += 1
            publisher.publish(step, wait=True)
            publisher.wait()
            assert subscriber.update() > 0
            assert torch.equal(served.weight, trained.weight)
            assert subscriber.number == step
            if step == 0:
                served.weight = torch.nn.Parameter(torch.zeros(5, 9))
                with pytest.raises(ChecksumError, match="other tensors"):
                    subscriber.verify()
            else:
                subscriber.verify()
                served.double().float()  # another memory behind the same parameters


def test_tensors_that_a_model_gets_later_do_not_matter() -> None:
    store, target = MemoryStore(), blank()
    with Publisher(weights_at(0), store, wait=True) as publisher:
        publisher.step(0)
        subscriber = Subscriber(target, store)
        publisher.wait()
        assert subscriber.update() == 1
        target["later"] = np.zeros(3)
        publisher.step(1)
        publisher.wait()
        assert subscriber.update() == 1 and subscriber.problem is None


class Broken(MemoryStore):
    fails = False

    def put(self, name: str, data: bytes) -> None:
        if self.fails:
            raise FileError("disk is full")
        super().put(name, data)


def test_failures_are_raised_at_the_next_step() -> None:
    store = Broken()
    model, target = weights_at(0), blank()
    publisher = Publisher(model, store, wait=True)
    publisher.step(0)
    publisher.wait()
    store.fails = True
    set_to(model, weights_at(1))
    publisher.step(1)
    with pytest.raises(FileError, match="disk is full"):
        publisher.step(2)
    store.fails = False
    set_to(model, weights_at(3))
    publisher.step(3)
    publisher.close()
    subscriber = Subscriber(target, store)
    subscriber.update()
    assert subscriber.step == 3
    assert_same(target, model)


def test_what_is_due_while_coding_is_left_out() -> None:
    class Slow(MemoryStore):
        def put(self, name: str, data: bytes) -> None:
            time.sleep(0.2)
            super().put(name, data)

    store, model, target = Slow(), weights_at(0), blank()
    publisher = Publisher(model, store, every=2)
    taken = []
    for step in range(6):
        set_to(model, weights_at(step))
        taken.append(publisher.step(step))
    assert taken[0] and not any(taken[1:])
    assert publisher.publish(6, wait=True)
    publisher.close()
    subscriber = Subscriber(target, store)
    subscriber.update()
    assert_same(target, model)


def tensors(*shapes, dtype=torch.bfloat16, seed=0):
    torch.manual_seed(seed)
    return {f"{name}.weight": torch.randn(shape).to(dtype) for name, shape in shapes}


def test_an_interrupt_while_waiting_tears_no_message() -> None:
    gate = threading.Event()

    class Gated(MemoryStore):
        def put(self, name: str, data: bytes) -> None:
            gate.wait(60)
            super().put(name, data)

    store = Gated()
    weights = {"w": np.zeros(4096, np.float32)}
    with Publisher(weights, store) as publisher:
        assert publisher.step()
        with interrupted():
            publisher.wait()
        weights["w"][:] = 1
        assert not publisher.step()  # its memory is still in use
        gate.set()
        publisher.wait()
        found = {"w": np.ones(4096, np.float32)}
        Subscriber(found, store).update()
        assert not found["w"].any()
        assert publisher.step()


def test_modules_tied_and_strided() -> None:
    def module(tied=True):
        found = torch.nn.Sequential(
            torch.nn.Embedding(50, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 50)
        )
        if tied:
            found[2].weight = found[0].weight
        return found.bfloat16()

    source, same, untied = module(), module(), module(False)
    untied[1].weight.data = untied[1].weight.data.T.contiguous().T
    store = MemoryStore()
    followers = [(m, Subscriber(m, store)) for m in (same, untied)]
    pointers = [p.data_ptr() for p in same.parameters()]
    with Publisher(source, store, wait=True) as publisher:
        for _ in range(3):
            with torch.no_grad():
                for p in source.parameters():
                    p.add_(0.01)
            publisher.step()
            publisher.wait()
            for model, subscriber in followers:
                subscriber.update()
                for name, value in source.state_dict().items():
                    assert torch.equal(model.state_dict()[name], value), name
    assert pointers == [p.data_ptr() for p in same.parameters()]


def test_other_dtypes_fused_and_sharded() -> None:
    names = [("q", (8, 16)), ("k", (4, 16)), ("v", (4, 16)), ("up", (12, 16))]
    masters = tensors(*names, dtype=torch.float32)
    store = MemoryStore()
    engine = {"qkv.weight": torch.zeros(16, 16).half(), "up.weight": torch.zeros(6, 16).bfloat16()}
    subscriber = Subscriber(
        engine,
        store,
        fused={"qkv.weight": ("q.weight", "k.weight", "v.weight")},
        shards={"up.weight": (0, 6)},
    )
    received: dict[str, torch.Tensor] = {}
    listener = Subscriber(
        None, store, receive=lambda items: received.update((n, t.clone()) for n, t in items)
    )
    with Publisher(masters, store, dtype="bf16", wait=True) as publisher:
        for _ in range(3):
            for value in masters.values():
                value.mul_(1.01)
            publisher.step()
            publisher.wait()
            subscriber.update()
            listener.update()
            sent = {name: value.bfloat16() for name, value in masters.items()}
            joined = torch.cat([sent[f"{name}.weight"] for name in "qkv"]).half()
            assert torch.equal(engine["qkv.weight"], joined)
            assert torch.equal(engine["up.weight"], sent["up.weight"][6:])
            assert all(torch.equal(received[name], value) for name, value in sent.items())


def test_tensors_are_received_from_a_folder(tmp_path: Path) -> None:
    """Nothing says how large messages may be there."""
    masters = tensors(("a", (40, 16)), ("b", (3, 5)), dtype=torch.float32)
    received: list[str] = []
    listener = Subscriber(
        None, tmp_path, receive=lambda items: received.extend(n for n, _ in items)
    )
    with pytest.raises(ChecksumError):
        listener.tensors()
    with Publisher(masters, tmp_path, wait=True) as publisher:
        for changed in (["a.weight", "b.weight"], ["b.weight"]):
            masters["b.weight"].add_(1)
            publisher.step()
            publisher.wait()
            assert listener.update() == 1 and listener.problem is None
            assert sorted(received) == changed
            received.clear()
            found = dict(listener.tensors())
            assert all(torch.equal(found[name], value) for name, value in masters.items())


def test_models_that_do_not_fit() -> None:
    store = MemoryStore()
    publish(store, range(1))
    for change in (
        lambda m: m.pop("c"),
        lambda m: m.update(c=np.zeros((5, 33), np.float32)),
        lambda m: m.update(d=np.zeros(3, np.float32)),
    ):
        target = blank()
        change(target)
        with pytest.raises(ArgumentError):
            Subscriber(target, store).update()
        with pytest.raises(ArgumentError):
            Subscriber(target, store, shards={"c": (0, 30)}).update()
    with pytest.raises(ArgumentError):
        Publisher({"x": np.array([1], ">u2")}, store)
    with pytest.raises(ArgumentError):
        Publisher({}, store)
    with pytest.raises(ArgumentError):
        Subscriber(None, store)
    with pytest.raises(ArgumentError):
        Publisher(blank(), object())


def _publish_for_ever(folder: str) -> None:
    store = FolderStore(folder)
    model = weights_at(0)
    publisher = Publisher(model, store, wait=True, full_every=4)
    for step in range(1, 200):
        set_to(model, weights_at(step % 40))
        publisher.step(step % 40)


def _apply_for_ever(folder: str, weights: str) -> None:
    memory = np.memmap(weights, np.uint8, "r+")
    target = over(memory)
    for _ in range(1000):
        Subscriber(target, folder).update()


def over(memory: np.ndarray) -> dict[str, np.ndarray]:
    """The weights in a stretch of memory."""
    found, at = {}, 0
    for name, like in blank().items():
        part = memory[at : at + like.nbytes]
        found[name] = np.ndarray(like.shape, like.dtype, part if like.nbytes else b"")
        at += -(-like.nbytes // 64) * 64
    return found


def _killed(work, arguments, seconds: float, until=lambda: True) -> None:
    """Runs in another process, which is killed after some time, but not before `until` holds."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    time.sleep(seconds)
    while not until():
        assert child.is_alive()
        time.sleep(0.001)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def _sent(folder: Path) -> set[str]:
    """Names of what was published."""
    return {name for name in os.listdir(folder) if not name.endswith(".tmp")}


def _kill_publishers(folder: Path, moments: int) -> None:
    publish(FolderStore(folder), range(2))  # compiled, loaded, warm
    chance = random.Random(moments)
    living = blank()
    subscriber = Subscriber(living, folder)
    for moment in range(moments):
        before = _sent(folder)
        until = lambda: moment % 2 or _sent(folder) - before  # noqa: B023, E731
        _killed(_publish_for_ever, (str(folder),), chance.uniform(0.005, 0.15), until)
        subscriber.update()
        assert_same(living, weights_at(subscriber.step))
        late = blank()
        follower = Subscriber(late, folder)
        follower.update()
        assert follower.number >= subscriber.number >= 0
        assert_same(late, weights_at(follower.step))
    assert subscriber.number > moments // 2
    publish(FolderStore(folder), [7])
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]
    subscriber.update()
    assert_same(living, weights_at(7))


def _kill_subscribers(folder: Path, moments: int) -> None:
    publish(FolderStore(folder / "store"), range(6))
    size = sum(-(-value.nbytes // 64) * 64 for value in blank().values())
    path = folder / "weights"
    path.write_bytes(bytes(size))
    chance = random.Random(moments)
    for _ in range(moments):
        _killed(_apply_for_ever, (str(folder / "store"), str(path)), chance.uniform(0.003, 0.06))
        target = over(np.memmap(path, np.uint8, "r+"))
        subscriber = Subscriber(target, folder / "store")
        subscriber.update()
        assert_same(target, weights_at(5))


def test_killed_publishers(tmp_path: Path) -> None:
    _kill_publishers(tmp_path, 8)


def test_killed_subscribers(tmp_path: Path) -> None:
    _kill_subscribers(tmp_path, 8)


@pytest.mark.slow
def test_killed_at_a_hundred_moments(tmp_path: Path) -> None:
    _kill_publishers(tmp_path / "a", 100)
    _kill_subscribers(tmp_path, 100)


def test_messages_name_themselves() -> None:
    for name in ("full-1", "full-00000000000x", "change-", "other-000000000001", "full-0" * 20):
        assert messages.number_of(name, messages.FULL) is None
    assert messages.number_of("change-000000000012", messages.CHANGE) == 12
    assert densor.sync is not None


def test_waits_for_exactly_one_message() -> None:
    store, target = MemoryStore(), blank()
    publish(store, range(6), full_every=2)
    subscriber = Subscriber(target, store)
    subscriber.wait_for(3, exactly=True)
    assert subscriber.number == 3
    assert_same(target, weights_at(3))
    assert subscriber.update(4) == 1 and subscriber.number == 4
    with pytest.raises(ArgumentError, match="message 4, after 3"):
        subscriber.wait_for(3, exactly=True)
    subscriber.wait_for(3)
    assert subscriber.number == 5
    with pytest.raises(FileError):
        subscriber.wait_for(6, timeout=0, exactly=True)


def test_views_are_published_as_their_numbers_and_what_has_none_is_refused(tmp_path: Path) -> None:
    numbers = torch.randn(9, 5, dtype=torch.complex64)
    weights = {"conj": numbers.conj(), "neg": numbers.conj().imag, "all": torch._neg_view(numbers)}
    with Publisher(weights, tmp_path, wait=True) as publisher:
        publisher.publish()
        publisher.wait()
        targets = {name: torch.zeros_like(tensor.clone()) for name, tensor in weights.items()}
        targets["conj"] = targets["conj"].conj()
        assert Subscriber(targets, tmp_path).update() == 1
        for name, tensor in weights.items():
            assert torch.equal(targets[name].resolve_conj(), tensor.resolve_conj().resolve_neg())
    freed = torch.ones(1000)
    freed.untyped_storage().resize_(0)
    masked = np.ma.masked_less(np.arange(9.0), 3)
    for odd in (freed, torch.eye(3).to_sparse(), torch.zeros(3, device="meta"), masked):
        with pytest.raises(ArgumentError), Publisher({"odd": odd}, tmp_path, wait=True) as other:
            other.publish()


def test_tensors_are_copied_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, whatever their sizes, and none of one that is there no more."""
    monkeypatch.setattr(sync_weights, "thread_count", lambda _: 4)
    monkeypatch.setattr(sync_weights, "_MIN_SHARED", 1 << 10)
    for sizes in ((9000,), (0, 5, 7000, 0, 3), tuple(range(400)), (1, 20_000, 1)):
        model = {f"{i:03}": np.full(size, i, np.int32) for i, size in enumerate(sizes)}
        table = sync_weights.table_of(model)
        copy = sync_weights.Copy(table)
        parts = [(model[d.name], d, data) for d, data in zip(table.tensors, copy.data, strict=True)]
        sync_weights.copy_all(parts)
        assert all(data.tobytes() == model[d.name].tobytes() for _, d, data in parts)
    (first, described, data), *others = parts
    with pytest.raises(ArgumentError, match="cast"):
        sync_weights.copy_all([*others, (first.astype(np.int64), described, data)])
