"""Write `vectors/f402.json`, the vectors that every implementation of F402 is checked against.

    python vectors/generate_f402.py            rewrite the file
    python vectors/generate_f402.py --check    fail when the file is not what this writes

The values come from plain `hashlib`, `hmac` and `json` and from `reference_secp256k1`, not from
Infern, so that they check its code instead of repeating it. The one exception is named in
`f402_offers`: invoices are written by Infern, whose invoice codec has vectors of its own.
"""

import base64
import hashlib
import hmac
import json
import sys
from pathlib import Path

import f402_mpp as mpp
import f402_offers
import f402_receipts
import f402_tokens as tokens
from f402_tokens import BODY, PREIMAGE, TARGET, UDT_ASSET
from reference_secp256k1 import ckb_hash

FILE = Path(__file__).with_name("f402.json")
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def canonical_json():
    """RFC 8785, as far as F402 needs it: no floats."""
    cases = [
        ("members sort", "by name", '{"b":1,"a":2,"B":3}', '{"B":3,"a":2,"b":1}'),
        ("utf-16 order", "by UTF-16 code units: U+1F600 is D83D DE00 and sorts before U+FB33",
         '{"\\ufb33":1,"\\ud83d\\ude00":2,"\\u20ac":3}', '{"\u20ac":3,"\U0001f600":2,"\ufb33":1}'),
        ("control escapes", "two-character escapes where JSON has them, else lower-case hex",
         '"\\u0000\\u0008\\u0009\\u000A\\u000C\\u000D\\u001F\\u007F"',
         '"\\u0000\\b\\t\\n\\f\\r\\u001f\x7f"'),
        ("quote and backslash", "and a slash that needs no escape", '"\\"\\\\\\/"', '"\\"\\\\/"'),
        ("line separators", "U+2028 and U+2029 stand as they are", '"\\u2028\\u2029"',
         '"\u2028\u2029"'),
        ("no html escapes", "", '"<&>\\u0027"', '"<&>\'"'),
        ("literals", "", "[ true , false , null ]", "[true,false,null]"),
        ("integers", "to the edge of what every JSON reads exactly",
         "[0,-1,9007199254740991,-9007199254740991]", "[0,-1,9007199254740991,-9007199254740991]"),
        ("empty", "", '{"a":[],"b":{}, "":""}', '{"":"","a":[],"b":{}}'),
        ("no normalisation", "e with an accent in one and in two code points",
         '{"\\u00e9":1,"e\\u0301":2}', '{"e\u0301":2,"\u00e9":1}'),
    ]  # fmt: skip
    return [{"name": n, "comment": c, "json": j, "canonical": t} for n, c, j, t in cases]


def digests():
    """Request digests."""
    cases = [
        ("design", "the request of the design", "POST", TARGET, BODY.encode()),
        ("method", "GET", "GET", TARGET, BODY.encode()),
        ("query", "the query is part of the target", "POST", TARGET + "?x=1", BODY.encode()),
        ("one space", "bytes count, not JSON values", "POST", TARGET,
         BODY.replace(":", ": ", 1).encode()),
        ("empty body", "", "POST", TARGET, b""),
        ("embeddings", "another path", "POST", "/v1/embeddings", BODY.encode()),
        ("empty query", "a lone question mark is another target", "POST", TARGET + "?",
         BODY.encode()),
        ("percent", "nothing is decoded", "GET", "/v1/models?q=%2F%20+", b""),
        ("trailing slash", "nothing is normalised", "POST", TARGET + "/", BODY.encode()),
        ("lower-case method", "nothing is normalised", "post", TARGET, BODY.encode()),
        ("duplicate members", "the digest does not parse", "POST", TARGET,
         b'{"max_tokens":1,"max_tokens":64}'),
        ("not utf-8", "bodies are bytes", "POST", TARGET, bytes(range(256))),
    ]  # fmt: skip
    out = []
    for name, comment, method, target, body in cases:
        digest, binding = tokens.request_digest(method, target, body)
        out.append(
            {
                "name": name,
                "comment": comment,
                "method": method,
                "target": target,
                "body_base64": base64.b64encode(body).decode(),
                "binding": binding,
                "digest": digest,
                "description": "f402:1:" + digest,
            }
        )
    return out


def hashes():
    """Payment hashes of one preimage, and preimages derived from tokens."""
    nonce, key = bytes(range(16)), bytes([12]) * 32
    derived = hmac.digest(key, b"f402/pre." + nonce.hex().encode(), "sha256")
    return {
        "payment_hash": [
            {
                "name": "sha256 and ckb hash",
                "comment": "F402 invoices use sha256; the other one must not be taken for it",
                "preimage": PREIMAGE.hex(),
                "sha256": hashlib.sha256(PREIMAGE).hexdigest(),
                "ckb_hash": ckb_hash(PREIMAGE).hex(),
            }
        ],
        "derived_preimage": [
            {
                "name": "by the token's nonce",
                "comment": "so that a restarted seller still knows it",
                "key": key.hex(),
                "nonce": nonce.hex(),
                "preimage": derived.hex(),
                "payment_hash": hashlib.sha256(derived).hexdigest(),
            }
        ],
    }


