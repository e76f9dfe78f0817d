"""States in memory: a ring of the last ones, and parity across ranks."""

import contextlib
import datetime
import itertools
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from densor.errors import ArgumentError, ChecksumError, FormatError, LimitError

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

from densor.torch import (  # noqa: E402
    RankParity,
    Snapshots,
    pack_snapshot,
)
from densor.torch.stripes import Stripes  # noqa: E402


def state_of(step: int):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 200, generator=generator).bfloat16()
    weight.view(torch.int16).view(-1)[:: 500 - step] += step
    odd = torch.tensor([float("nan"), -0.0, float(step)])
    return {
        "model": {"w": weight, "t": weight.t(), "empty": torch.zeros(0, 3), "odd": odd},
        "optimizer": [{"lr": 0.1 * step, "betas": (0.9, 0.95)}, torch.tensor(step)],
        "name": b"\x89bytes",
    }


def assert_same(one, other) -> None:
    left, right = (torch.utils._pytree.tree_flatten(state) for state in (one, other))
    assert left[1] == right[1]
    for a, b in zip(left[0], right[0], strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert torch.equal(
                a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)
            )
        else:
            assert a == b


def test_the_last_states_come_back() -> None:
    with Snapshots(last=3) as snapshots:
        with pytest.raises(ArgumentError):
            snapshots.load()
        for step in range(6):
            state = state_of(step)
            snapshots.take(state, step)
            state["model"]["w"].zero_()  # the training goes on
            state["optimizer"][0]["lr"] = -1
            kept = list(range(max(0, step - 2), step + 1))
            assert snapshots.steps() == kept
            for one in kept:
                assert_same(snapshots.load(one), state_of(one))
        found = snapshots.load()
        assert_same(found, state_of(5))
        found["model"]["w"].zero_()
        assert_same(snapshots.load(), state_of(5))
        assert 0 < snapshots.packed_bytes < 0.1 * 2 * state_of(0)["model"]["w"].nbytes
        with pytest.raises(ArgumentError):
            snapshots.load(1)
        with pytest.raises(ArgumentError):
            snapshots.take(state_of(5), 5)
    with pytest.raises(ArgumentError):
        Snapshots(last=0)


def test_states_of_another_form() -> None:
    with Snapshots(last=4) as snapshots:
        states = [
            {"a": torch.ones(5), "b": torch.zeros(700)},
            {"a": torch.ones(6), "b": torch.zeros(700).half()},
            {"a": torch.ones(6)},
            [torch.ones(6).to_sparse(), "text"],
        ]
        for step, state in enumerate(states):
            snapshots.take(state, step)
        for step, state in enumerate(states[:3]):
            assert_same(snapshots.load(step), state)
        assert snapshots.load(3)[0].to_dense().sum() == 6


def test_coding_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import densor

    with Snapshots() as snapshots:
        snapshots.take(state_of(0), 0)
        with monkeypatch.context() as patched:
            patched.setattr(densor, "compress", lambda *_, **__: 1 / 0)
            snapshots.take(state_of(1), 1)
            with pytest.raises(ZeroDivisionError):
                snapshots.wait()
        assert snapshots.steps() == [1]
        snapshots.take(state_of(2), 2)
        assert snapshots.steps() == [1, 2]
        assert_same(snapshots.load(1), state_of(1))


def join(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=60),
    )


def change_known(parity: RankParity, **changes) -> None:
    (held,) = parity._held
    parity._held = [held._replace(known=held.known._replace(**changes))]


def check_parity(rank: int, ranks: int, folder: str) -> None:
    join(rank, ranks, folder)
    for lost, gone in ((1, [0]), (1, [2]), (2, [0, 1]), (2, [1, 3]), (3, [0, 2, 3]), (1, [])):
        data = pack_snapshot({"w": torch.arange(50 * rank + 1), "rank": rank}, 7)
        data = b"" if rank == 1 and lost == 1 else data
        parity = RankParity(lost=lost)
        parity.protect(data, 7)
        if rank in gone:
            parity = RankParity(lost=lost)  # as a process that took the place of another
        assert parity.recover() == data
    parity = RankParity()
    parity.protect(b"x" * rank, 1)
    with pytest.raises(ArgumentError, match="rounds"):
        parity.protect(b"y", 2 + rank % 2)
    assert parity.recover() == b"x" * rank
    if rank < 2:
        parity = RankParity()
    with pytest.raises(ChecksumError, match="2 of 4"):
        parity.recover()
    parity = RankParity()
    parity.protect(b"x", 1)
    if rank < 2:  # one more than may be lost
        change_known(parity, number=2)
    with pytest.raises(ChecksumError, match="different rounds"):
        parity.recover()
    parity = RankParity()
    parity.protect(b"x", 1)
    if rank == 3:
        change_known(parity, sizes=[1, 1, 1, 2**50])
    with pytest.raises(FormatError, match="impossible number"):
        parity.recover()
    parity = RankParity()
    parity.protect(b"x", 1)
    with contextlib.ExitStack() as stack:
        if rank == 1:  # all know of it, and none waits
            for name in ("empty", "zeros"):
                stack.enter_context(mock.patch.object(np, name, side_effect=MemoryError))
        with pytest.raises(LimitError, match=r"not enough memory .* ranks \[1\]"):
            parity.protect(b"y", 2)
        with pytest.raises(LimitError, match=r"not enough memory .* ranks \[1\]"):
            parity.recover()
    assert parity.recover() == b"x"
    if rank == 2:
        parity._held = [parity._held[0]._replace(data=b"z")]
    with pytest.raises(ChecksumError, match=r"ranks \[2\]"):
        parity.recover()
    with pytest.raises(ArgumentError):
        RankParity(lost=4)
    dist.destroy_process_group()


