"""Opens copies of an old ledger and dies at each statement of its migration in turn.

Arguments: the old file and a folder. The n-th copy is left as the process that died at the n-th
statement left it; the last one is migrated whole.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

from infern.adapters.sqlite_ledger import schema
from infern.adapters.sqlite_ledger.engine import prepare


def migrate(path: Path, dies_at: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    numbers = itertools.count()

    def trace(_: str) -> None:
        if next(numbers) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    connection.set_trace_callback(trace)
    prepare(connection, schema.SCHEMA, schema.SCHEMA_VERSION, schema.MIGRATIONS)
    connection.set_trace_callback(None)
    connection.close()


def main(old: Path, folder: Path) -> None:
    for number in itertools.count():
        copy = folder / f"{number}.sqlite3"
        shutil.copy(old, copy)
        child = os.fork()
        if child == 0:
            migrate(copy, number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        assert os.WIFSIGNALED(status), status


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
