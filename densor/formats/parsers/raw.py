"""Samples without a header, as somebody says that they lie: sound, rows of images.

`audio:RATE:CHANNELS:TYPE`, such as `audio:44100:2:s16`, or `image:WIDTHxHEIGHT[xCHANNELS]:TYPE`,
such as `image:640x480x3:u8`. Types of sound: u8, s8, s16, s24, s32, f32; of images: u8, u16. The
highest byte of a sample comes last, or first where `be` follows.
"""

import re

from densor.codec.audio.layout import LEAST
from densor.codec.audio.layout import Layout as Audio
from densor.codec.image.layout import Layout as Image
from densor.codec.kind import BYTES, Kind, Segment, kind_of_audio, kind_of_image
from densor.errors import ArgumentError

_AUDIO = re.compile(r"audio:([0-9]{1,9}):([0-9]{1,3}):(u8|s8|s16|s24|s32|f32)(be|le)?")
_IMAGE = re.compile(r"image:([0-9]{1,9})x([0-9]{1,9})(?:x([0-9]{1,3}))?:(u8|u16)(be|le)?")


def segments_of(raw: str, size: int | None) -> list[Segment]:
    """A file of `size` bytes, None if unknown, as whole instants or rows, and what is left.

    ArgumentError for what cannot be understood, or what no codec takes.
    """
    kind = _kind(raw)
    if size is None:
        return [Segment(kind, None)]
    whole = size // kind.unit * kind.unit
    if kind.audio is not None and whole < LEAST * kind.unit:
        return [Segment(BYTES, None)]
    return [Segment(kind, whole), Segment(BYTES, None)] if whole else [Segment(BYTES, None)]


def kind_of_raw(raw: str, size: int) -> Kind:
    """How to treat `size` bytes; as bytes where they are not whole instants or rows."""
    first = segments_of(raw, size)[0]
    return first.kind if first.size == size else BYTES


def _kind(raw: str) -> Kind:
    kind = BYTES
    if found := _AUDIO.fullmatch(raw):
        rate, channels, name, order = found.groups()
        width = int(name[1:]) // 8
        big, floats = order == "be" and width > 1, name == "f32"
        audio = Audio(int(channels), width, big, name == "u8", floats, int(rate))
        kind = kind_of_audio(audio, LEAST * audio.stride)
    elif found := _IMAGE.fullmatch(raw):
        columns, height, channels, name, order = found.groups()
        size = int(name[1:]) // 8
        big = order == "be" and size > 1
        image = Image(int(columns), int(channels or 1), size, big, height=int(height))
        kind = kind_of_image(image, image.stride) if int(height) and image.stride else BYTES
    if kind is BYTES:
        raise ArgumentError(f"{raw!r:.80} is no layout of sound or images that can be coded")
    return kind
