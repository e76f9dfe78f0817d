"""Modules whose weights stay packed in memory, decoded block by block.

Every transformer block is decoded just before its forward pass, into a buffer that the next but one
uses again, while the block after it is decoded ahead by other threads (the scheme of DFloat11,
arXiv 2504.11651). Weights outside blocks are decoded with the module that holds them; of an
embedding only the rows that are looked up.

On a device, the packed weights of a block are a `densor.gpu.Block` in its memory, and are decoded
there on a stream of their own. An embedding is decoded as a whole: to choose stretches of it, the
host would have to wait for the indices.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from torch import nn

from densor.codec.levels import level_settings
from densor.errors import ArgumentError, DensorError, UnsupportedError
from densor.formats.container.packed_array import PackedArray
from densor.runtime.arguments import need
from densor.runtime.buffers import POOL
from densor.runtime.workers import Workers, thread_count
from densor.torch.device import Device, DeviceArray, open_device
from densor.torch.loads import Blocks, DeviceLoad, HostLoad, Load, advise, aligned
from densor.torch.packed import (
    DEFAULT_LEVEL,
    Cell,
    PackedTensor,
    can_pack,
    from_packed,
    outside_graphs,
    over_cell,
    pack_tensor,
    placed,
)
from densor.torch.products import How, pack_products, packed_parts, unpack_products

_MIN_PACKED_BYTES = 1 << 14  # bytes of a weight that is worth packing
_MIN_ON_DEVICE = 1 << 18  # there tables of 16 KB come on top
_MAX_PACKED_SHARE = 0.97  # what a packed weight may take of the plain one
_OWN_SHARE = 0.25  # a module that holds more of the weights within it than this is one unit
_KEPT_BLOCK = 0.5  # a block whose inner blocks hold more of its weights than this is taken apart


class _Slot(NamedTuple):
    """Where a module holds a packed parameter."""

    module: nn.Module
    name: str


class Memory(NamedTuple):
    """Bytes of the parameters of a module: `packed` as they are kept, `plain` unpacked."""

    packed: int
    plain: int

    @property
    def ratio(self) -> float:
        """Size of the packed parameters as a share of the plain ones."""
        return self.packed / self.plain if self.plain else 1.0


def memory_of(module: nn.Module) -> Memory:
    """What the parameters of a module take; shared ones are counted once."""
    need(module, nn.Module, "module")
    packed = plain = 0
    weights = {id(part.packed_weight): part.packed_weight for part in packed_parts(module)}
    for weight in weights.values():
        plain += weight.nbytes
        packed += weight.matrix.nbytes
    for parameter in module.parameters():
        plain += parameter.nbytes
        packed += parameter.stored if isinstance(parameter, PackedTensor) else parameter.nbytes
    return Memory(packed, plain)


class Runtime:
    """The buffers and threads that the units of one model share."""

    def __init__(
        self,
        threads: int = 0,
        ahead: bool = True,
        device: Device | None = None,
        keep: bool = False,
    ) -> None:
        self.threads = threads
        self.ahead = ahead
        self.device = device
        self.keep = keep  # buffers, between passes
        self._can_look_ahead = ahead and (device is not None or thread_count(threads) > 1)
        self.lock = threading.Condition(threading.RLock())
        self._free: list[Any] = []  # buffers
        self._last: Unit | None = None
        self._coming: tuple[Unit, Load] | None = None
        self._running: list[int] = []  # threads

    def __getstate__(self) -> dict[str, Any]:
        names = ("threads", "ahead", "device", "keep")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @outside_graphs
    def enter(self, module: nn.Module, args: Any) -> None:
        """Before the forward pass of the whole model."""
        thread = threading.get_ident()
        with self.lock:
            self._running = [other for other in self._running if other != thread]  # interrupted
            if not self._running:
                self._last = None
            self._running.append(thread)

    @outside_graphs
    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After it: gives all buffers back to the system.

        Those of a device are kept: they are needed again, at the same place in each pass so that
        it can be captured in a CUDA graph.
        """
        thread = threading.get_ident()
        with self.lock:
            self._running = [other for other in self._running if other != thread]
            if not self._running:
                self._drop_coming()
                if self.device is None:
                    if not self.keep:
                        self._free.clear()
                else:
                    self.device.join()  # what the last `follow` started must not outlive the pass
                    self._free.sort(key=lambda buffer: int(buffer.data_ptr()))
                self._last = None

    def begin_load(self, cells: list[Cell], blocks: Blocks) -> Load:
        """Starts decoding weights into one buffer. `blocks`: of their unit."""
        size = sum(aligned(cell.packed.size) for cell in cells)
        if self.device is None:
            return HostLoad(cells, self._take(size), Workers(self.threads))
        return DeviceLoad(cells, self._take(size), self.device, blocks)

    def _take(self, size: int) -> Any:
        """A buffer of at least `size` bytes."""
        fitting = [buffer for buffer in self._free if buffer.nbytes >= size]
        if fitting:
            best = min(fitting, key=lambda buffer: int(buffer.nbytes))
            self._free = [buffer for buffer in self._free if buffer is not best]
            return best
        on_gpu = self.device is not None and self.device.place.type == "cuda"
        if on_gpu and torch.cuda.is_current_stream_capturing():
            raise UnsupportedError(
                "a CUDA graph needs a pass of the same kind before it is captured"
            )
        self._free.clear()
        return np.empty(size, np.uint8) if self.device is None else self.device.memory(size)

    def give(self, buffer: Any) -> None:
        """Takes a buffer back that is no longer in use."""
        self._free.append(buffer)

    def follow(self) -> None:
        """Work of this thread on decoded weights has been started; its buffer waits for it."""
        if self.device is not None:
            self.device.follow()

    def load(self, unit: "Unit") -> Load:
        """The load of a unit: the one that was begun ahead, or a new one."""
        if self._last is not None and self._last is not unit:
            self._last.next = unit
        self._last = unit
        if self._coming is not None and self._coming[0] is unit:
            load = self._coming[1]
            self._coming = None
            return load
        self._drop_coming()
        return unit.begin_load()

    def look_ahead(self, unit: "Unit") -> None:
        """Begins to decode the unit that came after this one last time."""
        coming = unit.next
        if (
            self._can_look_ahead
            and self._coming is None
            and coming is not None
            and not coming.users
        ):
            self._coming = coming, coming.begin_load()
            if coming.next is not None and not coming.next.users:
                advise(coming.next.cells())

    def _drop_coming(self) -> None:
        if self._coming is not None:
            load = self._coming[1]
            self._coming = None
            load.cancel()
            self.give(load.buffer)


