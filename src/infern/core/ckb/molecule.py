"""Strict codecs of molecule, CKB's serialization, as values that combine.

A codec turns a Python value into bytes and back. It accepts exactly one encoding of each value:
sizes and offsets must be canonical, nothing may trail, union ids must be known, a table has
exactly its fields (unless `compatible`), and every vector has a limit. Hostile bytes raise
`RemoteProtocolError` with code `invalid_molecule` and nothing else; a value of ours that does
not fit its type raises `ValueError`.

Records are built field by field and typed as the tuple of their fields::

    OUT_POINT = Struct.of("OutPoint").field(HASH32).field(UINT32)   # Codec[tuple[bytes, int]]
    tx_hash, index = OUT_POINT.unpack(data)

`mapped` turns such tuples into domain types.

Source: nervosnetwork/rfcs 0008, "Serialization: Molecule encoding".
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final, Generic, Never, TypeVar, TypeVarTuple, cast

from infern.core.errors import RemoteProtocolError

T = TypeVar("T")
U = TypeVar("U")
Ts = TypeVarTuple("Ts")

_NUMBER_BYTES: Final = 4
_MAX_TOTAL: Final = 2**32 - 1
_MAX_TABLE_FIELDS: Final = 256
"""How many fields a table of a later version may have; ours have a dozen."""


class Codec(ABC, Generic[T]):
    """One molecule type.

    Args:
        name: The type's name, for messages.
        fixed_size: Bytes of every value, or None when values differ in size.
    """

    __slots__ = ("fixed_size", "name")

    def __init__(self, name: str, fixed_size: int | None) -> None:
        self.name = name
        self.fixed_size = fixed_size

    @abstractmethod
    def pack(self, value: T) -> bytes:
        """Serialize a value.

        Raises:
            ValueError: The value does not fit the type.
        """

    @abstractmethod
    def unpack(self, data: bytes) -> T:
        """Read a value that fills `data` exactly.

        Raises:
            RemoteProtocolError: The bytes are not a canonical value (`invalid_molecule`, money
                unmoved).
        """

    def mapped(
        self,
        read: Callable[[T], U],
        write: Callable[[U], T],
        *,
        code: str = "invalid_molecule",
    ) -> "Codec[U]":
        """A codec of another Python type with the same bytes.

        Args:
            read: From the molecule value; refuses what the layout alone allows by `ValueError`.
            write: Back; `write(read(x)) == x` must hold.
            code: The error code when `read` refuses.
        """
        return _Mapped(self, read, write, code)

    def _check_fixed(self, data: bytes) -> None:
        if len(data) != self.fixed_size:
            raise _broken(self.name, f"has {self.fixed_size} bytes, not {len(data)}")


def _broken(name: str, problem: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{name} {problem}", code="invalid_molecule")


class _Mapped(Codec[U], Generic[T, U]):
    __slots__ = ("_code", "_inner", "_read", "_write")

    def __init__(
        self, inner: Codec[T], read: Callable[[T], U], write: Callable[[U], T], code: str
    ) -> None:
        super().__init__(inner.name, inner.fixed_size)
        self._inner = inner
        self._read = read
        self._write = write
        self._code = code

    def pack(self, value: U) -> bytes:
        return self._inner.pack(self._write(value))

    def unpack(self, data: bytes) -> U:
        value = self._inner.unpack(data)
        try:
            return self._read(value)
        except ValueError as error:
            raise RemoteProtocolError(str(error), code=self._code) from None


class Uint(Codec[int]):
    """An unsigned little-endian integer: `byte`, `Uint32`, `Uint64`, `Uint128`."""

    __slots__ = ("_size",)

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)
        self._size = size

    def pack(self, value: int) -> bytes:
        """Serialize an integer of 0..2^(8·size)-1."""
        if isinstance(value, bool) or not 0 <= value < 1 << 8 * self._size:
            raise ValueError(f"{self.name} holds 0 to 2^{8 * self._size}-1")
        return value.to_bytes(self._size, "little")

    def unpack(self, data: bytes) -> int:
        """Read an integer."""
        self._check_fixed(data)
        return int.from_bytes(data, "little")


BYTE: Final = Uint("byte", 1)
UINT32: Final = Uint("Uint32", 4)
UINT64: Final = Uint("Uint64", 8)
UINT128: Final = Uint("Uint128", 16)


class ByteArray(Codec[bytes]):
    """`array [byte; n]`."""

    __slots__ = ()

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)

    def pack(self, value: bytes) -> bytes:
        """Serialize exactly n bytes."""
        if len(value) != self.fixed_size:
            raise ValueError(f"{self.name} has {self.fixed_size} bytes")
        return bytes(value)

    def unpack(self, data: bytes) -> bytes:
        """Read exactly n bytes."""
        self._check_fixed(data)
        return data


HASH32: Final = ByteArray("Byte32", 32)


class Array(Codec[tuple[T, ...]]):
    """`array [item; n]` of items with a fixed size."""

    __slots__ = ("_count", "_item", "_item_size")

    def __init__(self, name: str, item: Codec[T], count: int) -> None:
        self._item_size = _fixed_size_of(name, item.fixed_size)
        super().__init__(name, self._item_size * count)
        self._item = item
        self._count = count

    def pack(self, value: tuple[T, ...]) -> bytes:
        """Serialize exactly n items."""
        if len(value) != self._count:
            raise ValueError(f"{self.name} has {self._count} items")
        return b"".join(map(self._item.pack, value))

    def unpack(self, data: bytes) -> tuple[T, ...]:
        """Read exactly n items."""
        self._check_fixed(data)
        return tuple(map(self._item.unpack, _slices(data, self._item_size)))


class Bytes(Codec[bytes]):
    """`vector <byte>` of at most `max_bytes`."""

    __slots__ = ("_max_bytes",)

    def __init__(self, name: str, *, max_bytes: int) -> None:
        super().__init__(name, None)
        self._max_bytes = max_bytes

    def pack(self, value: bytes) -> bytes:
        """Serialize bytes with their count in front."""
        if len(value) > self._max_bytes:
            raise ValueError(f"{self.name} has at most {self._max_bytes} bytes")
        return len(value).to_bytes(_NUMBER_BYTES, "little") + value

    def unpack(self, data: bytes) -> bytes:
        """Read bytes with their count in front."""
        _check_count(self.name, data, 1, self._max_bytes)
        return data[_NUMBER_BYTES:]


class FixVec(Codec[tuple[T, ...]]):
    """`vector <item>` of items with a fixed size, at most `max_items`."""

    __slots__ = ("_item", "_item_size", "_max_items")

    def __init__(self, name: str, item: Codec[T], *, max_items: int) -> None:
        super().__init__(name, None)
        self._item_size = _fixed_size_of(name, item.fixed_size)
        self._item = item
        self._max_items = max_items

    def pack(self, value: tuple[T, ...]) -> bytes:
        """Serialize items with their count in front."""
        if len(value) > self._max_items:
            raise ValueError(f"{self.name} has at most {self._max_items} items")
        packed = map(self._item.pack, value)
        return len(value).to_bytes(_NUMBER_BYTES, "little") + b"".join(packed)

    def unpack(self, data: bytes) -> tuple[T, ...]:
        """Read items with their count in front."""
        _check_count(self.name, data, self._item_size, self._max_items)
        return tuple(map(self._item.unpack, _slices(data[_NUMBER_BYTES:], self._item_size)))


class DynVec(Codec[tuple[T, ...]]):
    """`vector <item>` of items that differ in size, at most `max_items`."""

    __slots__ = ("_item", "_max_items")

    def __init__(self, name: str, item: Codec[T], *, max_items: int) -> None:
        if item.fixed_size is not None:
            raise ValueError(f"{name}: molecule stores items of fixed size in a FixVec")
        super().__init__(name, None)
        self._item = item
        self._max_items = max_items

    def pack(self, value: tuple[T, ...]) -> bytes:
        """Serialize items behind their offsets."""
        if len(value) > self._max_items:
            raise ValueError(f"{self.name} has at most {self._max_items} items")
        return _join(self.name, [self._item.pack(item) for item in value])

    def unpack(self, data: bytes) -> tuple[T, ...]:
        """Read items behind their offsets."""
        return tuple(map(self._item.unpack, _split(self.name, data, self._max_items)))


class Struct(Codec[tuple[*Ts]], Generic[*Ts]):
    """`struct`: fields of fixed size, one after the other.

    Start with `Struct.of(name)` and add fields with `field`.
    """

    __slots__ = ("_fields",)

    def __init__(self, name: str, fields: tuple[Codec[object], ...]) -> None:
        sizes = [_fixed_size_of(name, field.fixed_size) for field in fields]
        super().__init__(name, sum(sizes))
        self._fields = fields

    @classmethod
    def of(cls, name: str) -> "Struct[()]":
        """A struct without fields yet."""
        return Struct(name, ())

    def field(self, codec: Codec[T]) -> "Struct[*Ts, T]":
        """The struct with one more field at its end."""
        return Struct(self.name, (*self._fields, cast("Codec[object]", codec)))

    def pack(self, value: tuple[*Ts]) -> bytes:
        """Serialize the fields in order."""
        return b"".join(_pack_fields(self._fields, value))

    def unpack(self, data: bytes) -> tuple[*Ts]:
        """Read the fields in order."""
        self._check_fixed(data)
        parts = []
        at = 0
        for field in self._fields:
            end = at + (field.fixed_size or 0)
            parts.append(data[at:end])
            at = end
        return cast("tuple[*Ts]", _unpack_fields(self._fields, parts))


class Table(Codec[tuple[*Ts]], Generic[*Ts]):
    """`table`: fields of any size behind their offsets.

    Start with `Table.of(name)` and add fields with `field`.
    """

    __slots__ = ("_compatible", "_fields")

    def __init__(self, name: str, fields: tuple[Codec[object], ...], *, compatible: bool) -> None:
        super().__init__(name, None)
        self._compatible = compatible
        self._fields = fields

    @classmethod
    def of(cls, name: str, *, compatible: bool = False) -> "Table[()]":
        """A table without fields yet.

        Args:
            name: The type's name.
            compatible: Accept, and ignore, further fields that a later version appended. Leave
                it off where the bytes are hashed or signed: packing loses what was ignored.
        """
        return Table(name, (), compatible=compatible)

    def field(self, codec: Codec[T]) -> "Table[*Ts, T]":
        """The table with one more field at its end."""
        fields = (*self._fields, cast("Codec[object]", codec))
        return Table(self.name, fields, compatible=self._compatible)

    def pack(self, value: tuple[*Ts]) -> bytes:
        """Serialize the fields behind their offsets."""
        return _join(self.name, _pack_fields(self._fields, value))

    def unpack(self, data: bytes) -> tuple[*Ts]:
        """Read the fields behind their offsets."""
        parts = _split(self.name, data, _MAX_TABLE_FIELDS)
        expected = len(self._fields)
        if len(parts) < expected or (len(parts) > expected and not self._compatible):
            raise _broken(self.name, f"has {expected} fields, not {len(parts)}")
        return cast("tuple[*Ts]", _unpack_fields(self._fields, parts))


class Option(Codec[T | None]):
    """`option`: no bytes for None, else the item."""

    __slots__ = ("_item",)

    def __init__(self, name: str, item: Codec[T]) -> None:
        if item.fixed_size == 0:
            raise ValueError(f"{name}: an empty item looks like no item")
        super().__init__(name, None)
        self._item = item

    def pack(self, value: T | None) -> bytes:
        """Serialize the item, or nothing."""
        return b"" if value is None else self._item.pack(value)

    def unpack(self, data: bytes) -> T | None:
        """Read the item, or None from no bytes."""
        return self._item.unpack(data) if data else None


class TaggedUnion(Codec[T]):
    """`union`: a u32 id and the item of that id. Each item has its own Python class.

    Start with `TaggedUnion.of(name)` and add items with `item`.
    """

    __slots__ = ("_by_class", "_by_id")

    def __init__(
        self,
        name: str,
        by_id: Mapping[int, Codec[object]],
        by_class: Mapping[type[object], int],
    ) -> None:
        super().__init__(name, None)
        self._by_id = by_id
        self._by_class = by_class

    @classmethod
    def of(cls, name: str) -> "TaggedUnion[Never]":
        """A union without items yet."""
        return TaggedUnion(name, {}, {})

    def item(self, item_id: int, kind: type[U], codec: Codec[U]) -> "TaggedUnion[T | U]":
        """The union with one more item.

        Raises:
            ValueError: The id or the class has an item already.
        """
        if item_id in self._by_id or kind in self._by_class:
            raise ValueError(f"{self.name} has an item {item_id} or a {kind.__name__} already")
        by_id = {**self._by_id, item_id: cast("Codec[object]", codec)}
        return TaggedUnion(self.name, by_id, {**self._by_class, kind: item_id})

    def pack(self, value: T) -> bytes:
        """Serialize the id of the value's class and the value."""
        item_id = self._by_class.get(type(value))
        if item_id is None:
            raise ValueError(f"{type(value).__name__} is not an item of {self.name}")
        return item_id.to_bytes(_NUMBER_BYTES, "little") + self._by_id[item_id].pack(value)

    def unpack(self, data: bytes) -> T:
        """Read an item by its id."""
        if len(data) < _NUMBER_BYTES:
            raise _broken(self.name, f"needs {_NUMBER_BYTES} bytes for its id, not {len(data)}")
        item_id = int.from_bytes(data[:_NUMBER_BYTES], "little")
        codec = self._by_id.get(item_id)
        if codec is None:
            raise _broken(self.name, f"has no item {item_id}")
        return cast("T", codec.unpack(data[_NUMBER_BYTES:]))


