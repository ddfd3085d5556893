"""The adaptive arithmetic coder that shortens Fiber invoices, bit for bit as fnn's.

An order-0 model over 257 symbols (256 bytes and an end mark). Every count starts at 1 and a coded
byte adds 1 to its own; the end mark stays at 1. The interval is kept with 48 bits and divided in
IEEE double arithmetic, which the format inherits from its first implementation: Python floats are
the same numbers, so the divisions below must stay floating point.

Two things make this fast without leaving Python:

* The model is one sorted byte string that holds each byte as often as its count. Position `c` of
  the cumulative counts then *is* the symbol found there: looking up a symbol is an index, its
  bounds are two `memchr`s and an update is one insertion.
* Renormalisation shifts by all bits at once instead of one by one. The format shifts while
  `high < half` or `low > half`, both strictly: as long as the leading bits of `high` and
  `low - 1` agree.

Source: the behaviour of the `arcode` 0.2.4 crate (48 bits of precision, an end mark added) as
fiber-types 0.9.1 uses it.
"""

from typing import Final

_BITS: Final = 48
_TOP: Final = 1 << _BITS
_MASK: Final = _TOP - 1
_HALF: Final = _TOP >> 1
_QUARTER: Final = _TOP >> 2
_END_MARK: Final = 256
_FRESH_MODEL: Final = bytes(range(256))
_FRESH_TOTAL: Final = 257
_FINAL_BITS: Final = 2
"""What the encoder writes at least after the last decided bit, to name a point of the interval."""


class CodedDataError(ValueError):
    """Coded data that no encoder writes; `str()` says what is wrong with it."""


class ExpandsTooFarError(CodedDataError):
    """Coded data that holds more bytes than the caller allows."""


def compress(data: bytes) -> bytes:
    """Encode bytes, with end mark and final padding; the result is never empty."""
    model = bytearray(_FRESH_MODEL)
    low, width, total = 0, _TOP, _FRESH_TOTAL
    code, length = 0, 0  # all bits decided so far as one number, and how many they are
    pending = 0  # bits known to be the opposite of the next decided one
    for symbol in (*data, _END_MARK):
        if symbol == _END_MARK:
            at, through = total - 1, total
        else:
            at, through = model.find(symbol), model.rfind(symbol) + 1
            model.insert(at, symbol)
        below = int(width * (at / total))
        width = int(width * (through / total)) - below
        low += below
        total += 1

        high = low + width
        if low and high != _TOP:
            shift = _BITS - ((low - 1) ^ high).bit_length()
        else:
            shift = _agreed_bits(low, high)
        if shift:
            bits = low >> _BITS - shift
            low = (low & _MASK >> shift) << shift
            width <<= shift
            if pending:
                rest = shift - 1
                lead = 1 << pending if bits >> rest else (1 << pending) - 1
                bits = lead << rest | bits & (1 << rest) - 1
                shift += pending
                pending = 0
            code = code << shift | bits
            length += shift
        # Bounds that close in on the middle from both sides leave the next bit undecided.
        under, over = _HALF - low, low + width - _HALF
        undecided = _BITS - 1 - (under | over).bit_length()
        if undecided > 0:
            low = _HALF - (under << undecided)
            width <<= undecided
            pending += undecided
    pending += 1
    last = (1 << pending) - 1 if low <= _QUARTER else 1 << pending
    length += pending + 1
    padding = -length % 8
    code = (code << pending + 1 | last) << padding
    return code.to_bytes((length + padding) // 8, "big")


def decompress(data: bytes, *, max_bytes: int) -> bytes:
    """Decode what `compress` wrote, and nothing else.

    Data that decodes but is not the encoder's own output (other final bits, further bytes) is
    refused, so that each message has exactly one coded form.

    Args:
        data: The coded bytes.
        max_bytes: The most bytes to hand out; work and memory are bounded by it.

    Raises:
        ExpandsTooFarError: The data holds more than `max_bytes`.
        CodedDataError: The data breaks off before its end mark or is not canonical.
    """
    model = bytearray(_FRESH_MODEL)
    find, rfind, insert = model.find, model.rfind, model.insert
    out = bytearray()
    low, width, total = 0, _TOP, _FRESH_TOTAL
    symbol = above = 0
    # `offset` is how far above `low` the 48 bits under inspection lie; `unread` bits of data
    # follow them. Behind the data stand zeros.
    stream = int.from_bytes(data, "big") << _BITS
    unread = 8 * len(data)
    offset = stream >> unread
    while True:
        slot = offset * total // width  # exact, where the format's own bound may lie 1 lower
        while slot < total - 1:
            symbol = model[slot]
            through = rfind(symbol) + 1
            above = int(width * (through / total))
            if above > offset:
                break
            slot = through
        else:
            break  # the end mark
        if len(out) == max_bytes:
            raise ExpandsTooFarError(f"the data expands to more than {max_bytes} bytes")
        out.append(symbol)
        at = find(symbol)
        below = int(width * (at / total))
        insert(at, symbol)
        total += 1

        low += below
        width = above - below
        high = low + width
        # The end mark lies above every byte, so `high` cannot be the top here.
        taken = _BITS - ((low - 1) ^ high if low else high).bit_length()
        low = (low & _MASK >> taken) << taken
        under, over = _HALF - low, low + (width << taken) - _HALF
        undecided = _BITS - 1 - (under | over).bit_length()
        if undecided > 0:
            low = _HALF - (under << undecided)
            taken += undecided
        width <<= taken
        unread -= taken
        if unread < 0:
            raise CodedDataError("the data breaks off before its end mark")
        offset = (offset - below) << taken | stream >> unread & (1 << taken) - 1

    _check_end(data, low=low, width=width, total=total, offset=offset, unread=unread)
    return bytes(out)


def _check_end(data: bytes, *, low: int, width: int, total: int, offset: int, unread: int) -> None:
    """Check that the data ends as the encoder ends it, given the decoder's state at the mark.

    The symbols fix every bit up to here. What is left is the encoder's choice: it narrows to the
    end mark and writes one point of that interval, 01 or 10 and then zeros, in the fewest bytes.
    """
    below = int(width * ((total - 1) / total))
    low += below
    width -= below
    taken = _agreed_bits(low, low + width)
    low = (low & _MASK >> taken) << taken
    under, over = _HALF - low, low + (width << taken) - _HALF
    undecided = max(_BITS - 1 - (under | over).bit_length(), 0)
    low = _HALF - (under << undecided)
    taken += undecided
    unread -= taken
    written = 8 * len(data) - unread + _FINAL_BITS
    if unread < 0 or len(data) != (written + 7) // 8:
        raise CodedDataError("the data does not end as the encoder ends it")
    rest = int.from_bytes(data, "big") << _BITS >> unread & (1 << taken) - 1
    point = low + ((offset - below) << taken | rest)
    if point != (_QUARTER if low <= _QUARTER else _HALF):
        raise CodedDataError("the data does not end as the encoder ends it")


def _agreed_bits(low: int, high: int) -> int:
    """How often the coder halves the range before it straddles the middle."""
    if low == 0:
        agreed = _BITS - high.bit_length()
    elif high == _TOP:
        agreed = _BITS - (_TOP - low).bit_length()
    else:
        agreed = _BITS - ((low - 1) ^ high).bit_length()
    return max(agreed, 0)
