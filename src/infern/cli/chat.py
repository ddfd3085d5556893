"""`infern chat`: talk to a model from the terminal and pay as you go."""

import sys
from typing import Any, Final

import click

from infern.cli.consumer import Consumer, load_consumer, paying_options, run, seller_options
from infern.cli.output import emit_json, note
from infern.client.receipts import ReceiptCheck
from infern.client.wallet import PayMode
from infern.core.errors import ConfigError
from infern.core.units import format_amount
from infern.sdk import AsyncInfern

MAX_TURNS: Final = 40
"""Messages kept in one conversation; the oldest are forgotten first, because they cost money."""


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", help="Which model; the seller's first one by default.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.")
@click.option("--system", help="A system prompt.")
@paying_options
@seller_options
def chat(
    prompt: str | None,
    model: str | None,
    max_tokens: int | None,
    system: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Ask PROMPT once, or talk until you leave an empty line.

    Each answer is paid by a prepaid key when you have one at this seller, otherwise by itself
    over Fiber; in hold mode always by itself. The cost stands below each answer.

    Example: infern chat 'What is Infern?' --base-url http://127.0.0.1:9402/v1
    """
    consumer = load_consumer(flags)
    if prompt is None and as_json:
        raise ConfigError("--json needs a PROMPT")
    options = {"max_tokens": max_tokens} if max_tokens else {}
    run(lambda: _talk(consumer, prompt, model, system, options, as_json=as_json))


async def _talk(
    consumer: Consumer,
    prompt: str | None,
    model: str | None,
    system: str | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    async with consumer.client(pays=True) as client:
        if consumer.mode is PayMode.UPFRONT:
            client.f402.use_stored_key()
        name = model or await _first_model(client)
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        text = prompt if prompt is not None else _next_line()
        while text:
            messages.append({"role": "user", "content": text})
            answer = await _answer(client, name, messages[-MAX_TURNS:], options, as_json=as_json)
            messages.append({"role": "assistant", "content": answer})
            text = None if prompt is not None else _next_line()


async def _first_model(client: AsyncInfern) -> str:
    async for model in client.models.list():
        return model.id
    raise ConfigError("this seller has no models")


def _next_line() -> str | None:
    try:
        return (
            click.prompt(
                click.style("you", fg="cyan"), prompt_suffix="> ", default="", show_default=False
            )
            or None
        )
    except click.Abort:
        return None


async def _answer(
    client: AsyncInfern, model: str, messages: list[Any], options: dict[str, Any], *, as_json: bool
) -> str:
    stream = await client.chat.completions.create(
        model=model, messages=messages, stream=True, **options
    )
    pieces = []
    async for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            pieces.append(piece)
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    check = client.f402.last_receipt
    if as_json:
        emit_json({"answer": "".join(pieces), **_receipt_json(check)})
    else:
        click.echo()
        note(click.style(_receipt_line(check), dim=True))
    return "".join(pieces)


def _receipt_json(check: ReceiptCheck | None) -> dict[str, Any]:
    if check is None or check.receipt is None:
        return {"receipt": None}
    receipt = check.receipt.receipt
    return {
        "receipt": check.status.value,
        "request_id": check.request_id,
        "charged": str(receipt.charged),
        "prompt_tokens": receipt.prompt_tokens,
        "completion_tokens": receipt.completion_tokens,
    }


def _receipt_line(check: ReceiptCheck | None) -> str:
    if check is None or check.receipt is None:
        return "no receipt came with this answer"
    receipt = check.receipt.receipt
    return (
        f"{format_amount(receipt.charged)} for {receipt.prompt_tokens} + "
        f"{receipt.completion_tokens} tokens; receipt {check.status.value}"
    )