class Unit:
    """A block, or a module outside all blocks, whose weights are decoded together.

    `deep`: also those of the modules within.
    """

    def __init__(self, module: nn.Module, runtime: Runtime, deep: bool) -> None:
        self.module = module
        self.runtime = runtime
        self.deep = deep
        self._begin()

    def _begin(self) -> None:
        self.users: list[int] = []  # threads
        self._swap = False
        self.next: Unit | None = None
        self._load: Load | None = None
        self._held: list[Cell] = []
        self._swapped: list[tuple[_Slot, PackedTensor]] = []
        self._blocks = Blocks()

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "runtime": self.runtime, "deep": self.deep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def begin_load(self) -> Load:
        """Starts decoding all weights to one buffer, but for those that are kept elsewhere."""
        return self.runtime.begin_load(self.cells(), self._blocks)

    def cells(self) -> list[Cell]:
        """What is to be decoded for a pass."""
        cells = list({id(p.cell): p.cell for _, p in _packed(self.module, self.deep)}.values())
        device = self.runtime.device
        return [cell for cell in cells if cell.plain is None and cell.on is device]

    @outside_graphs
    def enter(self, module: nn.Module, args: Any) -> None:
        """Before the forward pass: puts the weights in place."""
        swap = not torch.is_grad_enabled()
        thread = threading.get_ident()
        with self.runtime.lock:
            if thread in self.users:  # an interrupt ended its last pass: no hook was called
                self._let_go(thread)
            # Autograd must see packed weights, and another thread may have put in plain ones.
            self.runtime.lock.wait_for(lambda: not self.users or self._swap == swap)
            if not self.users:
                load = self.runtime.load(self)
                with torch.inference_mode(False):  # whose tensors never want a gradient
                    plain = load.wait()
                self._load, self._swap = load, swap
                self._hold(plain)
            elif self._load is not None:
                self._load.join()
            self.users.append(thread)
            self.runtime.look_ahead(self)

    def _hold(self, plain: dict[int, torch.Tensor]) -> None:
        for slot, parameter in _packed(self.module, self.deep):
            value = plain.get(id(parameter.cell))
            if value is None:
                continue
            if parameter.cell.plain is None:
                parameter.cell.hold(value, self.users)
                self._held.append(parameter.cell)
            if self._swap:
                # No operation need know that weights were packed, fused kernels least of all. But
                # some choose their kernel by whether the weight wants a gradient.
                slot.module._parameters[slot.name] = nn.Parameter(value, parameter.requires_grad)
                self._swapped.append((slot, parameter))

    @outside_graphs
    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the forward pass, however it ended: the packed weights are back."""
        with self.runtime.lock:
            self._let_go(threading.get_ident())

    def _let_go(self, thread: int) -> None:
        """A thread is done, if it had begun; the last one puts the packed weights back."""
        if thread not in self.users:
            return
        self.users.remove(thread)
        self.runtime.follow()
        if self.users or self._load is None:
            return
        for slot, parameter in self._swapped:
            slot.module._parameters[slot.name] = parameter  # type: ignore[assignment]
        for cell in self._held:
            cell.release()
        self._swapped, self._held = [], []
        self.runtime.give(self._load.buffer)
        self._load = None
        self.runtime.lock.notify_all()


def _packed(module: nn.Module, deep: bool = True) -> Iterator[tuple[_Slot, PackedTensor]]:
    """The packed parameters of a module, and of those within, once per place."""
    for part in module.modules() if deep else [module]:
        for name, parameter in part._parameters.items():
            if isinstance(parameter, PackedTensor):
                yield _Slot(part, name), parameter


def _plain_bytes(module: nn.Module, deep: bool = True) -> int:
    return sum({id(p): p.nbytes for _, p in _packed(module, deep)}.values())


def _find_units(module: nn.Module, on_device: bool) -> Iterator[tuple[nn.Module, bool]]:
    """The blocks within a module, and what holds weights beside them; whether with all within."""
    own = _plain_bytes(module, deep=False)
    if own and _is_unit(module, on_device):
        deep = own >= _OWN_SHARE * _plain_bytes(module)
        yield module, deep
        if deep:
            return
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not _made_of_blocks(child):
            if _plain_bytes(child):
                yield child, True
        else:
            yield from _find_units(child, on_device)


def _is_unit(module: nn.Module, on_device: bool) -> bool:
    """Whether a module's weights are decoded as a whole."""
    return on_device or not isinstance(module, nn.Embedding)


