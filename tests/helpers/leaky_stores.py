"""Stores of images whose splits share near-duplicates."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
from icehouse.cli import app
from icehouse.dups.find import find_duplicates
from icehouse.store.schema import items_schema
from icehouse.store.store import Store
from typer.testing import CliRunner, Result

#: Far apart from one another; flipping up to three bits of each keeps its family together.
BASES = (0xB2CDCD3232CDCD30, 0x4D3232CDCD3232CF, 0x0F0F3C3CA5A59669)

Row = tuple[int, int, str | None, str | None]


def make_store(path: Path, rows: list[Row], order: Sequence[int] | None = None) -> Store:
    """Item <k> of rows (content, flipped bits of its content's hash, split, label)."""
    store = Store.create(path)
    flips = {content: bits for content, bits, _, _ in reversed(rows)}
    store.items.append(
        pa.Table.from_pylist(
            [
                {
                    "item_id": f"i{k:02d}",
                    "image_sha256": f"{content:064d}",
                    "phash": BASES[content % 3] ^ sum(1 << (7 * bit) for bit in range(flips[content])),
                    "split": split,
                    "label": label,
                    "missing": False,
                }
                for k in order or range(len(rows))
                for content, _, split, label in [rows[k]]
            ],
            schema=items_schema(["label"]),
        )
    )
    return store


def leaky_store(path: Path) -> Store:
    """Test's i03 is a copy of train's i00, its i04 a recompression of it; test's i05 is one of dev's i02."""
    return Store.open(shutil.copytree(_leaky(), path))


@cache
def _leaky() -> Path:
    """The same, made and searched once a process."""
    folder = Path(tempfile.mkdtemp(prefix="icehouse-leaky-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rows: list[Row] = [
        (0, 0, "train", "flood"),
        (0, 0, "train", "flood"),
        (1, 0, "val", "calm"),
        (0, 0, "test", "calm"),
        (3, 1, "test", "flood"),
        (4, 2, "test", None),
        (2, 0, "test", "calm"),
        (5, 0, None, "calm"),
    ]
    find_duplicates(make_store(folder / "store", rows), feature=None)
    return folder / "store"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
