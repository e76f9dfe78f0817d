"""HuggingFace transformers loads packed models once this module has been imported.

`import densor.hf` registers the quantization method "densor" with transformers, through the
functions that transformers has for this; nothing in it is changed. Importing it again does nothing.
"""

from typing import TYPE_CHECKING, Any

from densor.runtime.gc_pause import collection_paused

try:
    with collection_paused():  # importing torch and transformers makes a million objects, that stay
        from densor.hf.loader import from_pretrained, register
except ImportError as error:
    from densor.errors import UnsupportedError

    raise UnsupportedError(
        f'densor.hf needs torch and transformers 5.22 or later: pip install "densor[hf]" ({error})'
    ) from error
from densor.former import former_name

if TYPE_CHECKING:
    from densor.files.model_folder import pack_model, unpack_model

register()

__all__ = ["from_pretrained", "pack_model", "unpack_model"]

_FORMER = {
    "pack": "densor.hf.pack_model",
    "unpack": "densor.hf.unpack_model",
}


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        return former_name("densor.hf", name, _FORMER[name])
    if name in ("pack_model", "unpack_model"):  # which need all that packs
        from densor.files import model_folder

        return getattr(model_folder, name)
    raise AttributeError(f"module 'densor.hf' has no attribute {name!r}")
