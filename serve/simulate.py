"""Budget simulation: what de-duplication and filtering save of a labelling budget, replayed on labels that are there.

The funnel of Alam, Ofli and Imran (2018), in four ways to spend the same number of labels: S1 on whatever comes (raw), S2 on
what a relevancy filter lets through, S3 on one item of each group of near-duplicates, S4 on both. Every draw orders the pool
anew, and all four take their items in that order.

- **The filter** is a head that exists before the task: it learns relevant or not from a part of the pool's groups that no
  strategy may label afterwards. What it wrongly rejects is lost to S2 and S4.
- **The task** is to tell the relevant classes apart. A label on an irrelevant item or on a repeat teaches it little; all
  other labels are useful. The saving is how much sooner S2 to S4 have as many useful labels as S1 at the end.
- **The test** is the same for all: relevant items of the test split, with near-duplicates of the pool and without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import HeadError, UsageError, count_of
from ..heads.inputs import Samples, load_samples, parse_inputs
from ..heads.intervals import joined_interval, mean_interval
from ..heads.metrics import score
from ..heads.trainer import make_head
from ..store.store import Store
from .labelling import find_units
from .predict import is_irrelevant

#: Key, and what is shown.
STRATEGIES = {"S1": "raw", "S2": "relevant", "S3": "unique", "S4": "relevant and unique"}

#: Share of the pool that the filter learns from, of the test where there is no split, and of the budget at each point.
FILTER, TEST, POINTS = 0.2, 0.3, (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class _Pool:
    """Rows of one draw."""

    order: np.ndarray  # rows that may be labelled, as they come
    passes: np.ndarray | None  # bool (rows of all samples): what the filter lets through
    precision: float
    recall: float


def simulate(
    store: Store,
    label: str,
    *,
    budget: int = 500,
    draws: int = 10,
    head: str = "logreg",
    inputs: str | None = None,
    irrelevant: Sequence[str] | None = None,
    seed: int = 0,
    watch: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Replay a budget on the items of a store that have a label; the store has results of a search for duplicates.

    Classes with a name such as ``not_relevant`` are of no interest, unless `irrelevant` names others; `watch` is told
    of (fits done, fits in all). As JSON values: for each strategy ``useful``, ``repeats``, ``irrelevant`` and
    ``saving`` at the budget, and ``scores`` at some budgets, with and without duplicates in the test.
    """
    if budget < 8 or draws < 2:
        raise UsageError("a simulation needs a budget of at least 8 labels, and 2 draws")
    samples = load_samples(store, parse_inputs(inputs, store), label=label)
    samples.require_finite()
    units = find_units(store)
    if not units.searches:
        raise UsageError("there is no search for duplicates to go by: run `icehouse dups find` first")
    kept = np.array([item in units.of for item in samples.ids.tolist()], bool)
    samples = samples.take(kept)
    unit = np.unique([units.of[item] for item in samples.ids.tolist()], return_inverse=True)[1].reshape(-1)
    classes = sorted({*samples.labels.tolist()})
    odd = [*irrelevant] if irrelevant is not None else [name for name in classes if is_irrelevant(name)]
    if unknown := sorted({*odd} - {*classes}):
        raise UsageError(f"no item has the label {unknown[0]!r}; there are: {', '.join(classes)}")
    relevant = ~np.isin(samples.labels, odd)
    if len({*samples.labels[relevant].tolist()}) < 2:
        raise UsageError("there are no two relevant classes to tell apart")
    test = _test_rows(samples, unit, seed)
    pool = np.setdiff1d(np.arange(len(samples)), test)
    test = test[relevant[test]]
    # Of each group one item, and none whose group is in the pool, whoever labels it.
    alone = np.sort(test[np.unique(unit[test], return_index=True)[1]])
    alone = alone[~np.isin(unit[alone], unit[pool])]
    if not len(test) or not len(alone):
        raise HeadError("no test item is left without a near-duplicate in the pool")
    notes = []
    names = [key for key in STRATEGIES if odd or key in ("S1", "S3")]
    if not odd:
        notes.append("no class means irrelevant (--irrelevant names one): S2 and S4 are left out")
    learns = int(len(pool) * (1 - (FILTER if odd else 0)))
    if budget > learns // 2:
        notes.append(
            f"{count_of(budget, 'label is', 'labels are')} more than half of {count_of(learns, 'item')} to "
            "choose from: the strategies meet as these run out"
        )
    spent = min(budget, learns)
    at = sorted({max(4, int(spent * part)) for part in POINTS})
    sets = {"with": test, "without": alone}
    made: dict[str, list[dict[str, Any]]] = {key: [] for key in names}
    filters: list[tuple[float, float]] = []
    done, total = 0, draws * len(names) * len(at)
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        drawn = _draw(samples, pool, unit, relevant, bool(odd), head, rng)
        if odd:
            filters.append((drawn.precision, drawn.recall))
        goal: int | None = None
        for key in names:
            rows = _chosen(key, drawn, unit)
            told = _spent(rows[:spent], unit, relevant)
            useful = np.cumsum(_useful(rows, unit, relevant))
            goal = told["useful"] if key == "S1" else goal
            reached = np.flatnonzero(useful >= (goal or 0))
            told["saving"] = 1 - (int(reached[0]) + 1) / spent if len(reached) else float("nan")
            told["labels"] = min(spent, len(rows))
            told["scores"] = []
            for n in at:
                told["scores"].append(_scores(samples, rows[:n], relevant, sets, unit, head, draw))
                done += 1
                if watch is not None:
                    watch(done, total)
            made[key].append(told)
    return {
        "label": label,
        "budget": spent,
        "asked": budget,
        "draws": draws,
        "head": head,
        "features": samples.features,
        "irrelevant": odd,
        "pool": learns,
        "pool_units": len(np.unique(unit[pool])),
        "test": {name: len(rows) for name, rows in sets.items()},
        "searches": list(units.searches),
        "filter": None
        if not filters
        else {
            "precision": _share([p for p, _ in filters]),
            "recall": _share([r for _, r in filters]),
        },
        "strategies": [_summary(key, made[key], made["S1"], at) for key in names],
        "notes": notes,
    }


