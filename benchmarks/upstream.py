"""A model server that costs almost nothing: fixed answers, so that the agent is what is measured.

Run as `python -m benchmarks.upstream PORT`.
"""

import json
import sys

import uvicorn

CHUNKS = 50
CONTENT = "word "


def _chunk(content: str | None, finish: str | None) -> bytes:
    delta = {} if content is None else {"content": content}
    body = {
        "id": "bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


USAGE = {"prompt_tokens": 40, "completion_tokens": CHUNKS, "total_tokens": 40 + CHUNKS}
PLAIN = json.dumps(
    {
        "id": "bench",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": CONTENT * CHUNKS * 3},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
).encode()
STREAM = (
    [_chunk(CONTENT, None)] * CHUNKS
    + [_chunk(None, "stop")]
    + [
        b"data: "
        + json.dumps(
            {
                "id": "bench",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "bench",
                "choices": [],
                "usage": USAGE,
            }
        ).encode()
        + b"\n\n",
        b"data: [DONE]\n\n",
    ]
)
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
JSON = [(b"content-type", b"application/json")]
SSE = [(b"content-type", b"text/event-stream")]


async def app(scope, receive, send) -> None:
    """Answer chat requests at once, streamed or not."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["method"] == "GET":
        await _whole(send, MODELS)
    elif b'"stream":true' in body or b'"stream": true' in body:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        for chunk in STREAM:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        await _whole(send, PLAIN)


async def _whole(send, body: bytes) -> None:
    headers = [*JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
    )
