"""Vectors of receipts and of the Merkle root of an answer. Nothing here imports Infern."""

import base64

from f402_tokens import PAYMENT_HASH, b64url
from reference_secp256k1 import ckb_hash, public_key, sign

AGENT = bytes(31) + b"\x02"
SELLER = ("genesis_hash", "provider", "listing", "listing_data_hash", "model_id")
LAYOUT = (
    *((name, 32) for name in SELLER),
    ("client_key_hash", 20),
    ("session", 16),
    ("seq", "u32"),
    ("prev_digest", 32),
    ("payment_ref", 32),
    ("req_hash", 32),
    ("resp_root", 32),
    ("prompt_tokens", "u64"),
    ("completion_tokens", "u64"),
    ("asset", 32),
    ("charged", "u128"),
    ("finish", "u8"),
    ("started_ms", "u64"),
    ("finished_ms", "u64"),
)
"""Members in their order; numbers are little-endian."""
SHOWN_AS_TEXT = {name for name, kind in LAYOUT if kind in {"u64", "u128"}}
"""Numbers beyond 2^53 are not read exactly everywhere, so these are decimal strings here."""


def fields(**changes):
    """The fields of a usual receipt, bytes as hex."""
    base = {name: f"{n:02x}" * 32 for n, name in enumerate(SELLER, start=0xA1)}
    base |= {
        "client_key_hash": "c0" * 20,
        "session": "d0" * 16,
        "seq": 0,
        "prev_digest": "00" * 32,
        "payment_ref": PAYMENT_HASH,
        "req_hash": "e90e888314b094566a350007291f7adfd6c90f32e63deaf1c4b7c7dda5d4cae7",
        "resp_root": root(answer(1000)).hex(),
        "prompt_tokens": 9,
        "completion_tokens": 64,
        "asset": "00" * 32,
        "charged": 41320,
        "finish": 1,
        "started_ms": 1_700_000_001_000,
        "finished_ms": 1_700_000_002_345,
    }
    return base | changes


def pack(values):
    """The struct, 418 bytes."""
    out = b"INFERN/R1"
    for name, kind in LAYOUT:
        value = values[name]
        if isinstance(kind, int):
            raw = bytes.fromhex(value)
            if len(raw) != kind:
                raise ValueError(name)
            out += raw
        else:
            out += value.to_bytes(int(kind[1:]) // 8, "little")
    return out


def receipts():
    """Receipts with all their forms; the second is chained to the first."""
    first = fields()
    second = fields(
        seq=1,
        prev_digest=ckb_hash(pack(first)).hex(),
        resp_root="00" * 32,
        completion_tokens=0,
        finish=4,
        charged=2920,
    )
    widest = {name: 2 ** int(kind[1:]) - 1 for name, kind in LAYOUT if isinstance(kind, str)}
    return [
        _receipt("first of a session", "prev_digest is zero", first),
        _receipt("second of a session", "names the first; the client left before any byte", second),
        _receipt("widest numbers", "every number at its limit, finish 255", fields(**widest)),
        _receipt("udt", "asset is the type script's hash", fields(asset="ab" * 32)),
    ]


def _receipt(name, comment, values):
    packed = pack(values)
    digest = ckb_hash(packed)
    signature = sign(AGENT, digest)[:64]
    shown = {k: str(v) if k in SHOWN_AS_TEXT else v for k, v in values.items()}
    return {
        "name": name,
        "comment": comment,
        "fields": shown,
        "packed": packed.hex(),
        "digest": digest.hex(),
        "agent": public_key(AGENT).hex(),
        "signature": signature.hex(),
        "text": b64url(packed + signature),
    }


def receipts_refused():
    """Texts that are not a receipt, or not the one text of a receipt."""
    packed = pack(fields())
    signature = sign(AGENT, ckb_hash(packed))[:64]
    good = b64url(packed + signature)
    at = {"provider": 41, "finish": 401}

    def changed(where, raw):
        return b64url(packed[:where] + raw + packed[where + len(raw) :] + signature)

    cases = [
        ("empty", "", ""),
        ("padded", "one text for each receipt", good + "="),
        ("stray bits", "one text for each receipt", good[:-1] + _next(good[-1])),
        ("standard alphabet", "+ and / are not base64url",
         base64.b64encode(packed + signature).decode().rstrip("=")),
        ("newline", "", good + "\n"),
        ("newline inside", "", good[:76] + "\n" + good[76:]),
        ("not ascii", "", good[:-1] + "\u00e9"),
        ("too short", "no signature", b64url(packed)),
        ("one byte less", "", b64url((packed + signature)[:-1])),
        ("one byte more", "", b64url(packed + signature + b"\0")),
        ("other magic", "", changed(0, b"INFERN/R2")),
        ("zero provider", "an identity is never zero", changed(at["provider"], bytes(32))),
        ("unknown finish", "6 is not assigned", changed(at["finish"], b"\x06")),
    ]  # fmt: skip
    return [{"name": n, "comment": c, "text": t} for n, c, t in cases]


def _next(character):
    """The base64url character whose lowest bit differs."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(character) ^ 1]


def answer(length):
    """Bytes of an answer of this length."""
    return bytes(i % 251 for i in range(length))


def root(data):
    """The Merkle root, by definition: hash the chunks, then pair neighbours until one is left."""
    if not data:
        return bytes(32)
    row = [ckb_hash(b"\x00" + data[at : at + 64]) for at in range(0, len(data), 64)]
    while len(row) > 1:
        pairs = [row[at : at + 2] for at in range(0, len(row), 2)]
        row = [ckb_hash(b"\x01" + p[0] + p[1]) if len(p) == 2 else p[0] for p in pairs]
    return row[0]


def response_roots():
    """Roots of answers around every edge."""
    notes = {
        0: "no bytes at all: zero",
        1: "one short chunk",
        63: "one byte short of a chunk",
        64: "one chunk",
        65: "two chunks, the second of one byte",
        128: "two chunks",
        129: "three chunks: the third rises",
        192: "three chunks",
        256: "four chunks: no lone node",
        320: "five chunks: a lone node rises twice",
        448: "seven chunks",
        1000: "sixteen chunks, the last of 40 bytes",
        4097: "sixty-five chunks",
    }
    return [
        {
            "name": f"{length} bytes",
            "comment": comment + "; byte i is i mod 251",
            "length": length,
            "root": root(answer(length)).hex(),
        }
        for length, comment in notes.items()
    ]
