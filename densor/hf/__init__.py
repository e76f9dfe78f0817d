"""HuggingFace transformers loads packed models once this module has been imported.

`import densor.hf` registers the quantization method "densor" with transformers, through the
functions that transformers has for this; nothing in it is changed. Importing it again does nothing.
"""

try:
    from densor.hf.loader import from_pretrained, register
except ImportError as error:
    from densor.errors import UnsupportedError

    raise UnsupportedError(
        f'densor.hf needs torch and transformers 5.22 or later: pip install "densor[hf]" ({error})'
    ) from error
from densor.files.model_folder import pack_model as pack
from densor.files.model_folder import unpack_model as unpack

register()

__all__ = ["from_pretrained", "pack", "unpack"]
