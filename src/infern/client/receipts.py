"""Checking what was answered against what was signed, while the bytes pass.

Every answer of a seller carries a receipt signed by its agent key. Checked offline: the key is
the one known for this seller, the request is ours, the response is byte for byte what arrived,
the charge is within what was agreed. Memory is a few hashes, whatever the answer's length.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Final

from infern.core.crypto import SignatureVerifier
from infern.core.errors import RemoteProtocolError
from infern.core.f402.receipt import ResponseRoot, SignedReceipt, parse_receipt
from infern.core.ids import PaymentHash, Pubkey, RequestDigest

logger = logging.getLogger(__name__)

EVENT_STREAM: Final = "text/event-stream"
RECEIPT_HEADER: Final = "f402-receipt"
COST_HEADER: Final = "f402-cost"
RESERVED_HEADER: Final = "f402-reserved"
MAX_RECEIPT_CHARS: Final = 2_048
KEPT_CHECKS: Final = 256
_MARK: Final = b"\n: f402-receipt "
_DONE: Final = b"\ndata: [DONE]"
_ERROR: Final = b'\ndata: {"error"'
_OVERLAP: Final = max(len(_MARK), len(_DONE), len(_ERROR)) - 1


class ReceiptStatus(StrEnum):
    """What the check of a receipt found."""

    VERIFIED = "verified"
    MISSING = "missing"
    """The seller charges for this answer and gave no receipt."""
    UNPINNED = "unpinned"
    """All fits, but nothing says which agent key this seller has."""
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptCheck:
    """The result for one answer.

    Args:
        status: What was found.
        problems: One sentence each; empty unless `MISMATCH` or `MISSING`.
        request_id: The seller's `x-request-id`; empty when it sent none.
        receipt: As received; None when there was none that can be read.
    """

    status: ReceiptStatus
    problems: tuple[str, ...]
    request_id: str
    receipt: SignedReceipt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What the client knows of an answer before it reads the receipt.

    Args:
        digest: Of the request it sent.
        agents: Keys the receipt may be signed with; empty when none is known.
        payment_hash: When the request was paid by itself.
        ceiling: The most that may be charged, base units; None when nothing was agreed.
        cost: What the seller's header says was charged; None without such a header.
        request_id: The seller's name for the request.
    """

    digest: RequestDigest
    agents: frozenset[Pubkey]
    payment_hash: PaymentHash | None
    ceiling: int | None
    cost: int | None
    request_id: str


class AnswerReader:
    """Reads an answer as it passes: its hash, and the marks a stream carries in comments.

    Args:
        is_stream: The answer is a stream of server-sent events.
    """

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._tree = ResponseRoot()
        # A line begins after a line feed; the first line gets one that is not hashed.
        self._tail = b"\n" if is_stream else b""
        self._unhashed = len(self._tail)
        self._receipt: bytearray | None = None
        self._receipt_ended = False
        self.saw_done = False
        self.saw_error = False

    def update(self, data: bytes) -> None:
        """Take the next bytes, split anywhere."""
        if not self._is_stream:
            self._tree.update(data)
            return
        if self._receipt is not None:
            self._after_receipt(data)
            return
        window = self._tail + data
        self._look(window)
        at = window.find(_MARK)
        if at >= 0:
            self._hash(window[: at + 1])
            self._tail = b""
            self._receipt = bytearray()
            self._after_receipt(window[at + len(_MARK) :])
            return
        keep = min(len(window), _OVERLAP)
        self._hash(window[: len(window) - keep])
        self._tail = window[len(window) - keep :]

    def _look(self, window: bytes) -> None:
        self.saw_done = self.saw_done or _DONE in window
        self.saw_error = self.saw_error or _ERROR in window

    def _hash(self, data: bytes) -> None:
        skip = min(self._unhashed, len(data))
        self._unhashed -= skip
        self._tree.update(data[skip:])

    def _after_receipt(self, data: bytes) -> None:
        """Collect the receipt's line; what follows is only searched for the end mark."""
        if self._receipt is not None and not self._receipt_ended:
            line, feed, rest = data.partition(b"\n")
            self._receipt += line[: MAX_RECEIPT_CHARS + 1 - len(self._receipt)]
            if not feed:
                return
            self._receipt_ended = True
            self._tail, data = b"\n", rest
        window = self._tail + data
        self._look(window)
        self._tail = window[-_OVERLAP:]

    @property
    def receipt_text(self) -> str | None:
        """The receipt of a stream's comment; None when none came."""
        if self._receipt is None:
            return None
        return bytes(self._receipt).strip().decode("ascii", "replace")

    def root(self) -> bytes:
        """Merkle root of the bytes a receipt covers; call when the answer has ended."""
        if self._receipt is None and self._tail:
            tail, self._tail = self._tail, b""
            self._hash(tail)
        return self._tree.root()


