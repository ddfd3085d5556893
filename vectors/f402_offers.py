"""Vectors of a client's checks: whole 402 bodies and what a careful client does with them.

The tokens are written by `f402_tokens`. The invoices are written by Infern's own codec, which has
vectors from the Fiber crate elsewhere, and are signed by the reference implementation.
"""

import hashlib
import json

import f402_tokens as tokens
from f402_tokens import BODY, ISSUED_S, PAY_TO, TARGET, TERMS, UDT_ASSET
from reference_secp256k1 import ReferenceSigner

from infern.core.ckb.script import HashType, Script
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    UdtScript,
    encode_invoice,
    sign_invoice,
)
from infern.core.units import Network

NODE = ReferenceSigner(bytes(31) + b"\x01")
OTHER_NODE = ReferenceSigner(bytes(31) + b"\x02")
SCRIPT = Script(code_hash=bytes([0xAB]) * 32, hash_type=HashType.TYPE, args=b"usd")
DIGEST = tokens.request_digest("POST", TARGET, BODY.encode())[0]
OTHER_DIGEST = tokens.request_digest("POST", TARGET, b"{}")[0]
SHA256 = HashAlgorithm.SHA256


def invoice(*, signer=NODE, payee=None, network="testnet", amount=184320, at_s=ISSUED_S,
            payment_hash=tokens.PAYMENT_HASH, expiry_s=120, digest=DIGEST, description=None,
            algorithm=SHA256, script=None):  # fmt: skip
    """An invoice's text; None leaves an attribute out, or the invoice unsigned."""
    text = f"f402:1:{digest}" if description is None else description
    attributes = [
        expiry_s is not None and ExpiryTime(expiry_s=expiry_s),
        text and Description(text=text),
        payee and PayeePubkey(pubkey=payee),
        algorithm and PaymentHashAlgorithm(algorithm=algorithm),
        script and UdtScript(script=script),
    ]
    made = Invoice(
        network=Network(network),
        amount=amount,
        timestamp_ms=at_s * 1000,
        payment_hash=bytes.fromhex(payment_hash),
        attributes=tuple(a for a in attributes if a),
    )
    return encode_invoice(sign_invoice(made, signer) if signer else made)


