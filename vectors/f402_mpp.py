"""Vectors of the MPP rendering: `Accept-Payment`, challenge ids, credentials, a seller's verdict.

Nothing here imports Infern or an MPP library; the ids are `hmac` over text.
"""

import base64
import hashlib
import hmac
import json

import f402_tokens as tokens
from f402_tokens import BODY, EXPIRES_S, ISSUED_S, PAY_TO, PREIMAGE, REDEEM_S, TARGET, b64url, jcs

HEADER = "Payment-Authorization"
EXPIRES = "2023-11-14T22:15:20Z"
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(BODY.encode()).digest()).decode()}:"


def key_of(kid):
    """The key of challenge ids that goes with a token's key: hex as ASCII."""
    return hmac.new(tokens.KEYS[kid], b"f402/mpp", "sha256").hexdigest().encode()


def request(**changes):
    """The JCS object of what is to be paid; None leaves a member out."""
    details = {
        "invoice": "fibt184320EXAMPLE",
        "network": "testnet",
        "paymentHash": tokens.PAYMENT_HASH,
    } | changes.pop("details", {})
    value = {"amount": "184320", "currency": "ckb", "methodDetails": details, "recipient": PAY_TO}
    return jcs({name: v for name, v in (value | changes).items() if v is not None})


def message_of(parts):
    """What an id is the HMAC of."""
    places = ["realm", "method", "intent", "request", "expires", "digest"]
    places += ["header"] if parts.get("header") else []
    return "|".join(parts.get(name, "") for name in [*places, "opaque"])


def identity(parts, key):
    """The id of a challenge."""
    return b64url(hmac.digest(key, message_of(parts).encode(), "sha256"))


def challenges():
    """Identifiers of challenges."""
    base = {
        "realm": "router.test", "method": "fiber", "intent": "charge",
        "request": b64url(request().encode()), "expires": EXPIRES, "digest": DIGEST,
        "opaque": b64url(jcs({"f402": "f1.k1.EXAMPLE"}).encode()),
    }  # fmt: skip
    cases = [
        ("design", "seven places, and a key used as it is", tokens.KEYS["k1"], base),
        ("seller", "eight places, and the key derived from the token's", key_of("k1"),
         base | {"header": HEADER}),
        ("bare", "absent parts are empty places", key_of("k1"),
         {n: base[n] for n in ("realm", "method", "intent", "request")}),
        ("another method", "", key_of("k0"), base | {"method": "tempo", "header": HEADER}),
    ]  # fmt: skip
    return [
        {
            "name": name,
            "comment": comment,
            "key": key.hex(),
            "parts": {"header": "", "expires": "", "digest": "", "opaque": ""} | parts,
            "message": message_of(parts),
            "id": identity(parts, key),
        }
        for name, comment, key, parts in cases
    ]


def keys():
    """Keys of challenge ids."""
    return [
        {"name": kid, "comment": "64 hex digits as ASCII", "challenge_key": key.hex(),
         "mpp_key": key_of(kid).decode()}
        for kid, key in tokens.KEYS.items()
    ]  # fmt: skip


def accepts():
    """`Accept-Payment` headers, and whether they announce `fiber/charge`."""
    yes = ["fiber/charge", "fiber/charge;q=1", "fiber/charge;q=0.001", "tempo/charge, fiber/charge",
           "*/*", "fiber/*", "*/charge", "*/*;q=0, fiber/charge", "fiber/*;q=0, fiber/charge;q=0.5",
           "tempo/session ,  fiber/charge ; q=0.3", "fiber/charge;q=0, fiber/charge;q=0.1",
           "fiber/charge;Q=1.000", "nonsense, fiber/charge", ",,fiber/charge,",
           "*/charge;q=0, fiber/*"]  # fmt: skip
    no = ["", "tempo/charge", "fiber/session", "fiber", "fiber/", "/charge", "fiber/charge;q=0",
          "fiber/charge;q=0.000", "*/*, fiber/charge;q=0", "fiber/*, fiber/charge;q=0",
          "*/*, fiber/*;q=0", "Fiber/charge", "fiber/charge;q=2", "fiber/charge;q=0.0001",
          "fiber/charge;q=", "fiber/charge;q=-1", "fiber/charge;q=1.5", "fiber/charge;v=1",
          "fiber/charges", "xfiber/charge", "fiber /charge", "fiber/charge fiber/charge",
          "tempo/*, stripe/*;q=0.5", "*/session", "a/b," * 1024 + "fiber/charge"]  # fmt: skip
    cases = [(text, True) for text in yes] + [(text, False) for text in no]
    return [
        {"name": text[:60] or "absent", "comment": "", "header": text, "announced": announced}
        for text, announced in cases
    ]