def check_receipt(
    text: str | None, agreed: Agreed, root: bytes, verifier: SignatureVerifier
) -> ReceiptCheck:
    """Check a receipt against the answer it came with. Never raises."""
    if text is None:
        problem = "the seller gave no receipt for this answer"
        return _result(ReceiptStatus.MISSING, (problem,), agreed, None)
    try:
        signed = parse_receipt(text[:MAX_RECEIPT_CHARS])
    except RemoteProtocolError as error:
        return _result(ReceiptStatus.MISMATCH, (error.message,), agreed, None)
    receipt = signed.receipt
    problems = [
        complaint
        for holds, complaint in (
            (receipt.req_hash == agreed.digest, "the receipt is for another request"),
            (receipt.resp_root == root, "the receipt is for other bytes than arrived"),
            (
                agreed.ceiling is None or receipt.charged <= agreed.ceiling,
                "the receipt charges more than was agreed",
            ),
            (
                agreed.cost is None or receipt.charged == agreed.cost,
                "the receipt charges something else than the answer says",
            ),
            (
                agreed.payment_hash is None or receipt.payment_ref == agreed.payment_hash,
                "the receipt names another payment",
            ),
            (
                not agreed.agents
                or any(signed.is_signed_by(agent, verifier) for agent in agreed.agents),
                "the receipt is not signed by this seller's agent key",
            ),
        )
        if not holds
    ]
    if problems:
        return _result(ReceiptStatus.MISMATCH, tuple(problems), agreed, signed)
    status = ReceiptStatus.VERIFIED if agreed.agents else ReceiptStatus.UNPINNED
    return _result(status, (), agreed, signed)


def _result(
    status: ReceiptStatus,
    problems: tuple[str, ...],
    agreed: Agreed,
    receipt: SignedReceipt | None,
) -> ReceiptCheck:
    return ReceiptCheck(
        status=status, problems=problems, request_id=agreed.request_id, receipt=receipt
    )


class ReceiptLog:
    """The checks of one client, newest kept, safe for threads.

    Args:
        strict: Raise on a receipt that is missing or does not fit, instead of a warning.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._lock = Lock()
        self._checks: OrderedDict[str, ReceiptCheck] = OrderedDict()
        self._last: ReceiptCheck | None = None

    @property
    def last(self) -> ReceiptCheck | None:
        """The newest check."""
        return self._last

    def of(self, request_id: str) -> ReceiptCheck | None:
        """The check of one answer, while it is kept."""
        with self._lock:
            return self._checks.get(request_id)

    def note(self, check: ReceiptCheck) -> None:
        """Keep a check and complain about a bad one.

        Raises:
            RemoteProtocolError: With `strict`, `receipt_mismatch`; the answer was charged.
        """
        with self._lock:
            self._last = check
            self._checks[check.request_id] = check
            while len(self._checks) > KEPT_CHECKS:
                self._checks.popitem(last=False)
        if not check.problems:
            return
        complaint = f"receipt of {check.request_id or 'an answer'}: {'; '.join(check.problems)}"
        if self._strict:
            raise RemoteProtocolError(complaint, code="receipt_mismatch")
        logger.warning("%s", complaint)
