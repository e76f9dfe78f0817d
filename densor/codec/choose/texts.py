"""Bytes and tokens under a model of text."""

from dataclasses import replace

from densor.codec import registry
from densor.codec.batch import Batch, Bytes, Coding, Smallest
from densor.codec.choose.trials import FAST_ZSTD, Encode, proposed
from densor.codec.codecs import CODECS
from densor.codec.levels import Level, beside_language_model
from densor.codec.zstd import zstd_compress
from densor.llm.vocabulary import readable
from densor.runtime.workers import Done

# Where a model of bytes has a chance
MIN_BYTES_OF_TEXT = 1 << 12  # below, context mixing has not learned enough to be worth its time
MIN_BYTES_ASKED = 128  # that a language model is asked about
# Where a text of so many bytes takes fewer bits per byte without one, it is not asked: it could
# save no more than these, at some 1,000 bytes of text a second.
MIN_BYTES_OF_LITTLE, MIN_BITS_LEFT = 1 << 14, 0.1
MAX_REPEATS = 500  # size over what Zstandard leaves; beyond, nothing is left to gain
MIN_READABLE = 0.5  # share of samples that reads like a text; of noise, .38 does
SAMPLE_BYTES, MAX_SAMPLES = 1 << 12, 32


def as_text(batch: Batch, level: Level, encode: Encode) -> Coding | None:
    if batch.session is None:
        return None
    size = batch.data.size
    without = encode(replace(batch, session=None, base=None), beside_language_model(level))
    asked = _is_text(batch.data)
    if asked and size >= MIN_BYTES_OF_LITTLE:
        coded = without.result()  # which takes a hundredth of the time that asking would take
        without, asked = Done(coded), 8 * coded.stored >= MIN_BITS_LEFT * size
    if not asked:
        batch.session.moved((1 + batch.session.check) * size)
        return without
    return Smallest(proposed(registry.CODEC_LANGUAGE_MODEL, batch, level).encode(), without)


def as_tokens(batch: Batch, level: Level, encode: Encode) -> Coding | None:
    if batch.session is None:
        return None
    without = Done(encode(replace(batch, session=None), level).result())
    encoder = estimate = None
    if batch.data.size >= MIN_BYTES_ASKED:
        encoder = CODECS[registry.CODEC_LANGUAGE_MODEL].propose(batch, level)
        estimate = None if encoder is None else encoder.estimate()
    if encoder is None or estimate is None or estimate.bytes >= without.result().stored:
        batch.session.moved((1 + batch.session.check) * batch.data.size)
        return without
    return Smallest(encoder.encode(), without)


def as_byte_cm(batch: Batch, level: Level) -> Coding | None:
    if batch.data.size < MIN_BYTES_OF_TEXT:
        return None
    return proposed(registry.CODEC_BYTE_CM, batch, level).encode()


def _is_text(data: Bytes) -> bool:
    """Whether a language model is worth asking: a fifth of the bytes or more belong to texts.

    By samples from all over; not if so much repeats that Zstandard leaves nothing to gain.
    """
    if data.size < MIN_BYTES_ASKED:
        return False
    if len(zstd_compress(data, FAST_ZSTD)) * MAX_REPEATS < data.size:
        return False
    step = max(SAMPLE_BYTES, data.size // MAX_SAMPLES)
    begins = range(0, data.size, step)
    samples = b"".join(data[at : at + SAMPLE_BYTES].tobytes() for at in begins)
    return readable(samples) >= MIN_READABLE
