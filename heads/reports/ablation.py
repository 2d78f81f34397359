"""Input ablation: the run's head fitted again on every subset of its inputs that matters, by the same protocol.

All subsets learn from the same rows (those of the run) with the same seed, choose on dev, and are scored there; where
there is no dev, on the rows of train out of fold. Test is not looked at. Dev scores flatter every subset a little,
since each chose there; what is compared flatters alike. A difference is taken on the same resamples for both sides
(paired bootstrap), so that easy and hard draws cancel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.splits import folds
from ...errors import HeadError, IcehouseError
from ..metrics import DRAWS, Resampling
from ..registry import head_class
from ..runs import Run, read_sealed, write_sealed
from ..samples import Samples
from ..trainer import Rows, Selection, Splits, fit_on, make_head, prepare

if TYPE_CHECKING:
    from ...store.store import Store

FORMAT = 2
_FILE = "ablation.json"

_FOLDS = 5

#: What is compared; differences of predicted classes need counts alone.
SCORES = ("macro_f1", "accuracy")


def subsets(inputs: Sequence[str]) -> list[tuple[str, ...]]:
    """All inputs, all but one, and each alone, without repetition: the order in which they are shown."""
    names = tuple(inputs)
    found = [names]
    if len(names) > 1:
        found += list(combinations(names, len(names) - 1))[::-1]
        found += [(name,) for name in names]
    return list(dict.fromkeys(found))


def ablation_seconds(run: Run) -> float:
    """About how long `ablate` will fit: the run's own fit, for every subset but the whole."""
    return float(run.record["seconds"]["fit"]) * (len(subsets(list(run.features))) - 1)


def known_ablation(run: Run) -> dict[str, Any] | None:
    """Result of an earlier `ablate` in the run's folder."""
    try:
        found = read_sealed(run.path / _FILE)
    except (OSError, ValueError):
        return None
    return found if found.get("format") == FORMAT else None


def ablate(store: Store, run: Run, *, draws: int = DRAWS, level: float = 0.95) -> dict[str, Any]:
    """Fit the run's head on subsets of its inputs and compare; leaves what it returns in the run's folder.

    ``subsets`` has for each: ``inputs``; for each of `SCORES` its ``value`` and interval; ``drop``, what all inputs
    have more than it, with interval and ``p``; or ``undefined``, why the head cannot be fitted on it. ``adds`` maps
    each input to what all inputs have more than all but this one. ``on`` is "dev", or "train, out of fold" where there
    is no dev. A `HeadError` says that the rows of the run are no longer in the store.
    """
    started = time.perf_counter()
    rows = _rows(store, run)
    on = "dev" if len(rows.parts.dev) else "train, out of fold"
    scored = rows.part("dev" if on == "dev" else "train")
    if not len(scored):
        raise HeadError(
            f"run {run.run_id} has neither dev nor train rows to compare its inputs on, and test is not for that"
        )
    predicted: dict[tuple[str, ...], np.ndarray] = {}
    undefined: dict[tuple[str, ...], str] = {}
    for names in subsets(list(run.features)):
        if names == tuple(run.features) and on == "dev":
            own = run.scored("dev")
            if set(own.ids.tolist()) >= set(scored.ids.tolist()):
                predicted[names] = own.of(scored.ids.tolist()).predicted.labels
                continue
        try:
            predicted[names] = _predict(rows.select(list(names)), run)
        except IcehouseError as error:
            undefined[names] = " ".join(str(error).split())
    result = {
        "format": FORMAT,
        "on": on,
        "rows": len(scored),
        "seed": run.record["seed"],
        **_compare(
            list(run.features), scored, rows.searches.groups(scored), predicted, undefined, draws, level
        ),
        "intervals": {
            "method": "closed form; differences: paired bootstrap, over groups of duplicates",
            "draws": draws,
            "level": level,
        },
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_sealed(run.path / _FILE, result)
    return result


def _rows(store: Store, run: Run) -> Rows:
    """The rows of the run, each in the part that it had then."""
    data = run.record["data"]
    rows = prepare(
        store,
        # A sweep's rows have every input of any of its combinations.
        {**data.get("required", {}), **run.features},
        Selection(
            label=run.label,
            split_column=data["split_column"],
            where=data["where"],
            missing=data["missing"],
            dups=data.get("dups"),
            seed=data.get("held_out_seed", run.record["seed"]),
        ),
        learns=head_class(run.family).takes_prompts != "required",
    ).select(list(run.features))
    run.check_space(rows.samples.specs)
    place = {item: row for row, item in enumerate(rows.samples.ids.tolist())}
    parts = {}
    for role in ("train", "dev", "test"):
        items = run.training_items().get(role, set())
        if not items <= place.keys():
            raise HeadError(
                f"the items of {store.path} have changed since run {run.run_id}: its {role} rows are no longer the same; "
                "train it again to see what its inputs add"
            )
        parts[role] = np.array(sorted(place[item] for item in items), np.intp)
    train, dev, test = (parts[role] for role in ("train", "dev", "test"))
    return replace(rows, parts=Splits(train, dev, test, rows.parts.dev_is_split))


def _predict(rows: Rows, run: Run) -> np.ndarray:
    """Predicted labels of a head of the run's kind on these inputs: of dev, else of train out of fold."""
    estimator = make_head(run.family, run.record["head"]["params"], run.record["seed"])
    if len(rows.parts.dev):
        return np.asarray(fit_on(rows, estimator).head.predict(rows.part("dev").X)).astype(str)
    learn = rows.part("train")
    fold = folds(learn.labels, _FOLDS, groups=rows.searches.groups(learn), seed=run.record["seed"])
    predicted = np.full(len(learn), "", object)
    for number in np.unique(fold).tolist():
        parts = replace(rows.parts, train=rows.parts.train[fold != number])
        head = fit_on(replace(rows, parts=parts), estimator).head
        predicted[fold == number] = head.predict(learn.X[fold == number]).astype(str)
    return predicted.astype(str)


def _compare(
    inputs: list[str],
    scored: Samples,
    groups: np.ndarray,
    predicted: dict[tuple[str, ...], np.ndarray],
    undefined: dict[tuple[str, ...], str],
    draws: int,
    level: float,
) -> dict[str, Any]:
    everything = tuple(inputs)
    resampled = {
        score: Resampling(scored.labels, score, draws=draws, level=level, groups=groups) for score in SCORES
    }
    listed = []
    for names in subsets(inputs):
        entry: dict[str, Any] = {"inputs": list(names)}
        if names in undefined:
            entry["undefined"] = undefined[names]
        else:
            for score, resampling in resampled.items():
                value, low, high = resampling.with_interval([predicted[names]])
                entry[score] = {"value": value, "low": low, "high": high}
            if names != everything and everything in predicted:
                entry["drop"] = {}
                for score, resampling in resampled.items():
                    difference = resampling.difference([predicted[everything]], [predicted[names]])
                    entry["drop"][score] = asdict(difference)
        listed.append(entry)
    by_names = {tuple(entry["inputs"]): entry for entry in listed}
    adds = {}
    for name in inputs:
        rest = by_names.get(tuple(other for other in inputs if other != name))
        if rest is not None and "drop" in rest:
            adds[name] = rest["drop"]
    return {"subsets": listed, "adds": adds}
