"""The ``icehouse`` script and ``python -m icehouse``: Ctrl-C is one line and status 130 from the first import on."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading

_SAID = b"icehouse: interrupted; what was finished is kept\n"
_STATUS = 130


def _leave(*_: object) -> None:
    # An exception amid an import may be swallowed, and nothing is in hand yet.
    os.write(2, _SAID)
    os._exit(_STATUS)


def _end(status: int) -> None:
    """End the process as the interpreter does, without taking down what is loaded.

    The destructors of libraries take .2 s, those of PyTorch 1 s and 0.1 GB, and the system takes all of it back anyway.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return
    # What the interpreter calls first; a later one may have them by other names, and ends as usual.
    join = getattr(threading, "_shutdown", None)
    leave = getattr(atexit, "_run_exitfuncs", None)
    if join is None or leave is None:
        return
    join()
    leave()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # which the interpreter tells of
        return
    os._exit(status)


def main() -> None:
    """Entry point of the ``icehouse`` script."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell had it ignored
        signal.signal(signal.SIGINT, _leave)
    try:
        from .cli import main as run

        signal.signal(signal.SIGINT, before)
        try:
            run()
        except SystemExit as left:
            if left.code is None or isinstance(left.code, int):
                _end(left.code or 0)
            raise
    except KeyboardInterrupt:
        _leave()


if __name__ == "__main__":
    main()