def credential(kid="k1", token=None, payload=None, request_text=None, **changes):
    """The object of a `Payment` credential with the right id; None leaves a member out."""
    opaque = jcs({"f402": token or tokens.token(kid, **tokens.TERMS)})
    parts = {
        "realm": "router.test", "method": "fiber", "intent": "charge",
        "request": b64url((request_text or request()).encode()), "expires": EXPIRES,
        "digest": DIGEST, "opaque": b64url(opaque.encode()),
    }  # fmt: skip
    echo = {"id": identity(parts | {"header": HEADER}, key_of(kid)), **parts} | changes
    return {
        "challenge": {n: v for n, v in echo.items() if v is not None},
        "payload": {"preimage": PREIMAGE.hex()} if payload is None else payload,
    }


def header(value):
    """A credential as a header's text."""
    return "Payment " + b64url(json.dumps(value, separators=(",", ":")).encode())


def credentials():
    """Headers with a `Payment` credential and what they are read as."""
    good, older = tokens.token(**tokens.TERMS), tokens.token("k0", **tokens.TERMS)
    hexed = PREIMAGE.hex()
    read = [
        ("with preimage", "", credential(), good, hexed),
        ("0x preimage", "", credential(payload={"preimage": "0x" + hexed}), good, hexed),
        ("empty payload", "payers of fnn 0.8 have no preimage", credential(payload={}), good, None),
        ("empty preimage", "", credential(payload={"preimage": ""}), good, None),
        ("old key", "", credential("k0"), older, hexed),
        ("echoed header", "as pympp and mppx do", credential(header=HEADER), good, hexed),
        ("described", "more members are ignored", credential(description="x", more=[1]), good,
         hexed),
        ("with source", "", credential() | {"source": "did:key:z"}, good, hexed),
        ("no expires", "", credential(expires=None), good, hexed),
    ]  # fmt: skip
    cases = [
        {"name": n, "comment": c, "headers": {"payment-authorization": header(v)}, "token": t,
         "preimage": p, "amount": "184320"}
        for n, c, v, t, p in read
    ]  # fmt: skip
    text = header(credential())
    others = [
        ("in authorization", {"authorization": text}),
        ("scheme in another case", {"payment-authorization": "pAYMENT" + text[7:]}),
        ("two spaces", {"payment-authorization": text.replace(" ", "  ")}),
        ("beside a foreign key", {"payment-authorization": text, "authorization": "Bearer none"}),
    ]
    cases += [
        {"name": n, "comment": "", "headers": h, "token": good, "preimage": hexed,
         "amount": "184320"}
        for n, h in others
    ]  # fmt: skip
    return cases + [
        {"name": n, "comment": "", "headers": {"payment-authorization": h}, "code": code}
        for n, h, code in _refused()
    ]


