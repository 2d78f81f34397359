"""Pictures that got no caption, in the store's ledger of failures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from ...store.manifest import write_part
from ...store.schema import FAILURES
from ...store.store import Store
from .plan import Job
from .rows import columns_of, fit
from .table import STAGE, folder_of

__all__ = ["record", "settle"]

#: The ledger's columns, and what a failure with a post's text in the prompt is held to besides its file.
_COLUMNS = pa.schema([*FAILURES, pa.field("text_sha256", pa.string())])


def record(store: Store, name: str, failed: Sequence[tuple[Job, Exception]]) -> None:
    """Put failures into the ledger, in place of earlier ones of these pictures."""
    if not failed:
        return
    now = datetime.now(UTC)
    rows = [
        {
            "item_id": job.item_id,
            "path": str(job.files[0]) if job.files else None,
            "stage": STAGE,
            "error": type(error).__name__,
            "message": " ".join(str(error).split())[:300],
            "bytes": job.bytes,
            "mtime_ns": job.mtime_ns,
            "encoder": folder_of(name),
            "at": now,
            "text_sha256": job.text_sha256,
        }
        for job, error in failed
    ]
    # A ledger gets the further column from the first run that needs it.
    with_text = any(job.text_sha256 is not None for job, _ in failed)
    schema = _COLUMNS if with_text else FAILURES
    columns = columns_of(schema)
    store.failures.append(pa.Table.from_pylist([fit(row, columns) for row in rows], schema=schema))
    # Only now: a death in between leaves a picture two failures, not none.
    _remove(store, name, [job for job, _ in failed], now)
    for job, _ in failed:
        job.failed_before = True


def settle(store: Store, name: str, jobs: Sequence[Job]) -> None:
    """Take earlier failures of these pictures out of the ledger; those of other stages stay."""
    _remove(store, name, jobs, datetime.now(UTC))
    for job in jobs:
        job.failed_before = False


def _remove(store: Store, name: str, jobs: Sequence[Job], before: datetime) -> None:
    """Take the captioning failures of these pictures out, in one commit: other stages' failures are never out of it."""
    items = sorted({item for job in jobs if job.failed_before for item in job.items})
    if not items:
        return
    table = store.failures
    with table.lock():
        rows = table.read()
        old = pc.is_in(rows["item_id"], value_set=pa.array(items, pa.string()))
        for column, value in (("stage", STAGE), ("encoder", folder_of(name))):
            old = pc.and_(old, pc.fill_null(pc.equal(rows[column], value), False))
        old = pc.and_(old, pc.fill_null(pc.less(rows["at"], pa.scalar(before, rows["at"].type)), False))
        if not pc.any(old).as_py():
            return
        names = [part.name for part in table.snapshot().parts]
        left = write_part(rows.filter(pc.invert(old)), table.path, table.spec, replaces=names)
        table.replace_parts(names, left)
