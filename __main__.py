"""The ``icehouse`` script and ``python -m icehouse``: Ctrl-C is one line and status 130 from the first import on."""

from __future__ import annotations

import os
import signal

_SAID = b"icehouse: interrupted; what was finished is kept\n"
_STATUS = 130


def _leave(*_: object) -> None:
    # An exception amid an import may be swallowed, and nothing is in hand yet.
    os.write(2, _SAID)
    os._exit(_STATUS)


def main() -> None:
    """Entry point of the ``icehouse`` script."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell had it ignored
        signal.signal(signal.SIGINT, _leave)
    try:
        from .cli import main as run

        signal.signal(signal.SIGINT, before)
        run()
    except KeyboardInterrupt:
        _leave()


if __name__ == "__main__":
    main()
