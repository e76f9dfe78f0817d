"""The quantization method "densor" of transformers: packed weights are decoded as they are loaded.

transformers (5.22 and later) reads every `*.safetensors` file of a checkpoint as tensors by name,
renames and merges them by `WeightTransform`s, and lets the registered quantizer put operations of
its own in front. Blobs stand under the names of their tensors, so that all names match as they do
for a plain checkpoint; `Decode` is the operation that makes tensors of them.
"""

import contextlib
import copy
import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from densor import dtypes
from densor.errors import ArgumentError, DensorError, FormatError, UnsupportedError
from densor.files.ahead import Ahead
from densor.files.packed_model import METHOD, Bases, check_packed
from densor.files.prefetching import take_prefetched, weights_of
from densor.formats.container import tensor_blob
from densor.formats.packed import header
from densor.formats.packed.reader import PackedFile
from densor.formats.packed.stored_array import OpenFile
from densor.runtime.gc_pause import collection_paused
from densor.torch.blob import as_tensor, may_be_blob, read_tensor
from densor.torch.device import Device, decoded_on, open_device
from densor.torch.places import CPU, DISK, place_of

T = TypeVar("T")
PRODUCT = "product"
_OTHER_FILES = ("subfolder", "variant", "gguf_file", "use_safetensors")  # may name other files
_MAX_DESCRIBED = 1 << 21  # bytes; what a blob says of itself is within these

_given_base: ContextVar[str | None] = ContextVar("densor_base", default=None)
_backend: ContextVar[Any] = ContextVar("densor_backend", default=None)
_resident: ContextVar[bool | str] = ContextVar("densor_resident", default=False)
_offload: ContextVar[str | Mapping[str, str] | None] = ContextVar("densor_offload", default=None)
_ahead: ContextVar["Ahead | None"] = ContextVar("densor_ahead", default=None)
_failure: ContextVar[list[DensorError] | None] = ContextVar("densor_failure", default=None)


class DensorConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a packed model.

    `version`: of the layout. `dtype`: the type of the model's floats, for `dtype="auto"` where the
    model's configuration lacks it. `base`: the name of the model it is coded against.
    """

    dequantize = True  # transformers then treats a loaded model as a plain one

    def __init__(
        self,
        version: int = header.VERSION,
        dtype: str | None = None,
        base: str | None = None,
        **others: Any,
    ) -> None:
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise FormatError(f"quantization_config: version {version!r} is impossible")
        header.check_version(version)
        if not all(isinstance(text, str | None) for text in (dtype, base)):
            raise FormatError("quantization_config: dtype and base are to be names")
        self.quant_method = METHOD
        self.version, self.dtype, self.base = version, dtype, base


class DensorQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads packed weights; the model is a plain one afterwards."""

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise ArgumentError("densor packs folders, not models that are being loaded: hf-pack")
        self._blobs: dict[str, list[PackedFile]] = {}
        self._bases: Bases | None = None
        self._ahead = _ahead.get()
        self._backend = _backend.get()
        self._devices: dict[torch.device, Device | None] = {}
        self._offload = _offload.get()
        self._opened: dict[Path, OpenFile] = {}  # for those that stay on disk
        self._resident = _resident.get() or self._offload is not None
        self._stay: dict[str, Any] = {}  # blobs that are to stay packed, by parameter
        self._stay_from: dict[str, Path] = {}  # files of those
        self._plain: dict[int, Any] = {}  # conversions of the model, by id of what replaced them
        self._kept: list[Any] = []  # those, so that no id is used again

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to check: this module could be imported."""

    @property
    def is_trainable(self) -> bool:
        """A loaded model is a plain one."""
        return True

    def is_serializable(self) -> bool:
        """A loaded model is a plain one."""
        return True

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type of the model, which transformers could not see where all floats are blobs."""
        known = getattr(torch, self.quantization_config.dtype or "", None)
        known_dtype: torch.dtype = known if isinstance(known, torch.dtype) else dtype
        return dtype if dtype.is_floating_point else known_dtype

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> Any:
        """Looks at all blobs before any is decoded, so that most faults are found here."""
        if getattr(model.config, "distributed_config", None) is not None:
            raise UnsupportedError("packed weights cannot be loaded in shards; hf-unpack first")
        for path in checkpoint_files or []:
            if not path.endswith(".safetensors"):
                continue
            file = check_packed(PackedFile(path))
            file.fetch_heads()
            for name in file:
                if file.is_blob(name):
                    file.describe(name)
                    self._blobs.setdefault(name, []).append(file)
        if checkpoint_files:
            folder = Path(checkpoint_files[0]).parent
            self._bases = Bases(folder, _given_base.get())
            if self._ahead is None:
                self._ahead = self._begun(self._on_cpu(kwargs.get("device_map")))
            if self._ahead is not None:
                self._ahead.forget(_heads_left_out(model, self._blobs))
        return model

    def _begun(self, wanted: bool) -> Ahead | None:
        """What decodes all blobs ahead, if that is wanted; what `densor.prefetch` began is used."""
        assert self._bases is not None
        files = {id(file): file for some in self._blobs.values() for file in some}.values()
        begun = take_prefetched(files, _given_base.get())
        if begun is not None and not wanted:
            begun.close()
        if not wanted:
            return None
        begun = begun or Ahead(files, self._bases.need)
        weakref.finalize(self, begun.close)  # if loading fails
        return begun

    def _on_cpu(self, device_map: Any) -> bool:
        """Whether all weights are decoded in main memory."""
        places = device_map.values() if isinstance(device_map, dict) else [device_map]
        on_cpu = all(place is None or str(place) == CPU for place in places)
        return on_cpu and not self._resident and self._backend in (None, CPU)

    def update_weight_conversions(self, weight_conversions: Any, model: Any = None) -> list[Any]:
        """Every conversion decodes first; one more takes what no other one takes."""
        updated = []
        for conversion in weight_conversions:
            if isinstance(conversion, WeightConverter):
                plain, conversion = conversion, copy.deepcopy(conversion)
                conversion.operations = [Decode(self), *conversion.operations]
                self._plain[id(conversion)] = plain
            updated.append(conversion)
        rest = WeightConverter(["(.+)"], [r"\1"], [DecodeOne(self)])
        self._plain[id(rest)] = None
        self._kept = [*updated, rest]
        return self._kept

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> Any:
        """None for blobs, which stay bytes until decoded; `dtype` is handed to their `Decode`."""
        if not may_be_blob(param):
            return dtype
        operations = getattr(converter, "operations", ())
        decoders = [operation for operation in operations if isinstance(operation, Decode)]
        if not decoders:  # a name that transformers chose not to convert
            decoders = [DecodeOne(self)]
            converter.quantization_operation = decoders[0]
        for decoder in decoders:
            decoder.dtype = dtype
        return None

    def remove_quantization_config(self, model: Any) -> None:
        """Makes the model a plain one, with the conversions that saving has to revert."""
        conversions = getattr(model, "_weight_conversions", None)
        super().remove_quantization_config(model)
        if conversions is not None:
            plain = [self._plain.get(id(item), item) for item in conversions]
            model._weight_conversions = [item for item in plain if item is not None]

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Packs what is to stay packed; blobs of the checkpoint are taken as they are."""
        if self._ahead is not None:
            self._ahead.close()
        if self._resident:
            import densor.torch

            try:
                device = next(iter(self._devices.values()), None)
                if self._offload is not None:
                    from densor.torch.resident import attach

                    attach(model, self._stay)
                elif self._resident == PRODUCT:
                    densor.torch.pack_module(model, packed=self._stay, mode=PRODUCT)
                else:
                    densor.torch.pack_module(model, packed=self._stay, device=device)
            except DensorError as error:
                path = self._stay_from.get(str(error).partition(":")[0])
                if path is None:
                    raise
                raise type(error)(f"{path}: tensor {error}") from error
        return model

    def decoded(
        self, tensor: torch.Tensor, dtype: torch.dtype | None, parameter: str | None = None
    ) -> torch.Tensor:
        """The tensor in a blob, cast to `dtype`; any other tensor as it is.

        `parameter`: the one that it is as a whole. Where that is to stay packed, an empty tensor.
        """
        with failures_noted():
            place = self._place_of(tensor)
            if place is None:
                return tensor
            file, described = place
            device = self._device(tensor.device)
            kind = dtypes.to_torch(described.dtype)
            stays = self._resident and dtype in (None, kind)
            stays = stays and (device is not None or tensor.device.type == "cpu")
            if stays and parameter is not None and file.describe(described.name).base is None:
                self._stay[parameter] = self._staying(file, described.name, parameter)
                self._stay_from[parameter] = file.path
                return torch.empty(described.shape, dtype=kind, device="meta")
            restored = None if device is None else decoded_on(device, file, described.name)
            if device is None and self._ahead is not None:
                data = self._ahead.take(file, described.name)
                restored = None if data is None else as_tensor(data, described)
            if restored is None:
                restored = read_tensor(file, described.name, base_of=self._base_of)
            return restored.to(device=tensor.device, dtype=dtype)

    def _staying(self, file: PackedFile, name: str, parameter: str) -> Any:
        """What a parameter is decoded from whenever it is used."""
        if self._offload is None:
            return file.stored(name).tobytes()
        if place_of(parameter, self._offload) == DISK:
            from densor.torch.offloading import stored_in

            return stored_in(file, name, self._opened)
        return file.array(name, copy=True)

    def _device(self, place: torch.device) -> Device | None:
        """What decodes blobs that are there; None for the CPU."""
        if place not in self._devices:
            if self._resident and self._devices:
                raise UnsupportedError("resident=True needs a device_map of one device")
            self._devices[place] = device_for(place, self._backend)
        return self._devices[place]

    def _place_of(self, tensor: torch.Tensor) -> tuple[PackedFile, tensor_blob.Tensor] | None:
        """The file that a blob is from, and what it holds; None for a tensor that is no blob."""
        if not may_be_blob(tensor):
            return None
        name = tensor_blob.describe(tensor.detach()[:_MAX_DESCRIBED].cpu().numpy()).name
        file = self._file_of(name, tensor.numel())
        return None if file is None else (file, file.info(name))

    def _file_of(self, name: str, size: int) -> PackedFile | None:
        """The file in which a blob of this name and size is; the last one that was loaded."""
        for file in reversed(self._blobs.get(name, [])):
            if file.stored(name).size == size:
                return file
        return None

    def _base_of(self, tensor: tensor_blob.Tensor) -> Any:
        assert self._bases is not None
        return self._bases.need(tensor)


def _heads_left_out(model: Any, names: Iterable[str]) -> set[str]:
    """The tensors outside the base model of a checkpoint that is loaded without its head."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if prefix == "." or any(name.startswith(prefix) for name in known):  # has its head
        return set()
    if not any(name.startswith(prefix) for name in names):  # nor has the checkpoint one
        return set()
    return {name for name in names if not name.startswith(prefix)} - known


