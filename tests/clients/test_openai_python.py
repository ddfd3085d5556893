"""openai-python, unmodified, against a live provider: sync, async, streamed, with a prepaid key."""

import httpx2
import openai
import pytest

QUESTION = [{"role": "user", "content": "What is Infern?"}]
ASK = {"model": "infern-tiny", "messages": QUESTION, "max_tokens": 64, "temperature": 0}


def _books(live, key):
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.get(f"{live.base_url}/f402/balance", headers=headers).json()


def test_sync_plain_and_streamed_with_a_key(live) -> None:
    key = live.funded_key()
    client = openai.OpenAI(base_url=live.base_url, api_key=key)
    plain = client.chat.completions.create(**ASK)
    streamed = ""
    charged = None
    for chunk in client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    ):
        if chunk.choices:
            streamed += chunk.choices[0].delta.content or ""
        if chunk.usage is not None:
            charged = chunk.f402["charged"]
    client.close()
    assert plain.choices[0].message.content == streamed != ""
    assert plain.f402["charged"] == charged
    books = _books(live, key)
    assert int(books["spent"]) == 2 * int(charged)
    assert books["held"] == "0"


async def test_async_streams_side_by_side_with_one_key(live) -> None:
    import anyio

    key = live.funded_key()
    client = openai.AsyncOpenAI(base_url=live.base_url, api_key=key)
    answers: list[str] = []

    async def one() -> None:
        text = ""
        async for chunk in await client.chat.completions.create(**ASK, stream=True):
            text += chunk.choices[0].delta.content or ""
        answers.append(text)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(one)
    await client.close()
    assert len(set(answers)) == 1
    assert answers[0]
    books = _books(live, key)
    assert books["held"] == "0"
    assert int(books["spent"]) % 4 == 0
    assert int(books["spent"]) > 0


def test_completions_and_embeddings_with_a_key(live) -> None:
    key = live.funded_key()
    client = openai.OpenAI(base_url=live.base_url, api_key=key)
    completion = client.completions.create(model="infern-tiny", prompt="Hello", max_tokens=8)
    embedding = client.embeddings.create(model="infern-tiny", input=["one", "two"])
    models = [model.id for model in client.models.list()]
    client.close()
    assert completion.object == "text_completion"
    assert len(embedding.data) == 2
    assert models == ["infern-tiny"]
    assert int(_books(live, key)["spent"]) > 0


def test_without_money_the_error_says_what_to_do_and_is_not_retried(live) -> None:
    requests = []
    transport = httpx2.Client(event_hooks={"request": [requests.append]})
    client = openai.OpenAI(base_url=live.base_url, api_key="none", http_client=transport)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**ASK)
    client.close()
    error = caught.value
    assert error.status_code == 402
    assert error.code == "payment_required"
    assert "api_key" in error.message
    assert "invoice" in error.body["f402"]
    assert len(requests) == 1


def test_an_empty_key_gets_402_insufficient_balance_once(live) -> None:
    made = httpx2.post(f"{live.base_url}/f402/keys", json={}).json()
    client = openai.OpenAI(base_url=live.base_url, api_key=made["api_key"])
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**ASK)
    client.close()
    assert caught.value.status_code == 402
    assert caught.value.code == "insufficient_balance"


def test_a_mistyped_key_is_an_authentication_error(live) -> None:
    client = openai.OpenAI(base_url=live.base_url, api_key="inf_sk_" + "x" * 43)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(**ASK)
    client.close()
    assert caught.value.code == "invalid_api_key"
