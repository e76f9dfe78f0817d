"""Packs a sentence encoder such as MiniLM, loads it, and compares embeddings bit for bit.

    python examples/hf_minilm.py MODEL_DIR

MODEL_DIR: the folder of an encoder of transformers, for example all-MiniLM-L6-v2.
"""

# %% Where the model is
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import densor.hf  # makes transformers know packed weights

SENTENCES = [
    "A codec turns weights into fewer bytes.",
    "Decoding gives back every bit of them.",
    "The cat sat on the mat.",
]


# %% What a model makes of the sentences
def tokens(folder: Path) -> dict[str, torch.Tensor]:
    """The sentences as the model's tokens; their bytes for a model without a tokenizer."""
    if (folder / "tokenizer.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return dict(tokenizer(SENTENCES, padding=True, return_tensors="pt"))
    length = max(map(len, SENTENCES))
    ids = torch.tensor([list(text.encode().ljust(length)) for text in SENTENCES])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def embeddings(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean of the last hidden states over the tokens of each sentence."""
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


# %% Pack, load, compare
def main(folder: Path) -> None:
    """Prints what it finds; an AssertionError if a bit differs."""
    with tempfile.TemporaryDirectory() as place:
        packed = Path(place) / "packed"
        sizes = densor.hf.pack_model(folder, packed).sizes
        print(f"{sizes.original / 1e6:.1f} MB => {sizes.stored / 1e6:.1f} MB")

        plain = transformers.AutoModel.from_pretrained(folder).eval()
        model = transformers.AutoModel.from_pretrained(packed).eval()
        inputs = tokens(folder)
        one, other = embeddings(plain, inputs), embeddings(model, inputs)
        assert one.dtype == other.dtype
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        print(f"{tuple(one.shape)} embeddings are equal bit by bit")

        densor.hf.unpack_model(packed, Path(place) / "again")
        for path in folder.glob("*.safetensors"):
            assert path.read_bytes() == (Path(place) / "again" / path.name).read_bytes()
        print("unpacked files are equal byte by byte")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
