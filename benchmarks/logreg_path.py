"""Logistic regression over 45 values of C: icehouse's path against scikit-learn's loop, in one run.

    python benchmarks/logreg_path.py [--crisismmd ../shared/data/crisismmd] [--threads 2] [--only texts|generated]

The grid is DINOv2's, 45 values from 1e-6 to 1e5. Both sides get the same standardised float32 rows and fit every value to
the same tolerance; scikit-learn starts each from nothing. Compared are the time, the value of C that is best on dev by log
loss, that loss, and how far apart the minimised values are (negative: ours is lower).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.families.linear import path
from icehouse.heads.inputs import Inputs, load_samples, softmax, standardised, statistics, unit_length
from icehouse.store.store import Store
from machine import machine
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

GRID = np.logspace(-6, 5, 45)
TOL = 1e-5


@dataclass
class Problem:
    """Standardised rows to learn from and to choose on."""

    name: str
    Z: np.ndarray
    y: np.ndarray
    V: np.ndarray
    v: np.ndarray


def texts(source: Path, folder: Path) -> list[Problem]:
    """CrisisMMD's texts: task 1 (two classes), task 2 merged (five) and as it comes (eight)."""
    problems = []
    for task, labels in (("informative", ["label"]), ("humanitarian", ["label5", "label"])):
        files = sorted(source.glob(f"task_{task}_*.tsv"))
        embed_sources(
            files, folder / task, encoder="mini", options=SourceOptions(preset="crisismmd"), only="text"
        )
        for label in labels:
            rows = load_samples(Store.open(folder / task), {"text": "mini/text/pooled"}, label=label)
            X, y = unit_length(rows.X), np.unique(rows.labels, return_inverse=True)[1]
            name = f"CrisisMMD texts, {task}, {label}"
            problems.append(_problem(name, X, y, rows.split == "train", rows.split == "dev"))
    return problems


def generated() -> list[Problem]:
    """Rows like an encoder's: directions whose deviations fall off over a decade, two and five classes."""
    problems = []
    for n, d, k in ((9600, 512, 2), (9600, 512, 5), (6000, 768, 5)):
        rng = np.random.default_rng(n + d + k)
        deviations = np.logspace(0, -1, d)
        towards = rng.normal(size=(k, d)) * deviations
        y = rng.integers(0, k, n + 1500)
        X = (towards[y] * 0.06 + rng.normal(size=(len(y), d)) * deviations) @ np.linalg.qr(
            rng.normal(size=(d, d))
        )[0]
        train = np.arange(len(y)) < n
        problems.append(
            _problem(f"generated, {d} features", Inputs({"x": X.astype(np.float32)}), y, train, ~train)
        )
    return problems


def _problem(name: str, X: Inputs, y: np.ndarray, train: np.ndarray, dev: np.ndarray) -> Problem:
    means, scales = statistics(X[train], np.ones(int(train.sum())))
    return Problem(
        name, standardised(X[train], means, scales), y[train], standardised(X[dev], means, scales), y[dev]
    )


def compare(problem: Problem) -> None:
    """Both sides on one problem; prints a line."""
    Z, y, k = problem.Z, problem.y, int(problem.y.max()) + 1
    started = time.perf_counter()
    ours = [(fit.coef, fit.intercept) for fit in path(Z, y, k, np.ones(len(y)), GRID.tolist(), tol=TOL)]
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    theirs = []
    for C in GRID:
        model = LogisticRegression(C=C, tol=TOL, max_iter=10_000).fit(Z, y)
        theirs.append((model.coef_.astype(np.float64), model.intercept_.astype(np.float64)))
    loop = time.perf_counter() - started
    mine, yours = ([_log_loss(problem.V, problem.v, *fit) for fit in fits] for fits in (ours, theirs))
    apart = [
        _log_loss(Z, y, *a)
        - _log_loss(Z, y, *b)
        + (np.square(a[0]).sum() - np.square(b[0]).sum()) / (2 * C * len(y))
        for a, b, C in zip(ours, theirs, GRID, strict=True)
    ]
    best = int(np.argmin(mine)), int(np.argmin(yours))
    print(
        f"{problem.name:38s}{'×'.join(map(str, Z.shape)):>10s}{k:3d}{seconds:8.2f}{loop:10.2f}{loop / seconds:7.1f}×"
        f"{GRID[best[0]]:9.3g}{GRID[best[1]]:9.3g}{mine[best[0]]:9.5f}{yours[best[1]]:9.5f}"
        f"{min(apart):10.1e}{max(apart):9.1e}",
        flush=True,
    )


def _log_loss(Z: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> float:
    logits = Z.astype(np.float64) @ coef.T + intercept
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return float(-np.log(softmax(logits)[np.arange(len(y)), y] + 1e-300).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--crisismmd", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "crisismmd"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("texts", "generated"))
    options = parser.parse_args()
    print(machine("scikit-learn", "scipy", "numpy"), f"{options.threads} threads")
    print(
        f"{'45 values of C, 1e-6 to 1e5':38s}{'rows':>10s}{'k':>3s}{'ours s':>8s}{'sklearn s':>10s}{'':8s}"
        f"{'C ours':>9s}{'C theirs':>9s}{'dev loss':>9s}{'theirs':>9s}{'minimum: ours - theirs':>19s}"
    )
    with threadpool_limits(options.threads), tempfile.TemporaryDirectory() as scratch:
        if options.only != "generated":
            if options.crisismmd.is_dir():
                for problem in texts(options.crisismmd, Path(scratch)):
                    compare(problem)
            else:
                print(f"CrisisMMD: skipped, no annotation files at {options.crisismmd}")
        if options.only != "texts":
            for problem in generated():
                compare(problem)


if __name__ == "__main__":
    main()
