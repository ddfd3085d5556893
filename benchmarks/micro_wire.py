"""What the wire costs one core: per request to price and rewrite, per streamed chunk to meter.

    python benchmarks/micro_wire.py [--seconds 1.0]

The request is a chat of about 4 KB, once plain and once with tools; chunks have the shape of vLLM
and of llama.cpp, whose time stamp changes each second.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from infern.core.errors import InfernError
from infern.core.wire.bounds import ModelLimits, bound
from infern.core.wire.endpoints import Endpoint, parse_request
from infern.core.wire.jcs import canonicalize
from infern.core.wire.rewrite import to_upstream
from infern.core.wire.sse import SseMeter
from infern.core.wire.strict_json import loads_object
from infern.core.wire.usage import charge_usage

LIMITS = ModelLimits(context_tokens=131_072, max_completion_tokens=16_384)
WORDS = "The quick brown fox jumps over the lazy dog while channels settle quietly. "
CHUNKS_PER_STREAM = 500


def measure(name: str, step: Callable[[], object], items: int, seconds: float) -> None:
    # CPU time, so that other work on the machine is not counted in.
    rounds_s = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        step()
        rounds_s.append(time.process_time() - start)
    median_us = statistics.median(rounds_s) / items * 1e6
    print(f"{name:44} {median_us:8.2f} us median {min(rounds_s) / items * 1e6:8.2f} us best")


def chat_body(words: str, *, tools: bool, characters: int = 3_800) -> bytes:
    text = (words * (characters // len(words) + 1))[: characters // (2 if tools else 1) // 8]
    messages = [{"role": "user" if i % 2 else "assistant", "content": text} for i in range(8)]
    body: dict[str, object] = {"model": "m", "messages": messages, "stream": True}
    body |= {"temperature": 0.7, "max_tokens": 512, "stop": ["\n\n"], "user": "someone"}
    if tools:
        properties = {
            f"argument_{i}": {"type": "string", "description": WORDS[:60]} for i in range(4)
        }
        parameters = {"type": "object", "properties": properties, "required": ["argument_1"]}
        body["tools"] = [
            {"type": "function", "function": {"name": f"tool_{i}", "parameters": parameters}}
            for i in range(4)
        ]
    return json.dumps(body, ensure_ascii=False).encode()


def price_and_rewrite(body: bytes) -> bytes:
    request = parse_request(Endpoint.CHAT_COMPLETIONS, body)
    return to_upstream(request, bound(request, LIMITS), upstream_model="upstream")


def chunk(text: str, second: int, extra: dict[str, object]) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    value = {"id": "chatcmpl-1f2e3d4c5b6a7980", "object": "chat.completion.chunk", "model": "m"}
    body = json.dumps({**value, "created": second, "choices": [choice], **extra})
    return f"data: {body}\n\n".encode()


def stream(kind: str) -> list[bytes]:
    chunks = []
    for i in range(CHUNKS_PER_STREAM):
        second = 1_700_000_000 + (i // 25 if kind == "llama" else 0)
        extra: dict[str, object] = {"i": i} if kind == "unlike" else {}
        text = 'a "quoted"\n' if i % 10 == 9 else " word"
        chunks.append(chunk(text, second, extra))
    return chunks


def meter_stream(chunks: list[bytes]) -> None:
    request = parse_request(
        Endpoint.CHAT_COMPLETIONS,
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}',
    )
    limit = bound(request, LIMITS)
    meter = SseMeter(request, limit)
    for piece in chunks:
        for event in meter.feed(piece):
            if not meter.is_hidden(event):
                meter.mark_sent(event)
    charge_usage(meter.usage, meter.counted(), limit)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=1.0, help="per figure")
    seconds = arguments.parse_args().seconds
    for name, body in (
        ("plain", chat_body(WORDS, tools=False)),
        ("Chinese", chat_body("通道在安静地结算。", tools=False, characters=1_300)),
        ("4 tools", chat_body(WORDS, tools=True)),
    ):
        label = f"{len(body)} B request, {name}"
        measure(f"{label}: json.loads", lambda b=body: json.loads(b), 1, seconds / 3)
        measure(f"{label}: strict", lambda b=body: loads_object(b), 1, seconds / 3)
        measure(f"{label}: all", lambda b=body: price_and_rewrite(b), 1, seconds)
    for kind in ("vllm", "llama", "unlike"):
        chunks = stream(kind)
        measure(
            f"chunk of {len(chunks[0])} B, {kind}",
            lambda c=chunks: meter_stream(c),
            len(chunks),
            seconds,
        )
    one = chunk(" word", 1, {})[6:]
    measure("chunk, json.loads alone", lambda: json.loads(one), 1, seconds / 3)
    hostile = b'{"a":[' + b"[]," * 60_000 + b"[]]}"
    measure(f"{len(hostile)} B of brackets: strict", lambda: loads_object(hostile), 1, seconds)
    deep = b'{"a":' + b"[" * 262_000
    measure("262 KB of depth: refused", lambda: refused(deep), 1, seconds / 3)
    binding = {"body": "0" * 64, "domain": "f402:http:1", "method": "POST", "target": "/v1/x"}
    measure(
        "canonical JSON of a digest binding", lambda: canonicalize(dict(binding)), 1, seconds / 3
    )


def refused(body: bytes) -> bool:
    try:
        loads_object(body)
    except InfernError:
        return True
    raise SystemExit("a deep document was read")


if __name__ == "__main__":
    main()
