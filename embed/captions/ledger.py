"""Pictures that got no caption, in the store's ledger of failures."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from ...store.schema import FAILURES
from ...store.store import Store
from .plan import Job
from .table import STAGE, folder_of

__all__ = ["record", "settle"]


def record(store: Store, name: str, job: Job, error: Exception) -> None:
    """Put a failure into the ledger, in place of an earlier one of this picture."""
    settle(store, name, job)
    row = {
        "item_id": job.item_id,
        "path": str(job.files[0]) if job.files else None,
        "stage": STAGE,
        "error": type(error).__name__,
        "message": " ".join(str(error).split())[:300],
        "bytes": job.bytes,
        "mtime_ns": job.mtime_ns,
        "encoder": folder_of(name),
        "at": datetime.now(UTC),
    }
    store.failures.append(pa.Table.from_pylist([row], schema=FAILURES))
    job.failed_before = True


def settle(store: Store, name: str, job: Job) -> None:
    """Take earlier failures of this picture out of the ledger; those of other stages stay."""
    if not job.failed_before:
        return
    job.failed_before = False
    table = store.failures
    with table.lock():
        rows = table.read()
        mine = pc.is_in(rows["item_id"], value_set=pa.array(job.items, pa.string()))
        ours = pc.and_(pc.equal(rows["stage"], STAGE), pc.equal(rows["encoder"], folder_of(name)))
        others = rows.filter(pc.and_(mine, pc.invert(pc.fill_null(ours, False))))
        table.delete("item_id", job.items)
        if others.num_rows:
            table.append(others)
