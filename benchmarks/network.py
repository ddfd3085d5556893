"""The embedded Fiber network in a process of its own, a hundred times as fast as real nodes.

Run as `python -m benchmarks.network PORT`; a GET there answers with the nodes' addresses.
"""

import asyncio
import json
import os
import sys

import uvloop
from aiohttp import web

from infern.cli.compose import embedded_fiber


async def main(port: int) -> None:
    """Serve until killed."""
    async with embedded_fiber(os.urandom(32), speed=100) as endpoints:
        urls = json.dumps(dict(endpoints.rpc_urls))

        async def addresses(_: web.Request) -> web.Response:
            return web.Response(text=urls)

        app = web.Application()
        app.router.add_get("/", addresses)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
