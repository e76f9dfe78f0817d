"""Weights for tests of quantisers; what these tests compare with was computed from the same."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]


def _bf16(values: npt.NDArray[np.float64]) -> Weights:
    words = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return words.view(np.float32)


def uniform(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Numbers between -1 and 1, the same with every version of numpy."""
    state = (np.arange(count, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    state ^= state >> np.uint64(31)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(29)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def _bell(count: int, seed: int) -> npt.NDArray[np.float64]:
    return sum(uniform(count, 4 * seed + k) for k in range(4)) / 2  # type: ignore[return-value]


def usual() -> Weights:
    """As in a model: BF16, near 0."""
    return _bf16(_bell(16 * 256, 1) * 0.04)


def of_many_sizes() -> Weights:
    """FP32, rows of sizes from 2^-24 to 2^8; some are rare and large, some are 0 or -0."""
    values = uniform(33 * 256, 2).reshape(33, 256) ** 5
    values *= 2.0 ** np.arange(-24, 9)[:, None]
    flat = values.reshape(-1)
    flat[::37] = 0.0
    flat[5::83] = -0.0
    return flat.astype(np.float32)


def degenerate() -> Weights:
    """Blocks and groups that are constant, of one sign, zero or next to nothing."""
    values = _bell(13 * 256, 3).reshape(13, 256) * 0.1
    values[0] = 0
    values[1] = 0.25
    values[2] = -0.25
    values[3] = np.abs(values[3])
    values[4] = -np.abs(values[4])
    values[5, 16:] = 0
    values[6, ::2] = 0
    values[7] *= 1e-13
    values[8, :128] *= 1e-9
    values[9] = np.sign(values[9])
    values[10, :32] = 1e-40
    values[11] = np.round(values[11] * 30)
    values[12, 77] = 1000
    return _bf16(values.reshape(-1))


CASES: dict[str, Callable[[], Weights]] = {
    "usual": usual,
    "of many sizes": of_many_sizes,
    "degenerate": degenerate,
}


# A model and what was quantised from it, in small

HEADS = 2
ROWS, COLUMNS = 8, 256


def _matrices() -> dict[str, Weights]:
    """`w`, of which a weight is infinite; `q`, whose rows llama.cpp puts in another order."""
    w = _bf16(_bell(ROWS * COLUMNS, 5) * 0.05).reshape(ROWS, COLUMNS)
    w[0, 3] = np.inf
    return {"w": w, "q": _bf16(_bell(4 * COLUMNS, 6) * 0.1).reshape(4, COLUMNS)}


def model() -> bytes:
    """A safetensors file of BF16."""
    header, content = {}, b""
    for name, each in _matrices().items():
        data = (each.view(np.uint32) >> 16).astype("<u2").tobytes()
        ends = [len(content), len(content) + len(data)]
        header[name] = {"dtype": "BF16", "shape": each.shape, "data_offsets": ends}
        content += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def write_gguf(path: Path) -> None:
    """A GGUF file with `w` in all quantised forms, one byte of them changed, and `q` in two."""
    from reference import derived

    w, q = _matrices().values()
    permuted = q.reshape(HEADS, 2, 4 // HEADS // 2, COLUMNS).swapaxes(1, 2).reshape(q.shape)
    wanted = [(w, form) for form in derived.BLOCKS] + [(permuted, "Q6_K"), (permuted, "Q4_0")]
    tensors = []
    for number, (weights, form) in enumerate(wanted):
        rows = [derived.quantise(np.nan_to_num(row, posinf=0.5), form) for row in weights]
        data = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1).copy()
        data[5 % len(rows), 7] ^= number == 4
        tensors.append((data, form))
    write_tensors(path, tensors)


def write_tensors(path: Path, tensors: Iterable[tuple[npt.NDArray[np.uint8], str]]) -> None:
    """A GGUF file of quantised tensors: their rows, and their forms."""
    writer = gguf.GGUFWriter(path, "llama")
    for number, (data, form) in enumerate(tensors):
        kind = getattr(gguf.GGMLQuantizationType, form)
        writer.add_tensor(f"blk.{number}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def records(form: str, blocks: int, seed: int) -> bytes:
    """What may be told of blocks: numbers and scales that are up to three away from the guess."""
    from reference import derived

    count, many = derived.RECORDS[form]
    near = (uniform(blocks * (count + many), seed) * 4).astype(int).reshape(blocks, -1)
    numbers = abs(near[:, :count]).astype("<u2").view(np.uint8).reshape(blocks, -1)
    return np.concatenate([numbers, near[:, count:].astype(np.uint8)], 1).tobytes()


def write_told(path: Path) -> None:
    """A GGUF file of blocks that have other scales than a search finds: `w`, and `q` twice."""
    from reference import derived

    w, q = _matrices().values()
    permuted = q.reshape(HEADS, 2, 4 // HEADS // 2, COLUMNS).swapaxes(1, 2).reshape(q.shape)
    tensors = []
    for weights, form in [*((w, form) for form in derived.RECORDS), (permuted, "Q4_K")]:
        rows = []
        for number, row in enumerate(weights):
            told = records(form, 1, 10 * len(tensors) + number)
            made = derived.quantise(np.nan_to_num(row, posinf=0), form, told)
            rows.append(made if np.isfinite(row).all() else bytes(len(made)))
        tensors.append((np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1), form))
    write_tensors(path, [*tensors, tensors[-1]])