def amounts():
    """Texts that are amounts in base units, and texts that are not."""
    good = ["0", "1", "10", "184320", str(2**63), str(2**64), str(2**128 - 1)]
    bad = {
        "": "empty", "01": "leading zero", "00": "leading zero", "-1": "sign", "+1": "sign",
        "-0": "sign", "1e5": "exponent", "1.0": "point", "1,000": "separator", "1_000": "separator",
        " 1": "space", "1 ": "space", "1\n": "newline", "0x10": "hex", "\u0661\u0662": "arabic",
        "\uff11": "full width", "\u00b2": "superscript", "1\u0660": "mixed", "NaN": "word",
        str(2**128): "one over", "9" * 39: "39 digits, too large", "1" * 40: "40 digits",
    }  # fmt: skip
    return [
        *({"name": t, "comment": "", "text": t, "valid": True} for t in good),
        *({"name": f"refused {t[:40]!a}", "comment": c, "text": t, "valid": False}
          for t, c in bad.items()),
    ]  # fmt: skip


def assets():
    """Names of assets."""
    bad = {
        "CKB": "case", "": "empty", "ckb ": "space", "udt:" + "ab" * 32: "no 0x",
        "udt:0x" + "AB" * 32: "upper case", "udt:0x" + "ab" * 31: "31 bytes",
        "udt:0x" + "ab" * 33: "33 bytes", "UDT:0x" + "ab" * 32: "upper-case prefix",
        "udt:0x" + "00" * 32: "all zero is how fixed layouts write CKB",
        "udt:0xudt:0x" + "ab" * 29: "prefix twice",
    }  # fmt: skip
    return [
        {"name": "ckb", "comment": "", "text": "ckb", "id32": "00" * 32, "valid": True},
        {"name": "udt", "comment": "by its type script's hash", "text": UDT_ASSET,
         "id32": "ab" * 32, "valid": True},
        *({"name": f"refused {c}", "comment": c, "text": t, "valid": False}
          for t, c in bad.items()),
    ]  # fmt: skip


def costs():
    """What tokens cost: one sum, rounded up once."""
    cases = [
        ("design 1", (1000, 2 * 10**8, 6 * 10**8), (3, 1), 2200),
        ("one token", (0, 1, 1), (1, 0), 1),
        ("nothing", (0, 1, 1), (0, 0), 0),
        ("design 4", (500, 15 * 10**7, 45 * 10**7), (1200, 4096), 2023700),
        ("a third", (0, 333333, 0), (3, 0), 1),
        ("rounded once", (0, 1, 1), (1, 1), 1),
        ("rounded once, two units", (0, 500_000, 500_001), (1, 1), 2),
        ("exact", (0, 1_000_000, 0), (7, 0), 7),
        ("fee only", (5, 0, 0), (1000, 1000), 5),
        ("fee is not rounded", (5, 1, 0), (1, 0), 6),
        ("largest", (2**64 - 1,) * 3, (2**40, 2**40), 40564837654047414555247095),
    ]
    return [
        {
            "name": name,
            "comment": "",
            "request_fee": str(price[0]),
            "input_per_mtok": str(price[1]),
            "output_per_mtok": str(price[2]),
            "prompt_tokens": used[0],
            "completion_tokens": used[1],
            "cost": str(cost),
        }
        for name, price, used, cost in cases
    ]


def quotes():
    """The ceiling of a quote: completion tokens are per choice."""
    cases = [
        ("one choice", "", (724, 64, 1), "184320"),
        ("three choices", "prompt once, completions three times", (724, 64, 3), "261120"),
        ("no completion", "embeddings", (724, 0, 1), "145920"),
        ("nothing", "the fee remains", (0, 0, 1), "1120"),
    ]
    return [
        {"name": n, "comment": c, "prc": tokens.TERMS["prc"], "tok": list(t), "max": m}
        for n, c, t, m in cases
    ]


def names():
    """API keys and readable identifiers from entropy."""
    out = []
    for name, entropy in (("zero", bytes(32)), ("ones", b"\xff" * 32), ("count", bytes(range(32)))):
        key = "inf_sk_" + _digits(int.from_bytes(entropy, "big"), BASE62, 43)
        out.append(
            {
                "name": name,
                "comment": "43 base62 digits, most significant first",
                "entropy": entropy.hex(),
                "key": key,
                "key_digest": hashlib.sha256(key.encode()).hexdigest(),
                "id_entropy": entropy[:16].hex(),
                "id": "req_" + _digits(int.from_bytes(entropy[:16], "big"), CROCKFORD, 26),
            }
        )
    return out


def _digits(number, alphabet, count):
    text = ""
    while len(text) < count:
        number, digit = divmod(number, len(alphabet))
        text = alphabet[digit] + text
    return text


