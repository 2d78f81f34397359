"""Damage the files of a store and of a package one at a time, and see that every answer is the old one or a refusal.

``mutate.py FOLDER SEED COUNT``. Prints the damage before it looks at what comes of it, so that a signal is known by its
cause, and a line that begins with WRONG for each answer that is neither: another value, an error that is no `IcehouseError`,
one of several lines, or damage that `verify` does not tell of.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from icehouse.dups.calibration import Calibration, TailFit, fit_map
from icehouse.dups.find import find_duplicates
from icehouse.dups.pair_graph import Duplicates
from icehouse.errors import IcehouseError
from icehouse.heads.compare import compare, find_runs
from icehouse.heads.package import Package, package
from icehouse.heads.runs import Run, list_runs
from icehouse.heads.trainer import evaluate, train
from icehouse.store import files as checksums
from icehouse.store import schema, vectors
from icehouse.store import vectors as tokens
from icehouse.store.index import find_vectors
from icehouse.store.index_build import build_index
from icehouse.store.maintain import describe, verify
from icehouse.store.schema import features_schema
from icehouse.store.store import Store

ROWS, DIM, PICTURES, WORDS = 48, 8, "toy/image/pooled", "toy/text/tokens"

#: Files whose damage costs nothing: nobody reads them, or they are made anew.
DISPOSABLE = ("indexes/", "cache/")
UNREAD = (".lock", "_emptied.json", "keep.csv", "drop.csv")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def spec(modality: str, output: str) -> dict[str, Any]:
    about = {"encoder": "toy", "name": "toy", "modality": modality, "output": output}
    more = {"dim": DIM, "dtype": "float16", "key": f"{modality}_sha256", "provenance": about}
    return {**about, **more, "fingerprint": sha(f"{modality}{output}")[:16], "probe": {"ids": []}}


def build(path: Path) -> Store:
    """A store with something of everything."""
    rng = np.random.default_rng(0)
    y = np.arange(ROWS) % 3
    X = (rng.normal(size=(3, DIM))[y] * 2 + rng.normal(size=(ROWS, DIM))).astype(np.float32)
    X[-4:] = X[:4] + 1e-3
    store = Store.create(path)
    rows = {
        "item_id": [f"p{i:02d}" for i in range(ROWS)],
        "text": [f"text {i}" for i in range(ROWS)],
        "image_sha256": [sha(f"image {i}") for i in range(ROWS)],
        "text_sha256": [sha(f"text {i}") for i in range(ROWS)],
        "split": [("train", "train", "dev", "test")[i // 3 % 4] for i in range(ROWS)],
        "label": [("calm", "flood", "quake")[k] for k in y],
    }
    table = pa.table(rows)
    store.items.append(table.slice(0, ROWS // 2), unique="item_id")
    store.items.append(table.slice(ROWS // 2), unique="item_id")
    store.failures.append(pa.table({"item_id": ["x"], "stage": ["read"], "error": ["ImageError"]}))
    pictures = store.ensure_feature_table(
        PICTURES, spec("image", "pooled"), features_schema("image", "pooled", DIM)
    )
    for half in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS)):
        vector = vectors.vectors_to_arrow(X[half])
        pictures.append(pa.table({"image_sha256": rows["image_sha256"][half], "vector": vector}))
    schema = features_schema("text", "tokens", DIM)
    words = store.ensure_feature_table(WORDS, spec("text", "tokens"), schema)
    states = vectors.tokens_to_arrow(rng.normal(size=(ROWS, 4, DIM)), rng.random((ROWS, 4)) < 0.7)
    columns = {"text_sha256": rows["text_sha256"], "truncated": [False] * ROWS, "tokens": states}
    words.append(pa.table(columns).select(schema.names).cast(schema))
    mean, matrix = fit_map(X, 0.5)
    tail = TailFit(1000, 0.5, 0.01, -0.1, 0.1, (0.7, 0.6))
    made = Calibration(PICTURES, spec("image", "pooled")["fingerprint"], mean, matrix, tail, ROWS)
    made.save(store)
    find_duplicates(store, feature=PICTURES, hamming=None, views=False)
    build_index(store, PICTURES, kind="flat")
    for family, params in (
        ("logreg", {"C": 1.0}),
        ("lightgbm", {"rounds": 3, "num_leaves": 3, "min_data": 2}),
    ):
        run = train(store, family, params=params, inputs={"image": PICTURES}, draws=5)
    evaluate(store, run, draws=5)
    store.vectors(PICTURES), store.tokens(WORDS)
    return store


def value(given: Any) -> Any:
    """Something that compares by content."""
    if isinstance(given, np.ndarray):
        return given.dtype.str, given.shape, given.tobytes()
    if isinstance(given, pa.Table):
        return given.to_pylist()
    return given


Answers = dict[str, Callable[[], Any]]


def answers(path: Path, packed: Path) -> dict[str, Answers]:
    """What is asked, by the folders that it comes from."""

    def store() -> Store:
        return Store.open(path)

    def loaded(family: str) -> Run:
        opened = store()
        ids = [name for name in sorted(p.name for p in (path / "runs").glob("[!.]*-*")) if family in name]
        return Run.load(opened, ids[0])

    query = np.linspace(-1, 1, DIM).astype(np.float32)
    X = {"image": np.linspace(-2, 2, 4 * DIM).reshape(4, DIM).astype(np.float32)}
    everywhere: Answers = {
        "items": lambda: store().items.read(),
        "info": lambda: {
            k: v for k, v in describe(store()).items() if k in ("items", "splits", "labels", "failures")
        },
        "sql items": lambda: store().query("select * from items order by item_id"),
        "where": lambda: store().features(PICTURES, where="label = 'flood'", label="label").X,
    }
    features: Answers = {
        "vectors": lambda: store().vectors(PICTURES).X.copy(),
        "vector keys": lambda: store().vectors(PICTURES).keys.to_pylist(),
        "tokens": lambda: store().tokens(WORDS).states.copy(),
        "token keys": lambda: store().tokens(WORDS).keys.to_pylist(),
        "token lengths": lambda: store().tokens(WORDS).lengths,
        "sql pictures": lambda: store().query("select * from toy_image_pooled"),
        "search": lambda: [(hit.item_id, hit.score) for hit in find_vectors(store(), PICTURES, query).hits],
    }
    runs: Answers = {
        "runs": lambda: (
            [run.summary() for run in list_runs(path, [])] if len(list_runs(path, [])) == 2 else _refuse()
        ),
        "board": lambda: _board(store()),
        "metrics": lambda: [loaded(family).metrics for family in ("logreg", "lightgbm")],
        "predictions": lambda: [value(loaded(family).predictions()) for family in ("logreg", "lightgbm")],
        "training": lambda: loaded("lightgbm").training_items(),
        "logreg": lambda: loaded("logreg").predict_features(X).proba,
        "lightgbm": lambda: loaded("lightgbm").predict_features(X).proba,
    }
    return {
        "tables/items": everywhere,
        "tables/failures": {"failures": lambda: store().failures.read(), **everywhere},
        "tables/features": features,
        "tables/hashes": everywhere,
        "cache": features,
        "indexes": features,
        "runs": runs,
        "looks": runs,
        "dups": {
            "summary": lambda: dict(Duplicates.open(path).summary),
            "pairs": lambda: Duplicates.open(path).pairs(),
            "pair batches": lambda: [batch.to_pylist() for batch in Duplicates.open(path).pair_batches()],
            "clusters": lambda: Duplicates.open(path).clusters(),
            "looked at": lambda: Duplicates.open(path).items(),
        },
        "calibrations": {
            "mean": lambda: Calibration.open(store(), PICTURES).mean,
            "matrix": lambda: Calibration.open(store(), PICTURES).matrix,
            "threshold": lambda: Calibration.open(store(), PICTURES).threshold(1000),
            "bits": lambda: Calibration.open(store(), PICTURES).bits,
        },
        "icehouse.json": everywhere,
        "package": {
            "package": lambda: Package.load(packed).predict_features(X).proba,
            "about": lambda: [
                Package.load(packed).record,
                Package.load(packed).metrics,
                Package.load(packed).encoders,
            ],
        },
    }


def _refuse() -> Any:
    raise IcehouseError("some run was left out, and said to be")


def _board(store: Store) -> Any:
    damaged: list[str] = []
    board = compare(store, find_runs(store, damaged=damaged), draws=5, latency=False)
    if damaged or any("left out" in note for note in board.notes):
        assert len(board.entries) == 1, "a damaged run costs the others"
        _refuse()
    return [{k: v for k, v in entry.as_json().items() if k != "head_bytes"} for entry in board.entries]


def _same_json(path: Path, data: bytes, changed: bytes | None) -> bool:
    """Whether a change of a JSON file is one of blanks alone, which is no damage."""
    if path.suffix != ".json" or changed is None:
        return False
    try:
        return bool(json.loads(changed) == json.loads(data))
    except ValueError:
        return False


def damage(rng: random.Random, path: Path, others: list[Path]) -> str | None:
    """Do something to a file; what it was, or None if it changed nothing."""
    data = path.read_bytes()
    kind = rng.choice(
        ["bit", "bit", "bit", "byte", "zeros", "cut", "empty", "gone", "garbage", "longer", "doubled", "swap"]
    )
    at = rng.randrange(max(len(data), 1))
    span = rng.choice([1, 8, 64, 512])
    changed: bytes | None = data
    if kind == "bit" and data:
        changed = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    elif kind == "byte" and data:
        changed = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    elif kind == "zeros":
        changed = (data[:at] + bytes(span) + data[at + span :])[: len(data)]
    elif kind == "cut":
        changed = data[:at]
    elif kind == "empty":
        changed = b""
    elif kind == "gone":
        changed = None
    elif kind == "garbage":
        changed = data[:at] + rng.randbytes(span) + data[at + span :]
    elif kind == "longer":
        changed = data + rng.randbytes(span)
    elif kind == "doubled":
        changed = data[:at] + data[max(at - span, 0) :]
    elif kind == "swap":
        same = [other for other in others if other.suffix == path.suffix and other != path]
        changed = rng.choice(same).read_bytes() if same else data
    if changed == data or _same_json(path, data, changed):
        return None
    status = path.stat()
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
        if rng.random() < 0.5:  # as a medium would: at the same time as before
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return f"{kind} at {at} span {span}"


def main() -> None:
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    vectors.CACHE_FROM = tokens.CACHE_FROM = 0
    path, packed = folder / "store", folder / "package"
    store = build(path)
    package(store, "latest", packed)
    asked = answers(path, packed)
    before = {name: {ask: value(answer()) for ask, answer in some.items()} for name, some in asked.items()}
    assert verify(store).ok, verify(store).findings
    pristine = folder / "pristine"
    shutil.copytree(path, pristine / "store")
    shutil.copytree(packed, pristine / "package")
    files = [
        p for root in (path, packed) for p in sorted(root.rglob("*")) if p.is_file() and p.name not in UNREAD
    ]
    rng = random.Random(seed)
    for number in range(count):
        # Every other time parts are taken for large ones, which are compared page by page.
        schema.WHOLE_BYTES = 0 if number % 2 else 16 << 20
        target = rng.choice(files)
        inside = target.relative_to(folder).as_posix()
        done = damage(rng, target, files)
        if done is None:
            continue
        print(f"{number}: {inside}: {done}", flush=True)
        place = inside.removeprefix("store/")
        group = next(name for name in asked if place.startswith(name))
        refused = 0
        for ask, answer in asked[group].items():
            try:
                if value(answer()) != before[group][ask]:
                    print(f"WRONG {number}: {inside}: {done}: another answer to {ask}", flush=True)
            except IcehouseError as error:
                refused += 1
                if "\n" in str(error).strip():
                    print(f"WRONG {number}: {inside}: {done}: several lines for {ask}: {error}", flush=True)
            except Exception as error:
                print(f"WRONG {number}: {inside}: {done}: {ask}: {type(error).__name__}: {error}", flush=True)
        if inside.startswith("store/"):
            check(number, inside, place, done, path, refused)
        shutil.rmtree(path / "cache", ignore_errors=True)
        for restored in (target, *(path / "cache").rglob("*")):
            restored.unlink(missing_ok=True)
        shutil.copytree(pristine / "store" / "cache", path / "cache", dirs_exist_ok=True)
        shutil.copy2(pristine / inside, target)
        checksums._known_good.clear()
        schema._known_good.clear()


def check(number: int, inside: str, place: str, done: str, path: Path, refused: int) -> None:
    """`verify` tells of the damage, and never fails."""
    try:
        told = verify(Store.open(path))
    except IcehouseError:
        if place != "icehouse.json":
            print(f"WRONG {number}: {inside}: {done}: verify refuses", flush=True)
        return
    except Exception as error:
        print(f"WRONG {number}: {inside}: {done}: verify: {type(error).__name__}: {error}", flush=True)
        return
    if told.findings or place.startswith(DISPOSABLE):
        return
    if place.startswith("looks/") and done.startswith("gone"):
        return  # nothing else says how many there were
    if place == "tables/hashes/facts1/_manifest.json" and done.startswith("gone"):
        return  # a table without rows that is gone is like one that was never made
    if refused or place != "icehouse.json":
        print(f"WRONG {number}: {inside}: {done}: verify finds nothing", flush=True)


if __name__ == "__main__":
    main()
