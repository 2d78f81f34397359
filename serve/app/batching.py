"""Micro-batching: inputs that come together are encoded together, by one thread a model.

While a batch is encoded the next one gathers, so a busy server pays for full batches and a single request waits for nobody.
Only where other inputs are known to be on their way (being read or decoded) does a batch wait for them, a few milliseconds.
"""

from __future__ import annotations

import queue
import threading
import time
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

#: Rows of outputs by name: (1, dim) float32, or `Tokens` of one row.
Row = dict[str, "np.ndarray | Tokens"]


class OverloadedError(IcehouseError):
    """More is asked than the server can take; asking again later helps."""


@dataclass(slots=True)
class _Job:
    modality: Modality
    content: Any
    outputs: frozenset[str]
    future: Future[Row] = field(default_factory=Future)


class Batcher:
    """One thread that encodes what is submitted, in batches.

    Parameters
    ----------
    encoder : Encoder
    monitor : Monitor, optional
        Told the size of each batch.
    coming : callable, optional
        How many inputs are on their way here.
    size : int, optional
        Most rows of a batch; the encoder's own unless given.
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
        self.size = size or encoder.batch_size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._work, name=f"icehouse-encode-{encoder.name}", daemon=True
        )
        self._thread.start()

    def submit(self, modality: Modality, content: Any, outputs: Sequence[str]) -> Future[Row]:
        """Have one content encoded: pixels as the encoder prepared them, or a cleaned text."""
        job = _Job(modality, content, frozenset(outputs))
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Encode what was submitted, and end the thread."""
        self._jobs.put(None)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        over = False
        while not over:
            batch, over = self._gather()
            for modality in ("image", "text"):
                jobs = [job for job in batch if job.modality == modality]
                jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
                if jobs:
                    self._encode(modality, jobs)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and take what has come by then; tell whether it is over."""
        first = self._jobs.get()
        if first is None:
            return [], True
        batch, until = [first], time.monotonic() + PATIENCE
        # Images and texts go through different towers: a batch is full when one of them is.
        while len(batch) < 2 * self.size:
            try:
                left = until - time.monotonic()
                job = self._jobs.get(timeout=left) if left > 0 and self.coming() else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _encode(self, modality: Modality, jobs: list[_Job]) -> None:
        for start in range(0, len(jobs), self.size):
            part = jobs[start : start + self.size]
            if self.monitor is not None:
                self.monitor.batches.labels(modality).observe(len(part))
            outputs = sorted(frozenset[str]().union(*(job.outputs for job in part)))

            def encode(contents: list[Any], outputs: list[str] = outputs) -> Any:
                if modality == "image":
                    return self.encoder.encode_images(np.stack(contents), outputs)
                return self.encoder.encode_texts(contents, outputs)

            try:
                contents = [job.content for job in part]
                for rows, made in encode_contents(encode, contents, "float32"):
                    for place, row in enumerate(rows.tolist()):
                        if isinstance(made, Unencodable):
                            error = ImageError(f"the {modality} cannot be encoded: {made.message}")
                            part[row].future.set_exception(error)
                        else:
                            part[row].future.set_result(_row(made, place, part[row].outputs))
            except BaseException as error:  # whatever it is, nobody waits for ever
                for job in part:
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
