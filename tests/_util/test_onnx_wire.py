"""ONNX files as protocol buffers: lists in both encodings, and what is not one."""

from __future__ import annotations

import pytest

from retinasdk._util.onnx_wire import Field, fields, integers


def only(message: bytes) -> Field:
    (field,) = fields(memoryview(message))
    return field


MINUS_ONE = b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (b"\x40\x05", [5]),
        (b"\x40" + MINUS_ONE, [-1]),
        # Packed, as proto3 writes lists. The onnx package writes one field for each value.
        (b"\x42\x00", []),
        (b"\x42\x04\x03\x96\x01\x00", [3, 150, 0]),
        (b"\x42\x0b\x02" + MINUS_ONE, [2, -1]),
    ],
)
def test_integers_in_both_encodings(message: bytes, values: list[int]) -> None:
    field = only(message)
    assert field.number == 8
    assert integers(field) == values


def test_a_packed_list_that_ends_inside_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="not a protocol buffer"):
        integers(only(b"\x42\x02\x01\x96"))


def test_a_list_that_is_longer_than_any_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="a list of 1025 bytes is longer than any shape, strides or pads"):
        integers(only(b"\x42\x81\x08" + bytes(1025)))
    assert integers(only(b"\x42\x80\x08" + bytes(1024))) == [0] * 1024


def test_a_number_is_no_text() -> None:
    with pytest.raises(ValueError, match="field 8 must be bytes, got a number"):
        only(b"\x40\x05").text  # noqa: B018


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\x43", "wire type 3 at byte 0"),
        (b"\x42\x05ab", "the field at byte 0 is longer than the rest of the message"),
        (b"\x41\x01\x02", "the field at byte 0 is longer than the rest of the message"),
        (b"\x40", "not a protocol buffer"),
    ],
)
def test_what_is_no_message_is_refused(message: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        only(message)
