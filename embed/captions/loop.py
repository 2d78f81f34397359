"""Running a coroutine from ordinary code, also where an event loop is running already, as in a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
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
    loop = asyncio.new_event_loop()
    task = loop.create_task(main)
    failure: list[BaseException] = []

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            failure.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=work, name="icehouse-captions", daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if failure:
        raise failure[0]
