"""Which pictures are still to be captioned: the store's items held against a captions table and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...errors import UsageError
from ...store.sql import select_items
from ...store.store import Store
from .table import STAGE, caption_key, folder_of, names_of

__all__ = ["Job", "Plan", "plan"]

_FACTS = ["item_id", "path", "root", "image_sha256", "bytes", "mtime_ns", "missing"]


@dataclass
class Job:
    """One question to be asked.

    Attributes
    ----------
    key : str
        See `icehouse.embed.captions.table.caption_key`.
    files : list of Path
        Where the picture is, or was: copies of one picture lie in several places.
    item_id : str
        The first item that has the picture, for the ledger.
    faults : Counter
        Host -> questions about it that brought no usable answer there.
    sent_as : str
        How its picture had to be changed to be sent: see `icehouse.embed.captions.pictures.Sent`.
    text : str or None
        The post's text, where it goes into the prompt.
    """

    key: str
    image_sha256: str
    text_sha256: str | None
    text: str | None
    item_id: str
    bytes: int | None
    mtime_ns: int | None
    items: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    failed_before: bool = False
    sent_as: str = ""


@dataclass
class Plan:
    """What there is to do.

    Attributes
    ----------
    distinct : int
        Distinct pictures (with texts: pairs) of the items chosen.
    done : int
        Those that have a caption under this name.
    failed : int
        Those that failed in an earlier run and are left alone.
    jobs : list of Job
        Those that will be asked, in the items' order.
    without_image : int
        Items that have no picture, or one that could not be read.
    stale : list of Job
        Those that have a caption, and a failure in the ledger from before it.
    """

    distinct: int = 0
    done: int = 0
    failed: int = 0
    jobs: list[Job] = field(default_factory=list)
    without_image: int = 0
    stale: list[Job] = field(default_factory=list)


def plan(
    store: Store,
    name: str,
    *,
    with_text: bool = False,
    where: str | None = None,
    limit: int | None = None,
    retry_failures: bool = False,
) -> Plan:
    """Find what has no caption under `name`.

    Parameters
    ----------
    store : Store
    name : str
    with_text : bool, default False
        A caption belongs to a picture with a text, not to the picture alone.
    where : str, optional
        SQL condition over the items.
    limit : int, optional
        Ask at most so many.
    retry_failures : bool, default False
        Ask again what failed before.

    Raises
    ------
    UsageError
        If `where` is no condition, or `limit` is negative.
    """
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: a number of pictures, 0 or more")
    columns = [*_FACTS, *(("text", "text_sha256") if with_text else ())]
    items = store.items.read(columns)
    if where is not None:
        items = items.filter(pc.is_in(items["item_id"], value_set=select_items(store, where)))
    found = Plan()
    by_key: dict[str, Job] = {}
    for row in _rows(items):
        image = row["image_sha256"]
        if image is None:
            found.without_image += 1
            continue
        text_sha = row.get("text_sha256")
        job = by_key.setdefault(
            caption_key(image, text_sha),
            Job(
                caption_key(image, text_sha),
                image,
                text_sha,
                row.get("text"),
                row["item_id"],
                row["bytes"],
                row["mtime_ns"],
            ),
        )
        job.items.append(row["item_id"])
        if row["path"] is not None and row["root"] is not None:
            # A file that is marked as vanished may be back, but is tried last.
            at = len(job.files) if row["missing"] else 0
            job.files.insert(at, Path(row["root"]) / row["path"])
    found.distinct = len(by_key)
    done = _done(store, name)
    failed = _failed(store, name)
    for key, job in by_key.items():
        job.failed_before = any(item in failed for item in job.items)
        if key in done:
            found.done += 1
            if job.failed_before:
                found.stale.append(job)
            continue
        state = (job.bytes, job.mtime_ns, job.text_sha256)
        if not retry_failures and any(failed.get(item) == state for item in job.items):
            found.failed += 1
        elif limit is None or len(found.jobs) < limit:
            found.jobs.append(job)
    return found


def _rows(items: pa.Table) -> Iterator[dict]:
    for batch in items.to_batches(max_chunksize=8192):
        yield from batch.to_pylist()


def _done(store: Store, name: str) -> set[str]:
    if name not in names_of(store):
        return set()
    keys: list[str] = store.table(folder_of(name)).read(["caption_key"])["caption_key"].to_pylist()
    return set(keys)


def _failed(store: Store, name: str) -> dict[str, tuple[int | None, int | None, str | None]]:
    """Items that failed under this name, with the state of their file then, and of the text that went with it."""
    text = ["text_sha256"] if "text_sha256" in store.failures.snapshot().schema.names else []
    ledger = store.failures.read(["item_id", "stage", "encoder", "bytes", "mtime_ns", *text])
    ours = pc.and_(pc.equal(ledger["stage"], STAGE), pc.equal(ledger["encoder"], folder_of(name)))
    return {
        row["item_id"]: (row["bytes"], row["mtime_ns"], row.get("text_sha256"))
        for row in ledger.filter(pc.fill_null(ours, False)).to_pylist()
    }