def _made_of_blocks(module: nn.Module) -> bool:
    """Whether most of a module's weights are in blocks within it, such as experts."""
    total = _plain_bytes(module)
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return any(len(part) > 1 and _plain_bytes(part) > _KEPT_BLOCK * total for part in lists)


class Place(TypedDict, total=False):
    """Where packed weights are kept and decoded: keywords of `pack_module`."""

    device: Any
    backend: Any


def pack_module(
    module: nn.Module,
    level: int = DEFAULT_LEVEL,
    threads: int = 0,
    *,
    ahead: bool = True,
    blocks: Iterable[nn.Module] | None = None,
    select: Callable[[str, torch.Tensor], bool] | None = None,
    packed: Mapping[str, Any] | None = None,
    mode: str = "decode",
    **place: Unpack[Place],
) -> nn.Module:
    """Packs the weights of a module in place, and returns it.

    `mode`: "decode" decodes weights when they are used, for inference and training alike. "product"
    is for inference on the CPU, which it makes faster where few tokens are computed at a time:
    linear layers and embeddings of BF16 and FP16 compute with their weights in a layout of .70 to
    .76 (BF16) or .89 (FP16) of their size, see `densor.torch.products`; other weights stay plain,
    and all are frozen. "plain_product" is the same loop over plain weights, with the same results.
    `level`, `ahead` and `blocks` are for "decode" alone, as is what follows on devices.

    Each weight is decoded and compared bit for bit before the plain one is let go. What is small,
    does not shrink, or is not a plain contiguous tensor in main memory stays as it is.

    `level`: 1 to 8; 9 decodes too slowly to be of use here. `threads`: 0 for all processors.
    `ahead`: decode the next block while one computes; takes a second buffer. `blocks`: modules
    within, each of which is decoded as a whole; by default what is found in `nn.ModuleList`s.
    `select`: whether a parameter, by name and value, is to be packed. `packed`: by the name of a
    parameter what `densor.compress` made of it, bytes or a uint8 tensor; such a parameter may be on
    the meta device, and becomes the tensor in there, which must have its shape.

    `device`: where packed weights are kept and decoded, and the rest of the module is moved to:
    "cuda", "cuda:1" and so on, "cpu", or "auto" for a GPU if it can be used, else main memory. By
    default where they are if some are packed, else main memory. `backend`: that of `densor.gpu`, by
    name or as an object; "emulate" runs the kernels for GPUs on the CPU. What no kernel decodes is
    a plain weight on the device. UnsupportedError, with what to install, where there is no GPU.

    Calling this again packs what has become plain in between.
    """
    level_settings(level)  # refuses unknown ones
    need(module, nn.Module, "module")
    if packed is not None:
        need(packed, Mapping, "packed")
    if mode == "decode":
        how = _Packing(level, threads, select, verify=True)
        return _for_decoding(module, how, ahead, blocks, packed, place)
    given = any(where is not None for where in place.values())
    return _for_products(module, mode, How(threads, mode != "product", select), packed, given)


