"""Caption a store in children that can be killed: ``caption_run.py STORE HOST CONCURRENCY [structured]``.

One interpreter imports everything once; for each line on standard input it forks a child that captions the store, prints the
child's process id, and when the child is dead its exit status (negative: the signal it died of). At the line "recover" the
child kills itself amid bringing in what the run before it left: after its rows are in the table, before its journals go.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

import anyio._backends._asyncio  # noqa: F401
import httpx  # noqa: F401
import pyarrow.parquet  # noqa: F401
from icehouse.embed.captions import caption_table, captioner
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.questions import CaptionSettings, Prompt, prepare
from PIL import Image

# Many commits, so that kills land in them too.
captioner.COMMIT_S = 0.05


def die_in_recovery() -> None:
    append = caption_table.append_rows

    def append_and_die(*args: Any) -> int:
        append(*args)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    caption_table.append_rows = append_and_die


if __name__ == "__main__":
    store, host, concurrency = sys.argv[1:4]
    prompt = Prompt.of(None, None, structured="structured" in sys.argv[4:])
    # Decoding loads what it needs when it first runs.
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    prepare(picture.getvalue())
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            if line.strip() == "recover":
                die_in_recovery()
            try:
                caption_images(
                    store, CaptionSettings("llava:7b", prompt, hosts=[host], concurrency=int(concurrency))
                )
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
