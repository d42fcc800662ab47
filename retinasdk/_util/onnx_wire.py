"""ONNX files read and edited as what they are, protocol buffers, without the package `onnx`.

Only what an edit of nodes needs: fields by number (onnx.proto), everything else carried over byte for byte, so a file's
weights are never taken apart. The encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """One field of a message: its number, its value (an integer, or the bytes), and all of it as it stood."""

    number: int
    value: int | memoryview
    raw: memoryview

    @property
    def data(self) -> memoryview:
        """The bytes of a message, string or packed array. Raises `ValueError` for a number."""
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number, wanted bytes")
        return self.value

    @property
    def text(self) -> str:
        return bytes(self.data).decode()


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in their order. Raises `ValueError` where it is not one."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        value: int | memoryview
        if key & 7 == VARINT:
            value, at = _varint(message, at)
        else:
            if key & 7 == LENGTH:
                size, at = _varint(message, at)
            elif key & 7 in (FIXED64, FIXED32):
                size = 8 if key & 7 == FIXED64 else 4
            else:
                raise ValueError(f"not a protocol buffer: wire type {key & 7} at byte {start}")
            value, at = message[at : at + size], at + size
        if at > len(message):
            raise ValueError(f"not a protocol buffer: the field at byte {start} is longer than what is there")
        yield Field(key >> 3, value, message[start:at])


def integers(field: Field) -> list[int]:
    """The int64 values of a repeated field, packed or one of many."""
    if isinstance(field.value, int):
        return [_signed(field.value)]
    values, at = [], 0
    while at < len(field.value):
        value, at = _varint(field.value, at)
        values.append(_signed(value))
    return values


def number_field(number: int, value: int) -> bytes:
    return _encode(number << 3 | VARINT) + _encode(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return length_prefix(number, len(value)) + value


def length_prefix(number: int, size: int) -> bytes:
    """What stands before the `size` bytes of a message, string or array."""
    return _encode(number << 3 | LENGTH) + _encode(size)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"not a protocol buffer: no number ends at byte {at}")
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
