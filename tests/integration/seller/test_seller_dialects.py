"""Every answer in `vectors/dialects` through a real seller, cut in pieces in hostile ways.

What must come out stands beside each answer: tokens and shannon charged, what was flagged, or the
error, with money unmoved where nothing was delivered.
"""

import itertools
import json
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from infern.core.market.price import Price
from infern.core.units import CKB
from infern.core.wire.dialects import DialectName
from infern.core.wire.strict_json import dumps, loads_object
from infern.core.wire.usage import UsageFlag
from infern.testing.scripted_model import DONE, Script, Step

VECTORS = Path(__file__).parents[3] / "vectors" / "dialects"
CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
PRICE = Price(asset=CKB, request_fee=1_000, input_per_mtok=200_000_000, output_per_mtok=600_000_000)
FINISH_NAMES = {
    "stop": "STOP",
    "length": "LENGTH",
    "tool_calls": "TOOL_CALLS",
    "content_filter": "CONTENT_FILTER",
    "interrupted": "INTERRUPTED",
    "other": "OTHER",
}
PRIVATE = re.compile(rb"/srv/|/home/|/usr/lib|/opt/|127\.0\.0\.1|10\.0\.0\.|\.lan|C:\\")
BALANCE = 10_000_000


@dataclass(frozen=True)
class Answer:
    """One answer of a model server, with what it must become."""

    vector: dict[str, Any]
    dialect: DialectName

    @property
    def expect(self) -> dict[str, Any]:
        expect: dict[str, Any] = self.vector["expect"]
        return expect

    @property
    def path(self) -> str:
        return str(self.vector.get("path", CHAT))

    @property
    def streams(self) -> bool:
        return self.vector["request"].get("stream") is True

    def request(self) -> bytes:
        known = (
            {"model": "m", "max_tokens": 16, **QUESTION} if self.path == CHAT else {"model": "m"}
        )
        return dumps({**known, **self.vector["request"]})

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """Pieces of the body, each with whether it reaches the consumer as it came."""
        for piece in self.vector["body"]:
            if isinstance(piece, str):
                yield piece.encode(), True
            elif "held" in piece:
                yield piece["held"].encode(), False
            else:
                yield piece["text"].encode() * piece["repeat"], True

    def script(self, cut: list[bytes]) -> Script:
        kind = "text/event-stream" if self.streams else "application/json"
        return Script(
            status=self.vector.get("status", 200),
            content_type=self.vector.get("type", kind),
            steps=[*cut, *([Step.BREAK] if self.vector.get("breaks") else [])],
        )


def _answers() -> Iterator[Any]:
    for path in sorted(VECTORS.glob("*.json")):
        file = json.loads(path.read_text("utf-8"))
        for vector in file["answers"]:
            dialect = DialectName(vector.get("dialect", file["dialect"]))
            yield pytest.param(
                Answer(vector=vector, dialect=dialect), id=f"{path.stem}: {vector['name']}"
            )


ANSWERS = list(_answers())


