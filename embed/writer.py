"""Writer: commits of features, then items, then failures, in a thread of its own.

In this order a kill between two commits leaves nothing that a rerun would not notice: an item whose features are missing
is read again, features whose item is missing are found by their content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.manifest import Manifest
from ..data.text import text_sha256
from ..store.schema import FAILURES
from ..store.store import Store
from ..store.table import Table
from .encoder import Modality, Tokens
from .extract import EmbedReport, Encoded, Failure, FileFacts, StageClock
from .plan import Held, ItemPlan, follow
from .tables import append_features

__all__ = ["Committer"]

#: Commit after this long, or this many encoded rows, or this many bytes of vectors, whichever comes first.
SECONDS = 15.0
ROWS = 8192
BYTES = 256 * 1024 * 1024


class Committer:
    """Buffers results and writes them in whole batches, overlapped with the next ones' encoding."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        *,
        table_of: Callable[[Modality, str], Table],
        encoder: str,
        retried: set[str],
        given: list[str],
        report: EmbedReport,
        clock: StageClock,
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.table_of = table_of
        self.encoder = encoder
        self.retried = retried
        self.given = given
        self.report = report
        self.clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="icehouse-write")
        self._writing: Future[None] | None = None
        self._last = time.monotonic()
        self._clear()

    def __enter__(self) -> Committer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what is whole, also after an interruption; an error in progress is not covered up by a second."""
        try:
            if kind is None or kind is KeyboardInterrupt:
                self.commit()
                self._wait()
        finally:
            self._thread.shutdown(wait=True)

    def _clear(self) -> None:
        self._encoded: list[Encoded] = []
        self._items: list[tuple[ItemPlan, FileFacts | None]] = []
        self._failures: list[Failure] = []
        self._settled: list[str] = []
        self._rows = 0
        self._bytes = 0

    def add_encoded(self, encoded: Encoded) -> None:
        """Take a batch of vectors.

        Nothing is committed here: texts are batched by length within a window, and only whole windows may be
        committed, or a rerun would compose other batches. `add_item` is never called amid a window.
        """
        self._encoded.append(encoded)
        self._rows += len(encoded.keys)
        for values in encoded.outputs.values():
            self._bytes += values.values.nbytes if isinstance(values, Tokens) else values.nbytes
        if encoded.modality == "image":
            self.report.images += len(encoded.keys)
        else:
            self.report.texts += len(encoded.keys)
            assert encoded.truncated is not None
            self.report.cut_texts += int(encoded.truncated.sum())

    def add_item(self, plan: ItemPlan, item_id: str, facts: FileFacts | None) -> None:
        """Take an item whose row is to be written; commits when enough has come together."""
        if plan.writes:
            self._items.append((plan, facts))
        if plan.reads and item_id in self.retried:
            self._settled.append(item_id)
        self._rows += 1
        self._commit_if_due()

    def add_moved(self, moved: Sequence[tuple[Held, str]], *, replace_labels: bool) -> None:
        """Write items that were held back, each with the id that it had; see `icehouse.embed.plan`.

        Labels that folders tell replace those that the items had only with `replace_labels`.
        """
        self.commit()
        self._wait()
        rows = self._item_rows([(plan, facts) for (plan, _, _, facts), _ in moved], True, True)
        places = pa.array([plan.row for (plan, _, _, _), _ in moved])
        told = {} if replace_labels else self.manifest.from_folders
        before = {item_id: old for (_, item_id, _, _), old in moved}
        yielding = {name: mask.take(places) for name, mask in told.items()}
        for name, n in follow(self.store, rows, before, yielding).items():
            self.report.columns_changed[name] = self.report.columns_changed.get(name, 0) + n

    def add_failure(self, failure: Failure) -> None:
        """Take a failure for the ledger."""
        self._failures.append(failure)
        self.report.failed += 1

    def _commit_if_due(self) -> None:
        if self._rows >= ROWS or self._bytes >= BYTES or time.monotonic() - self._last >= SECONDS:
            self.commit()

    def commit(self) -> None:
        """Hand the buffer to the writing thread, after its last commit is through."""
        self._wait()
        if self._encoded or self._items or self._failures or self._settled:
            batch = (self._encoded, self._items, self._failures, self._settled)
            self._writing = self._thread.submit(self._write, *batch)
            self._clear()
        self._last = time.monotonic()

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(
        self,
        encoded: list[Encoded],
        items: list[tuple[ItemPlan, FileFacts | None]],
        failures: list[Failure],
        settled: list[str],
    ) -> None:
        with self.clock.measure("write", len(items)):
            for modality in ("image", "text"):
                batches = [batch for batch in encoded if batch.modality == modality]
                if batches:
                    self._write_features(modality, batches)
            self._write_items(items)
            if settled:
                self.store.failures.delete("item_id", settled)
            if failures:
                self.store.failures.append(self._failure_rows(failures))

    def _write_features(self, modality: Modality, batches: list[Encoded]) -> None:
        keys = [key for batch in batches for key in batch.keys]
        columns = {}
        if modality == "text":
            columns["truncated"] = pa.array(np.concatenate([b.truncated for b in batches]))
        for output in batches[0].outputs:
            values = [batch.outputs[output] for batch in batches]
            append_features(self.table_of(modality, output), keys, values, columns)

    def _write_items(self, items: list[tuple[ItemPlan, FileFacts | None]]) -> None:
        """Upsert in up to three goes: columns that are absent from one keep their old values."""
        new = [(plan, facts) for plan, facts in items if not plan.known]
        read = [(plan, facts) for plan, facts in items if plan.known and plan.reads]
        other = [(plan, facts) for plan, facts in items if plan.known and not plan.reads]
        for rows, with_facts, first in ((new, True, True), (read, True, False), (other, False, False)):
            if rows:
                self.store.items.upsert(self._item_rows(rows, with_facts, first), key="item_id")

    def _item_rows(
        self, rows: list[tuple[ItemPlan, FileFacts | None]], with_facts: bool, first: bool
    ) -> pa.Table:
        """Rows for the items table: the sources' columns, and the files' facts where they were read."""
        table = self.manifest.table.take(pa.array([plan.row for plan, _ in rows]))
        names = ["item_id", "source", *self.given] if not first else table.column_names
        columns: dict[str, Any] = {name: table[name] for name in names}
        if "text" in columns:
            texts = columns["text"].to_pylist()
            columns["text_sha256"] = pa.array(
                [None if text is None else text_sha256(text) for text in texts], pa.string()
            )
        if with_facts:
            nothing = FileFacts(None, None)  # type: ignore[arg-type]
            facts = [fact or nothing for _, fact in rows]
            for name, kind in _FACT_TYPES.items():
                columns[name] = pa.array([getattr(fact, name) for fact in facts], kind)
        columns["missing"] = pa.array([plan.vanished for plan, _ in rows])
        if first:
            columns["added"] = _now(len(rows))
        return pa.table(columns)

    def _failure_rows(self, failures: list[Failure]) -> pa.Table:
        rows: list[Mapping[str, Any]] = [
            {
                "item_id": failure.item_id,
                "path": None if failure.file is None else str(failure.file),
                "stage": failure.stage,
                "error": failure.error,
                "message": failure.message,
                "bytes": failure.facts.bytes if failure.facts else None,
                "mtime_ns": failure.facts.mtime_ns if failure.facts else None,
                "encoder": self.encoder if failure.stage == "encode" else None,
                "at": datetime.now(UTC),
            }
            for failure in failures
        ]
        return pa.Table.from_pylist(rows, schema=FAILURES)


_FACT_TYPES = {
    "image_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "format": pa.string(),
    "bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "phash": pa.uint64(),
}


def _now(n: int) -> pa.Array:
    return pa.array([datetime.now(UTC)] * n, pa.timestamp("us", tz="UTC"))
