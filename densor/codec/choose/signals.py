"""Rows of images and samples of sound, or what else they may be coded as."""

from collections.abc import Sequence
from dataclasses import replace

from densor.codec import registry
from densor.codec.batch import Batch, Coding, Smallest
from densor.codec.choose.trials import Encode, coded_bytes, or_with_fewer_contexts, proposed
from densor.codec.codecs import CODECS
from densor.codec.interfaces import Encoder
from densor.codec.kind import BYTES
from densor.codec.levels import DEFAULT_LEVEL, Level, level_settings, with_simpler_sound

MAX_SHARE_OF_IMAGE = 0.75  # of what samples by themselves take; beyond, those are tried too
SOUND_SAMPLE = 1 << 15  # bytes of sound that are tried as plain elements
MAX_SHARE_OF_SOUND = 0.9  # of what they take; beyond, both ways are tried on all
MAX_SHARE_OF_PREDICTED = 0.8  # of what counts of bytes let expect; beyond, a sample is tried
MAX_LOSS_AS_BYTES = 1.1  # of such, over sound, that plain bytes may still turn round
IMAGE_SAMPLE = 1 << 14  # bytes of an image that are tried as plain bytes


def as_circuit(batch: Batch, level: Level) -> Coding | None:
    encoder = None if batch.base else CODECS[registry.CODEC_CIRCUIT].propose(batch, level)
    return None if encoder is None else encoder.encode()


def as_image(batch: Batch, level: Level, encode: Encode) -> Coding:
    encoder = None if batch.base else CODECS[registry.CODEC_IMAGE].propose(batch, level)
    expected = encoder.estimate() if encoder is not None else None
    if encoder and expected and expected.bytes < MAX_SHARE_OF_IMAGE * expected.otherwise:
        if level.images == "gradient":
            return encoder.encode()
        return or_with_fewer_contexts(registry.CODEC_IMAGE, batch, level, encoder.encode())
    elements = replace(batch, kind=replace(batch.kind, image=None))
    otherwise = encode(elements, level)
    if encoder is None:
        return otherwise
    coded = or_with_fewer_contexts(registry.CODEC_IMAGE, batch, level, encoder.encode())
    if level.bytes == "zstd" or not _better_as_bytes(batch, level):
        return Smallest(coded, otherwise)
    return Smallest(coded, otherwise, encode(replace(batch, kind=BYTES), level))


def as_audio(batch: Batch, level: Level, encode: Encode) -> Coding:
    encoder = None if batch.base else CODECS[registry.CODEC_AUDIO].propose(batch, level)
    if encoder is None:
        return encode(_as_elements(batch), level)
    simpler = [proposed(registry.CODEC_AUDIO, batch, way) for way in with_simpler_sound(level)]
    coded = encoder.encode()
    if simpler:
        coded = Smallest(coded, *(way.encode() for way in simpler))
    if _predicted([encoder, *simpler]):
        return coded
    if batch.data.size > SOUND_SAMPLE and _clearly_sound(batch, level, encode):
        return coded
    otherwise = encode(_as_elements(batch), level)
    if level.bytes == "zstd" or not _may_be_bytes(batch, level):
        return Smallest(coded, otherwise)
    return Smallest(coded, otherwise, encode(replace(batch, kind=BYTES), level))


def _as_elements(batch: Batch) -> Batch:
    """Samples of sound as any other elements."""
    return batch.of_kind(replace(batch.kind, audio=None))


def _predicted(ways: Sequence[Encoder]) -> bool:
    """Whether prediction leaves far less than counts of bytes let expect, of a sample."""
    estimates = (way.estimate() for way in ways)
    return any(e.bytes < MAX_SHARE_OF_PREDICTED * e.otherwise for e in estimates if e)


def _may_be_bytes(batch: Batch, level: Level) -> bool:
    """Whether sound takes about as little as plain bytes, by a stretch from the middle if long."""
    if batch.data.size <= SOUND_SAMPLE:
        return True
    piece = _middle(batch, SOUND_SAMPLE)
    as_bytes = coded_bytes(replace(piece, kind=BYTES), level, registry.CODEC_BYTE_CM)
    return as_bytes < MAX_LOSS_AS_BYTES * coded_bytes(piece, level, registry.CODEC_AUDIO)


def _middle(batch: Batch, most: int) -> Batch:
    """Whole rows from the middle of a batch; all of it where it has hardly more."""
    size = batch.kind.whole_rows(most)
    begin = (batch.data.size - size) // 2 // batch.kind.unit * batch.kind.unit
    return batch.alone(batch.data[begin : begin + size] if begin > 0 else batch.data)


def _clearly_sound(batch: Batch, level: Level, encode: Encode) -> bool:
    """Whether a stretch from the middle takes far less as sound, by a quick method, than else."""
    piece = _middle(batch, SOUND_SAMPLE)
    quick = level_settings(DEFAULT_LEVEL)
    as_sound = coded_bytes(piece, quick, registry.CODEC_AUDIO)
    coded = encode(_as_elements(piece), quick).result()
    otherwise = sum(len(chunk.payload) for chunk in coded.chunks)
    return as_sound < MAX_SHARE_OF_SOUND * otherwise


def _better_as_bytes(batch: Batch, level: Level) -> bool:
    """Whether some rows from the middle take less as plain bytes."""
    rows = _middle(batch, IMAGE_SAMPLE)
    as_bytes = replace(rows, kind=BYTES)
    return coded_bytes(as_bytes, level, registry.CODEC_BYTE_CM) < coded_bytes(
        rows, level, registry.CODEC_IMAGE
    )