def _refused():
    malformed = "malformed_proof"
    good = credential()
    text = header(good)
    raw = json.dumps(good).encode()
    padded = base64.urlsafe_b64encode(raw + b" " * (2 - len(raw) % 3)).decode()
    hexed = PREIMAGE.hex()
    broken = b64url(b"nonsense")
    return [
        ("empty", "", malformed),
        ("scheme alone", "Payment", malformed),
        ("nothing after it", "Payment ", malformed),
        ("another scheme", "Bearer " + text[8:], malformed),
        ("padded", "Payment " + padded, malformed),
        ("standard alphabet", "Payment a+b/", malformed),
        ("stray bits", "Payment e31", malformed),
        ("auth-params", 'Payment token="x"', malformed),
        ("two credentials", text + ", " + text, malformed),
        ("over 16384 characters", header(credential(pad="x" * 12_400)), malformed),
        ("not json", "Payment " + broken, malformed),
        ("array", header([good]), malformed),
        ("duplicate member", "Payment " + b64url(raw.replace(b'{"chal', b'{"payload":{},"chal', 1)),
         malformed),
        ("no challenge", header({"payload": {}}), malformed),
        ("challenge text", header(good | {"challenge": "x"}), malformed),
        ("no payload", header({"challenge": good["challenge"]}), malformed),
        ("payload text", header(good | {"payload": hexed}), malformed),
        ("no id", header(credential(id=None)), malformed),
        ("id number", header(credential(id=7)), malformed),
        ("no realm", header(credential(realm=None)), malformed),
        ("no request", header(credential(request=None)), malformed),
        ("no opaque", header(credential(opaque=None)), malformed),
        ("opaque object", header(credential(opaque={"f402": "f1.k1.x.y"})), malformed),
        ("opaque not json", header(credential(opaque=broken)), malformed),
        ("opaque without token", header(credential(opaque=b64url(b"{}"))), malformed),
        ("opaque with number", header(credential(opaque=b64url(b'{"f402":1}'))), malformed),
        ("request not json", header(credential(request=broken)), malformed),
        ("request padded", header(credential(request=b64url(request().encode()) + "=")), malformed),
        ("expires number", header(credential(expires=EXPIRES_S)), malformed),
        ("amount number", header(credential(request_text=request(amount=184320))), malformed),
        ("no currency", header(credential(request_text=request(currency=None))), malformed),
        ("no recipient", header(credential(request_text=request(recipient=None))), malformed),
        ("no details", header(credential(request_text=request(methodDetails=None))), malformed),
        ("another method", header(credential(method="tempo")), "unsupported_scheme"),
        ("another intent", header(credential(intent="session")), "unsupported_scheme"),
        ("no method", header(credential(method=None)), malformed),
        ("upper-case preimage", header(credential(payload={"preimage": hexed.upper()})), malformed),
        ("31-byte preimage", header(credential(payload={"preimage": hexed[2:]})), malformed),
        ("null preimage", header(credential(payload={"preimage": None})), malformed),
        ("number preimage", header(credential(payload={"preimage": 0})), malformed),
    ]  # fmt: skip


def verdicts():
    """What a seller answers to a credential that was read."""
    other = b64url(request(amount="1").encode())
    none = {"payload": {}}
    cases = [
        ("no preimage", "the node must be asked", credential(**none), {}, "ask_node"),
        ("preimage", "nobody needs to be asked", credential(), {}, "preimage"),
        ("wrong preimage", "", credential(payload={"preimage": "ff" * 32}), {}, "invalid_preimage"),
        ("after expiry", "paid in time, redeemed later", credential(), {"now_s": EXPIRES_S + 1},
         "preimage"),
        ("last second", "", credential(), {"now_s": REDEEM_S}, "preimage"),
        ("too late", "", credential(), {"now_s": REDEEM_S + 1}, "challenge_expired"),
        ("old key", "", credential("k0"), {}, "preimage"),
        ("another id", "", credential(id="A" * 43), {}, "invalid_challenge"),
        ("id not ascii", "", credential(id="\u00e9"), {}, "invalid_challenge"),
        ("id of seven places", "without the header", credential(id=identity(
            credential()["challenge"], key_of("k1"))), {}, "invalid_challenge"),
        ("id by the token's key", "keys for different purposes differ", credential(id=identity(
            credential()["challenge"] | {"header": HEADER}, tokens.KEYS["k1"])), {},
         "invalid_challenge"),
        ("altered realm", "", credential(realm="other.test"), {}, "invalid_challenge"),
        ("altered request", "", credential(request=other), {}, "invalid_challenge"),
        ("altered expires", "", credential(expires="2033-11-14T22:15:20Z"), {},
         "invalid_challenge"),
        ("altered digest", "", credential(digest=None), {}, "invalid_challenge"),
        ("altered opaque", "another good token under the same id", credential(opaque=b64url(
            jcs({"f402": tokens.token(**tokens.TERMS, jti="ff" * 16)}).encode())), {},
         "invalid_challenge"),
        ("forged token", "under a right id", credential(
            token=tokens.sign(jcs(tokens.claims()), "k1", bytes(32))), {}, "invalid_challenge"),
        ("another body", "", credential(), {"body": "{}"}, "request_mismatch"),
        ("another realm", "", credential(), {"issuer": "other.test"}, "wrong_realm"),
        ("another amount", "under a right id", credential(request_text=request(amount="1")), {},
         "amount_mismatch"),
        ("another network", "under a right id",
         credential(request_text=request(details={"network": "dev"})), {}, "unsupported_network"),
    ]  # fmt: skip
    base = {
        "issuer": "router.test", "network": "fiber:testnet", "method": "POST", "target": TARGET,
        "body": BODY, "now_s": ISSUED_S + 60,
    }  # fmt: skip
    return [
        {"name": n, "comment": c, "header": header(v), **base, **at, "result": result}
        for n, c, v, at, result in cases
    ]