def _test_rows(samples: Samples, unit: np.ndarray, seed: int) -> np.ndarray:
    """Rows of the test split, else of a part of the groups."""
    test = np.flatnonzero(samples.split == "test")
    if len(test):
        return test
    groups = np.random.default_rng(seed).permutation(np.unique(unit))
    return np.flatnonzero(np.isin(unit, groups[: max(1, round(TEST * len(groups)))]))


def _draw(
    samples: Samples,
    pool: np.ndarray,
    unit: np.ndarray,
    relevant: np.ndarray,
    filtered: bool,
    head: str,
    rng: np.random.Generator,
) -> _Pool:
    order = rng.permutation(pool)
    if not filtered:
        return _Pool(order, None, 1.0, 1.0)
    groups = rng.permutation(np.unique(unit[pool]))
    held = np.isin(unit[order], groups[: max(2, round(FILTER * len(groups)))])
    learn, order = order[held], order[~held]
    if len({*relevant[learn].tolist()}) < 2:
        raise HeadError("the part that the filter learns from has one class alone: there are too few items")
    fitted = make_head(head, seed=0).fit(samples.X[learn], np.where(relevant[learn], "yes", "no"))
    said = fitted.classes_.astype(str)[fitted.predict_proba(samples.X[order]).argmax(axis=1)] == "yes"
    passes = np.zeros(len(samples), bool)
    passes[order] = said
    right = float((said & relevant[order]).sum())
    return _Pool(order, passes, right / max(1, int(said.sum())), right / max(1, int(relevant[order].sum())))


def _chosen(key: str, drawn: _Pool, unit: np.ndarray) -> np.ndarray:
    """Rows in the order in which a strategy labels them."""
    rows = drawn.order
    if key in ("S2", "S4") and drawn.passes is not None:
        rows = rows[drawn.passes[rows]]
    if key in ("S3", "S4"):
        rows = rows[np.sort(np.unique(unit[rows], return_index=True)[1])]
    return rows


