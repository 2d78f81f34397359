"""Embed, be killed at a random moment, embed again, until a store is whole; then the next store.

``killrun.py PICTURES TABLE WORK CONFIGS ENCODER PRECISION KILLS``. One interpreter imports everything and loads the encoder
once and forks for each run, so that a kill lands in the work and not in what comes before the first file is written. One
thread at a time, so that nothing multi-threaded runs before the fork. Prints one JSON line: the stores that were completed
after kills, how many kills hit, and what each attempt found and did.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import open_clip
import pyarrow.parquet  # noqa: F401
import torch
from icehouse.embed import pipeline as commit
from icehouse.embed import tables as probe
from icehouse.embed.encoder import Encoder, load_encoder
from icehouse.embed.pipeline import embed_sources
from icehouse.store.store import Store

# Many small commits: the more of them, the more places a kill can land in.
commit.ROWS = 12


def attempt(sources: list[str], store: Path, encoder: Encoder) -> dict[str, int]:
    exact, precision = encoder.precision == "float32", encoder.precision
    report = embed_sources(sources, store, encoder=encoder, exact=exact, precision=precision, batch_size=8,
                           dtype="float32", name="model")  # fmt: skip
    return {"images": report.images, "texts": report.texts, "failed": report.failed}


def committed(store: Path) -> int:
    """Rows that no rerun has to compute again: contents that every output has."""
    if not Store.exists(store):
        return 0
    opened = Store.open(store)
    total = 0
    for modality in ("image", "text"):
        tables = [name for name in opened.feature_names() if f"/{modality}/" in name]
        total += (
            min((opened.feature_table(name).rows for name in tables), default=0) if len(tables) == 2 else 0
        )
    return total


def spawn(arguments: tuple[list[str], Path, Encoder], result: Path) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            result.write_text(json.dumps(attempt(*arguments)))
            status = 0
        finally:
            os._exit(status)
    return pid


def main() -> None:
    pictures, table, work, configs, encoder_id, precision, wanted = sys.argv[1:]
    sources, folder, rng = [pictures, table], Path(work), random.Random(7)
    result = folder / "result.json"
    open_clip.add_model_config(configs)
    torch.set_num_threads(1)
    encoder = load_encoder(encoder_id, precision=precision)
    probe.builtin_contents("image")  # made once, before the forks

    begun = time.monotonic()
    pid = spawn((sources, folder / "whole", encoder), result)
    assert os.waitpid(pid, 0)[1] == 0, "the uninterrupted run failed"
    whole = time.monotonic() - begun
    everything = sum(json.loads(result.read_text())[key] for key in ("images", "texts"))

    kills, stores, attempts, slowed = 0, [], [], 1.0
    while kills < int(wanted):
        store = folder / f"killed-{len(stores)}"
        while True:
            before = committed(store)
            result.unlink(missing_ok=True)
            pid = spawn((sources, store, encoder), result)
            deadline = time.monotonic() + rng.uniform(0.1, 0.9) * whole * slowed
            done = 0
            while time.monotonic() < deadline and done == 0:
                done, status = os.waitpid(pid, os.WNOHANG)
                time.sleep(0.002)
            if done:
                assert status == 0, "a rerun failed"
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            # On a machine that has got busier no attempt might ever come as far as its first commit.
            slowed = slowed * 1.2 if committed(store) == before else 1.0
        slowed = 1.0
        finished = json.loads(result.read_text())
        attempts.append(
            {
                "before": before,
                "encoded": finished["images"] + finished["texts"],
                "failed": finished["failed"],
            }
        )
        stores.append(str(store))
    print(json.dumps({"stores": stores, "kills": kills, "everything": everything, "attempts": attempts}))


if __name__ == "__main__":
    main()