def test_bytes_of_lost_ranks_come_back(tmp_path: Path) -> None:
    pytest.importorskip("zfec")
    mp.spawn(check_parity, (4, str(tmp_path)), 4)


def data_of(rank: int, number: int) -> bytes:
    return bytes([16 * rank + number]) * (100 + rank)


def die_at(parity: RankParity, gather: int) -> None:
    """Closes the connections at a gather, or at the barrier after the last."""
    calls, gathered, barrier = itertools.count(), parity._gathered, dist.barrier

    def ends(call):
        def called(*given, **named):
            if next(calls) == gather:
                raise InterruptedError
            return call(*given, **named)

        return called

    parity._gathered, dist.barrier = ends(gathered), ends(barrier)
    try:
        with pytest.raises(InterruptedError):
            parity.protect(data_of(2, 2), 2)
    finally:
        dist.barrier = barrier


def check_deaths(rank: int, ranks: int, folder: str) -> None:
    for gather in range(ranks + 1):
        before, after = (Path(folder) / f"{gather}{i}" for i in range(2))
        before.mkdir(exist_ok=True)
        after.mkdir(exist_ok=True)
        join(rank, ranks, str(before))
        parity = RankParity()
        parity.protect(data_of(rank, 1), 1)
        assert len(parity._held) == 1
        if rank == 2:
            die_at(parity, gather)
            parity = None
        else:
            with pytest.raises(RuntimeError):
                parity.protect(data_of(rank, 2), 2)
            assert parity._held[-1].data == data_of(rank, 1)
        dist.destroy_process_group()
        join(rank, ranks, str(after))
        parity = parity or RankParity()
        # at the barrier all others have round 2, before it not all of them
        assert parity.recover() == data_of(rank, 2 if gather == ranks else 1)
        dist.destroy_process_group()


def test_a_death_within_protect_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("zfec")
    mp.spawn(check_deaths, (4, str(tmp_path)), 4)


@pytest.mark.parametrize(
    "fault", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_blocks_without_memory(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise fault

    parity = object.__new__(RankParity)
    parity._group, parity._rank, parity._stripes = None, 0, Stripes(2, 1)
    for place, name in ((np, "require"), (torch, "empty_like"), (dist, "gather")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, fails)
            patched.setattr(dist, "gather", fails)
            with pytest.raises(LimitError, match="not enough memory"):
                parity._gathered(np.zeros(9, np.uint8), 0)


def test_states_that_were_not_coded_are_not_there() -> None:
    """As after an interrupt between the copy and its coding: older ones do not lead on."""
    with Snapshots(last=4) as snapshots:
        for step in range(3):
            snapshots.take(state_of(step), step)
        snapshots.wait()
        cut_off = mock.patch.object(snapshots._beside, "submit", side_effect=KeyboardInterrupt)
        with cut_off, pytest.raises(KeyboardInterrupt):
            snapshots.take(state_of(3), 3)
        assert snapshots.steps() == [3]
        snapshots.take(state_of(4), 4)
        assert snapshots.steps() == [3, 4]
        for step in (3, 4):
            assert_same(snapshots.load(step), state_of(step))


def test_a_state_that_cannot_be_copied_harms_no_other() -> None:
    with Snapshots(last=4) as snapshots:
        for step in range(2):
            snapshots.take({"w": torch.full((1000,), float(step))}, step)
        with pytest.raises(TypeError):
            snapshots.take({"w": torch.full((1000,), 2.0), "x": threading.Lock()}, 2)
        snapshots.take({"w": torch.full((1000,), 3.0)}, 3)
        assert [snapshots.load(step)["w"][0].item() for step in snapshots.steps()] == [0, 1, 3]