def device_for(place: torch.device, backend: Any) -> Device | None:
    """What decodes on a device of torch; None where the CPU does, with a warning for a GPU."""
    if backend == CPU or (backend is None and place.type != "cuda"):
        return None
    try:
        return open_device(place, backend)
    except UnsupportedError as error:
        if backend is not None:
            raise
        warnings.warn(f"packed weights on {place} are decoded on the CPU: {error}", stacklevel=2)
        return None


class Decode(ConversionOps):  # type: ignore[misc]
    """Makes tensors of blobs, and leaves other tensors as they are."""

    def __init__(self, hf_quantizer: DensorQuantizer, dtype: torch.dtype | None = None) -> None:
        self.hf_quantizer = hf_quantizer
        self.dtype = dtype

    def __deepcopy__(self, memo: Any) -> "Decode":
        return type(self)(self.hf_quantizer, self.dtype)

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Decodes what was collected for one parameter, by source pattern."""
        decoded = {}
        for pattern in list(input_dict):
            tensors = input_dict.pop(pattern)
            if isinstance(tensors, list):
                decoded[pattern] = [self._decoded(tensor) for tensor in tensors]
            else:
                decoded[pattern] = self._decoded(tensors)
        return decoded

    def _decoded(self, tensor: Any) -> Any:
        return self.hf_quantizer.decoded(tensor, self.dtype)


class DecodeOne(Decode):
    """The same for a parameter that one tensor of the checkpoint is loaded into as it is."""

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The tensor, under the parameter's full name."""
        name = kwargs["full_layer_name"]
        tensors = input_dict.popitem()[1]
        first = tensors[0] if isinstance(tensors, list) else tensors
        return {name: self.hf_quantizer.decoded(first, self.dtype, name)}


_registering = threading.Lock()


def register() -> None:
    """Makes transformers know "densor"; does nothing where it does already."""
    needed = ("update_weight_conversions", "get_new_dtype", "update_dtype")
    missing = [name for name in needed if not hasattr(HfQuantizer, name)]
    if missing:
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot load packed models (no "
            f'{missing[0]}): pip install -U "transformers>=5.22"'
        )
    with _registering:
        if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
            register_quantization_config(METHOD)(DensorConfig)
        if METHOD not in AUTO_QUANTIZER_MAPPING:
            register_quantizer(METHOD)(DensorQuantizer)


