"""How many Fiber invoices one core reads, writes and signs a second.

    python benchmarks/micro_invoice.py [--seconds 1.0]

Decoding is complete: bech32m, decompression, molecule, signature recovery by libsecp256k1. The
invoices are those of the vectors, of every length and attribute.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.fiber.invoice import (
    Invoice,
    decode_invoice,
    decode_signed_invoice,
    encode_invoice,
    payee_of,
    sign_invoice,
)

VECTORS = Path(__file__).parents[1] / "vectors"


def measure(name: str, step: Callable[[], object], items: int, seconds: float) -> None:
    rounds_s = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        rounds_s.append(time.perf_counter() - start)
    median_s, best_s = statistics.median(rounds_s), min(rounds_s)
    print(f"{name:28} {items / median_s:8,.0f} ops/s median {items / best_s:8,.0f} ops/s best")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure invoice encoding on one core.")
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each figure")
    seconds = parser.parse_args().seconds

    verifier = CoincurveVerifier()
    signer = CoincurveSigner(b"\x11" * 32)

    def signable(invoice: Invoice) -> bool:
        return invoice.signature is not None and invoice.payee_pubkey in (None, signer.pubkey)

    every = json.loads((VECTORS / "fiber_invoices.json").read_text())["invoices"]
    real = json.loads((VECTORS / "fiber_invoices_recorded.json").read_text())["invoices"]
    for label, cases in (("vectors", every), ("real nodes", real)):
        texts = [case["text"] for case in cases]
        invoices = [decode_invoice(text, verifier) for text in texts]
        unsigned = [replace(one, signature=None) for one in invoices if signable(one)]
        characters = sum(map(len, texts)) // len(texts)
        print(f"{label}: {len(texts)} invoices of {characters} characters on average")
        measure(
            "decode and check signature",
            lambda texts=texts: [decode_invoice(text, verifier) for text in texts],
            len(texts),
            seconds,
        )
        measure(
            "decode, then payee_of",
            lambda texts=texts: [payee_of(decode_invoice(t, verifier), verifier) for t in texts],
            len(texts),
            seconds,
        )
        signed = [t for t, one in zip(texts, invoices, strict=True) if one.signature]
        measure(
            "decode_signed_invoice",
            lambda signed=signed: [decode_signed_invoice(text, verifier) for text in signed],
            len(signed),
            seconds,
        )
        measure(
            "encode",
            lambda invoices=invoices: [encode_invoice(invoice) for invoice in invoices],
            len(invoices),
            seconds,
        )
        if unsigned:
            measure(
                "sign and encode",
                lambda unsigned=unsigned: [
                    encode_invoice(sign_invoice(invoice, signer)) for invoice in unsigned
                ],
                len(unsigned),
                seconds,
            )


if __name__ == "__main__":
    main()
