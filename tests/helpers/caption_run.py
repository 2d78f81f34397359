"""Caption a store in children that can be killed: ``caption_run.py STORE HOST``.

One interpreter imports everything once; for each line on standard input it forks a child that captions the store, prints the
child's process id, and when the child is dead its exit status (negative: the signal it died of).
"""

from __future__ import annotations

import io
import os
import sys

import anyio._backends._asyncio  # noqa: F401
import ollama  # noqa: F401
import pyarrow.parquet  # noqa: F401
from icehouse.embed.captions import captioner
from icehouse.embed.captions.asking import Asking
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.pictures import prepare
from PIL import Image

# Many commits, so that kills land in them too.
captioner.COMMIT_S = 0.05

if __name__ == "__main__":
    store, host = sys.argv[1:]
    # Decoding loads what it needs when it first runs.
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    prepare(picture.getvalue())
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                caption_images(store, Asking("llava:7b", hosts=[host], concurrency=1))
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
