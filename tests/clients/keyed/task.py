"""What every script here does with its standard input and output.

In: `{"base_url", "model", "needs": [{"need", "how", "fault", "key", "timeout_s"}, …]}`. Out: by
need, the text of the answer, or the error as the framework shows it.
"""

import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Need = Mapping[str, Any]


def headers_of(need: Need) -> dict[str, str]:
    """For the proxy between us and the provider, which takes them off."""
    return {"x-test-need": need["need"], "x-test-fault": need["fault"]}


def outcome(ask: Callable[[Need], str], need: Need) -> dict[str, Any]:
    try:
        return {"text": ask(need)}
    except Exception as error:  # noqa: BLE001 - whatever a framework raises is its answer
        return {
            "error": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "message": str(error),
        }


def main(make: Callable[[Mapping[str, Any]], Callable[[Need], str]]) -> None:
    """Ask for all needs, some side by side."""
    task = json.load(sys.stdin)
    ask = make(task)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda need: outcome(ask, need), task["needs"])
        needs = [need["need"] for need in task["needs"]]
        json.dump(dict(zip(needs, found, strict=True)), sys.stdout)
