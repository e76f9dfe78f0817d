"""Makes `codecs.json`: chunks of every codec, good ones of all settings, and a bad one per refusal.

Cases are added and never changed: what is in the file stays. Run by hand, codec by codec:

    python tests/golden/make_codecs.py delta scale_context ...
"""

import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]

import codec_edges  # noqa: E402
import codec_table  # noqa: E402
import numpy as np  # noqa: E402
import zstandard  # noqa: E402
from codec_cases import CodecCase, read_cases, write_cases  # noqa: E402
from flac_files import flac_frames  # noqa: E402
from helpers import random_state, weights  # noqa: E402
from reference import delta, rans, scale_context  # noqa: E402
from reference import planes_writer as planar  # noqa: E402
from reference.reading import Refused  # noqa: E402

import densor  # noqa: E402
from densor.codec import registry  # noqa: E402
from densor.codec.audio.coders import CascadeCoder, LaneCoder, cascade_model  # noqa: E402
from densor.codec.audio.flac_encoder import FlacCoder  # noqa: E402
from densor.codec.audio.layout import Layout as AudioLayout  # noqa: E402
from densor.codec.audio.params import FULL, LIGHT  # noqa: E402
from densor.codec.audio.samples import model_of as audio_model_of  # noqa: E402
from densor.codec.blocks.block import Field  # noqa: E402
from densor.codec.blocks.encoder import BlocksEncoder, Split  # noqa: E402
from densor.codec.blocks.joined import Joined  # noqa: E402
from densor.codec.byte_cm.encoder import ByteCmEncoder  # noqa: E402
from densor.codec.float_cm.encoder import FloatCmEncoder  # noqa: E402
from densor.codec.kind import kind_of, kind_of_blocks, parts_of  # noqa: E402
from densor.codec.levels import level_settings  # noqa: E402
from densor.formats.parsers.gguf import BLOCKS  # noqa: E402

Made = Iterator[CodecCase]


