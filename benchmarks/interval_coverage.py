"""How often the 95% interval of a score holds the score's true value: `python benchmarks/interval_coverage.py`.

Labels and probabilities are drawn from populations whose true scores are known (those of a million rows): two and four
classes, balanced and with a rare one, and rows that come in groups of duplicates. 500 sets of each size are scored by
`icehouse.heads.metrics.score`. A set in which a score is not defined (AUROC without a positive row) is left out of its
share. The last lines time a score of 10,000 rows and 100 classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from icehouse.heads.metrics import score
from machine import machine

SIZES = (10, 20, 50, 100, 300, 1000)
SCORES = ("accuracy", "macro_f1", "weighted_f1", "F1 of the rarest", "auroc", "average_precision", "log_loss")
ROWS = 1_000_000


@dataclass(frozen=True)
class Population:
    """Rows whose features are normal around their class's axis, and a head that knows it, or is too sure of it."""

    name: str
    shares: tuple[float, ...]
    apart: float
    sure: float = 1.0
    spread: float = 1.0  # standard deviation of the last class, against that of the others
    copies: int = 1  # rows of a group, which are nearly the same

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (n,), probabilities (n, k) and groups (n,)."""
        k, sizes = len(self.shares), []
        while sum(sizes) < n:
            sizes.append(1 if self.copies == 1 or rng.random() < 0.5 else self.copies)
            if self.copies == 1:
                sizes = [1] * n
        groups = np.repeat(np.arange(len(sizes)), sizes)[:n]
        first = np.unique(groups, return_index=True)[1]
        y = rng.choice(k, p=self.shares, size=len(first))
        x = rng.normal(size=(len(first), k))
        x[y == k - 1] *= self.spread
        x[np.arange(len(first)), y] += self.apart
        y, x = y[groups], x[groups]
        if self.copies > 1:
            x = x + 0.1 * rng.normal(size=x.shape)
        logits = self.sure * (self.apart * x) + np.log(self.shares)
        proba = np.exp(logits - logits.max(axis=1, keepdims=True))
        return y, proba / proba.sum(axis=1, keepdims=True), groups


POPULATIONS = (
    Population("two classes alike, accuracy .76", (0.5, 0.5), 1.0),
    Population("two classes alike, accuracy .97", (0.5, 0.5), 2.7),
    Population("one in ten positive, F1 .61", (0.9, 0.1), 1.5),
    Population("one in ten positive, spread out, too sure", (0.9, 0.1), 1.0, sure=1.8, spread=1.6),
    Population("one in twenty positive, F1 .86", (0.95, 0.05), 2.5),
    Population("four classes alike, accuracy .70", (0.25,) * 4, 1.5),
    Population("four classes, one of 5%", (0.5, 0.3, 0.15, 0.05), 2.0),
    Population("twenty classes alike", (0.05,) * 20, 2.5),
)
GROUPED = Population("half of the groups are triples of duplicates", (0.7, 0.3), 1.2, copies=3)

Scored = dict[str, tuple[float | None, float | None, float | None]]


def scored(y: np.ndarray, proba: np.ndarray, groups: np.ndarray | None, draws: int) -> Scored:
    """Value, low and high of each of `SCORES`."""
    told = score(y, proba, np.arange(proba.shape[1]), positive=_positive(proba), groups=groups, draws=draws)
    told["F1 of the rarest"] = told["per_class"][proba.shape[1] - 1]["f1"]
    return {name: (told[name]["value"], told[name]["low"], told[name]["high"]) for name in SCORES}


def percentile(y: np.ndarray, proba: np.ndarray, draws: int, rng: np.random.Generator) -> Scored:
    """Percentile bootstrap over rows, what came before: accuracy, macro-F1 and F1 of the rarest class alone."""
    k, n = proba.shape[1], len(y)
    cells = np.bincount(y * k + proba.argmax(axis=1), minlength=k * k) / n
    drawn = rng.multinomial(n, cells, size=draws).reshape(draws, k, k)
    hits, marks = np.einsum("bii->bi", drawn), drawn.sum(axis=1) + drawn.sum(axis=2)
    f1 = 2 * hits / np.maximum(marks, 1)
    samples = {
        "accuracy": hits.sum(axis=1) / n,
        "macro_f1": f1.sum(axis=1) / (marks > 0).sum(axis=1),
        "F1 of the rarest": f1[:, -1],
    }
    ends = {name: np.quantile(sample, [0.025, 0.975]) for name, sample in samples.items()}
    return {name: (0.0, float(low), float(high)) for name, (low, high) in ends.items()}


def coverage(
    population: Population,
    n: int,
    sets: int,
    truth: Scored,
    intervals: Callable[[np.ndarray, np.ndarray, np.ndarray], Scored],
    seed: int,
) -> dict[str, float]:
    """Share of sets whose interval holds the true value, by score."""
    rng = np.random.default_rng([seed, n])
    held: dict[str, list[bool]] = {name: [] for name in SCORES}
    for _ in range(sets):
        found = intervals(*population.draw(n, rng))
        for name, (value, low, high) in found.items():
            true = truth[name][0]
            if value is not None and low is not None and high is not None and true is not None:
                held[name].append(low <= true <= high)
    return {name: float(np.mean(those)) for name, those in held.items() if those}


def _positive(proba: np.ndarray) -> int | None:
    return 1 if proba.shape[1] == 2 else None


def _print(population: Population, truth: Scored, rows: list[tuple[str, dict[str, float]]]) -> None:
    names = [name for name in SCORES if any(name in found for _, found in rows)]
    print(f"\n**{population.name}**\n")
    print(f"| rows | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    print(f"| true value | {' | '.join(f'{truth[name][0] or 0:.3f}' for name in names)} |")
    for what, found in rows:
        cells = (f"{100 * found[name]:.1f}" if name in found else "" for name in names)
        print(f"| {what} | {' | '.join(cells)} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(machine("numpy"))
    low, all_of = [], 0
    for population in (*POPULATIONS, GROUPED):
        rng = np.random.default_rng(args.seed)
        y, proba, _ = population.draw(ROWS if population.copies == 1 else ROWS // 5, rng)
        truth = scored(y, proba, None, 0)
        rows = []
        for n in SIZES:
            found = coverage(population, n, args.sets, truth, lambda y, p, g: scored(y, p, g, 1), args.seed)
            rows.append((f"{n}", found))
            if n >= 20:
                all_of += len(found)
                low += [(population.name, n, name, at) for name, at in found.items() if at < 0.92]
        if population.copies > 1:
            for n in (100, 1000):
                found = coverage(
                    population, n, args.sets, truth, lambda y, p, g: scored(y, p, None, 1), args.seed
                )
                rows.append((f"{n}, groups not known", found))
        else:
            for n in (20, 100):
                draw = np.random.default_rng(args.seed)
                found = coverage(
                    population,
                    n,
                    args.sets,
                    truth,
                    lambda y, p, g, draw=draw: percentile(y, p, 500, draw),
                    args.seed,
                )
                rows.append((f"{n}, percentile bootstrap", found))
        _print(population, truth, rows)
    print(f"\nfrom 20 rows on, below 92%: {len(low)} of {all_of}")
    for name, n, what, at in low:
        print(f"- {name}, {n} rows, {what}: {100 * at:.1f}%")

    rng = np.random.default_rng(0)
    y, proba = rng.integers(0, 100, 10_000), rng.dirichlet(np.full(100, 0.1), 10_000)
    groups = rng.integers(0, 8_000, 10_000)
    for what, given in (("rows", None), ("groups", groups)):
        begun = time.process_time()
        score(y, proba, np.arange(100), groups=given)
        print(f"10,000 rows x 100 classes, over {what}: {time.process_time() - begun:.2f} s of processor")


if __name__ == "__main__":
    main()
