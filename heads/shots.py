"""Learning curves over few labels: k labelled items a class, drawn again and again.

1. **What is drawn from** is train; where dev was held out of it for want of a split, that part goes back. A dev split is not
   touched: somebody with four labels a class has no dev.
2. **A draw** takes items of every class in turn, in an order that follows from its seed, and never one that resembles an
   item already taken: a copy always, a near-duplicate where there is a search for them. The first k of every class are the
   draw for k shots, so that a draw for four shots holds that for two. All heads get the same draws.
3. **A head is fitted on these items alone.** What it has to choose it chooses on a part of them that it holds out itself;
   where they are too few for that (one or two of a class), it takes its defaults.
4. **Test is scored for every draw**, whole, and every time counts as a look (`icehouse.heads.runs`). That is a report of
   a curve. Nothing is chosen by it, and nothing should be; with `test=False` a dev split is scored in its place.

The interval of a point is about draws and test rows at once: the mean of the draws' own intervals, whose arms are joined
with that of the mean over draws (MOVER; see `icehouse.heads.intervals`). Rows are the same for all points.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..dups.pair_graph import AUTO, DuplicateExclusion
from ..errors import HeadError, IcehouseError, UsageError, count_of
from .families.zero_shot import prompt_notes, with_prompts
from .head import Head
from .inputs import Missing, Samples
from .intervals import joined_interval
from .metrics import METRICS, majority_note, minority_class, require_positive, score
from .registry import head_class, plain
from .runs import log_scoring, scoring_count, write_sealed
from .sweep import Trial, begin_record, combinations, read_record, sweep_folder, trials
from .trainer import Rows, Selection, make_head, prepare

if TYPE_CHECKING:
    from ..store.store import Store

#: Labelled items a class.
SHOTS = (1, 2, 4, 8, 16)

#: Told before every fit: fits done, fits in all, and what is next.
Watcher = Callable[[int, int, str], None]


@dataclass
class Point:
    """A head with k shots (0 for a head that learns from no labels)."""

    trial: Trial
    shots: int
    # For each draw: `rows` learned from, `scores` (metric to value), `intervals` (metric to low and high), `one_class` (the
    # label that every row was given), `chosen`, `seconds`.
    draws: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None  # why a draw could not be fitted: the head's message
    # For each metric: `mean` and `sd` over the draws, `low` and `high`.
    values: dict[str, dict[str, float | None]] = field(default_factory=dict)

    @property
    def rows(self) -> float:
        """Items learned from, as a mean over the draws."""
        return float(np.mean([one["rows"] for one in self.draws.values()])) if self.draws else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "head": self.trial.family,
            "inputs": self.trial.inputs,
            "features": self.trial.features,
            "params": plain(self.trial.params),
            "shots": self.shots,
            "rows": self.rows,
            "draws": len(self.draws),
            "scores": self.values,
            "by_draw": {metric: [one["scores"][metric] for one in self.draws.values()] for metric in METRICS},
            "one_class": [one["one_class"] for one in self.draws.values()],
            "seconds": float(sum(one["seconds"] for one in self.draws.values())),
            "error": self.error,
        }


@dataclass(frozen=True)
class Curves:
    """Learning curves of some heads."""

    path: Path  # STORE/sweeps/<name>/shots
    points: list[Point]  # by trial, then by shots
    test_rows: int  # that were scored
    on: str  # what they are: "test" or "dev"
    looks: dict[str, Any] | None  # how often these test rows were scored by now: `scoring_count`
    notes: list[str]  # such as classes that had too few items


def shots(
    store: Store,
    heads: Sequence[str],
    *,
    inputs: str | Sequence[str] | None = None,
    counts: Sequence[int] = SHOTS,
    draws: int = 10,
    grid: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    label: str = "label",
    split_column: str = "split",
    where: str | None = None,
    missing: Missing = "drop",
    dups: str | Sequence[str] | None = AUTO,
    test: bool = True,
    positive: str | None = None,
    seed: int = 0,
    name: str = "shots",
    fresh: bool = False,
    watch: Watcher | None = None,
) -> Curves:
    """Fit heads on few labelled items, many times, and score each on the whole of test (without `test`, of a dev split).

    `heads` are families; those that learn from no labels (`zero-shot`) are scored once, as 0 shots. `inputs` and
    `grid` are as a sweep takes them; `counts` labelled items a class, of which 0 adds `zero-shot`; `label` to `dups`
    as `icehouse.heads.trainer.prepare` takes them, and by the searches `dups` no two items of a draw are near-
    duplicates. `positive` is by default the rarer of two classes of those that are scored; draw i is also the seed of
    the heads that take one. What is done under a `name` is not done again unless `fresh`. HeadError if there is no
    split to score, or what was done under that name is about other data; UsageError if there is no such head or
    feature, or a number makes no sense.
    """
    families = list(dict.fromkeys(heads))
    if not counts or min(counts) < 0 or draws < 1:
        raise UsageError("--shots takes numbers from 0 on, and --draws at least 1")
    if 0 in counts and not any(_learns_from_no_labels(family) for family in families):
        families.append("zero-shot")
    positive_counts = sorted({count for count in counts if count})
    tried = combinations(inputs, store)
    planned = trials(families, tried, [0], grid)
    whole = {name: feature for one in tried for name, feature in one.items()}
    rows = prepare(store, whole, Selection(label, split_column, where, missing, dups, seed))
    on: Literal["test", "dev"] = "test" if test else "dev"
    if not len(rows.parts.test if test else rows.parts.dev) or not (test or rows.parts.dev_is_split):
        raise HeadError(f"the column {split_column!r} has no {on} split to score few labels on")
    pool = rows.parts.train
    if not rows.parts.dev_is_split:
        pool = np.sort(np.concatenate([pool, rows.parts.dev]))
    folder = sweep_folder(store, name) / "shots"
    about = {
        **rows.about(),
        "rows": rows.digest(pool, getattr(rows.parts, on)),
        "dups": [[found.name, found.summary["created_at"]] for found in rows.searches.found],
        "seed": seed,
    }
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    begin_record(folder / "shots.json", about, f"the shots in {folder} were", "them")

    scored = rows.part(on)
    require_positive(positive, rows.samples.labels.tolist())
    scored_class = minority_class(scored.labels) if positive is None else positive

    points: list[Point] = []
    for trial in planned:
        wanted = [0] if _learns_from_no_labels(trial.family) else positive_counts
        points += [_stored_point(folder, Point(trial, count), scored_class) for count in wanted]
    source = rows.samples.take(pool)
    drawn: list[list[np.ndarray]] = []
    if positive_counts:
        exclusion = DuplicateExclusion(source.ids, source.content, rows.searches)
        drawn = [
            draw_items(
                source.ids,
                source.labels,
                exclusion.fresh(),
                positive_counts[-1],
                np.random.default_rng([seed, draw]),
            )
            for draw in range(draws)
        ]
    _fit_all(
        rows, source, scored, points, drawn, folder, scored_class, watch or (lambda done, total, what: None)
    )
    _summarise(points)
    notes = _notes(source, drawn, positive_counts) + majority_note(Counter(scored.labels.tolist()))
    for point in points:
        only = [one["one_class"] for one in point.draws.values() if one["one_class"] is not None]
        if only:
            notes.append(
                f"{point.trial} with {count_of(point.shots, 'shot')} gave every row one class "
                f"({', '.join(map(repr, sorted(set(only))))}) in {len(only)} of {count_of(len(point.draws), 'draw')}"
            )
    for point in points:
        trial, specs = point.trial, rows.samples.select(list(point.trial.features)).specs
        unprompted = prompt_notes(head_class(trial.family), trial.params, specs)
        lines = [f"{trial}: {point.error}"] if point.error else unprompted
        notes += [note for note in lines if note not in notes]
    looks = scoring_count(store, label, scored.ids) if test else None
    return Curves(folder, points, len(scored), on, looks, notes)


def draw_items(
    ids: np.ndarray, labels: np.ndarray, exclusion: DuplicateExclusion, most: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw items of every class in turn, none that resembles another: the rows that each of at most `most` rounds took.

    The order of `ids` plays no part.
    """
    by_id = np.argsort(ids.astype(str), kind="stable")
    queues = []
    for label in np.unique(labels):
        members = by_id[labels[by_id] == label]
        queues.append(iter(rng.permutation(members).tolist()))
    rounds = []
    for _ in range(most):
        took = []
        for queue in queues:
            for row in queue:
                if not exclusion.excluded(np.array([row]))[0]:
                    exclusion.mark(row)
                    took.append(row)
                    break
        if not took:
            break
        rounds.append(np.array(took, np.intp))
    return rounds


