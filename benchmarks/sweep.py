"""Forty-eight configurations of `guided-ca`: as one batched program, and one after the other.

    python benchmarks/sweep.py [--rows 9600] [--epochs 20] [--threads 2] [--batch 64] [--sample 12] [--heads]

Both sides are `train_many` with the same network, rows, order of rows, dropout noise and schedule, and without
early stopping. One after the other is the same trainer given one configuration at a time, which takes the plain
path: no `vmap`, PyTorch's own linear layers. One configuration's steps are so small that the trainer takes one thread
for them; `--both-threads` makes it take all. The batched program runs before and after the other side, the second time
with another seed, and the mean of its two times counts. Scores are compared configuration by configuration; what is
noise is shown by the other seed.

With `--heads`, each default head is timed on 10,000 rows of pooled features instead (`zero-shot` learns nothing).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from icehouse.heads import torch_training as threads
from icehouse.heads.inputs import Inputs
from icehouse.heads.registry import available, create, head_class
from icehouse.heads.torch_layers import Prepared
from icehouse.heads.torch_training import Configuration, Outcome, Part, Plan, Rows, statistics, train_many
from machine import machine

WIDTHS = {"image": 512, "text": 512}


def rows_of(n: int, seed: int) -> tuple[Inputs, np.ndarray]:
    """Two inputs of which each tells a part of the class, and their agreement the rest; noise on a tenth of labels."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
    kinds = fixed.normal(size=(2, 4, 512)).astype(np.float32) / 6
    image, text = rng.integers(0, 4, n), rng.integers(0, 4, n)
    X = {
        "image": kinds[0, image] + rng.standard_normal((n, 512), np.float32),
        "text": kinds[1, text] + rng.standard_normal((n, 512), np.float32),
    }
    y = np.where(image == text, 0, 1 + (image + text) % 2)
    return Inputs(X), np.where(rng.random(n) < 0.1, rng.integers(0, 3, n), y)


def part(n: int, seed: int) -> Part:
    X, y = rows_of(n, seed)
    return Part(Rows(X), torch.from_numpy(y), torch.ones(n))


def timed(
    configurations: Sequence[Configuration], train: Part, val: Part, plan: Plan, apart: bool
) -> tuple[np.ndarray, list[Outcome]]:
    """Seconds (by the clock, and of the processors), and what came of each configuration."""
    head = create("guided-ca")
    centred = statistics(train.rows.X, np.ones(len(train.rows)))

    def build() -> torch.nn.Module:
        network = Prepared(head.build(WIDTHS, 3), WIDTHS)  # type: ignore[attr-defined]
        for i, (centre, scale) in enumerate(centred.values()):
            network.get_buffer(f"centre_{i}").copy_(torch.from_numpy(centre))
            network.get_buffer(f"scale_{i}").fill_(scale)
        return network

    begun, used = time.perf_counter(), time.process_time()
    if apart:
        outcomes = [train_many(build, [c], train, val, plan)[0] for c in configurations]
    else:
        outcomes = train_many(build, configurations, train, val, plan)
    return np.array([time.perf_counter() - begun, time.process_time() - used]), outcomes


def grids(seed: int) -> list[Configuration]:
    """Six learning rates, two decays, four dropouts: 48."""
    values = product((1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 1e-2), (0.01, 0.1), (0.0, 0.2, 0.4, 0.6))
    return [Configuration(lr, decay, dropout, 0.0, seed) for lr, decay, dropout in values]


def sweep(rows: int, epochs: int, batch: int, sample: int, precision: str) -> None:
    train, val = part(rows, 0), part(rows // 6, 1)
    plan = Plan(epochs=epochs, batch_size=batch, patience=None, precision=precision)  # type: ignore[arg-type]
    configurations = grids(0)
    chosen = [i for i in range(48) if i % (48 // sample) == 0]
    warm = Plan(epochs=1, batch_size=batch, patience=None)
    timed(configurations[:2], part(256, 2), val, warm, apart=False)
    timed(configurations[:1], part(256, 2), val, warm, apart=True)

    together_seconds, together = timed(configurations, train, val, plan, apart=False)
    alone_seconds, alone = np.zeros(2), []
    for quarter, members in enumerate(np.array_split(np.array(chosen), 4)):
        seconds, outcomes = timed([configurations[i] for i in members], train, val, plan, apart=True)
        alone_seconds += seconds
        alone += outcomes
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        each = seconds[0] / len(members)
        print(f"quarter {quarter + 1}: {each:.2f} s a configuration alone, load {load:.1f}", flush=True)
    again_seconds, other = timed(grids(1), train, val, plan, apart=False)
    print(f"as one program: {together_seconds[0]:.1f} s before, {again_seconds[0]:.1f} s after")
    together_seconds = (together_seconds + again_seconds) / 2

    per_together, per_alone = together_seconds / 48, alone_seconds / len(chosen)
    print(
        f"\n48 configurations x {rows:,} x (512 + 512), {epochs} epochs, batch {batch}, {torch.get_num_threads()} threads"
    )
    print(f"{'':20s}{'by the clock':>24s}{'of the processors':>24s}")
    for name, each in (("as one program", per_together), ("one after the other", per_alone)):
        print(f"{name:20s}" + "".join(f"{48 * t:14.1f} s ({t:5.2f})" for t in each))
    print(f"{'ratio':20s}" + "".join(f"{t:24.2f}" for t in per_alone / per_together))
    print("\n            accuracy on dev      log loss on dev")
    shown = [
        ("as one", [together[i] for i in chosen]),
        ("apart", alone),
        ("other seed", [other[i] for i in chosen]),
    ]
    for name, outcomes in shown:
        best = [outcome.curve[outcome.epochs - 1] for outcome in outcomes]
        accuracy, loss = (np.array([row[key] for row in best]) for key in ("accuracy", "log_loss"))
        print(
            f"{name:12s}{accuracy.mean():.4f} (best {accuracy.max():.4f})  {loss.mean():.4f} (best {loss.min():.4f})"
        )
    scores = {name: np.array([o.score for o in outcomes]) for name, outcomes in shown}
    print(
        f"mean difference of log loss: as one - apart {abs(scores['as one'] - scores['apart']).mean():.4f}, "
        f"between seeds {abs(scores['as one'] - scores['other seed']).mean():.4f}"
    )


def default_heads(rows: int) -> None:
    """Seconds that each head takes as it comes."""
    X, y = rows_of(rows, 0)
    V, v = rows_of(rows // 6, 1)
    print(f"{rows:,} x (512 + 512), default parameters, {torch.get_num_threads()} threads")
    for family in sorted(available()):
        if head_class(family).takes_prompts != "required":
            begun, used = time.perf_counter(), time.process_time()
            head = create(family).fit(X, y, val=(V, v))
            seconds, used = time.perf_counter() - begun, time.process_time() - used
            print(
                f"{family:22s}{seconds:7.1f} s ({used:.1f} s of processor), accuracy {head.score(V, v):.3f}, {head.chosen_}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=9_600)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--sample",
        type=int,
        default=48,
        choices=(4, 8, 12, 24, 48),
        help="configurations timed one after the other",
    )
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto")
    parser.add_argument(
        "--both-threads", action="store_true", help="all threads for every step, however small"
    )
    parser.add_argument("--heads", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.both_threads:
        threads._MIN_THREADED = 0
    print(machine("torch", "numpy"))
    if options.heads:
        default_heads(10_000)
    else:
        sweep(options.rows, options.epochs, options.batch, options.sample, options.precision)


if __name__ == "__main__":
    main()
