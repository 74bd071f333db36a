"""Fields of a serialised protocol buffer, taken apart and written again without its schema.

As the encoding page of the protocol buffers' documentation says: a message is a list of fields,
each with a number and one of four forms; a reader passes over what it does not know, lists grow by
repetition, and two serialised messages one after the other are the message merged of both.
"""

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LARGEST_SHIFT = 63


class Field(NamedTuple):
    """One field of a message.

    Attributes:
      number: as in the schema.
      value: an int of a varint, bytes of everything else.
      raw: the field as it is written, number and length included.
    """

    number: int
    value: int | bytes
    raw: bytes

    @property
    def data(self) -> bytes:
        """The value of a field that holds bytes, text or a message; raises ValueError if none."""
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number; expected bytes")
        return self.value


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in their order; raises ValueError where it is none."""
    place = 0
    while place < len(message):
        start = place
        # Most keys and sizes are one byte, which is read here: a program has thousands.
        key, place = message[place], place + 1
        if key > 0x7F:
            key, place = _read_varint(message, start)
        number, form = key >> 3, key & 7
        value: int | bytes
        if form == _VARINT:
            value, place = _read_varint(message, place)
        else:
            size = _FIXED_SIZES.get(form)
            if form == _BYTES and place < len(message) and message[place] < 0x80:
                size, place = message[place], place + 1
            elif form == _BYTES:
                size, place = _read_varint(message, place)
            if size is None or not number or place + size > len(message):
                raise ValueError(f"no protocol buffer: byte {start} of {len(message)}")
            value = message[place : place + size]
            place += size
        yield Field(number, value, message[start:place])


def number_field(field: int, value: int) -> bytes:
    """A field that holds a number of 0 or more."""
    return _varint(field << 3 | _VARINT) + _varint(value)


def bytes_field(field: int, data: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift <= _LARGEST_SHIFT:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError(f"no protocol buffer: no number ends at byte {place} of {len(message)}")


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