def _fit_all(
    rows: Rows,
    source: Samples,
    test: Samples,
    points: Sequence[Point],
    drawn: Sequence[Sequence[np.ndarray]],
    folder: Path,
    positive: str | None,
    watch: Watcher,
) -> None:
    """Fit what is not there yet; a head that refuses says why, and costs the others nothing."""
    due = {id(p): [d for d in range(len(drawn) if p.shots else 1) if d not in p.draws] for p in points}
    total, done = sum(len(draws) for draws in due.values()), 0
    ready: dict[str, Head] = {}
    groups = rows.searches.groups(test)
    for point in points:
        trial, names = point.trial, list(point.trial.features)
        X, T = source.X.select(names), test.X.select(names)
        for draw in due[id(point)]:
            watch(done, total, f"{trial}, {count_of(point.shots, 'shot')}, draw {draw + 1}")
            done += 1
            if point.error:
                continue
            try:
                if trial.key not in ready:
                    specs, labels = rows.samples.select(names).specs, sorted(set(source.labels.tolist()))
                    made = make_head(trial.family, trial.params)
                    ready[trial.key] = with_prompts(made, rows.store, specs, labels)
                head = ready[trial.key]
                seeded = "seed" in head.parameters() and "seed" not in trial.params
                head = head.unfitted(**({"seed": draw} if seeded else {}))
                if point.shots:
                    some = np.sort(np.concatenate(drawn[draw][: point.shots]))
                else:  # one item of each class, to say which classes there are
                    some = np.sort(np.unique(source.labels, return_index=True)[1])
                started = time.perf_counter()
                head.fit(X[some], source.labels[some])
                seconds = time.perf_counter() - started
                known = positive if positive in head.classes_.tolist() else None
                scores = score(
                    test.labels, head.predict_proba(T), head.classes_, positive=known, groups=groups
                )
            except IcehouseError as error:
                point.error = " ".join(str(error).split())
                continue
            point.draws[draw] = {
                "rows": len(some) if point.shots else 0,
                "scores": {metric: scores[metric]["value"] for metric in METRICS},
                "intervals": {metric: [scores[metric]["low"], scores[metric]["high"]] for metric in METRICS},
                "positive": positive,
                "one_class": scores["one_class"],
                "chosen": plain(head.chosen_),
                "seconds": seconds,
            }
            _save(folder, point)
            if (test.split == "test").all():
                log_scoring(rows.store, rows.selection.label, test.ids, "shots")
    for point in points:
        # More draws may be there than were asked for.
        wanted = range(len(drawn) if point.shots else 1)
        point.draws = {draw: point.draws[draw] for draw in wanted if draw in point.draws}


