"""Reads and edits ONNX files as protocol buffers, without the package `onnx`.

Only the parts that are edited are parsed, as fields by number (see onnx.proto). Everything else, such as the weights,
is copied byte for byte. The encoding is described at https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MAX_LIST_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Field:
    """Holds one field of a message.

    Attributes:
        number: Number of the field.
        value: An integer, or the bytes of a message, string, packed array or fixed-size number.
        raw: The bytes of the whole field in the message, with its key.
    """

    number: int
    value: int | memoryview
    raw: memoryview

    @property
    def data(self) -> memoryview:
        """Returns the bytes of a message, string or packed array.

        Raises:
            ValueError: If the value is an integer.
        """
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} must be bytes, got a number")
        return self.value

    @property
    def text(self) -> str:
        """Returns the value as a string, one character for each byte: `text.encode("latin-1")` returns the bytes.

        Names are compared with each other and with ASCII only. Decoded as UTF-8, one rare character would make a string
        of Python four times as large as its bytes.

        Raises:
            ValueError: If the value is an integer.
        """
        return str(self.data, "latin-1")


def fields(message: memoryview) -> Iterator[Field]:
    """Yields the fields of a message in their order.

    Raises:
        ValueError: If the bytes are not a protocol buffer.
    """
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
            raise ValueError(f"not a protocol buffer: the field at byte {start} is longer than the rest of the message")
        yield Field(key >> 3, value, message[start:at])


def integers(field: Field) -> list[int]:
    """Returns the int64 values of a field that is packed, or the one value of a field that is not.

    Raises:
        ValueError: If the values are more than a shape, strides or pads can have, or are no integers.
    """
    if isinstance(field.value, int):
        return [_signed(field.value)]
    if len(field.value) > _MAX_LIST_BYTES:  # As Python objects, they would take many times the size of the file.
        raise ValueError(f"a list of {len(field.value)} bytes is longer than any shape, strides or pads")
    values, at = [], 0
    while at < len(field.value):
        value, at = _varint(field.value, at)
        values.append(_signed(value))
    return values


def number_field(number: int, value: int) -> bytes:
    """Encodes a field with an integer from 0."""
    return _encode(number << 3 | VARINT) + _encode(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encodes a field with a message, string or packed array."""
    return length_prefix(number, len(value)) + value


def length_prefix(number: int, size: int) -> bytes:
    """Encodes the key and the length of a field whose `size` bytes follow."""
    return _encode(number << 3 | LENGTH) + _encode(size)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"not a protocol buffer: invalid number that ends at byte {at}")
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