def _cuts(answer: Answer) -> Iterator[list[bytes]]:
    """The body whole, cut at random borders and, where it is read on the way, in single bytes."""
    body = b"".join(piece for piece, _ in answer.pieces())
    yield [body] if body else []
    if answer.streams:
        yield [body[at : at + 1] for at in range(len(body))]
    borders = random.Random(answer.vector["name"])
    marks = sorted({0, len(body), *(borders.randrange(len(body) + 1) for _ in range(9))})
    yield [body[a:b] for a, b in itertools.pairwise(marks)]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_comes_out_of_each_answer(
    make_world: Any, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    world = await make_world()
    world.models = (_sold(world.models[0], answer),)
    world.reassemble()
    key = await world.key(BALANCE)
    request = answer.request()
    seen = set()
    for cut in _cuts(answer):
        before = await world.spent()
        world.model.plan.clear()
        world.model.plan.append(answer.script(cut))
        caplog.clear()
        with caplog.at_level(logging.INFO, "infern.seller.billing"):
            got = await world.chat(request, key=key, target=answer.path)
        charged = await world.spent() - before
        assert str(charged) == answer.expect["charged"]
        _check(world, answer, request, got, await world.stored_receipt(got))
        _check_flags(answer, caplog)
        seen.add(_without_names(got.body))
    assert len(seen) == 1 or answer.vector.get("cut")
    assert await world.open_holds() == 0


def _sold(model: Any, answer: Answer) -> Any:
    limits = replace(model.limits, **answer.vector.get("limits", {}))
    return replace(model, price=PRICE, limits=limits).spoken_to(answer.dialect)


def _check(world: Any, answer: Answer, request: bytes, got: Any, receipt: Any) -> None:
    expect = answer.expect
    error = expect.get("error")
    if error is not None:
        _check_error(answer, error, got)
    if expect["charged"] == "0":
        assert receipt is None
        assert b"f402-receipt" not in got.body
        return
    assert (receipt.prompt_tokens, receipt.completion_tokens, str(receipt.charged)) == (
        expect["prompt_tokens"],
        expect["completion_tokens"],
        expect["charged"],
    )
    assert receipt.finish.name == FINISH_NAMES[expect["finish"]]
    if not answer.streams:
        assert world.plain_receipt(got, request, target=answer.path) == receipt
        _check_plain(answer, got)
        return
    before, _, rest = got.body.partition(b": f402-receipt ")
    checked = world.checked_receipt(
        rest.split(b"\n", 1)[0].decode(), request, before, target=answer.path
    )
    assert checked == receipt
    _check_stream(answer, before)
    assert got.body.endswith(DONE) == (error is None)


def _check_plain(answer: Answer, got: Any) -> None:
    """The body is the model server's, with the bill and nothing else."""
    shown = got.json()
    bill = shown.pop("f402")
    (whole,) = [piece for piece, _ in answer.pieces()]
    assert shown == loads_object(whole)
    assert bill.get("flags", []) == answer.expect["flags"]


def _check_stream(answer: Answer, before: bytes) -> None:
    """Events are the model server's, byte for byte; the usage asked for comes with the bill."""
    passed = b"".join(piece for piece, is_passed in answer.pieces() if is_passed)
    if answer.vector.get("cut"):
        assert passed.startswith(before)
        return
    assert before.startswith(passed)
    added = before[len(passed) :]
    options = answer.vector["request"].get("stream_options", {})
    held = [piece for piece, is_passed in answer.pieces() if not is_passed and b'"usage"' in piece]
    if not options.get("include_usage") or not held:
        assert added == b""
        return
    shown = loads_object(added[6:])
    assert shown.pop("f402")["charged"] == answer.expect["charged"]
    assert shown == loads_object(held[-1][6:])


def _check_error(answer: Answer, error: dict[str, Any], got: Any) -> None:
    if error.get("in_stream") or error["code"] == "stream_interrupted":
        assert got.status == 200
        told = loads_object(got.body.rstrip().rsplit(b"\n", 1)[-1][6:])["error"]
    else:
        assert got.status == error["status"]
        told = got.error
    assert isinstance(told, dict)
    assert (told["code"], told["money"]) == (error["code"], error["money"])
    assert told["retry"] == ("same_credential" if told["type"] == "server_error"
                             and error["money"] == "unmoved" else "never")  # fmt: skip
    message = str(told["message"])
    assert len(message) < 400
    assert message.isprintable()
    assert answer.expect.get("shows", "") in message
    assert [hidden for hidden in answer.expect.get("hides", []) if hidden in message] == []
    assert PRIVATE.search(dumps(told)) is None
    assert "upstream-m" not in message


def _check_flags(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    """What is flagged is said in the log, and nothing else is."""
    told = [r.getMessage() for r in caplog.records if r.name == "infern.seller.billing"]
    flags = answer.expect.get("flags", [])
    if "error" in answer.expect:
        return
    assert bool(told) == bool(flags)
    for flag in UsageFlag:
        assert (flag in " ".join(told)) == (flag in flags)


def _without_names(body: bytes) -> bytes:
    body = re.sub(rb"req_\w+", b"req_", body)
    return re.sub(rb"f402-receipt \S+", b"f402-receipt", body)


def test_every_known_dialect_has_answers() -> None:
    files = {path.stem for path in VECTORS.glob("*.json")}
    assert files == set(DialectName)


def test_the_names_of_a_dialects_answers_are_its_own() -> None:
    for path in VECTORS.glob("*.json"):
        names = [vector["name"] for vector in json.loads(path.read_text("utf-8"))["answers"]]
        assert sorted(names) == sorted(set(names))
