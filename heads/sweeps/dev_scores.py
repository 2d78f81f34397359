"""-"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import IcehouseError
from ..metrics import score
from ..registry import head_class
from ..runs import Run

__all__ = ["DevScores", "dev_scores"]


@dataclass(frozen=True)
class DevScores:
    """Dev scores by entry."""

    values: list[float | None]
    losses: list[float | None]
    comparable: bool
    notes: list[str]


def dev_scores(
    entries: Sequence[Sequence[Run]],
    metric: str,
    stored: Callable[[Run, str], float | None],
    positive: str | None = None,
) -> DevScores:
    """Score entries (runs, one a seed) on common dev rows and seeds; `stored` gives what a run says of its own dev rows."""
    having = [e for e, runs in enumerate(entries) if all("dev" in run.metrics for run in runs)]
    rows = {run.run_id: _Rows(run) for e in having for run in entries[e]}
    values: list[float | None] = [None] * len(entries)
    losses: list[float | None] = [None] * len(entries)

    def fill(chosen: dict[int, list[tuple[Run, set[str] | None]]]) -> None:
        for e, parts in chosen.items():
            for name, into in ((metric, values), ("log_loss", losses)):
                found = [
                    stored(run, name) if ids is None else rows[run.run_id].score(ids, name, positive)
                    for run, ids in parts
                ]
                known = [one for one in found if one is not None]
                into[e] = float(np.mean(known)) if len(known) == len(found) else None

    seeds = {e: {run.record["seed"]: run for run in entries[e]} for e in having}
    if len({frozenset(some.labels.items()) for some in rows.values()}) <= 1:
        drawing = [e for e in having if _draws(entries[e])]
        common = set.intersection(*(set(seeds[e]) for e in drawing)) if drawing else set()
        some = {e: common if e in drawing and common else set(seeds[e]) for e in having}
        fill({e: [(run, None) for seed, run in seeds[e].items() if seed in some[e]] for e in having})
        return DevScores(values, losses, True, _about_seeds([set(seeds[e]) for e in drawing], common))

    common = set.intersection(*(set(of) for of in seeds.values()))
    shared = {seed: _shared([rows[seeds[e][seed].run_id] for e in having]) for seed in sorted(common)}
    shared = {seed: ids for seed, ids in shared.items() if ids}
    everywhere = _shared(list(rows.values()))
    own = sorted(len(some.labels) for some in rows.values())
    has = f"the runs have {own[0]} to {own[-1]} dev rows, not the same ones"
    if shared:
        fill({e: [(seeds[e][seed], ids) for seed, ids in shared.items()] for e in having})
        listed = ", ".join(f"{len(ids)} (seed {seed})" for seed, ids in shared.items())
        return DevScores(
            values, losses, True, [f"dev scores are of the dev rows that all entries share: {listed}; {has}"]
        )
    if everywhere:
        fill({e: [(run, everywhere) for run in entries[e]] for e in having})
        note = f"dev scores are of the {len(everywhere)} dev rows that all runs share, over different seeds; {has}"
        return DevScores(values, losses, True, [note])
    fill({e: [(run, None) for run in entries[e]] for e in having})
    note = (
        "dev scores are NOT COMPARABLE: no dev row is common to all runs (it was held out by another seed, or selected "
        "otherwise). The order is that of test, and who takes the first of it has chosen on test; train again on the same "
        "rows, with one --seed or a dev split"
    )
    return DevScores(values, losses, False, [note])


class _Rows:
    """Dev rows of a run: labels by item, and what was predicted."""

    def __init__(self, run: Run) -> None:
        table = run.predictions()
        self.at = np.flatnonzero(np.array(table["split"].to_pylist(), object) == "dev")
        ids, labels = (
            np.array(table[name].to_pylist(), object)[self.at].tolist() for name in ("item_id", "y")
        )
        self.place = dict(zip(ids, self.at.tolist(), strict=True))
        self.labels: dict[str, str] = dict(zip(ids, labels, strict=True))
        self.table, self.classes = table, run.classes

    def score(self, ids: set[str], metric: str, positive: str | None) -> float | None:
        """A score on some of the rows."""
        listed = sorted(ids)
        at = [self.place[item] for item in listed]
        columns = [self.table[f"p_{label}"].to_numpy()[at].astype(np.float64) for label in self.classes]
        labels = [self.labels[item] for item in listed]
        known: dict[str, Any] = {"positive": positive if positive in self.classes else None}
        told: float | None = score(labels, np.stack(columns, axis=1), self.classes, draws=0, **known)[metric][
            "value"
        ]
        return told


def _shared(several: Sequence[_Rows]) -> set[str]:
    """Items that are dev rows of all, with the same label."""
    pairs = set.intersection(*(set(some.labels.items()) for some in several))
    return {item for item, _ in pairs}


def _draws(runs: Sequence[Run]) -> bool:
    """Whether another seed makes another head."""
    try:
        return head_class(runs[0].family).stochastic
    except IcehouseError:
        return len(runs) > 1  # a family that is not installed here


def _about_seeds(several: Sequence[set[int]], common: set[int]) -> list[str]:
    if all(seeds == several[0] for seeds in several):
        return []
    if common:
        listed = ", ".join(map(str, sorted(common)))
        return [f"dev means of heads that draw are over the seeds that all of them have: {listed}"]
    listed = "; ".join(dict.fromkeys(", ".join(map(str, sorted(seeds))) for seeds in several))
    return [f"entries have no seed in common ({listed}): luck is part of their order on dev"]