def from_pretrained(
    folder: Any,
    *args: Any,
    model_class: Any = None,
    base: Any = None,
    resident: bool | str = False,
    backend: Any = None,
    **kwargs: Any,
) -> Any:
    """A model, packed or plain, as its class's `from_pretrained` loads it.

    `folder`: path or name on the Hub. `model_class`: by default the class that the model's
    configuration names, which is a class of transformers. `base`: the folder of the model that this
    one was packed against. `resident`: the weights stay packed in memory, as by
    `densor.torch.pack_module`; packed ones are not decoded for it. "product": packed for products
    on the CPU, as by its mode of that name. `backend`: what decodes weights that go to a device: by
    default a GPU does so itself, or the CPU, with a warning, where CuPy is missing; "cpu" for the
    CPU; or a backend of `densor.gpu` or its name, "emulate" for one. All else goes to
    `from_pretrained`.

    `device_map`: of a packed model, where it names "disk", and besides that "cpu" alone, packed
    weights stay on disk or in memory as `densor.torch.offload` does it.

    Faults of packed weights are raised as the DensorError that they are, which names file and
    tensor; through `from_pretrained` of transformers alone those found while decoding end in its
    RuntimeError, below a report.
    """
    if resident not in (True, False, PRODUCT):
        raise ArgumentError(f'resident must be True, False or "product", not {resident!r}')
    base = None if base is None else str(base)
    early = offload = None
    if not resident and _is_offload(kwargs.get("device_map")) and _is_packed(folder, kwargs):
        offload = kwargs.pop("device_map")
    elif not resident and backend in (None, CPU) and kwargs.get("device_map") in (None, CPU):
        early = _early(folder, base, kwargs)
    with (
        _decoding(early),
        _set(_given_base, base),
        _set(_resident, resident),
        _set(_offload, offload),
        _set(_backend, backend),
        failures_raised(),
    ):
        if model_class is None:
            model_class = _class_of(folder, kwargs)
        model = model_class.from_pretrained(folder, *args, **kwargs)
    if resident:
        _pack_rest(model, resident, backend)
    return model


@contextlib.contextmanager
def _decoding(early: Ahead | None) -> Iterator[None]:
    """Loads what is being decoded, and makes no garbage on the way."""
    if early is None:
        yield
        return
    with contextlib.closing(early), _set(_ahead, early), collection_paused():
        yield


def _pack_rest(model: Any, resident: bool | str, backend: Any) -> None:
    """Packs the weights of a plain checkpoint, or what packing left out."""
    import densor.torch
    from densor.torch.resident import device_of

    if resident == PRODUCT:
        densor.torch.pack_module(model, mode=PRODUCT)
    else:
        device = device_of(model) or device_for(model.device, backend)
        densor.torch.pack_module(model, device=device)


def _early(folder: Any, base: str | None, kwargs: dict[str, Any]) -> Ahead | None:
    """Decodes the weights of a packed folder while the model's code is imported; None where what
    will be loaded is not known yet. Faults are left to loading."""
    if not isinstance(folder, str | os.PathLike) or any(kwargs.get(name) for name in _OTHER_FILES):
        return None
    path = Path(folder)
    try:
        files = [file for file in map(PackedFile, weights_of(path)) if file.packed]
    except DensorError:
        return None
    begun = take_prefetched(files, base)
    return begun or (Ahead(files, Bases(path, base).need) if files else None)


def _is_offload(device_map: Any) -> bool:
    """Whether weights are to be kept on disk, and none on a GPU."""
    if isinstance(device_map, str):
        return device_map == DISK
    places = set(device_map.values()) if isinstance(device_map, Mapping) else set()
    return DISK in places and places <= {DISK, CPU}


def _is_packed(folder: Any, kwargs: dict[str, Any]) -> bool:
    method = getattr(_config_of(folder, kwargs), "quantization_config", None)
    if isinstance(method, dict):
        return method.get("quant_method") == METHOD
    return isinstance(method, DensorConfig)


def _config_of(folder: Any, kwargs: dict[str, Any]) -> Any:
    names = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "trust_remote_code")
    passed = {name: kwargs[name] for name in names if name in kwargs}
    return kwargs.get("config") or transformers.AutoConfig.from_pretrained(folder, **passed)


def _class_of(folder: Any, kwargs: dict[str, Any]) -> Any:
    config = _config_of(folder, kwargs)
    for name in getattr(config, "architectures", None) or []:
        model_class = getattr(transformers, name, None)
        if model_class is not None:
            return model_class
    return transformers.AutoModel


@contextlib.contextmanager
def _set(variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextlib.contextmanager
def failures_noted() -> Iterator[None]:
    """Notes a fault for `failures_raised`, since transformers makes another error of it."""
    try:
        yield
    except DensorError as error:
        failures = _failure.get()
        if failures is not None:
            failures.append(error)
        raise


@contextlib.contextmanager
def failures_raised() -> Iterator[None]:
    """Raises the first fault that was found while decoding instead of what came of it."""
    failures: list[DensorError] = []
    token = _failure.set(failures)
    try:
        yield
    except RuntimeError as error:
        if failures:
            raise failures[0] from error
        raise
    finally:
        _failure.reset(token)