def _for_products(
    module: nn.Module, mode: str, how: How, packed: Mapping[str, Any] | None, on_device: bool
) -> nn.Module:
    if mode not in ("product", "plain_product"):
        raise ArgumentError(f'mode {mode!r} is not known: "decode", "product", "plain_product" are')
    if on_device:
        raise UnsupportedError(f'mode "{mode}" is for the CPU; leave device and backend out')
    if any(True for _ in _packed(module)):
        raise ArgumentError("weights of the module are packed already: unpack_module comes first")
    return pack_products(module, how, packed or {})


def _for_decoding(
    module: nn.Module,
    how: "_Packing",
    ahead: bool,
    blocks: Iterable[nn.Module] | None,
    packed: Mapping[str, Any] | None,
    place: Place,
) -> nn.Module:
    if any(True for _ in packed_parts(module)):
        raise ArgumentError("weights of the module are packed already: unpack_module comes first")
    given = any(where is not None for where in place.values())
    target = None if given else device_of(module)
    if target is None:
        target = open_device(**place)
    # What the device decodes is compared later.
    _pack_parameters(module, how._replace(verify=target is None), packed or {})
    on_device = target is not None
    units = list(
        _find_units(module, on_device) if blocks is None else _units_of(module, blocks, on_device)
    )
    _place(module, units, target, _MIN_ON_DEVICE if how.select is None else 0)
    if target is not None or given:
        nn.Module.to(module, torch.device("cpu") if target is None else target.place)
    units = [(part, deep) for part, deep in units if _plain_bytes(part, deep)]
    _install(module, Runtime(how.threads, ahead, target), units)
    POOL.clear()  # packing has filled it
    return module


def attach(
    module: nn.Module,
    arrays: Mapping[str, PackedArray],
    threads: int = 0,
    *,
    ahead: bool = True,
    blocks: Iterable[nn.Module] | None = None,
) -> nn.Module:
    """Makes these arrays the parameters of a module, by name, to be decoded when they are used.

    Other parameters stay as they are. Buffers are kept between passes. As for `pack_module`.
    """
    how = _Packing(DEFAULT_LEVEL, threads, lambda name, value: False, verify=False)
    _pack_parameters(module, how, arrays)
    found = _find_units(module, False) if blocks is None else _units_of(module, blocks, False)
    units = [(part, deep) for part, deep in found if _plain_bytes(part, deep)]
    _install(module, Runtime(threads, ahead, keep=True), units)
    POOL.clear()
    return module


class _Packing(NamedTuple):
    """How parameters are packed: see `pack_module`; `verify`: each is decoded and compared."""

    level: int
    threads: int
    select: Callable[[str, torch.Tensor], bool] | None
    verify: bool


