"""Micro-batching: inputs that come together are encoded together, in the encoder's own threads.

While batches are encoded the next ones gather, so a busy server pays for full batches and a single request waits for nobody.
Only where other inputs are known to be on their way (being read or decoded) does a batch wait for them: the cores are with
those that decode, and a batch of one would take them away.
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

#: Seconds that a batch waits for the next of the inputs that are on their way, and for all of them together.
NEXT_S, PATIENCE = 0.01, 0.1

#: Rows of a batch on a CPU: more at once are no faster there, and whoever asked first waits for all of them.
CPU_ROWS = 16

#: One content by output: (dim,) float32, or `Tokens` of one row.
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

    Each of the encoder's threads gathers a batch and encodes it. On a CPU these are one a core, on a GPU one.
    `monitor` is told the size of each batch, `coming` says how many inputs are on their way here, and `size` is the
    most rows of a batch: the encoder's own unless given, on a CPU at most `CPU_ROWS`.
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
        self._pool, self._working = encoder.stream_pool(), 0

    def submit(self, modality: Modality, content: Any, outputs: Sequence[str]) -> Future[Row]:
        """Have one content encoded: pixels as the encoder prepared them, or a cleaned text."""
        job = _Job(modality, content, frozenset(outputs), time.monotonic())
        with self._changed:
            queue = self._waiting[modality]
            queue.append(job)
            if self._working < self.encoder.streams:
                self._pool.submit(self._work)
                self._working += 1
            elif len(queue) >= self.size or not self.coming():
                # Otherwise the thread that waits for the next input looks again by itself.
                self._changed.notify()
        return job.future

    def close(self) -> None:
        """Encode what was submitted, and end the threads."""
        self._pool.shutdown()

    def _work(self) -> None:
        while batch := self._gather():
            if jobs := [job for job in batch if job.future.set_running_or_notify_cancel()]:
                self._encode(jobs)

    def _gather(self) -> list[_Job]:
        """Wait for a batch that is full, or has waited for others long enough; empty if there is nothing to do."""
        with self._changed:
            while queues := sorted(filter(None, self._waiting.values()), key=lambda jobs: jobs[0].since):
                left = [self._patience(queue) for queue in queues]
                for queue, seconds in zip(queues, left, strict=True):
                    if seconds <= 0:
                        return [queue.popleft() for _ in range(min(len(queue), self.size))]
                self._changed.wait(min(left))
            self._working -= 1
            return []

    def _patience(self, queue: deque[_Job]) -> float:
        """Seconds that a batch may still wait for others; none if it is full, or no others are on their way."""
        if len(queue) >= self.size or not self.coming():
            return 0.0
        return min(queue[-1].since + NEXT_S, queue[0].since + PATIENCE) - time.monotonic()

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
            found[name] = values[place].copy()
    return found