def credentials():
    """Headers of a request, by lower-case name, and how it pays."""
    key = "inf_sk_" + "Ab0" * 14 + "z"
    proof = tokens.header(tokens.proof())
    payment = mpp.header(mpp.credential())
    cases = [
        ("nothing", {}, {"proof": False, "key": None}),
        ("key", {"authorization": "Bearer " + key}, {"proof": False, "key": key}),
        ("scheme in lower case", {"authorization": "bearer " + key}, {"proof": False, "key": key}),
        ("two spaces", {"authorization": "Bearer  " + key}, {"proof": False, "key": key}),
        ("somebody else's key", {"authorization": "Bearer sk-live"}, {"proof": False, "key": None}),
        ("empty bearer", {"authorization": "Bearer"}, {"proof": False, "key": None}),
        ("basic", {"authorization": "Basic " + key}, {"proof": False, "key": None}),
        ("key in upper case", {"authorization": "Bearer " + key.upper()},
         {"proof": False, "key": None}),
        ("proof", {"payment-signature": proof}, {"proof": True, "key": None}),
        ("proof and key", {"payment-signature": proof, "authorization": "Bearer " + key},
         {"proof": True, "key": key}),
        ("proof and foreign key", {"payment-signature": proof, "authorization": "Bearer none"},
         {"proof": True, "key": None}),
        ("short key", {"authorization": "Bearer " + key[:-1]}, {"code": "invalid_api_key"}),
        ("long key", {"authorization": "Bearer " + key + "z"}, {"code": "invalid_api_key"}),
        ("key of other letters", {"authorization": "Bearer " + key[:-1] + "-"},
         {"code": "invalid_api_key"}),
        ("key of full-width digits", {"authorization": "Bearer " + key[:-1] + "\uff11"},
         {"code": "invalid_api_key"}),
        ("free tier", {"authorization": "Bearer inf_free_x"}, {"code": "invalid_api_key"}),
        ("mpp", {"payment-authorization": payment}, {"proof": True, "key": None}),
        ("mpp as authorization", {"authorization": payment}, {"proof": True, "key": None}),
        ("mpp and key", {"payment-authorization": payment, "authorization": "Bearer " + key},
         {"proof": True, "key": key}),
        ("mpp twice", {"payment-authorization": payment, "authorization": payment},
         {"code": "ambiguous_payment"}),
        ("broken mpp", {"payment-authorization": "Payment x"}, {"code": "malformed_proof"}),
        ("broken mpp as authorization", {"authorization": "Payment x"},
         {"code": "malformed_proof"}),
        ("two proofs", {"payment-signature": proof, "payment-authorization": "Payment x"},
         {"code": "ambiguous_payment"}),
        ("two proofs in authorization",
         {"payment-signature": proof, "authorization": "payment x"}, {"code": "ambiguous_payment"}),
        ("broken proof beside a key",
         {"payment-signature": "x", "authorization": "Bearer " + key}, {"code": "malformed_proof"}),
    ]  # fmt: skip
    return [{"name": n, "comment": "", "headers": h, "result": r} for n, h, r in cases]


def build():
    """Everything."""
    return {
        "about": "Vectors of F402 version 1, written by generate_f402.py; see docs/f402-spec.md. "
        "All are normative. Bytes are lower-case hex unless a member is named otherwise; amounts "
        "are decimal strings. A result or code is the error's stable code.",
        "challenge_keys": {kid: key.hex() for kid, key in tokens.KEYS.items()},
        "canonical_json": canonical_json(),
        "request_digest": digests(),
        **hashes(),
        "amount": amounts(),
        "asset": assets(),
        "cost": costs(),
        "quote": quotes(),
        "names": names(),
        "token": tokens.tokens(),
        "token_refused": tokens.tokens_refused(),
        "proof": tokens.proofs(),
        "credential": credentials(),
        "verdict": tokens.verdicts(),
        "offer": f402_offers.offers(),
        "response_root": f402_receipts.response_roots(),
        "receipt": f402_receipts.receipts(),
        "receipt_refused": f402_receipts.receipts_refused(),
        "accept_payment": mpp.accepts(),
        "mpp_key": mpp.keys(),
        "mpp_challenge": mpp.challenges(),
        "mpp_credential": mpp.credentials(),
        "mpp_verdict": mpp.verdicts(),
    }


def main():
    """Write the file, or compare it."""
    groups = build()
    for group, cases in groups.items():
        seen = [case["name"] for case in cases if isinstance(case, dict)]
        if len(set(seen)) != len(seen):
            sys.exit(f"two vectors of {group} have one name")
    text = json.dumps(groups, indent=1, ensure_ascii=True) + "\n"
    if "--check" not in sys.argv:
        FILE.write_text(text, encoding="ascii")
    elif FILE.read_text(encoding="ascii") != text:
        sys.exit(f"{FILE.name} is stale: run python vectors/generate_f402.py")


if __name__ == "__main__":
    main()
