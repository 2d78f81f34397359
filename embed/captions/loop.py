"""Running a coroutine from ordinary code, also where an event loop is running already, as in a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

__all__ = ["run"]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end; an interrupt cancels it, and is raised once it has cleaned up.

    Raises
    ------
    KeyboardInterrupt
        If interrupted. A second interrupt does not wait for the cleaning up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main)
        return
    _run_beside(main)


def _run_beside(main: Coroutine[Any, Any, None]) -> None:
    """Run in a loop of another thread."""
    under_way: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
    failure: list[BaseException] = []

    async def noted() -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.set_result((asyncio.get_running_loop(), task))
        await main

    def work() -> None:
        try:
            asyncio.run(noted())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="icehouse-captions", daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        loop, task = under_way.result()
        with suppress(RuntimeError):  # it has just come to its end
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if failure:
        raise failure[0]
