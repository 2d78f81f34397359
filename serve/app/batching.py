"""Micro-batching: inputs that come together are encoded together, in the encoder's own threads.

While batches are encoded the next ones gather, so a busy server pays for full batches and a single request waits for nobody.
Only where other inputs are known to be on their way (being read or decoded) does a batch wait for them, a few milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embed.encoder import Encoder, Modality, Tokens
from ...embed.extract import Unencodable, encode_contents
from ...errors import IcehouseError, ImageError

if TYPE_CHECKING:
    from .monitoring import Monitor

#: Seconds that a batch waits, at most, for inputs that are on their way.
PATIENCE = 0.004

#: Rows of a batch on a CPU: more at once are no faster there, and whoever asked first waits for all of them.
CPU_ROWS = 16

#: Rows of outputs by name: (1, dim) float32, or `Tokens` of one row.
Row = dict[str, "np.ndarray | Tokens"]


class OverloadedError(IcehouseError):
    """More is asked than the server can take; asking again later helps."""


@dataclass(slots=True)
class _Job:
    modality: Modality
    content: Any
    outputs: frozenset[str]
    since: float
    future: Future[Row] = field(default_factory=Future)


class Batcher:
    """Encodes what is submitted, in batches of one modality.

    One thread gathers batches as long as a thread of the encoder's is free. On a CPU these are one a core, on a GPU one.

    Parameters
    ----------
    encoder : Encoder
    monitor : Monitor, optional
        Told the size of each batch.
    coming : callable, optional
        How many inputs are on their way here.
    size : int, optional
        Most rows of a batch; the encoder's own unless given, on a CPU at most `CPU_ROWS`.
    """

    def __init__(
        self,
        encoder: Encoder,
        monitor: Monitor | None = None,
        *,
        coming: Callable[[], int] = lambda: 0,
        size: int | None = None,
    ) -> None:
        self.encoder, self.monitor, self.coming = encoder, monitor, coming
        most = CPU_ROWS if encoder.device.partition(":")[0] == "cpu" else encoder.batch_size
        self.size = size or min(encoder.batch_size, most)
        self._waiting: dict[Modality, deque[_Job]] = {"image": deque(), "text": deque()}
        self._changed = threading.Condition()
        self._free, self._over = encoder.streams, False
        self._pool = encoder.stream_pool()
        self._thread = threading.Thread(target=self._work, name=f"icehouse-batch-{encoder.name}", daemon=True)
        self._thread.start()

    def submit(self, modality: Modality, content: Any, outputs: Sequence[str]) -> Future[Row]:
        """Have one content encoded: pixels as the encoder prepared them, or a cleaned text."""
        job = _Job(modality, content, frozenset(outputs), time.monotonic())
        with self._changed:
            self._waiting[modality].append(job)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Encode what was submitted, and end the threads."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(timeout=30)
        self._pool.shutdown()

    def _work(self) -> None:
        while (batch := self._gather()) is not None:
            jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if jobs:
                self._pool.submit(self._encode, jobs).add_done_callback(self._freed)
            else:
                self._freed(None)

    def _freed(self, _: Any) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def _gather(self) -> list[_Job] | None:
        """Wait for a free thread and a job, and take what has come by then of its kind; None once it is over."""
        with self._changed:
            while not (self._free and any(self._waiting.values())):
                if self._over and not any(self._waiting.values()):
                    return None
                self._changed.wait()
            queue = min(filter(None, self._waiting.values()), key=lambda jobs: jobs[0].since)
            until = queue[0].since + PATIENCE
            while len(queue) < self.size and self.coming() and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._free -= 1
            return [queue.popleft() for _ in range(min(len(queue), self.size))]

    def _encode(self, jobs: list[_Job]) -> None:
        modality = jobs[0].modality
        if self.monitor is not None:
            self.monitor.batches.labels(modality).observe(len(jobs))
        outputs = sorted(frozenset[str]().union(*(job.outputs for job in jobs)))

        def encode(contents: list[Any]) -> Any:
            if modality == "image":
                return self.encoder.encode_images(np.stack(contents), outputs)
            return self.encoder.encode_texts(contents, outputs)

        try:
            for rows, made in encode_contents(encode, [job.content for job in jobs], "float32"):
                for place, row in enumerate(rows.tolist()):
                    if isinstance(made, Unencodable):
                        error = ImageError(f"the {modality} cannot be encoded: {made.message}")
                        jobs[row].future.set_exception(error)
                    else:
                        jobs[row].future.set_result(_row(made, place, jobs[row].outputs))
        except BaseException as error:  # whatever it is, nobody waits for ever
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)


def _row(made: Row, place: int, outputs: frozenset[str]) -> Row:
    found: Row = {}
    for name in outputs:
        values = made[name]
        if isinstance(values, Tokens):
            mask = values.mask[place : place + 1]
            length = max(1, int(np.flatnonzero(mask[0])[-1]) + 1 if mask.any() else 1)
            found[name] = Tokens(values.values[place : place + 1, :length].copy(), mask[:, :length].copy())
        else:
            found[name] = values[place : place + 1].copy()
    return found