def body(text, shown=None, **changes):
    """A 402 body; `shown` replaces members of `error.f402` behind the token's back."""
    claims = tokens.claims(**(TERMS | changes))
    details = {
        "version": 1,
        "network": claims["net"],
        "asset": claims["ast"],
        "amount": claims["amt"],
        "mode": claims["mod"],
        "invoice": text,
        "payment_hash": claims["ph"],
        "pay_to": claims["pay"],
        "expires_at": claims["exp"],
        "redeem_until": claims["rdm"],
        "challenge": tokens.sign(tokens.jcs(claims)),
        "request_hash": claims["rd"],
        "listing": claims["lst"],
        "provider": "",
        "links": {"keys": "/v1/f402/keys", "pay_uri": f"fiber:{text}"},
    }
    if "prc" in claims:
        fee, into, out = claims["prc"]
        prompt, completion, n = claims["tok"]
        variable = prompt * int(into) + n * completion * int(out)
        details["quote"] = {
            "asset": claims["ast"],
            "unit": "shannon" if claims["ast"] == "ckb" else "base unit",
            "request_fee": fee,
            "input_per_mtok": into,
            "output_per_mtok": out,
            "prompt_tokens_max": prompt,
            "completion_tokens_max": completion,
            "n": n,
            "max": str(int(fee) - (-variable // 1_000_000)),
        }
    details |= shown or {}
    details = {name: value for name, value in details.items() if value is not None}
    error = {"message": "Payment required.", "type": "payment_required", "f402": details}
    return json.dumps({"error": error}, separators=(",", ":"))


def expectation(**changes):
    """What the client knows by itself."""
    base = {
        "method": "POST",
        "target": TARGET,
        "body": BODY,
        "origin": "https://router.test",
        "network": "fiber:testnet",
        "asset": "ckb",
        "max_amount": "200000",
        "now_s": ISSUED_S + 5,
        "pay_to": PAY_TO,
        "price": TERMS["prc"],
        "refund_to": None,
    }
    return base | changes


def _refused(check):
    return {"code": "offer_refused", "check": check}


_PAY = {"pay": True}
_NO_OFFER = {"offer": False}
_CONTRADICTION = {"code": "offer_refused"}


def offers():
    """Bodies, expectations, verdicts."""
    good = invoice()
    return [
        {"name": n, "comment": c, "body": b, "expectation": expectation(**e), "result": r}
        for n, c, b, e, r in (
            *_accepted(good),
            *_unreadable(good),
            *_origins(good),
            *_challenges(good),
            *_invoices(),
        )
    ]


def _accepted(good):
    udt = "udt:0x" + SCRIPT.hash().hex()
    cheaper = {"prc": ["1120", "199999999", "600000000"], "amt": "184320"}
    cheaper["amt"] = str(1120 - (-(724 * 199_999_999 + 64 * 600_000_000) // 1_000_000))
    return [
        ("honest", "everything agrees", body(good), {}, _PAY),
        ("declared payee", "the invoice may name its payee",
         body(invoice(payee=NODE.pubkey)), {}, _PAY),
        ("at the cap", "the cap is inclusive", body(good), {"max_amount": "184320"}, _PAY),
        ("nothing known", "payee and price are trusted within the cap", body(good),
         {"pay_to": None, "price": None}, _PAY),
        ("cheaper", "below the known price", body(invoice(amount=int(cheaper["amt"])), **cheaper),
         {}, _PAY),
        ("loopback", "plain http on this machine", body(good, iss="127.0.0.1:8402"),
         {"origin": "http://127.0.0.1:8402"}, _PAY),
        ("localhost", "", body(good, iss="localhost:8402"), {"origin": "http://localhost:8402"},
         _PAY),
        ("ipv6 loopback", "", body(good, iss="[::1]:8402"), {"origin": "http://[::1]:8402"}, _PAY),
        ("standard port", "is not part of the realm", body(good),
         {"origin": "https://router.test:443"}, _PAY),
        ("upper-case host", "realms are lower case", body(good), {"origin": "https://Router.Test"},
         _PAY),
        ("refund", "the token carries back what the client asked for",
         body(good, rto=tokens.OTHER_KEY), {"refund_to": tokens.OTHER_KEY}, _PAY),
        ("no refund", "asked for, and the seller sends nothing back", body(good),
         {"refund_to": tokens.OTHER_KEY}, _PAY),
        ("udt", "paid in a token", body(invoice(script=SCRIPT), ast=udt), {"asset": udt}, _PAY),
        ("clock ahead", "invoice of 60 s in the future", body(invoice(at_s=ISSUED_S + 60)),
         {"now_s": ISSUED_S}, _PAY),
    ]  # fmt: skip


def _unreadable(good):
    def without(name):
        return body(good, {name: None})

    lie = [
        ("network", "fiber:mainnet"), ("asset", UDT_ASSET), ("amount", "1"), ("mode", "hold"),
        ("payment_hash", "00" * 32), ("pay_to", tokens.OTHER_KEY), ("request_hash", "00" * 32),
        ("expires_at", ISSUED_S), ("redeem_until", 2**50), ("listing", "0x" + "22" * 32),
        ("version", 2), ("amount", 184320), ("amount", None), ("quote", {}), ("quote", "cheap"),
    ]  # fmt: skip
    return [
        ("not json", "a proxy's error page", "<html>", {}, _NO_OFFER),
        ("no f402", "another seller's 402", '{"error":{"message":"pay"}}', {}, _NO_OFFER),
        ("error text", "", '{"error":"pay"}', {}, _NO_OFFER),
        ("f402 text", "", '{"error":{"f402":"x"}}', {}, _NO_OFFER),
        ("no invoice", "a quote only", without("invoice"), {}, _NO_OFFER),
        ("no challenge", "", without("challenge"), {}, _NO_OFFER),
        ("duplicate member", "amount twice: no parser may choose",
         body(good).replace('"amount":', '"amount":"1","amount":'), {}, _NO_OFFER),
        ("long invoice", "over 2048 characters", body("f" * 2049), {}, _CONTRADICTION),
        ("broken token", "", body(good, {"challenge": "f1.k1.x.y"}), {},
         {"code": "invalid_challenge"}),
        ("broken invoice", "one character changed", body(good[:-1] + "qp"[good[-1] == "q"]), {},
         {"code": "invalid_invoice"}),
        *((f"shown {name} {json.dumps(value)[:24]}", "a relay shows another value than is signed",
           body(good, {name: value}), {}, _CONTRADICTION) for name, value in lie),
        ("shown quote", "a cheaper price is shown than is charged",
         body(good).replace('"input_per_mtok":"200000000"', '"input_per_mtok":"100000000"'), {},
         _CONTRADICTION),
    ]  # fmt: skip


def _origins(good):
    return [
        ("plain http", "anybody on the path could claim the payment", body(good),
         {"origin": "http://router.test"}, _refused("origin")),
        ("looks like loopback", "", body(good, iss="127.0.0.1.evil.test"),
         {"origin": "http://127.0.0.1.evil.test"}, _refused("origin")),
        ("loopback as user", "the host stands behind the @", body(good, iss="evil.test"),
         {"origin": "http://127.0.0.1@evil.test"}, _refused("origin")),
        ("another realm", "a relay passes on somebody else's token", body(good, iss="other.test"),
         {}, _refused("realm")),
        ("another port", "is another realm", body(good), {"origin": "https://router.test:8443"},
         _refused("realm")),
    ]  # fmt: skip


def _challenges(good):
    main = invoice(network="mainnet")
    many = {"amt": "261120", "tok": [724, 64, 3]}
    return [
        ("other network", "", body(main, net="fiber:mainnet"), {}, _refused("network")),
        ("other asset", "", body(good, ast=UDT_ASSET), {}, _refused("asset")),
        ("other request", "a cheaper request's quote", body(good, rd=OTHER_DIGEST), {},
         _refused("request")),
        ("hold", "a settlement mode nobody asked for", body(good, mod="hold"), {},
         _refused("mode")),
        ("for nothing", "", body(invoice(amount=0), amt="0", prc=["0"] * 3), {},
         _refused("amount")),
        ("over the cap", "", body(good), {"max_amount": "184319"}, _refused("cap")),
        ("three choices over the cap", "", body(invoice(amount=261120), **many), {},
         _refused("cap")),
        ("without quote", "nobody can tell what the amount is made of",
         body(good, prc=None, tok=None), {}, _refused("quote")),
        ("marked up", "the amount is not what the quote adds up to",
         body(invoice(amount=184321), amt="184321"), {}, _refused("quote")),
        ("dearer", "the quote is above the listing's price", body(good),
         {"price": ["1120", "199999999", "600000000"]}, _refused("price")),
        ("dearer fee", "", body(good), {"price": ["1119", "200000000", "600000000"]},
         _refused("price")),
        ("dearer output", "", body(good), {"price": ["1120", "200000000", "599999999"]},
         _refused("price")),
        ("expired", "", body(good), {"now_s": ISSUED_S + 181}, _refused("expiry")),
        ("lives too long", "", body(good, exp=ISSUED_S + 606), {}, _refused("expiry")),
        ("other payee", "a router's own invoice instead of the provider's",
         body(invoice(signer=OTHER_NODE), pay=tokens.OTHER_KEY), {}, _refused("payee")),
        ("refund nobody asked for", "a relay asked in the client's name",
         body(good, rto=tokens.OTHER_KEY), {}, _refused("refund")),
        ("refund to somebody else", "a relay replaced the client's address",
         body(good, rto=tokens.OTHER_KEY), {"refund_to": PAY_TO}, _refused("refund")),
    ]  # fmt: skip


def _invoices():
    text_of_topup = "f402:1:topup:" + DIGEST
    ckb_hashed = hashlib.blake2b(tokens.PREIMAGE, digest_size=32, person=b"ckb-default-hash")
    ph = ckb_hashed.hexdigest()
    return [
        ("unsigned invoice", "", body(invoice(signer=None)), {}, _refused("signed")),
        ("another node's invoice", "signed, but not by the node the token names",
         body(invoice(signer=OTHER_NODE)), {}, _refused("signer")),
        ("invoice of another network", "fibd for fiber:testnet", body(invoice(network="dev")), {},
         _refused("invoice network")),
        ("invoice of mainnet", "fibb for fiber:testnet", body(invoice(network="mainnet")), {},
         _refused("invoice network")),
        ("larger invoice", "", body(invoice(amount=184321)), {}, _refused("invoice amount")),
        ("open invoice", "no amount at all", body(invoice(amount=None)), {},
         _refused("invoice amount")),
        ("invoice in a token", "the same number of something else",
         body(invoice(script=SCRIPT)), {}, _refused("invoice asset")),
        ("another payment hash", "", body(invoice(payment_hash="77" * 32)), {},
         _refused("payment hash")),
        ("ckb hash", "an invoice that opens by another function",
         body(invoice(algorithm=HashAlgorithm.CKB_HASH, payment_hash=ph), ph=ph), {},
         _refused("hash algorithm")),
        ("no hash algorithm", "means ckb hash", body(invoice(algorithm=None)), {},
         _refused("hash algorithm")),
        ("another request's invoice", "a provider's invoice used twice",
         body(invoice(digest=OTHER_DIGEST)), {}, _refused("description")),
        ("no description", "", body(invoice(description="")), {}, _refused("description")),
        ("description with more", "", body(invoice(description=f"f402:1:{DIGEST} ")), {},
         _refused("description")),
        ("top-up invoice", "", body(invoice(description=text_of_topup)), {},
         _refused("description")),
        ("eternal invoice", "", body(invoice(expiry_s=None)), {}, _refused("invoice expiry")),
        ("long invoice life", "", body(invoice(expiry_s=601)), {}, _refused("invoice expiry")),
        ("expired invoice", "its own clock, not the token's", body(invoice(at_s=ISSUED_S - 120)),
         {}, _refused("invoice expiry")),
        ("future invoice", "more than a minute ahead", body(invoice(at_s=ISSUED_S + 66)), {},
         _refused("invoice expiry")),
    ]  # fmt: skip