def _pack_parameters(module: nn.Module, how: _Packing, given: Mapping[str, Any]) -> None:
    """Packs the parameters of a module, or takes what is given packed; shared ones stay shared.

    Packed buffers become plain.
    """
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if isinstance(buffer, PackedTensor):
                part._buffers[name] = buffer.unpack()
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    unknown = set(given) - {name for some in names.values() for name in some}
    if unknown:
        raise ArgumentError(f"module has no parameter {min(unknown)!r}")
    parameters = dict(module.named_parameters())  # none is freed while its id is a key
    for name, parameter in parameters.items():
        some = names[id(parameter)]
        blob = next((given[n] for n in some if n in given), None)
        packed = (
            _packed_parameter(name, parameter, how)
            if blob is None
            else _attached(name, parameter, blob, how)
        )
        if packed is not None:
            _replace(module, some, packed)


def device_of(module: nn.Module) -> Device | None:
    """The device that packed weights of a module are kept on."""
    return next((p.cell.on for _, p in _packed(module) if p.cell.on is not None), None)


def _place(
    module: nn.Module,
    units: Sequence[tuple[nn.Module, bool]],
    device: Device | None,
    least: int,
) -> None:
    """Moves all packed weights to a device or to main memory, those of a unit to one block.

    On a device, those of less than `least` bytes become plain.
    """
    slots: dict[int, list[tuple[_Slot, PackedTensor]]] = {}  # by cell
    for slot, parameter in _packed(module):
        if parameter.cell.on is not device:
            slots.setdefault(id(parameter.cell), []).append((slot, parameter))
    for part, deep in [*units, (module, True)]:
        cells = list({id(p.cell): p.cell for _, p in _packed(part, deep)}.values())
        cells = [cell for cell in cells if id(cell) in slots]
        moved = (
            [Cell(_array_of(cell), cell.level, cell.threads) for cell in cells]
            if device is None
            else _to_device(cells, device, least)
        )
        for cell, new in zip(cells, moved, strict=True):
            made: dict[int, nn.Parameter] = {}
            for slot, parameter in slots.pop(id(cell)):
                if id(parameter) not in made:
                    made[id(parameter)] = _parameter_over(new, parameter)
                slot.module._parameters[slot.name] = made[id(parameter)]


def _parameter_over(new: Cell | torch.Tensor, old: PackedTensor) -> nn.Parameter:
    if isinstance(new, Cell):
        return over_cell(old, new)  # type: ignore[return-value]
    return nn.Parameter(placed(old, new), old.requires_grad)


def _array_of(cell: Cell) -> PackedArray:
    """What a cell holds, in main memory."""
    return cell.packed.download() if isinstance(cell.packed, DeviceArray) else cell.packed


def _to_device(cells: Sequence[Cell], device: Device, least: int) -> list[Cell | torch.Tensor]:
    """Cells in one block of a device; tensors in its memory where that takes no less.

    What is decoded in the end is compared with the hash of what was packed.
    """
    arrays = [_array_of(cell) for cell in cells]
    large = [i for i, array in enumerate(arrays) if array.size >= least]
    on_device = device.upload([arrays[i] for i in large])
    if on_device and on_device[0].uploaded.block.on_host:  # rare, and not worth its memory
        for number in reversed(on_device[0].uploaded.block.on_host):
            del large[number]
        on_device = device.upload([arrays[i] for i in large])
    device.verified(on_device, [arrays[i] for i in large])
    moved: list[Cell | torch.Tensor] = []
    by_number = dict(zip(large, on_device, strict=True))
    for i, (cell, array) in enumerate(zip(cells, arrays, strict=True)):
        if i in by_number:
            moved.append(Cell(by_number[i], cell.level, cell.threads))
        else:
            array.verify(Workers(cell.threads))
            moved.append(Cell(array, cell.level, cell.threads).decode().to(device.place))
    return moved


def _attached(name: str, parameter: nn.Parameter, blob: Any, how: _Packing) -> nn.Parameter:
    try:
        if isinstance(blob, PackedArray):
            tensor = PackedTensor(Cell(blob, how.level, how.threads))
        else:
            tensor = from_packed(blob, how.level, how.threads, verify=how.verify)
    except DensorError as error:
        raise type(error)(f"{name}: {error}") from error
    if tensor.shape != parameter.shape:
        shape, wanted = tuple(tensor.shape), tuple(parameter.shape)
        raise ArgumentError(f"{name}: packed tensor has shape {shape}, not {wanted}")
    return nn.Parameter(tensor, parameter.requires_grad and tensor.is_floating_point())