def _summarise(points: Sequence[Point]) -> None:
    """Mean, spread and interval of every point."""
    for point in points:
        for metric in METRICS if point.draws else ():
            found = [one["scores"][metric] for one in point.draws.values()]
            if None in found:  # not defined on these rows
                point.values[metric] = dict.fromkeys(("mean", "sd", "low", "high"))
                continue
            ends = np.array([one["intervals"][metric] for one in point.draws.values()])
            low, high = joined_interval(np.array(found), ends[:, 0], ends[:, 1])
            point.values[metric] = {
                "mean": float(np.mean(found)),
                "sd": float(np.std(found, ddof=1)) if len(found) > 1 else None,
                "low": low,
                "high": high,
            }


def _notes(source: Samples, drawn: Sequence[Sequence[np.ndarray]], counts: Sequence[int]) -> list[str]:
    """Classes with fewer items than asked for, in any draw."""
    if not drawn:
        return []
    notes = []
    classes, totals = np.unique(source.labels, return_counts=True)
    for label, total in zip(classes.tolist(), totals.tolist(), strict=True):
        had = [sum(int((source.labels[took] == label).sum()) for took in rounds) for rounds in drawn]
        fewest = min(had)
        if fewest < max(counts):
            similar = f", {total} with those that resemble another" if total > fewest else ""
            notes.append(
                f"class {label!r} has only {count_of(fewest, 'item')} to draw{similar}: all that it has are "
                "in every draw for more shots"
            )
    return notes


def _learns_from_no_labels(family: str) -> bool:
    return head_class(family).takes_prompts == "required"


def _path(folder: Path, point: Point) -> Path:
    return folder / f"{point.trial.key}-{point.shots}.json"


def _save(folder: Path, point: Point) -> None:
    draws = {str(draw): one for draw, one in sorted(point.draws.items())}
    about = {
        "head": point.trial.family,
        "features": point.trial.features,
        "params": plain(point.trial.params),
    }
    write_sealed(_path(folder, point), {**about, "shots": point.shots, "draws": draws})


def _stored_point(folder: Path, point: Point, positive: str | None) -> Point:
    path = _path(folder, point)
    if path.exists():
        # Those of another positive class are fitted again.
        draws = {int(draw): one for draw, one in read_record(path)["draws"].items()}
        point.draws = {draw: one for draw, one in draws.items() if one["positive"] == positive}
    return point
