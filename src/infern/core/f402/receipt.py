"""The receipt: what was charged for what, signed by the provider's agent key.

One fixed-size molecule struct (418 bytes, little-endian numbers) so that a CKB script can read it;
JSON is only a view. It binds request and response digests to a price paid, token counts and the
identities on chain, and never contains a preimage, a key or text. A session's receipts form a
chain by `prev_digest`: one left out or written twice shows.

Source: the frozen layout in `docs/f402-spec.md`, section Receipt.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from infern.core.ckb.hashing import CkbPrefix, ckb_hash
from infern.core.crypto import SignatureVerifier, Signer
from infern.core.errors import JsonValue, RemoteProtocolError
from infern.core.ids import Pubkey
from infern.core.units import checked_amount
from infern.core.wire import base64url

MAGIC: Final = b"INFERN/R1"
BODY_BYTES: Final = 418
SIGNATURE_BYTES: Final = 64
RECEIPT_CHARS: Final = 643
"""Base64url of struct and signature, without padding."""
CHUNK_BYTES: Final = 64
_LEAF, _NODE = CkbPrefix(b"\x00"), CkbPrefix(b"\x01")
_STRUCT: Final = struct.Struct("<9s" + 5 * "32s" + "20s16sI" + 4 * "32s" + "QQ32s16sBQQ")
"""The layout, field by field; `charged` is its 16 bytes. All lengths are checked before."""
_TEXT = re.compile(rf"[A-Za-z0-9_-]{{{RECEIPT_CHARS}}}")
_ZERO: Final = bytes(32)
_LENGTHS: Final = {
    "client_key_hash": 20,
    "session": 16,
    "prev_digest": 32,
    "payment_ref": 32,
    "req_hash": 32,
    "resp_root": 32,
    "asset": 32,
}
_BITS: Final = {
    "seq": 32,
    "prompt_tokens": 64,
    "completion_tokens": 64,
    "charged": 128,
    "started_ms": 64,
    "finished_ms": 64,
}


class Finish(IntEnum):
    """How an answer ended."""

    STOP = 0
    LENGTH = 1
    TOOL_CALLS = 2
    CONTENT_FILTER = 3
    CLIENT_LEFT = 4
    INTERRUPTED = 5
    OTHER = 255

    @classmethod
    def from_reason(cls, reason: str | None) -> "Finish":
        """Map OpenAI's `finish_reason`."""
        names = {
            "stop": cls.STOP,
            "length": cls.LENGTH,
            "tool_calls": cls.TOOL_CALLS,
            "function_call": cls.TOOL_CALLS,
            "content_filter": cls.CONTENT_FILTER,
        }
        return names.get(reason or "", cls.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerIdentity:
    """Who sells, as receipts name it; 32 bytes each.

    Args:
        genesis_hash: Chain the identities live on.
        provider: Provider cell's id; before it exists, the configured identity's.
        listing: Listing cell's id, likewise.
        listing_data_hash: ckb hash of the listing's terms at serving time.
        model_id: Identity of the model artefact.
    """

    genesis_hash: bytes
    provider: bytes
    listing: bytes
    listing_data_hash: bytes
    model_id: bytes

    def __post_init__(self) -> None:
        """Refuse wrong lengths and zero identities."""
        for name in self.__slots__:
            value = getattr(self, name)
            if len(value) != 32 or value == _ZERO:
                raise ValueError(f"{name} has 32 bytes, not all zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The signed statement of one answered request.

    Args:
        seller: Five identities of 32 bytes.
        client_key_hash: 20 bytes naming the payer's credential without revealing it.
        session: 16 bytes, one per tab.
        seq: Position in the session, u32.
        prev_digest: 32 bytes, digest of the session's previous receipt; zero for the first.
        payment_ref: 32 bytes: payment hash, or digest of the hold for a prepaid key.
        req_hash: 32 bytes, the request digest.
        resp_root: 32 bytes, Merkle root of the delivered bytes.
        prompt_tokens: u64, as charged.
        completion_tokens: u64, as charged.
        asset: 32 bytes, UDT type script hash or zero for CKB.
        charged: Base units, u128.
        finish: How it ended.
        started_ms: Unix milliseconds.
        finished_ms: Unix milliseconds.
    """

    seller: SellerIdentity
    client_key_hash: bytes
    session: bytes
    seq: int
    prev_digest: bytes
    payment_ref: bytes
    req_hash: bytes
    resp_root: bytes
    prompt_tokens: int
    completion_tokens: int
    asset: bytes
    charged: int
    finish: Finish
    started_ms: int
    finished_ms: int

    def __post_init__(self) -> None:
        """Refuse a field that does not fit the struct.

        Each field on its own: one byte too many here and one too few there would still give 418
        bytes, and a signed statement that says something else.
        """
        for name, length in _LENGTHS.items():
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} has {length} bytes")
        for name, bits in _BITS.items():
            checked_amount(getattr(self, name), limit=2**bits - 1)

    def placed(self, *, session: bytes, seq: int, prev_digest: bytes) -> "Receipt":
        """The same statement at its place in a session.

        The ledger decides the place in the transaction that captures the hold, so that answers
        which finish at the same moment still form one chain.
        """
        return replace(self, session=session, seq=seq, prev_digest=prev_digest)

    def pack(self) -> bytes:
        """The 418-byte struct."""
        s = self.seller
        return _STRUCT.pack(
            MAGIC,
            s.genesis_hash,
            s.provider,
            s.listing,
            s.listing_data_hash,
            s.model_id,
            self.client_key_hash,
            self.session,
            self.seq,
            self.prev_digest,
            self.payment_ref,
            self.req_hash,
            self.resp_root,
            self.prompt_tokens,
            self.completion_tokens,
            self.asset,
            self.charged.to_bytes(16, "little"),
            self.finish,
            self.started_ms,
            self.finished_ms,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> "Receipt":
        """Read the 418-byte struct.

        Raises:
            RemoteProtocolError: Not a receipt (`invalid_request`).
        """
        if len(raw) != BODY_BYTES or not raw.startswith(MAGIC):
            raise RemoteProtocolError("the bytes are not an INFERN/R1 receipt")
        part = _STRUCT.unpack(raw)
        try:
            return cls(
                seller=SellerIdentity(
                    genesis_hash=part[1],
                    provider=part[2],
                    listing=part[3],
                    listing_data_hash=part[4],
                    model_id=part[5],
                ),
                client_key_hash=part[6],
                session=part[7],
                seq=part[8],
                prev_digest=part[9],
                payment_ref=part[10],
                req_hash=part[11],
                resp_root=part[12],
                prompt_tokens=part[13],
                completion_tokens=part[14],
                asset=part[15],
                charged=int.from_bytes(part[16], "little"),
                finish=Finish(part[17]),
                started_ms=part[18],
                finished_ms=part[19],
            )
        except ValueError as error:
            raise RemoteProtocolError(f"the receipt cannot be read: {error}") from error

    @property
    def digest(self) -> bytes:
        """32 bytes: what is signed, and what the session's next receipt names."""
        return ckb_hash(self.pack())

    def to_json(self) -> dict[str, JsonValue]:
        """The view for people and programs that do not read molecule."""
        s = self.seller
        return {
            "version": "INFERN/R1",
            "genesis_hash": "0x" + s.genesis_hash.hex(),
            "provider": "0x" + s.provider.hex(),
            "listing": "0x" + s.listing.hex(),
            "listing_data_hash": "0x" + s.listing_data_hash.hex(),
            "model_id": "0x" + s.model_id.hex(),
            "client_key_hash": "0x" + self.client_key_hash.hex(),
            "session": "0x" + self.session.hex(),
            "seq": self.seq,
            "prev_digest": "0x" + self.prev_digest.hex(),
            "payment_ref": "0x" + self.payment_ref.hex(),
            "req_hash": "0x" + self.req_hash.hex(),
            "resp_root": "0x" + self.resp_root.hex(),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "asset": "0x" + self.asset.hex(),
            "charged": str(self.charged),
            "finish": self.finish.name.lower(),
            "started_ms": self.started_ms,
            "finished_ms": self.finished_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """A receipt with the agent's 64-byte signature over its digest."""

    receipt: Receipt
    signature: bytes

    def __post_init__(self) -> None:
        """Refuse a signature that no reader would accept."""
        if len(self.signature) != SIGNATURE_BYTES:
            raise ValueError(f"a receipt's signature has {SIGNATURE_BYTES} bytes")

    def to_text(self) -> str:
        """Base64url without padding of struct ‖ signature: 643 characters, fit for a header."""
        raw = self.receipt.pack() + self.signature
        return base64url.encode(raw)

    def is_signed_by(self, agent: Pubkey, verifier: SignatureVerifier) -> bool:
        """True when `agent` signed exactly this receipt."""
        return verifier.verify(agent, self.receipt.digest, self.signature)


def sign_receipt(receipt: Receipt, signer: Signer) -> SignedReceipt:
    """Sign a receipt with the provider's agent key."""
    return SignedReceipt(receipt=receipt, signature=signer.sign(receipt.digest))


def parse_receipt(text: str) -> SignedReceipt:
    """Read a receipt's text form, of which each receipt has exactly one.

    The signature is not checked here.

    Raises:
        RemoteProtocolError: Not a receipt (`invalid_request`); says nothing about money.
    """
    if not _TEXT.fullmatch(text):
        raise RemoteProtocolError(f"a receipt is {RECEIPT_CHARS} characters of base64url text")
    try:
        raw = base64url.decode(text)
    except ValueError as error:
        raise RemoteProtocolError(f"the receipt cannot be read: {error}") from error
    return SignedReceipt(receipt=Receipt.unpack(raw[:BODY_BYTES]), signature=raw[BODY_BYTES:])


class ResponseRoot:
    """Merkle root over 64-byte chunks of the delivered bytes, computed while they pass.

    Leaves are `ckb_hash(00 ‖ chunk)`, inner nodes `ckb_hash(01 ‖ left ‖ right)`; a lone node rises
    unchanged; no bytes at all give 32 zero bytes. Memory is one hash per tree level.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._levels: list[bytes | None] = []

    def update(self, data: bytes) -> None:
        """Take the next delivered bytes, split anywhere."""
        data = self._tail + data
        whole = len(data) - len(data) % CHUNK_BYTES
        for at in range(0, whole, CHUNK_BYTES):
            self._push(_LEAF.hash(data[at : at + CHUNK_BYTES]))
        self._tail = data[whole:]

    def _push(self, node: bytes) -> None:
        for level, left in enumerate(self._levels):
            if left is None:
                self._levels[level] = node
                return
            self._levels[level] = None
            node = _NODE.hash(left + node)
        self._levels.append(node)

    def root(self) -> bytes:
        """The root of all bytes so far; more may still be added afterwards."""
        node = _LEAF.hash(self._tail) if self._tail else None
        for left in self._levels:
            if left is not None:
                node = left if node is None else _NODE.hash(left + node)
        return node or bytes(32)


def response_root(parts: Iterable[bytes]) -> bytes:
    """Merkle root of a whole response, for verifiers."""
    tree = ResponseRoot()
    for part in parts:
        tree.update(part)
    return tree.root()
