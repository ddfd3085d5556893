"""Request digests and invoice descriptions."""

import base64
import json
from pathlib import Path

import pytest

from infern.core.errors import LocalProtocolError
from infern.core.f402.digest import invoice_description, request_digest, topup_description
from infern.core.wire.jcs import canonicalize

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())


@pytest.mark.parametrize("case", VECTORS["request_digest"], ids=lambda case: case["name"])
def test_digest_vectors(case: dict[str, str]) -> None:
    body = base64.b64decode(case["body_base64"])
    digest = request_digest(case["method"], case["target"], body)
    assert digest.hex() == case["digest"]
    assert invoice_description(digest) == case["description"]


def test_the_design_s_own_digests() -> None:
    shown = {case["name"]: case["digest"] for case in VECTORS["request_digest"]}
    assert shown["design"] == "e90e888314b094566a350007291f7adfd6c90f32e63deaf1c4b7c7dda5d4cae7"
    assert shown["method"] == "35e24dbb0386ab684831029c41d2fe1d46b0c23eef7643d4258246d29d09d133"
    assert shown["query"] == "b22e139c431aab7e5fffca96c257fe7a537ef8267dd4899347a24393d3518566"
    assert shown["one space"] == "44576237eb9f1ec782dfe82a1821f9483c6b461956d505714fe98f2ab37e29b5"
    assert shown["empty body"] == "125b83c092ca18b1c0224db7c6f03700559dbf0b654158ad7d9c25a50d185b3c"


@pytest.mark.parametrize("case", VECTORS["canonical_json"], ids=lambda case: case["name"])
def test_canonical_json_vectors(case: dict[str, str]) -> None:
    assert canonicalize(json.loads(case["json"])) == case["canonical"].encode()


def test_targets_that_are_no_text_have_no_digest() -> None:
    with pytest.raises(LocalProtocolError):
        request_digest("POST", "/\ud800", b"")


def test_a_top_up_cannot_be_taken_for_a_request() -> None:
    hexes = {invoice_description(request_digest("POST", "/", b""))}
    assert topup_description("key_1") == "f402:1:topup:key_1"
    assert not any(text.startswith("f402:1:topup:") for text in hexes)