def _useful(rows: np.ndarray, unit: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Mask of labels that add information on a relevant item."""
    first = np.zeros(len(rows), bool)
    first[np.unique(unit[rows], return_index=True)[1]] = True
    return first & relevant[rows]


def _spent(rows: np.ndarray, unit: np.ndarray, relevant: np.ndarray) -> dict[str, Any]:
    useful = int(_useful(rows, unit, relevant).sum())
    repeats = len(rows) - len(np.unique(unit[rows]))
    return {"useful": useful, "repeats": repeats, "irrelevant": len(rows) - useful - repeats}


def _scores(
    samples: Samples,
    rows: np.ndarray,
    relevant: np.ndarray,
    sets: dict[str, np.ndarray],
    unit: np.ndarray,
    head: str,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Macro-F1 of a head that has learned the relevant ones of these rows."""
    rows = rows[relevant[rows]]
    y = samples.labels[rows]
    names = sorted({*y.tolist()})
    fitted = make_head(head, seed=seed).fit(samples.X[rows], y) if len(names) > 1 else None
    found = {}
    for name, test in sets.items():
        if fitted is not None:
            proba, known = fitted.predict_proba(samples.X[test]), fitted.classes_
        else:  # nothing but one class was met
            proba, known = np.ones((len(test), 1)), np.array(names or [samples.labels[test[0]]])
        told = score(samples.labels[test], proba, known, groups=unit[test], only="macro_f1")["macro_f1"]
        found[name] = {key: float(told[key]) for key in ("value", "low", "high")}
    return found


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over the draws with its interval; draws without a value are left out."""
    known = np.array([value for value in values if value == value], np.float64)
    if len(known) < 2:
        return {"value": float(known[0]) if len(known) else None, "low": None, "high": None}
    low, high = mean_interval(known)
    return {"value": float(known.mean()), "low": low, "high": high}


def _share(values: Sequence[float]) -> dict[str, float | None]:
    """The same of shares, which lie between nothing and all."""
    told = _mean(values)
    return {key: None if value is None else min(max(value, 0.0), 1.0) for key, value in told.items()}


def _summary(
    key: str, made: Sequence[dict[str, Any]], raw: Sequence[dict[str, Any]], at: Sequence[int]
) -> dict[str, Any]:
    def joined(place: int, test: str) -> dict[str, float]:
        values, lows, highs = (
            np.array([one["scores"][place][test][end] for one in made]) for end in ("value", "low", "high")
        )
        low, high = joined_interval(values, lows, highs)
        return {"value": float(values.mean()), "low": low, "high": high}

    def gained(place: int, test: str) -> dict[str, float | None]:
        pairs = zip(made, raw, strict=True)
        return _mean(
            [a["scores"][place][test]["value"] - b["scores"][place][test]["value"] for a, b in pairs]
        )

    return {
        "strategy": key,
        "title": STRATEGIES[key],
        **{
            name: _mean([one[name] for one in made]) for name in ("labels", "useful", "repeats", "irrelevant")
        },
        "saving": None if key == "S1" else _mean([one["saving"] for one in made]),
        "never_reached": sum(one["saving"] != one["saving"] for one in made),
        "scores": [
            {
                "labels": n,
                **{test: joined(place, test) for test in ("with", "without")},
                **({} if key == "S1" else {f"gain_{t}": gained(place, t) for t in ("with", "without")}),
            }
            for place, n in enumerate(at)
        ],
    }


def write_plot(told: dict[str, Any], path: Path) -> None:
    """Draw the scores on the test without duplicates over the budget, as PNG."""
    from ..store.files import publish
    from ..web.figures import Chart, Series, draw

    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a plot is written as .png")
    series = [
        Series(
            f"{one['strategy']} {one['title']}",
            # A little apart, so that no interval hides another.
            [point["labels"] + 0.01 * told["budget"] * (hue - 1.5) for point in one["scores"]],
            [point["without"]["value"] for point in one["scores"]],
            hue=hue,
            kind="points",
            low=[point["without"]["low"] for point in one["scores"]],
            high=[point["without"]["high"] for point in one["scores"]],
        )
        for hue, one in enumerate(told["strategies"])
    ]
    ends = [value for one in series for value in (*one.low, *one.high)]
    chart = Chart(
        "budget",
        f"Labels of {told['label']}, {count_of(told['draws'], 'draw')}",
        "labels spent",
        "macro-F1 on test, without duplicates",
        series,
        x_range=(0, 1.05 * told["budget"]),
        y_range=(max(0.0, min(ends) - 0.03), min(1.0, max(ends) + 0.03)),
        legend="lower right",  # curves of learning rise
    )
    with publish(path) as temp:
        temp.write_bytes(draw(chart).png)