def _fixed_size_of(name: str, size: int | None) -> int:
    if not size:
        raise ValueError(f"{name} holds only items of a fixed size above zero")
    return size


def _slices(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _check_count(name: str, data: bytes, item_size: int, max_items: int) -> None:
    if len(data) < _NUMBER_BYTES:
        raise _broken(name, f"needs {_NUMBER_BYTES} bytes for its count, not {len(data)}")
    count = int.from_bytes(data[:_NUMBER_BYTES], "little")
    if count > max_items:
        raise _broken(name, f"has at most {max_items} items, not {count}")
    if len(data) != _NUMBER_BYTES + count * item_size:
        raise _broken(name, f"has {len(data)} bytes, which is not the size of {count} items")


def _pack_fields(fields: Sequence[Codec[object]], value: tuple[object, ...]) -> list[bytes]:
    return [field.pack(item) for field, item in zip(fields, value, strict=True)]


def _unpack_fields(fields: Sequence[Codec[object]], parts: Sequence[bytes]) -> tuple[object, ...]:
    return tuple([field.unpack(part) for field, part in zip(fields, parts, strict=False)])


def _join(name: str, items: Sequence[bytes]) -> bytes:
    offset = _NUMBER_BYTES * (len(items) + 1)
    offsets = []
    for item in items:
        offsets.append(offset)
        offset += len(item)
    if offset > _MAX_TOTAL:
        raise ValueError(f"{name} would be larger than 4 GiB")
    return struct.pack(f"<{len(items) + 1}I", offset, *offsets) + b"".join(items)


def _split(name: str, data: bytes, max_items: int) -> list[bytes]:
    """Cut a table or a dynamic vector at its offsets, which must leave no gap."""
    size = len(data)
    if size < _NUMBER_BYTES:
        raise _broken(name, f"needs {_NUMBER_BYTES} bytes for its size, not {size}")
    total = int.from_bytes(data[:_NUMBER_BYTES], "little")
    if total != size:
        raise _broken(name, f"claims {total} bytes and has {size}")
    if size == _NUMBER_BYTES:
        return []
    first = int.from_bytes(data[_NUMBER_BYTES : 2 * _NUMBER_BYTES], "little")
    if size < 2 * _NUMBER_BYTES or first % _NUMBER_BYTES or not 2 * _NUMBER_BYTES <= first <= size:
        raise _broken(name, "has a first offset that fits no header")
    count = first // _NUMBER_BYTES - 1
    if count > max_items:
        raise _broken(name, f"has at most {max_items} items, not {count}")
    bounds = (*struct.unpack_from(f"<{count}I", data, _NUMBER_BYTES), size)
    if any(start > end for start, end in pairwise(bounds)):
        raise _broken(name, "has offsets out of order")
    return [data[start:end] for start, end in pairwise(bounds)]