SECONDS = 40


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def deltas(rng: Random) -> Made:
    """Every method, size and way to choose a context; D, M and the dropped bits at their bounds."""
    for number in range(60):
        size, floats = rng.choice((1, 2, 2, 4, 8)), rng.random() < 0.6
        method = rng.choice((delta.DIFFERENCE, delta.DIFFERENCE, delta.XOR, delta.OWN))
        dropped = min(rng.choice((0, 0, 1, 8 * size - 8)), 8 * size - 8)
        width = 8 * size - dropped
        pairs = [
            (d, m)
            for d in range(width + 1)
            for m in range(9)
            if delta.splits_all(method, width, d, m)
        ]
        if not pairs:
            continue
        direct, mantissa = rng.choice((pairs[0], pairs[-1], rng.choice(pairs)))
        contexts = rng.choice((0, 1, 2, 3, 9, 64))
        bits = rng.choice((0, 1, 4, 12)) if contexts > 1 else 0
        mapped = bytes(rng.choices((0, contexts - 1), k=1 << bits)) if contexts > 1 else b"\0"
        shift = rng.choice((0, 3, 8 * size - 1))
        settings = (size, floats, method, dropped, direct, mantissa, shift, mapped)
        model = delta.Model(*settings, [])
        valid = [t for t in range(256) if delta.meaning(model, t) is not None]
        kept = [sorted({valid[0], valid[-1], *rng.sample(valid, min(6, len(valid)))})] * contexts
        rows = [[f // 2 for f in rans.even(symbols)] for symbols in kept]
        for row, symbols in zip(rows, kept, strict=True):
            row[symbols[0]] += 4096 - sum(row)
        model = delta.Model(*settings, rows)
        n = rng.choice((240, 301)) if size < 4 else rng.choice((70, 101))
        base, offset = rng.randbytes(size * n + 5), rng.choice((0, 1, 5))
        if contexts == 0:
            payload = offset.to_bytes(8, "little") + b"\0"
        else:
            old = [int.from_bytes(base[offset + i * size :][:size], "little") for i in range(n)]
            under = [mapped[(b >> shift) % len(mapped)] for b in old]
            symbols = [rng.choice(kept[0]) if rng.random() < 0.2 else kept[0][0] for _ in old]
            extra = [rng.getrandbits(64) for _ in old]
            payload = delta.chunk(model, offset, under, symbols, extra)
        yield CodecCase(f"delta-{number}", delta.pack_model(model, zstd), payload, n * size, base)


def scales(rng: Random) -> Made:
    """Every form, phase and kind of symbol."""
    for number in range(50):
        form = scale_context.FORMS[rng.choice((1, 1, 2, 3, 4, 5, 5))]
        most = 254 >> form.mantissa_bits
        exponents = rng.choice((1, 3, most))
        room = 254 - (exponents << form.mantissa_bits)
        tails = rng.choice((0, min(5, room), room))
        phase = rng.choice((0, 1, 3, 6))
        joint = exponents << form.mantissa_bits
        symbols = sorted(
            {0, joint - 1, joint, joint + tails + 1, rng.randrange(joint), joint + min(tails, 2)}
            | ({joint + tails} if tails else set())
        )
        around = rans.even([120, 127, 128, 129, 140])
        frequent = [f // 2 for f in rans.even(symbols)]
        frequent[0] += 4096 - sum(frequent)
        rows = [frequent] * (1 << phase) + [around, around]
        nested = b""
        if form.size == 4 and rng.random() < 0.6:
            kinds = [planar.Class(0)]
            nested = bytes(planar.model("word16", 4, [kinds, kinds]))
        model = scale_context.Model(
            form, phase, rng.choice((-128, -3, 0, 5, 127)), exponents, tails, rows
        )
        matrices = [
            scale_context.Matrix(
                rng.choice((1, 2, 9, 20)),
                rng.choice((1, 3, 8, 31)),
                rng.randrange(16),
                rng.randrange(256),
                rng.randrange(256),
            )
            for _ in range(rng.choice((1, 1, 2, 3)))
        ]
        matrices.append(scale_context.Matrix(16, 20, rng.randrange(16), 7, 250))
        n = sum(m.rows * m.columns for m in matrices)
        contexts = scale_context.scale_contexts(model, matrices)
        offsets = [rng.choice((120, 127, 128, 129, 140)) for _ in contexts]
        tops = [
            (rng.choice(symbols) if rng.random() < 0.3 else symbols[0], rng.getrandbits(16))
            for _ in range(n)
        ]
        blocks = -(-n // 32)
        below = rng.randbytes(blocks * form.rest_bytes), rng.randbytes(blocks * form.sign_bytes)
        low = rng.randbytes(2 * n) if form.size == 4 else b""
        if nested:
            low = planar.chunk([(0, low[:n]), (0, low[n:])])
        chunk = scale_context.write(
            model, matrices, rng.choice((-300, 0, 100)), offsets, tops, below, low
        )
        yield CodecCase(
            f"scales-{number}",
            scale_context.pack_model(model, nested),
            chunk.pack(),
            n * form.size,
        )


def parts(rng: Random) -> Made:
    """Blocks and sparse elements, by the package's encoders."""
    by_number = {codec.number: codec for codec in codec_table.CODECS}
    for content in ("weights", "few_values", "random", "constant", "steps"):
        for shape in ((40, 4), (24, 8)):
            coded = by_number[registry.CODEC_BLOCKS].encode(content, "blocks", shape)
            name = f"blocks-{content}-{shape[1]}"
            yield CodecCase(name, coded.model, coded.payload, len(coded.data))
    for content in ("sparse", "zeros", "weights", "few_values"):
        for dtype in ("U8", "BF16", "F32", "I64"):
            coded = by_number[registry.CODEC_SPARSE].encode(content, dtype, (13, 9))
            name = f"sparse-{content}-{dtype}"
            yield CodecCase(name, coded.model, coded.payload, len(coded.data))


def joined(rng: Random) -> Made:
    """Packed elements: those of formats, and others with all keys and sizes."""
    blocks = [(block.name, block.fields) for block in BLOCKS.values()]
    for number in range(60):
        bits, high, key = rng.choice((1, 2, 4)), rng.choice((0, 1, 2, 4)), rng.randrange(6)
        group, high_group = rng.choice((1, 2, 3, 4, 8)), rng.choice((1, 2, 4, 6))
        run = int(np.lcm(8 * group // bits, 8 * high_group // high if high else 1))
        items = rng.choice((2, 4)) if key in (3, 5) else 8 if key == 4 else 1
        elements = int(np.lcm(run, items * (8 // (bits + high))))
        scales = [Field("F16", 2), Field("F16", 2)]
        scales += [Field("U8", 4)] * 3 if key == 4 else [Field("U8", items)]
        at = len(scales)
        first, later = (2, 0) if key == 3 else (rng.randrange(2) * (key == 1), 2 * (key > 3))
        if high:
            scales.append(Field("U8", elements * high // 8))
        place = (at, high, high_group) if high else (0, 0, 0)
        low = Joined(bits, group, *place, key, first, later)
        fields = (*scales, Field("U8", elements * bits // 8, joined=low))
        if elements <= 512 and len(fields) <= 8:
            blocks.append((f"{number}", fields))
    for name, fields in blocks:
        if any(field.joined for field in fields):
            state = random_state("golden joined", name)
            numbers = np.exp(state.standard_normal((5, 2)) * 3).astype("<f2").view(np.uint8)
            size = sum(field.size for field in fields)
            data = np.clip(state.standard_normal((5, size)) * 70 + 120, 0, 255).astype(np.uint8)
            at = [sum(f.size for f in fields[:i]) for i, f in enumerate(fields) if f.size == 2]
            for i, begin in enumerate(at[:2]):
                data[:, begin : begin + 2] = numbers[:, 2 * i : 2 * i + 2]
            data = np.concatenate([data] * (1 if name.isalpha() else 2)).reshape(-1)
            kind = kind_of_blocks(fields, 5)
            way = Split(kind, data.size, together=True)
            coder = BlocksEncoder(data, kind, level_settings(3), data.size, way)
            coder.decide([coder.count(data)])
            payload = bytes(coder.encode(data, 0))
            yield CodecCase(f"joined-{name}", coder.model(), payload, data.size)


def byte_planes(rng: Random) -> Made:
    """Both codecs of planes: every layout, with and without differences, all modes."""
    state = random_state("golden planes")
    for number in range(30):
        name = rng.choice(list(planar.LAYOUTS))
        size, n = planar.SIZE[name], rng.choice((40, 133, 256))
        run = rng.choice((1, 3, 16, 50, 300))
        runs = -(-n // run)
        lists, sections, whole = [], [], []
        for p in range(size):
            count = rng.choice((1, 2, 3, 4, 5, 16))
            code = planar.random_complete_code(state, rng.choice((2, 5, 40)))
            kinds = [planar.Class(0), planar.Class(1, symbol=p + 9), planar.Class.huffman(code)]
            listed = [kinds[(i + p) % 3] for i in range(count)]
            chosen = [rng.randrange(count) for _ in range(runs)]
            plane = np.empty(n, np.uint8)
            for r, c in enumerate(chosen):
                part = plane[r * run : (r + 1) * run]
                options = {0: range(256), 1: [p + 9], 2: list(code)}[listed[c].kind]
                part[:] = [rng.choice(list(options)) for _ in part]
            mode = rng.choice((3, 3, 3, 0, 1, 2))
            if mode == 1:
                plane[:] = p
            lists.append(listed if rng.random() < 0.8 or mode == 3 else [])
            whole.append(plane)
            data = plane.tobytes()
            section = {0: data, 1: data[:1], 2: zstd(data)}.get(mode)
            if section is None:
                section = planar.class_section(plane, listed, run, chosen)
            sections.append((mode, section))
        is_delta = name in planar.WITH_DELTA and rng.random() < 0.4
        payload = planar.chunk(sections)
        if len(payload) <= n * size:
            model = bytes(planar.model(name, run, lists, is_delta))
            yield CodecCase(f"planes-{number}", model, payload, n * size)
    by_number = {codec.number: codec for codec in codec_table.CODECS}
    for content in ("weights", "steps", "few_values", "constant", "sparse"):
        for dtype in ("U8", "BF16", "I16", "F32", "I32", "F64", "I64"):
            coded = by_number[registry.CODEC_PLANES_RANS].encode(content, dtype, (20, 64))
            name = f"planes_rans-{content}-{dtype}"
            yield CodecCase(name, coded.model, coded.payload, len(coded.data))


def mixed(rng: Random) -> Made:
    """Floats by context mixing: matrices of all kinds, one after the other."""
    formats = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}
    shapes = (
        ((40, 20), (40, 20), (33, 17)),
        ((2, 530), (3, 5)),
        ((34, 50), (50, 34)),
        ((16, 9), (15, 9), (32, 16)),
        ((1, 1), (300, 1)),
        ((64, 24), (48, 24)),
    )
    for dtype, kind in formats.items():
        for number, tensors in enumerate(shapes):
            if dtype != "BF16" and number not in (0, 3):
                continue
            parts_list = []
            for i, (rows, columns) in enumerate(tensors):
                data = weights(kind, rows, columns, (number, i)).copy()
                if number in (0, 2):
                    data[np.random.default_rng(i).random(data.shape) < 0.3] = 0
                if number == 3:
                    data.reshape(-1)[::11] = np.iinfo(data.dtype).max - i
                    data.reshape(-1)[5::13] = 1 + i
                parts_list.append(data.tobytes())
            data = np.frombuffer(b"".join(parts_list), np.uint8)
            full = replace(
                kind_of(dtype, (data.size // densor_size(dtype),)),
                parts=tuple(p for t in tensors for p in parts_of(dtype, t)),
            )
            coder = FloatCmEncoder(full)
            coder.decide([coder.count(data)]) if hasattr(coder, "count") else None
            payload = bytes(coder.encode(data, 0))
            if len(payload) <= data.size:
                yield CodecCase(f"float_cm-{dtype}-{number}", coder.model(), payload, data.size)


def densor_size(dtype: str) -> int:
    from densor.dtypes import SIZES

    return SIZES[dtype]


def texts(rng: Random) -> Made:
    """Bytes beyond ASCII, a long match, long lines, and few contexts."""
    utf8 = "Grüße aus Köln – 中文字符 и русский текст, ещё раз: Grüße aus Köln!\n".encode()
    phrase = bytes(rng.choices(b"etaoin shrdlu,.\n", k=150))
    for name, data in (("utf8", utf8 * 4), ("match", phrase * 6 + phrase[:90] + b"X" + phrase)):
        array = np.frombuffer(data, np.uint8)
        coder = ByteCmEncoder(array)
        payload = bytes(coder.encode(array, 0))
        yield CodecCase(f"byte_cm-{name}", coder.model(), payload, len(data))


def sounds(rng: Random) -> Made:
    """Samples of all sizes and signs, one to five channels, in lanes and by filters that adapt."""
    number = 0
    for size, big, unsigned, floats in (
        *((1, False, True, False), (1, False, False, False), (2, False, False, False)),
        *((2, True, False, False), (2, False, True, False), (3, False, False, False)),
        *((3, True, True, False), (4, False, False, False), (4, False, False, True)),
        *((4, True, False, True), (4, True, True, False)),
    ):
        for content in ("tone", "noise", "steps", "silence", "loud"):
            number += 1
            channels = rng.choice((1, 2, 2, 3, 5))
            layout = AudioLayout(channels, size, big, unsigned, floats)
            data = _samples(rng, layout, content, rng.choice((70, 131, 260)))
            model = audio_model_of(layout, data)
            if model is None:
                continue
            ways = [LaneCoder(model)]
            setting = rng.choice((LIGHT, FULL))
            adaptive = cascade_model(model, setting)
            if adaptive is not None and (setting == LIGHT or data.size < 700):
                ways.append(CascadeCoder(adaptive))
            for way in ways:
                if isinstance(way, LaneCoder):
                    way.decide([way.count(data)])
                payload = bytes(way.encode(data, 0))
                name = f"audio-{number}-{type(way).__name__[:5].lower()}"
                if len(payload) <= data.size:
                    yield CodecCase(name, way.model(), payload, data.size)


def flac_files(rng: Random) -> Made:
    """Frames of FLAC of all sorts, their samples in lanes or by filters that adapt."""
    for channels, depth in itertools.product((1, 2, 3), (8, 12, 16, 20, 24)):
        frames = flac_frames(rng, channels, depth, 2)
        layout = AudioLayout(channels, (depth + 7) // 8)
        coder = FlacCoder(layout, depth, level_settings(rng.choice((3, 5))))
        data = np.frombuffer(frames, np.uint8)
        coder.decide([coder.count(data)])
        payload = bytes(coder.encode(data, 0))
        if len(payload) < len(frames):
            yield CodecCase(f"flac-{channels}-{depth}", coder.model(), payload, len(frames))


def _samples(rng: Random, layout: AudioLayout, content: str, count: int) -> np.ndarray:
    state = random_state("golden sounds", layout, content)
    t = np.arange(count)[:, None] * np.linspace(0.05, 0.11, layout.channels)
    waves = {
        "tone": np.sin(t) * 0.4 + state.standard_normal(t.shape) * 0.002,
        "noise": np.clip(state.standard_normal(t.shape) * 0.05, -1, 1),
        "steps": np.repeat(state.integers(-4, 5, (count // 16 + 1, layout.channels)), 16, 0)[:count]
        / 9,
        "silence": np.zeros(t.shape) + (t > 3) * 0.001,
        "loud": np.sign(np.sin(t * 3)) * (1 - 1e-9) * (state.random(t.shape) > 0.1),
    }
    bits = 8 * layout.size
    if layout.floats:
        numbers = (np.round(waves[content] * 2**15) / 2**15).astype(">f4" if layout.big else "<f4")
        return np.frombuffer(numbers.tobytes(), np.uint8)
    half = 2 ** (bits - 1)
    whole = np.clip(np.round(waves[content] * half), -half, half - 1)
    if content == "tone" and layout.size > 2:
        whole = whole // 16 * 16
    whole = whole.astype(np.int64) + (half if layout.unsigned else 0)
    of_bytes = whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : layout.size]
    return np.ascontiguousarray(of_bytes[:, ::-1] if layout.big else of_bytes).reshape(-1)


GROUPS: dict[str, Callable[[Random], Made]] = {
    "delta": deltas,
    "scale_context": scales,
    "parts": parts,
    "joined": joined,
    "planes": byte_planes,
    "float_cm": mixed,
    "byte_cm": texts,
    "audio": sounds,
    "flac": flac_files,
    "edges": codec_edges.all_cases,
}


def with_outcome(case: CodecCase) -> tuple[CodecCase, str]:
    """A case with what becomes of it by the reference decoder, and why if it is refused."""
    try:
        data = decoded(case)
    except Refused as refused:
        name = f"{refused.reason.title()}Error"
        return replace(case, error=name), str(refused)
    return replace(case, sha256=hashlib.sha256(data).hexdigest()), ""


def decoded(case: CodecCase) -> bytes:
    """What a chunk decodes to by the reference."""
    if case.size > 1 << 26 or len(case.payload) > case.size:
        raise Refused("limit", "a chunk that no frame may hold")
    return case.by_reference()


def agrees(case: CodecCase) -> bool:
    """Whether the package makes the same of it."""
    try:
        case.by_package()
        return case.error is None
    except densor.DensorError as error:
        return type(error).__name__ == case.error


def variants(case: CodecCase, rng: Random, depth: int) -> Made:
    """Bad ones near a good one: each byte of the fields changed, lengths off by some."""
    model, payload = case.model, case.payload
    for i in [*range(min(len(model), depth)), len(model) - 1]:
        for value in {0, 1, 255, model[i] ^ 128, (model[i] + 1) % 256, (model[i] - 1) % 256}:
            yield replace(case, model=model[:i] + bytes([value]) + model[i + 1 :])
    for i in [*range(min(len(payload), depth)), *range(max(0, len(payload) - 9), len(payload))]:
        for value in {0, 1, 255, payload[i] ^ 128, (payload[i] + 1) % 256, (payload[i] - 1) % 256}:
            yield replace(case, payload=payload[:i] + bytes([value]) + payload[i + 1 :])
    for cut in (1, 2, 4, len(payload) // 2):
        yield replace(case, payload=payload[:-cut])
        yield replace(case, model=model[:-cut])
    yield replace(case, payload=payload + b"\0")
    yield replace(case, payload=payload + b"\0\0")
    yield replace(case, model=model + b"\0")
    for more in (-1, 1, case.size):
        if case.size + more > 0:
            yield replace(case, size=case.size + more)


def main() -> None:
    known = {case.name: case for case in read_cases()}
    for group in sys.argv[1:] or GROUPS:
        rng = Random(f"golden {group}")
        slow = group in ("float_cm", "byte_cm", "audio", "flac")
        refusals: dict[str, int] = {}
        until = time.monotonic() + SECONDS  # for bad ones
        for base in GROUPS[group](rng):
            good, why = with_outcome(base)
            if why:
                print(f"{good.name}: {why}")
            if "no frame may hold" in why:
                continue
            if not agrees(good):
                print(f"{good.name}: the package disagrees with the reference")
                continue
            known.setdefault(good.name, good)
            if group == "edges":
                continue
            for number, wrong in enumerate(variants(base, rng, 8 if slow else 48)):
                if number % (7 if slow else 2) or time.monotonic() > until:
                    continue
                try:
                    bad, why = with_outcome(wrong)
                except Exception as error:
                    print(f"{base.name}: {type(error).__name__} of the reference: {error}")
                    continue
                if not why or refusals.get(why, 0) >= 1 or "window" in why or "no frame" in why:
                    continue
                bad = replace(bad, name=f"bad-{base.name}-{number}")
                if not agrees(bad):
                    print(f"{bad.name}: {why}; the package disagrees")
                    continue
                refusals[why] = refusals.get(why, 0) + 1
                known.setdefault(bad.name, bad)
            if sum(refusals.values()) > 200:
                break
        print(f"{group}: {len(refusals)} refusals")
        write_cases(list(known.values()))


if __name__ == "__main__":
    main()
