"""The serde for LMCache, with its own objects and threads, where it is installed."""

import contextlib
import select

import pytest

from densor.errors import ArgumentError, DensorError

torch = pytest.importorskip("torch")
serde = pytest.importorskip("lmcache.v1.distributed.serde")

from lmcache.v1.distributed.api import MemoryLayoutDesc  # noqa: E402
from lmcache.v1.memory_management import (  # noqa: E402
    MemoryFormat,
    MemoryObjMetadata,
    TensorMemoryObj,
)

from densor.integrations.lmcache import (  # noqa: E402
    DensorDeserializer,
    DensorSerializer,
    register,
)

SHAPE = (2, 3, 64, 4 * 16)  # keys and values, layers, tokens, heads * channels


def memory(shapes, dtypes, form=MemoryFormat.KV_2LTD):
    size = sum(torch.Size(s).numel() * d.itemsize for s, d in zip(shapes, dtypes, strict=True))
    shapes = [torch.Size(shape) for shape in shapes]
    meta = MemoryObjMetadata(
        shapes[0], dtypes[0], 0, size, 1, fmt=form, shapes=shapes, dtypes=list(dtypes)
    )
    return TensorMemoryObj(torch.zeros(size, dtype=torch.uint8), meta, None)


def objects(kind: str):
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(SHAPE, generator=generator) + 3 * torch.randn(64, generator=generator)
    if kind == "noise":
        values = torch.randint(0, 1 << 30, SHAPE, generator=generator).float()
        shapes, dtypes, data = [SHAPE], [torch.uint8], [values.to(torch.uint8)]
    elif kind == "groups":
        shapes, dtypes = [SHAPE, (1, 5, 64)], [torch.float16, torch.bfloat16]
        data = [values.half(), torch.zeros(1, 5, 64).bfloat16()]
    else:
        dtype = torch.float16 if kind == "half" else torch.bfloat16
        shapes, dtypes, data = [SHAPE], [dtype], [values.to(dtype)]
    found = memory(shapes, dtypes)
    for i, tensor in enumerate(data):
        found.get_tensor(i).copy_(tensor)
    if kind != "noise":
        found.get_tensor(0).view(-1)[:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    return found, MemoryLayoutDesc([torch.Size(s) for s in shapes], dtypes)


@pytest.mark.parametrize("kind", ["noise", "groups", "half", "bf16"])
@pytest.mark.parametrize("options", [{}, {"head_size": 16, "rope_theta": 1e4}, {"head_size": 7}])
def test_objects_come_back(kind: str, options: dict) -> None:
    serializer = DensorSerializer(**options)
    source, layout = objects(kind)
    room = memory([(serializer.estimate_serialized_size(layout),)], [torch.uint8])
    size = serializer.serialize(source, room, None)
    room.set_used_size(size)
    assert size <= room.get_physical_size()
    assert kind == "noise" or size < 0.9 * source.get_size()
    target = memory(layout.shapes, layout.dtypes)
    DensorDeserializer().deserialize(room, target, None)
    assert torch.equal(target.raw_data, source.raw_data)


def test_damaged_objects_are_refused() -> None:
    import xxhash

    serializer = DensorSerializer(head_size=16)
    source, layout = objects("bf16")
    room = memory([(serializer.estimate_serialized_size(layout),)], [torch.uint8])
    size = serializer.serialize(source, room, None)
    whole = bytes(room.byte_array[:size])
    target = memory(layout.shapes, layout.dtypes)
    other = memory([(2, 3, 64, 32)], [torch.bfloat16])
    generator = torch.Generator().manual_seed(0)

    def give(data: bytes, to) -> None:
        held = memory([(len(data),)], [torch.uint8])
        held.raw_data.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        DensorDeserializer().deserialize(held, to, None)

    give(whole, target)
    with pytest.raises(DensorError):
        give(whole, other)
    for cut in (1, 19, 25, size // 2, size - 1):
        with pytest.raises(DensorError):
            give(whole[:cut], target)
        body = whole[:cut]
        with pytest.raises(DensorError):
            give(body + xxhash.xxh3_128_digest(body), target)
    for at in torch.randint(0, size, (60,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 64
        with pytest.raises(DensorError):
            give(bytes(damaged), target)
        body = bytes(damaged[:-16])  # as an attacker would write it: refused, or other values
        with contextlib.suppress(DensorError):
            give(body + xxhash.xxh3_128_digest(body), target)
    with pytest.raises(ArgumentError):
        DensorSerializer(head_size=0)


def test_lmcache_makes_it_of_its_configuration() -> None:
    register()
    register()
    options = {"level": 1, "head_size": 16, "max_workers": 2}
    processor = serde.create_serde_processor(serde.SerdeConfig("densor", options))
    try:
        source, layout = objects("bf16")
        room = memory([(processor.estimate_serialized_size(layout),)], [torch.uint8])
        target = memory(layout.shapes, layout.dtypes)

        def done(event: int, query, task) -> bool:
            poller = select.poll()
            poller.register(event, select.POLLIN)
            assert poller.poll(60_000)
            return query(task)

        task = processor.submit_serialize([source], [room], [None])
        assert done(processor.get_serialize_event_fd(), processor.query_serialize_result, task)
        assert room.get_size() < 0.9 * source.get_size()
        task = processor.submit_deserialize([room], [target], [None])
        event = processor.get_deserialize_event_fd()
        assert done(event, processor.query_deserialize_result, task)
        assert torch.equal(target.raw_data, source.raw_data)
    finally:
        processor.close()
