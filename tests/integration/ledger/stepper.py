"""Processes that book step by step until they are killed.

Standard input brings jobs, each a length of 4 bytes and a pickled pair: the ledger's file and the
steps. A process of its own takes each: it books the steps, says its process id once the ledger said
that the last one is durable, and then does nothing more. When it is dead its wait status follows.
"""

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.testing.ledger_steps import Step


async def book(path: Path, steps: tuple[Step, ...]) -> None:
    ledger = SqliteLedger(path)
    for step in steps:
        await step.play(ledger)
    os.write(1, b"%d\n" % os.getpid())
    signal.pause()


def main() -> None:
    while length := sys.stdin.buffer.read(4):
        path, steps = pickle.loads(sys.stdin.buffer.read(int.from_bytes(length, "big")))
        child = os.fork()
        if child == 0:
            asyncio.run(book(path, steps))
        _, status = os.waitpid(child, 0)
        os.write(1, b"%d\n" % status)


if __name__ == "__main__":
    main()
