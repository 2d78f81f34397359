"""Load on `icehouse watch` with `mini`: posts a second at full speed, and the latency of each stage at a steady rate.

Posts are photographs of the sizes social media serves (`pictures.py`), one in ten of them again, with texts of the sample
feed. They go through repeats, a gate on the text and a head on both. The watch is a process of its own, fed through a
pipe; a post's latency is measured outside of it, from writing its line to reading its decision. The first posts, with
which kernels and plug-ins are loaded, do not count.

    python benchmarks/watch.py                    full speed, then 20 posts/s for 60 s
    python benchmarks/watch.py --rate 40 --seconds 30 --no-full
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.data.sample_feed import make_feed
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from machine import machine
from pictures import make_jpegs

WARM = 64


def prepare(folder: Path, n: int) -> tuple[Path, list[dict[str, Any]]]:
    """A store with two runs, `label` of texts and of both, and `n` posts."""
    store = folder / "store"
    if not (store / "runs").exists():
        feed = make_feed(folder / "feed", n=300)
        embed_sources([feed.posts], store, encoder="mini", options=SourceOptions(label_columns=("label",)))
        opened = Store.open(store)
        for inputs in ("text", "image,text"):
            train(opened, "logreg", inputs=inputs, label="label")
    texts = Store.open(store).items.read(["text"])["text"].drop_null().to_pylist()
    paths = make_jpegs(folder / "jpegs", n)
    posts = []
    for number, path in enumerate(paths):
        again = paths[number // 2] if number % 10 == 9 else path
        text = f"{texts[number % len(texts)]} {number}"
        posts.append({"id": f"post-{number}", "text": text, "image_path": str(again)})
    return store, posts


class Running:
    """A watch that is fed lines, and says when each was written and answered."""

    def __init__(self, store: Path, state: Path, options: list[str]) -> None:
        runs = sorted(path.name for path in (store / "runs").iterdir() if not path.name.startswith("."))
        gate, head = runs[-2:]
        command = [sys.executable, "-m", "icehouse", "watch", "-s", str(store), "--state", str(state)]
        command += ["--gate", f"{gate}!=not_relevant", "--run", head, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.sent: dict[str, float] = {}
        self.answers: dict[str, tuple[float, dict[str, Any]]] = {}
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            with self._more:
                self.answers[told["id"]] = time.perf_counter(), told
                self._more.notify_all()

    def cpu(self) -> float:
        """Seconds of processor time so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, post: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.sent[post["id"]] = time.perf_counter()
        self.process.stdin.write(json.dumps(post).encode() + b"\n")
        self.process.stdin.flush()

    def wait(self, n: int) -> None:
        with self._more:
            if not self._more.wait_for(lambda: len(self.answers) >= n, timeout=600):
                raise SystemExit("no answer for ten minutes")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=120)


def kinds(answers: list[dict[str, Any]]) -> str:
    counts = Counter(answer["decision"] for answer in answers)
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())


def full_speed(watch: Running, posts: list[dict[str, Any]]) -> None:
    begun, used = time.perf_counter(), watch.cpu()
    for post in posts:
        watch.send(post)
    watch.wait(WARM + len(posts))
    used = (watch.cpu() - used) / len(posts)
    seconds = max(at for at, _ in watch.answers.values()) - begun
    told = [watch.answers[post["id"]][1] for post in posts]
    cores = os.cpu_count() or 1
    print(
        f"\nfull speed: {len(posts):,} posts in {seconds:.1f} s, {len(posts) / seconds:.1f} posts/s; {kinds(told)}\n"
        f"{1000 * used:.1f} ms of processor time a post, which {cores} cores by themselves do {cores / used:.0f} times a "
        f"second; load average {os.getloadavg()[0]:.1f}"
    )


def steady(watch: Running, posts: list[dict[str, Any]], rate: float) -> None:
    gaps = np.random.default_rng(0).exponential(1 / rate, len(posts))
    due = time.perf_counter() + np.cumsum(gaps)
    before = len(watch.answers)
    for post, at in zip(posts, due, strict=True):
        time.sleep(max(0.0, at - time.perf_counter()))
        watch.send(post)
    watch.wait(before + len(posts))
    told = [watch.answers[post["id"]][1] for post in posts]
    ms = [1000 * (watch.answers[post["id"]][0] - watch.sent[post["id"]]) for post in posts]
    print(f"\n{rate:g} posts/s, at random moments: {len(posts):,} posts; {kinds(told)}")
    print(f"{'stage':>12} {'p50 ms':>8} {'p95 ms':>8}")
    stages = ["read", "decode", "embed", "repeats"]
    stages += [name for name in told[0]["ms"] if name not in (*stages, "total")]
    names = dict.fromkeys([*stages, *(name for one in told for name in one["ms"])])
    for name in names:
        values = [one["ms"][name] for one in told if name in one["ms"]]
        if values:
            print(f"{name[-12:]:>12} {np.percentile(values, 50):8.1f} {np.percentile(values, 95):8.1f}")
    print(f"{'outside':>12} {np.percentile(ms, 50):8.1f} {np.percentile(ms, 95):8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1500, help="posts at full speed")
    parser.add_argument("--rate", type=float, default=20.0, help="posts a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the steady rate")
    parser.add_argument("--threshold", type=float, default=0.995, help="crops of one photograph are alike")
    parser.add_argument("--no-full", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "icehouse-watch")
    args = parser.parse_args()
    print(machine("numpy", "torch", "pillow"))
    full = 0 if args.no_full else args.n
    slow = int(args.rate * args.seconds)
    store, posts = prepare(args.folder, WARM + full + slow)
    with tempfile.TemporaryDirectory() as state:
        watch = Running(store, Path(state), ["--threshold", str(args.threshold), "--no-drift"])
        for post in posts[:WARM]:
            watch.send(post)
        watch.wait(WARM)
        if full:
            full_speed(watch, posts[WARM : WARM + full])
        steady(watch, posts[WARM + full :], args.rate)
        watch.end()


if __name__ == "__main__":
    main()
