"""`infern demo`: the whole exchange on this machine, step by step, checked as it goes."""

import asyncio
import contextlib
import logging
import time
from typing import Final

import click

from infern.cli.output import emit_json, say
from infern.cli.story import Story


@click.command()
@click.option("--once", is_flag=True, help="Exit 0 after everything happened, non-zero otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print the steps as one JSON object.")
@click.option("--upstream", help="A real model server's base URL, instead of the toy model.")
@click.option("--upstream-model", help="The model's name there.", default="", show_default=False)
def demo(once: bool, as_json: bool, upstream: str | None, upstream_model: str) -> None:
    """Show a paid request from the unpaid ask to the receipt, on loopback alone.

    An embedded Fiber network (consumer, hub, provider), a provider agent with a tiny model, and
    a consumer. Nothing leaves this machine and no real money is involved.

    Example: infern demo --once
    """
    logging.getLogger("infern.devnet").setLevel(logging.INFO)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_play(once=once, as_json=as_json, upstream=upstream, model=upstream_model))


async def _play(*, once: bool, as_json: bool, upstream: str | None, model: str) -> None:
    from infern.cli.demo_script import play
    from infern.cli.demo_world import demo_world

    story = Story(silent=as_json)
    started = time.perf_counter()
    story.line("Infern demo: everything below happens on this machine.")
    story.line("  Embedded: the Fiber network is an accounting twin of real nodes, reached by")
    story.line(
        "  the same JSON-RPC; the model is a toy of under a million parameters in llama.cpp."
    )
    async with demo_world(upstream=upstream, upstream_model=model) as world:
        key = await play(world, story, model=model if upstream else None)
        took_s = round(time.perf_counter() - started, 1)
        if as_json:
            emit_json({"ok": True, "seconds": took_s, "steps": story.steps})
        else:
            say()
            say(click.style(f"All of it happened, in {took_s} s.", bold=True))
        if once:
            return
        say(f"The provider stays up at {world.provider.url}/v1. Try it:")
        say(f"  curl {world.provider.url}/v1/chat/completions \\")
        say(f"    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\")
        say("    -d '" + EXAMPLE_BODY + "'")
        say("Stop with Ctrl-C.")
        await asyncio.Event().wait()


EXAMPLE_BODY: Final = (
    '{"model":"infern-tiny","messages":[{"role":"user","content":"What is Infern?"}]}'
)
