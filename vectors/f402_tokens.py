"""Vectors of challenge tokens, of the headers that carry proofs, and of a seller's verdict.

Nothing here imports Infern: tokens are `hmac` over `json`, which for these payloads (ASCII
members, integers, no escapes) writes exactly what RFC 8785 demands.
"""

import base64
import hashlib
import hmac
import json

BODY = '{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":64}'
TARGET = "/v1/chat/completions"
PREIMAGE = bytes(range(32))
PAYMENT_HASH = hashlib.sha256(PREIMAGE).hexdigest()
PAY_TO = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
OTHER_KEY = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
UDT_ASSET = "udt:0x" + "ab" * 32
KEYS = {"k1": bytes([11]) * 32, "k0": bytes([10]) * 32}
ISSUED_S, EXPIRES_S, REDEEM_S = 1_700_000_000, 1_700_000_120, 1_700_086_400


def b64url(raw):
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jcs(value):
    """Canonical JSON of a value that has no escapes, no floats and ASCII member names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def request_digest(method, target, body):
    """The F402 request digest, hex, with the object it is computed over."""
    binding = jcs(
        {
            "body": hashlib.sha256(body).hexdigest(),
            "domain": "f402:http:1",
            "method": method,
            "target": target,
        }
    )
    return hashlib.sha256(binding.encode()).hexdigest(), binding


def claims(**changes):
    """The claims of the design's token; None leaves a member out."""
    base = {
        "amt": "184320",
        "ast": "ckb",
        "exp": EXPIRES_S,
        "iat": ISSUED_S,
        "iss": "router.test",
        "jti": "000102030405060708090a0b0c0d0e0f",
        "lst": "0x" + "11" * 32,
        "mod": "upfront",
        "net": "fiber:testnet",
        "pay": PAY_TO,
        "ph": PAYMENT_HASH,
        "rd": request_digest("POST", TARGET, BODY.encode())[0],
        "rdm": REDEEM_S,
        "v": 1,
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


TERMS = {"prc": ["1120", "200000000", "600000000"], "tok": [724, 64, 1]}


def sign(payload_text, kid="k1", key=None):
    """A token over any payload text, with a right MAC."""
    payload = b64url(payload_text.encode())
    mac = hmac.digest(key or KEYS[kid], f"f402/1.{kid}.{payload}".encode(), "sha256")
    return f"f1.{kid}.{payload}.{b64url(mac)}"


def token(kid="k1", **changes):
    """A token over changed claims, with a right MAC."""
    return sign(jcs(claims(**changes)), kid)


def tokens():
    """Tokens that open."""
    cases = []
    for name, comment, kid, changes in (
        ("design", "the token of the design, without terms", "k1", {}),
        ("with terms", "price and ceilings of the quote travel in the token", "k1", TERMS),
        ("old key", "the seller still has the key of yesterday", "k0", TERMS),
        ("udt", "an amount that counts a UDT", "k1", {"ast": UDT_ASSET, **TERMS}),
        ("hold", "a hold invoice", "k1", {"mod": "hold", **TERMS}),
        ("refund to", "the first request named a payee for the remainder", "k1",
         {"rto": OTHER_KEY, **TERMS}),
        ("mainnet", "another network", "k1", {"net": "fiber:mainnet"}),
        ("zero", "an amount of zero is written as 0", "k1", {"amt": "0"}),
        ("2^64", "an amount beyond 64 bits", "k1", {"amt": str(2**64)}),
        ("2^128-1", "the widest amount", "k1", {"amt": str(2**128 - 1)}),
        ("three choices", "n multiplies completion tokens", "k1",
         {"amt": "261120", "prc": TERMS["prc"], "tok": [724, 64, 3]}),
        ("one instant", "issued, expired and ended in the same second", "k1",
         {"exp": ISSUED_S, "rdm": ISSUED_S}),
    ):  # fmt: skip
        text = token(kid, **changes)
        cases.append(
            {
                "name": name,
                "comment": comment,
                "kid": kid,
                "payload": jcs(claims(**changes)),
                "token": text,
                "length": len(text),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        )
    return cases


def tokens_refused():
    """Tokens that do not open: all of them give `invalid_challenge`."""
    good = token(**TERMS)
    _, kid, payload, mac = good.split(".")
    cases = [
        ("empty", "no token at all", ""),
        ("three parts", "the MAC is missing", f"f1.{kid}.{payload}"),
        ("five parts", "one part too many", good + ".x"),
        ("other version", "f2 is not f1", "f2" + good[2:]),
        ("upper-case version", "F1 is not f1", "F1" + good[2:]),
        ("leading space", "nothing is trimmed", " " + good),
        ("trailing newline", "nothing is trimmed", good + "\n"),
        ("unknown kid", "a right MAC by a key the seller never had", sign(jcs(claims()), "k9",
                                                                         bytes([9]) * 32)),
        ("renamed kid", "the kid is part of what is signed", f"f1.k0.{payload}.{mac}"),
        ("empty kid", "a kid has one character or more", f"f1..{payload}.{mac}"),
        ("kid with a slash", "a kid is letters, digits, _ and -", f"f1.k/1.{payload}.{mac}"),
        ("long kid", "a kid has at most 32 characters", f"f1.{'k' * 33}.{payload}.{mac}"),
        ("another key", "the same kid, another secret", sign(jcs(claims()), "k1", bytes(32))),
        ("empty mac", "", f"f1.{kid}.{payload}."),
        ("short mac", "a truncated MAC is no MAC", good[:-4]),
        ("padded mac", "base64url without padding", good + "="),
        ("stray bits in mac", "the last character's unused bits must be zero",
         good[:-1] + chr(ord(good[-1]) + 1)),
        ("standard alphabet in mac", "+ and / are not base64url",
         f"f1.{kid}.{payload}.{base64.b64encode(b'?' * 32).decode().rstrip('=')}"),
        ("mac of length 1 mod 4", "no bytes end there", f"f1.{kid}.{payload}.{mac}AA"),
        ("padded payload", "signed as it stands, and still refused", _signed_raw(payload + "=")),
        ("not ascii", "", good.replace("f1", "f\u00b9", 1)),
        ("full-width digit", "", good.replace("k1", "k\uff11", 1)),
        ("over 4096 characters", "", sign(jcs(claims(lst="1" * 3000)))),
        ("not json", "signed, but not JSON", sign("nonsense")),
        ("array", "signed, but not an object", sign("[1]")),
        ("duplicate member", "amt twice: no parser may choose",
         sign(jcs(claims()).replace('{"amt"', '{"amt":"1","amt"'))),
        ("float time", "times are integers", sign(jcs(claims()).replace("1700000120", "1.7e9"))),
        ("terms without tokens", "", token(prc=TERMS["prc"])),
        ("terms without prices", "", token(tok=TERMS["tok"])),
        ("two prices", "", token(prc=["1", "2"], tok=[1, 1, 1])),
        ("four prices", "", token(prc=["1", "2", "3", "4"], tok=[1, 1, 1])),
        ("three prices and a number", "", token(prc=["1", "2", "3", 4], tok=[1, 1, 1])),
        ("three counts and a text", "", token(prc=["1", "2", "3"], tok=[1, 1, 1, "1"])),
        ("four counts", "", token(prc=["1", "2", "3"], tok=[1, 1, 1, 1])),
        ("price as number", "", token(prc=[1, 2, 3], tok=[1, 1, 1])),
        ("price over u64", "", token(prc=["0", "0", str(2**64)], tok=[1, 1, 1])),
        ("no choice", "n is 1 or more", token(prc=["1", "2", "3"], tok=[1, 1, 0])),
        ("negative tokens", "", token(prc=["1", "2", "3"], tok=[-1, 1, 1])),
        ("true tokens", "", token(prc=["1", "2", "3"], tok=[True, 1, 1])),
        ("too many tokens", "more than 2^40 in all", token(prc=["1", "2", "3"],
                                                          tok=[1, 2**39, 3])),
        ("prices as object", "", token(prc={"a": "1"}, tok=[1, 1, 1])),
    ]  # fmt: skip
    out = [{"name": n, "comment": c, "token": t} for n, c, t in cases]
    return out + _mutations(payload, mac) + _bad_claims()


def _signed_raw(payload):
    mac = hmac.digest(KEYS["k1"], f"f402/1.k1.{payload}".encode(), "sha256")
    return f"f1.k1.{payload}.{b64url(mac)}"


def _mutations(payload, mac):
    """One change in each member of the payload, under the old MAC."""
    changed = {
        "amt": "184319", "ast": UDT_ASSET, "exp": EXPIRES_S + 1, "iat": ISSUED_S - 1,
        "iss": "router.evil", "jti": "ff" * 16, "lst": "0x" + "12" * 32, "mod": "hold",
        "net": "fiber:mainnet", "pay": OTHER_KEY, "ph": "00" * 32, "rd": "00" * 32,
        "rdm": REDEEM_S + 1, "v": 2, "prc": ["1119", "200000000", "600000000"],
        "tok": [724, 65, 1], "rto": OTHER_KEY,
    }  # fmt: skip
    cases = [
        {
            "name": f"mutated {name}",
            "comment": f"another {name} under the old MAC",
            "token": f"f1.k1.{b64url(jcs(claims(**(TERMS | {name: value}))).encode())}.{mac}",
        }
        for name, value in changed.items()
    ]
    flipped = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    return [
        *cases,
        {"name": "flipped bit", "comment": "anywhere", "token": f"f1.k1.{flipped}.{mac}"},
    ]


def _bad_claims():
    """Claims no seller may write, each rightly signed."""
    changes = {
        "amt": ["", "01", "-1", "+1", "1e5", "1.0", " 1", "1_0", "0x10", str(2**128), "9" * 40,
                "\u0661", "\uff11", 184320, True],
        "ast": ["CKB", "", "udt:", UDT_ASSET.upper(), UDT_ASSET + "0", "udt:0x" + "00" * 32,
                "ab" * 32, "eip155:1", 0],
        "exp": [-1, 2**53, "1700000120", True, ISSUED_S - 1, REDEEM_S + 1],
        "iat": [-1, 2**53, False, EXPIRES_S + 1],
        "iss": [1],
        "jti": ["", "00" * 15, "00" * 17, "0G" * 16, "AB" * 16, "0x" + "00" * 16, 0],
        "lst": [17],
        "mod": ["UPFRONT", "escrow", "", 1],
        "net": ["testnet", "fiber:TESTNET", "fiber:", "eip155:1", 1],
        "pay": ["", "04" + "00" * 32, PAY_TO[:-2], PAY_TO + "00", PAY_TO.upper(), 2],
        "ph": ["", PAYMENT_HASH[:-1], PAYMENT_HASH[:-2], PAYMENT_HASH + "00",
               PAYMENT_HASH.upper(), "\uff10" * 64],
        "rd": ["", "zz" * 32, "00" * 31, "AA" * 32],
        "rdm": [-1, 2**53, EXPIRES_S - 1, None],
        "rto": ["", "05" + "00" * 32, 1],
        "v": [0, 2, "1", True, None],
    }  # fmt: skip
    cases = []
    for name, values in changes.items():
        for value in values:
            text = "absent" if value is None else json.dumps(value)
            if len(text) > 48:
                text = f"{text[:40]}... ({len(text) - 2})"
            payload = json.dumps(
                claims(**{name: value}),
                sort_keys=True,
                separators=(",", ":"),
                ensure_ascii=False,
            )
            cases.append(
                {
                    "name": f"{name} {text}",
                    "comment": "rightly signed, but not a claim that can be read",
                    "token": sign(payload),
                }
            )
    return cases


def proof(payload=None, accepted=None, **members):
    """The object of a `PAYMENT-SIGNATURE` header; None leaves a member out."""
    good = token(**TERMS)
    entry = {
        "scheme": "exact", "network": "fiber:testnet", "amount": "184320", "asset": "ckb",
        "payTo": PAY_TO, "maxTimeoutSeconds": 120,
        "extra": {"paymentFlow": "upfront", "assetTransferMethod": "fiber-invoice",
                  "invoice": "fibt184320EXAMPLE", "challenge": good, "requestHash": "00" * 32},
    }  # fmt: skip
    entry = {k: v for k, v in (entry | (accepted or {})).items() if v is not None}
    value = {
        "x402Version": 2,
        "accepted": entry,
        "payload": {"invoice": "fibt184320EXAMPLE"} | (payload or {}),
    } | members
    return {k: v for k, v in value.items() if v is not None}


def header(value):
    """A header's text: standard base64 of JSON."""
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def proofs():
    """`PAYMENT-SIGNATURE` headers and what they are read as."""
    good, older = token(**TERMS), token("k0", **TERMS)
    read = [
        ("challenge in extra", "as any x402 client echoes it", header(proof()), good, None, None),
        ("challenge in payload", "an older paid challenge wins over the echoed one",
         header(proof({"challenge": older})), older, None, None),
        ("with preimage", "", header(proof({"paymentPreimage": PREIMAGE.hex()})), good,
         PREIMAGE.hex(), None),
        ("with 0x preimage", "", header(proof({"paymentPreimage": "0x" + PREIMAGE.hex()})), good,
         PREIMAGE.hex(), None),
        ("empty preimage", "payers of fnn 0.8 have none; empty is absent",
         header(proof({"paymentPreimage": ""})), good, None, None),
        ("null preimage", "", header(proof({"paymentPreimage": None})), good, None, None),
        ("refund to", "", header(proof({"refundTo": OTHER_KEY})), good, None, OTHER_KEY),
        ("unknown members", "are ignored", header(proof(resource={"url": "x"}, more=[1])), good,
         None, None),
        ("spaces in the JSON", "an ordinary encoder's output",
         base64.b64encode(json.dumps(proof(), indent=1).encode()).decode(), good, None, None),
    ]  # fmt: skip
    cases = [
        {"name": n, "comment": c, "header": h, "token": t, "preimage": p, "refund_to": r}
        for n, c, h, t, p, r in read
    ]
    return cases + [
        {"name": n, "comment": c, "header": h, "code": code} for n, c, h, code in _proofs_refused()
    ]


def _proofs_refused():
    malformed, good = "malformed_proof", header(proof())
    raw = json.dumps(proof()).encode()
    deep = base64.b64encode(b'{"a":' + b"[" * 65 + b"]" * 65 + b"}").decode()
    preimage = PREIMAGE.hex()
    return [
        ("empty", "", "", malformed),
        ("not base64", "", "????", malformed),
        ("unpadded", "x402 headers are padded", base64.b64encode(raw + b" " * (
            2 - len(raw) % 3)).decode().rstrip("="), malformed),
        ("url alphabet", "x402 headers use the standard alphabet",
         header(proof(more="???~~~???~~~")).translate({43: "-", 47: "_"}), malformed),
        ("newline inside", "", good[:8] + "\n" + good[8:], malformed),
        ("not ascii", "", good[:8] + "\u00e9" + good[9:], malformed),
        ("over 16384 characters", "", header(proof(pad="x" * 12_000)), malformed),
        ("not json", "", base64.b64encode(b"nonsense").decode(), malformed),
        ("not utf-8", "", base64.b64encode(b'{"a":"\xff"}').decode(), malformed),
        ("array", "", base64.b64encode(b"[]").decode(), malformed),
        ("duplicate member", "payload twice",
         base64.b64encode(raw.replace(b'{"x402', b'{"payload":{},"x402', 1)).decode(), malformed),
        ("65 levels", "", deep, malformed),
        ("version 1", "", header(proof(x402Version=1)), malformed),
        ("version as text", "", header(proof(x402Version="2")), malformed),
        ("no version", "", header(proof(x402Version=None)), malformed),
        ("no payload", "", header(proof() | {"payload": None}), malformed),
        ("payload array", "", header(proof() | {"payload": []}), malformed),
        ("accepted text", "", header(proof() | {"accepted": "exact"}), malformed),
        ("no scheme", "", header(proof(accepted={"scheme": None})), "unsupported_scheme"),
        ("other scheme", "", header(proof(accepted={"scheme": "upto"})), "unsupported_scheme"),
        ("no challenge", "", header(proof(accepted={"extra": {}})), malformed),
        ("extra text", "", header(proof(accepted={"extra": "x"})), malformed),
        ("challenge number", "", header(proof({"challenge": 1})), malformed),
        ("amount number", "amounts are strings", header(proof(accepted={"amount": 184320})),
         malformed),
        ("no network", "", header(proof(accepted={"network": None})), malformed),
        ("no asset", "", header(proof(accepted={"asset": None})), malformed),
        ("no payTo", "", header(proof(accepted={"payTo": None})), malformed),
        ("upper-case preimage", "", header(proof({"paymentPreimage": preimage.upper()})),
         malformed),
        ("31-byte preimage", "", header(proof({"paymentPreimage": preimage[2:]})), malformed),
        ("33-byte preimage", "", header(proof({"paymentPreimage": preimage + "00"})), malformed),
        ("odd preimage", "", header(proof({"paymentPreimage": preimage[1:]})), malformed),
        ("number preimage", "", header(proof({"paymentPreimage": 0})), malformed),
        ("false preimage", "", header(proof({"paymentPreimage": False})), malformed),
        ("refund to nobody", "", header(proof({"refundTo": ""})), malformed),
        ("refund to uncompressed", "", header(proof({"refundTo": "04" + "00" * 32})), malformed),
        ("refund to number", "", header(proof({"refundTo": 7})), malformed),
    ]  # fmt: skip


def verdicts():
    """What a seller answers to a proof that was read, in its order of checks."""
    seen = ISSUED_S + 60
    wrong = {"paymentPreimage": "ff" * 32}
    held = token(mod="hold", **TERMS)
    echo_all = {"network": "fiber:dev", "amount": "1", "asset": UDT_ASSET, "payTo": OTHER_KEY}
    cases = [
        ("no preimage", "the node must be asked", proof(), {}, "ask_node"),
        ("preimage", "nobody needs to be asked", proof({"paymentPreimage": PREIMAGE.hex()}), {},
         "preimage"),
        ("after expiry", "paid in time, redeemed later", proof(), {"now_s": EXPIRES_S + 1},
         "ask_node"),
        ("last second", "redeem-until is inclusive", proof(), {"now_s": REDEEM_S}, "ask_node"),
        ("before issue", "a clock behind the one that issued it", proof(),
         {"now_s": ISSUED_S - 60}, "ask_node"),
        ("too late", "", proof(), {"now_s": REDEEM_S + 1}, "challenge_expired"),
        ("forged", "", proof({"challenge": sign(jcs(claims(**TERMS)), "k1", bytes(32))}), {},
         "invalid_challenge"),
        ("another realm", "sellers that share a key", proof(), {"issuer": "other.test"},
         "wrong_realm"),
        ("another network", "", proof(), {"network": "fiber:mainnet"}, "wrong_realm"),
        ("another body", "one space more", proof(), {"body": BODY.replace(":", ": ", 1)},
         "request_mismatch"),
        ("another target", "", proof(), {"target": TARGET + "?x=1"}, "request_mismatch"),
        ("another method", "", proof(), {"method": "GET"}, "request_mismatch"),
        ("echoed network", "", proof(accepted={"network": "fiber:mainnet"}), {},
         "unsupported_network"),
        ("echoed amount", "", proof(accepted={"amount": "184319"}), {}, "amount_mismatch"),
        ("echoed amount with zero", "the same number, another text",
         proof(accepted={"amount": "0184320"}), {}, "amount_mismatch"),
        ("echoed asset", "", proof(accepted={"asset": UDT_ASSET}), {}, "asset_mismatch"),
        ("echoed payee", "", proof(accepted={"payTo": OTHER_KEY}), {}, "pay_to_mismatch"),
        ("wrong preimage", "", proof(wrong), {}, "invalid_preimage"),
        ("realm before time", "", proof(), {"issuer": "other.test", "now_s": REDEEM_S + 1},
         "wrong_realm"),
        ("time before request", "", proof(), {"now_s": REDEEM_S + 1, "body": "{}"},
         "challenge_expired"),
        ("request before echo", "", proof(accepted=echo_all), {"body": "{}"}, "request_mismatch"),
        ("echo before preimage", "", proof(wrong, echo_all), {}, "unsupported_network"),
        ("udt", "echoed as it was offered",
         proof({"challenge": token(ast=UDT_ASSET, **TERMS)}, {"asset": UDT_ASSET}), {},
         "ask_node"),
        ("udt echoed as ckb", "", proof({"challenge": token(ast=UDT_ASSET, **TERMS)}), {},
         "asset_mismatch"),
        ("hold", "the node must say Received or Paid", proof({"challenge": held}), {},
         "ask_for_lock"),
        ("hold with preimage", "it shows nothing: the seller alone knows it until it settles",
         proof({"challenge": held, "paymentPreimage": PREIMAGE.hex()}), {}, "ask_for_lock"),
        ("hold with wrong preimage", "", proof({"challenge": held, **wrong}), {},
         "invalid_preimage"),
        ("hold for another body", "", proof({"challenge": held}), {"body": "{}"},
         "request_mismatch"),
    ]  # fmt: skip
    base = {
        "issuer": "router.test", "network": "fiber:testnet", "method": "POST", "target": TARGET,
        "body": BODY, "now_s": seen,
    }  # fmt: skip
    return [
        {"name": n, "comment": c, "header": header(p), **base, **at, "result": result}
        for n, c, p, at, result in cases
    ]
