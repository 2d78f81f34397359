"""What an embedding run reports: counts, and what each stage could have done a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["EmbedReport", "StageClock"]

#: Stages in the order that an image goes through them.
STAGES = ("read", "decode", "encode image", "encode text", "write")


class StageClock:
    """Busy seconds and rows of each stage, added up over the threads that work in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.busy = dict.fromkeys(STAGES, 0.0)
        self.rows = dict.fromkeys(STAGES, 0)

    @contextmanager
    def measure(self, stage: str, rows: int = 1) -> Iterator[None]:
        """Charge the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.busy[stage] += time.perf_counter() - start
                self.rows[stage] += rows

    def table(self, workers: int, streams: int) -> list[dict[str, Any]]:
        """One entry a stage that did anything.

        ``per_second`` is what the stage alone would sustain with its threads (`workers` for reading and decoding,
        `streams` for encoding, one for writing): the smallest of them bounds the run.
        """
        threads_of = {"write": 1, "encode image": streams, "encode text": streams}
        entries = []
        for stage in STAGES:
            if not self.rows[stage]:
                continue
            threads = threads_of.get(stage, workers)
            rate = self.rows[stage] * threads / max(self.busy[stage], 1e-9)
            entries.append(
                {
                    "stage": stage,
                    "rows": self.rows[stage],
                    "busy_s": round(self.busy[stage], 3),
                    "threads": threads,
                    "per_second": round(rate, 1),
                }
            )
        return entries


@dataclass
class EmbedReport:
    """Outcome of one `embed_sources` call.

    Attributes
    ----------
    items : int
        Rows of the sources that were looked at.
    new, changed, unchanged : int
        Items the store did not have, had with other content or columns, had as they are.
    moved : int
        Items among the changed ones whose content is at another place now, the old one gone.
    vanished : int
        Items of an earlier run whose file is gone, or whose row is no longer in its source; they stay in the store, marked
        ``missing``.
    failed, known_failures : int
        Failures recorded now; failures of an earlier run left alone because the file is as it was.
    rejected : int
        Rows of the sources that could not be taken at all; they are among the failures.
    images, texts : int
        Distinct contents encoded.
    cut_texts : int
        Texts among them that are longer than the encoder reads.
    columns_changed : dict
        For each label or metadata column and ``split``: how many existing values this run replaced by others.
    stages : list of dict
        See `StageClock.table`.
    """

    store: str
    encoder: str
    items: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    vanished: int = 0
    failed: int = 0
    known_failures: int = 0
    rejected: int = 0
    images: int = 0
    texts: int = 0
    cut_texts: int = 0
    columns_changed: dict[str, int] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    device: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    workers: int = 0
    decoding: str | None = None
    seconds: float = 0.0
    stages: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)