def _packed_parameter(name: str, parameter: nn.Parameter, how: _Packing) -> nn.Parameter | None:
    """The packed parameter, None if it is to stay as it is."""
    select, verify = how.select, how.verify
    wanted = parameter.nbytes >= _MIN_PACKED_BYTES if select is None else select(name, parameter)
    if wanted and parameter.is_cuda and not verify:
        parameter = nn.Parameter(parameter.detach().cpu(), parameter.requires_grad)
    if not wanted or not can_pack(parameter):
        return None
    packed = pack_tensor(parameter, how.level, how.threads, verify=verify)
    if select is None and packed.stored > _MAX_PACKED_SHARE * parameter.nbytes:
        return None
    return packed  # type: ignore[return-value]


def _replace(module: nn.Module, names: list[str], parameter: nn.Parameter) -> None:
    for name in names:
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._parameters[last] = parameter


_MARK = "_densor_hooks"


def _install(module: nn.Module, runtime: Runtime, units: Sequence[tuple[nn.Module, bool]]) -> None:
    """Registers the hooks anew, on the module, its units and all modules with packed weights."""
    for part in module.modules():
        for handle in part.__dict__.pop(_MARK, ()):
            handle.remove()
    _hook(module, runtime)
    for part, deep in units:
        _hook(part, Unit(part, runtime, deep))
    for part in module.modules():
        if _plain_bytes(part, deep=False):
            handle = part.register_state_dict_post_hook(_plain_state)  # type: ignore[no-untyped-call]
            part.__dict__.setdefault(_MARK, []).append(handle)


def _units_of(
    module: nn.Module, blocks: Iterable[nn.Module], on_device: bool
) -> Iterator[tuple[nn.Module, bool]]:
    """The given blocks, and what holds packed weights beside them."""
    within = set()
    for block in blocks:
        need(block, nn.Module, "a block")
        yield block, True
        within |= set(block.modules())
    for part in module.modules():
        own = part not in within and _is_unit(part, on_device)
        if own and _plain_bytes(part, deep=False):
            yield part, False


def _hook(module: nn.Module, target: Runtime | Unit) -> None:
    module.__dict__.setdefault(_MARK, []).extend(
        (
            module.register_forward_pre_hook(target.enter),
            module.register_forward_hook(target.leave, always_call=True),
        )
    )


def _plain_state(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Makes plain tensors of the packed ones that a module has put into a state_dict.

    Tied ones become one, as they are in the state of a plain module.
    """
    for name in module._parameters:
        value = state.get(prefix + name)
        if isinstance(value, PackedTensor) and not isinstance(value, nn.Parameter):
            shown = value.cell.shown()
            if shown is None or not any(shown is other for other in state.values()):
                shown = value.unpack()
                value.cell.shown = weakref.ref(shown)
            state[prefix + name] = shown


def check_module(module: nn.Module) -> None:
    """Waits for what devices decode; ChecksumError where they found packed bytes damaged.

    What they decode is compared with its hash when it is packed. After that, damage in a device's
    memory shows only in the end states of its streams, which are read here and nowhere else.
    """
    need(module, nn.Module, "module")
    blocks: dict[int, DeviceArray] = {}
    for _, parameter in _packed(module):
        if isinstance(parameter.cell.packed, DeviceArray):
            blocks.setdefault(id(parameter.cell.packed.uploaded.block), parameter.cell.packed)
    for array in blocks.values():
        array.device.join()
        array.uploaded.block.check()


def unpack_module(module: nn.Module) -> nn.Module:
    """Undoes `pack_module` in place: all parameters are plain again, hooks are gone.

    Those that were frozen for products stay so.
    """
    need(module, nn.Module, "module")
    unpack_products(module)
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if isinstance(parameter, PackedTensor):
            names.setdefault(id(parameter), []).append(name)
    for some in names.values():
        packed = module.get_parameter(some[0])
        assert isinstance(packed, PackedTensor)
        _replace(module, some, nn.Parameter(packed.unpack(), packed.requires_grad))
    for part in module.modules():
        for handle in part.__dict__.pop(_MARK, ()):
            handle.remove()
    return module
