"""Pictures to be captioned: those of a store that have no caption yet, and the JPEGs that are sent of them.

Servers crash on a picture that is smaller than a patch (Qwen2.5-VL: 28 pixels), and make nothing of a scrolled screenshot: a
short side is enlarged to `MIN_SIDE`, and a picture longer than `MAX_RATIO` times its short side is sent as strips.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps

from ...data import image_files
from ...data.images import decode
from ...errors import ImageError, UsageError
from ...store.sql import select_items
from ...store.store import Store
from .caption_table import STAGE, caption_key, captions_of, folder_of, keys_of, names_of

#: Longest side sent, by default: two of the tiles that LLaVA 1.6 cuts a picture into.
MAX_SIDE = 672

#: Shortest side sent.
MIN_SIDE = 32

#: Longest side by the shortest, beyond which a picture is sent in strips.
MAX_RATIO = 20.0

# Ground of what strips and padding leave empty.
_GROUND = (127, 127, 127)

#: JPEG quality.
QUALITY = 90

_FACTS = ["item_id", "path", "root", "image_sha256", "bytes", "mtime_ns", "missing"]


@dataclass
class Job:
    """One question to be asked.

    `key`: see `caption_key`; `files`: where the picture is, or was, since copies lie in several places; `item_id`: the first
    item that has it, for the failure log; `faults`: host -> questions about it that brought no usable answer there;
    `sent_as`: how it had to be changed to be sent, see `Sent`.
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
    """Pictures to caption, and counts of the rest.

    `distinct`: pictures (with texts: pairs) of the items chosen; `done`: those that have a caption under this name;
    `failed`: those that failed in an earlier run and are left alone; `stale`: those that have a caption, and a failure from
    before it; `without_image`: items that have no picture, or one that could not be read.
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
    """Find what has no caption under `name`; `with_text`: a caption belongs to a picture with a text."""
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
    done = keys_of(captions_of(store, name)) if name in names_of(store) else set()
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


def _failed(store: Store, name: str) -> dict[str, tuple[int | None, int | None, str | None]]:
    """Items that failed under this name, with the state of their file then, and of the text that went with it."""
    text = ["text_sha256"] if "text_sha256" in store.failures.snapshot().schema.names else []
    log = store.failures.read(["item_id", "stage", "encoder", "bytes", "mtime_ns", *text])
    ours = pc.and_(pc.equal(log["stage"], STAGE), pc.equal(log["encoder"], folder_of(name)))
    return {
        row["item_id"]: (row["bytes"], row["mtime_ns"], row.get("text_sha256"))
        for row in log.filter(pc.fill_null(ours, False)).to_pylist()
    }


# What is sent


class Sent(bytes):
    """The JPEG that is sent.

    `changed`: "" where the picture was at most made smaller; else "enlarged", "padded" or "in strips", joined by commas.
    """

    changed: str = ""


def prepare(data: bytes, max_side: int = MAX_SIDE) -> Sent:
    """Make the JPEG that is sent from an image file: RGB, upright, its longest side at most `max_side` pixels.

    A smaller picture keeps its size, but for a side under `MIN_SIDE`; of the file's metadata (place, camera) nothing is
    left. Raises `ImageError` if the file is no image that can be decoded.
    """
    # A shortest side of that length is always enough for the longest.
    picture = decode(data, shortest=max_side)
    image = picture.image
    # The file's own size: decoding may have shrunk the picture already, and rounded.
    size = (picture.width, picture.height)
    changed = []
    if max(size) > MAX_RATIO * min(size):
        image = _in_strips(image)
        size = image.size
        changed.append("in strips")
    scale = min(1.0, max_side / max(size))
    if min(size) * scale < MIN_SIDE:
        scale = min(MIN_SIDE / min(size), max_side / max(size))
    if scale > 1:
        changed.append("enlarged")
    wanted = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if image.size != wanted and scale != 1:
        image = image.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if min(image.size) < MIN_SIDE:
        image = ImageOps.pad(image, (max(image.width, MIN_SIDE), max(image.height, MIN_SIDE)), color=_GROUND)
        changed.append("padded")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    sent = Sent(out.getvalue())
    sent.changed = ", ".join(changed)
    return sent


def _in_strips(image: Image.Image) -> Image.Image:
    """Cut a very long picture into about as many strips as make a square: side by side, or one below the other."""
    tall = image.height > image.width
    longer, shorter = max(image.size), min(image.size)
    count = math.ceil(math.sqrt(longer / shorter))
    length = math.ceil(longer / count)
    sheet = Image.new("RGB", (count * shorter, length) if tall else (length, count * shorter), _GROUND)
    for i in range(count):
        start, stop = i * length, min((i + 1) * length, longer)
        box = (0, start, shorter, stop) if tall else (start, 0, stop, shorter)
        sheet.paste(image.crop(box), (i * shorter, 0) if tall else (0, i * shorter))
    return sheet


def load(files: Sequence[Path], sha256: str, max_side: int = MAX_SIDE) -> Sent:
    """Read and prepare the picture with that digest from the first of `files` that still holds it; else `ImageError`."""
    why = "no file is known for it"
    for path in files:
        try:
            data, _ = image_files.read(path)
        except (ImageError, OSError) as error:
            why = f"{path}: {getattr(error, 'strerror', None) or error}"
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            try:
                return prepare(data, max_side)
            except ImageError:
                raise
            except Exception as error:  # of Pillow: it costs this picture only
                raise ImageError(f"cannot be prepared: {error}") from None
        why = f"{path} has changed since it was embedded; run `icehouse embed` on it again"
    raise ImageError(why)


@cache
def plain_picture() -> bytes:
    """A shade from black to white, as it is sent: nothing is wrong with it, so it tells a server in trouble."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((224, 224)).save(out, "PNG")
    return prepare(out.getvalue())
