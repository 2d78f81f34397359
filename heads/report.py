"""Report of a run: ``report.html``, the same as ``report.json``, figures as PNG files; mistakes, neighbours, ablation.

A run is whole without it. It is made from what the run left (predictions, metrics) and from the store (texts, pictures,
features); where something is gone, the report says so in its place and goes on.
"""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.splits import folds
from ..dups.pair_graph import AUTO, DuplicateSearches, duplicate_groups
from ..embed.thumbnails import thumbnails
from ..errors import HeadError, IcehouseError
from ..store.files import publish, publish_folder
from ..web.figures import (
    Chart,
    Drawing,
    confusion_png,
    curve_charts,
    draw,
    ranking_charts,
    reliability_chart,
)
from ..web.render import Card, percent, render
from .compare import Resampling
from .inputs import Samples
from .intervals import LEVEL
from .metrics import DRAWS, METRICS, interval_text, intervals_text, measure_calibration, title
from .registry import head_class, plain
from .runs import Run, Scored, read_sealed, scoring_text, write_json, write_sealed
from .trainer import Rows, Selection, Splits, fit_on, make_head, prepare

if TYPE_CHECKING:
    from ..store.store import Store

FORMAT = 1

#: Seconds of fitting up to which an ablation is made without being asked for.
AFFORDABLE = 30.0

# Classes up to which a matrix of them is a table that a page can hold; confusions listed beyond.
_TABLE, _CONFUSIONS = 24, 30
# Rows of a table of what was tried.
_TRIED = 12
# Characters of a parameter that a command line still shows.
_LONGEST = 300


@dataclass(frozen=True)
class Item:
    """Item of a store, for display; None for what it lacks, or if the item is gone."""

    item_id: str
    text: str | None = None
    path: str | None = None
    root: str | None = None
    label: str | None = None

    @property
    def file(self) -> Path | None:
        """The image's file, if the item has one; whether it is still there is not looked at."""
        return None if self.path is None or self.root is None else Path(self.root) / self.path


def read_items(store: Store, ids: Iterable[str], label: str = "") -> dict[str, Item]:
    """Look up items by id, with the column `label` if there is one; those that are gone have nothing but their id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = list(dict.fromkeys(ids))
    labelled = label in store.items.snapshot().schema.names
    items = store.items.read(list(dict.fromkeys(["item_id", "text", "path", "root", *[label] * labelled])))
    items = items.filter(pc.is_in(items["item_id"], value_set=pa.array(wanted, pa.string())))
    found = {}
    for row in items.to_pylist():
        told = row[label] if labelled else None
        own = {name: row[name] for name in ("item_id", "text", "path", "root")}
        found[row["item_id"]] = Item(**own, label=None if told is None else str(told))
    return {item: found.get(item, Item(item)) for item in wanted}


def item_cards(items: Mapping[str, Item], *, side: int = 256) -> dict[str, Card]:
    """Cards of items, with their pictures."""
    pictures = thumbnails([item.file for item in items.values()], side=side)
    return {
        key: Card(key, picture, alt=item.path or key, text=item.text)
        for (key, item), picture in zip(items.items(), pictures, strict=True)
    }


def write_report(
    store: Store,
    run: Run | str,
    *,
    ablation: bool | None = None,
    draws: int = DRAWS,
    affordable: float = AFFORDABLE,
) -> Path:
    """Make a run's report, in the place of one that is there, and return the path of ``report.html``.

    With `ablation` it says what each input adds, for which the head is fitted again on subsets of its inputs; None
    does so where it was done before or will take no more than about `affordable` seconds. `draws` are the
    bootstrap's; 0 leave the intervals of the calibration out. HeadError if there is no such run, or its folder cannot
    be written to.
    """
    run = run if isinstance(run, Run) else Run.load(store, run)
    data, charts, cards = _gathered(store, run, ablation, draws, affordable)
    drawings = [(chart, draw(chart)) for chart in charts]
    html = _page(run, data, drawings, cards)
    try:
        with publish_folder(run.path / "figures", parents=False, sums=False) as folder:
            for chart, drawing in drawings:
                (folder / f"{chart.key}.png").write_bytes(drawing.png)
            confusion: Any = run.metrics[data["split"]]["confusion"] if data["split"] else {"matrix": None}
            if confusion["matrix"] is not None:  # else more classes than a picture has points
                labels = [str(label) for label in confusion["labels"]]
                (folder / "confusion.png").write_bytes(confusion_png(labels, confusion["matrix"]))
        with publish(run.path / "report.json") as temp:
            write_json(temp, data)
        with publish(run.path / "report.html") as temp:
            temp.write_bytes(html.encode())
    except OSError as error:
        raise HeadError(f"cannot write the report into {run.path}: {error.strerror or error}") from error
    return run.path / "report.html"


def leave_report(store: Store, run: Run, *, draws: int = DRAWS, affordable: float = AFFORDABLE) -> str | None:
    """Make the report of a run that was just trained; if that fails, the run stands, and what went wrong is returned."""
    try:
        write_report(store, run, draws=draws, affordable=affordable)
    except Exception as error:  # hours of training are not lost to a drawing, whatever is wrong with it
        kind = "" if isinstance(error, (IcehouseError, OSError)) else f"{type(error).__name__} "
        told = " ".join(f"{kind}{error}".split())
        return f"run {run.run_id} is whole, but has no report: {told}; `icehouse report {run.run_id}` tries again"
    return None


def _gathered(
    store: Store, run: Run, ablation: bool | None, draws: int, affordable: float
) -> tuple[dict[str, Any], list[Chart], dict[str, Card]]:
    """Content of a report before it is a page: ``report.json``, the charts, and cards of the items that it names."""
    split = next((name for name in ("test", "dev") if name in run.metrics), None)
    notes: list[str] = []
    data: dict[str, Any] = {
        "format": FORMAT,
        "run_id": run.run_id,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "split": split,
        "run": run.record,
        "metrics": run.metrics,
        "ablation": _ablation(store, run, ablation, draws or DRAWS, affordable, notes),
    }
    charts: list[Chart] = []
    cards: dict[str, Card] = {}
    if split is not None:
        scored = run.scored(split)
        dev = run.scored("dev") if split == "test" and "dev" in run.metrics else None
        told = measure_calibration(
            scored.predicted.proba,
            scored.codes,
            None if dev is None else (dev.predicted.proba, dev.codes),
            groups=_groups(store, run, scored.ids),
            draws=draws,
        )
        after = told["temperature"].get("after") or {}
        charts += ranking_charts(scored.predicted.proba, scored.codes, scored.classes, run.positive)
        charts.append(reliability_chart(told["bins"], after.get("bins", ())))
        data["calibration"] = told
        data["mistakes"] = mistakes(scored)
        data["neighbours"] = _neighbours(store, run, scored, notes)
        ids = [row["item_id"] for row in data["mistakes"]]
        for row in data["neighbours"]:
            ids += [row["item_id"], *(near["item_id"] for near in row["nearest"])]
        items = read_items(store, ids)
        for row in data["mistakes"]:
            item = items[row["item_id"]]
            row |= {"text": item.text, "path": item.path}
        cards = item_cards(items)
    charts += curve_charts(run.metrics.get("curve", []), run.metrics.get("chosen", {}))
    data["charts"] = {chart.key: chart.as_json() for chart in charts}
    data["notes"] = notes
    return data, charts, cards


def _ablation(
    store: Store, run: Run, wanted: bool | None, draws: int, affordable: float, notes: list[str]
) -> dict[str, Any] | None:
    if wanted is False or len(run.features) < 2:
        return None
    known = known_ablation(run)
    if known is not None:
        return known
    seconds = ablation_seconds(run)
    if wanted is None and seconds > affordable:
        notes.append(
            f"what each input adds was left out, since it takes some {seconds:.0f} s of fitting: "
            f"`icehouse report {run.run_id} --ablation` adds it"
        )
        return None
    try:
        return ablate(store, run, draws=draws)
    except IcehouseError as error:
        if wanted:
            raise
        notes.append(f"what each input adds could not be told: {' '.join(str(error).split())}")
        return None


def _groups(store: Store, run: Run, ids: Sequence[str] | np.ndarray) -> np.ndarray | None:
    """Groups of duplicates among the scored rows; None where the store no longer tells."""
    try:
        return duplicate_groups(store, run.specs, ids, run.record["data"].get("dups", AUTO))
    except IcehouseError:
        return None


def _neighbours(store: Store, run: Run, scored: Scored, notes: list[str]) -> list[dict[str, Any]]:
    """A few rows of the split with the nearest of what the head learned from."""
    picked = pick_rows(scored)
    try:
        samples = run.samples(store, label=run.label, where=run.record["data"]["where"])
        learned = run.learned_items()
        train = samples.take(np.array([item in learned for item in samples.ids.tolist()], bool))
        if not len(train):
            return []
        asked = samples.of([row["item_id"] for row in picked])
        near = neighbours(train, asked, DuplicateSearches.of(store, samples.specs, AUTO))
    except IcehouseError as error:
        notes.append(f"the nearest training items could not be told: {' '.join(str(error).split())}")
        return []
    return [
        {**row, "nearest": [asdict(one) for one in near[row["item_id"]]]}
        for row in picked
        if row["item_id"] in near
    ]


def mistakes(scored: Scored, most: int = 12) -> list[dict[str, Any]]:
    """The rows that were predicted wrongly with the greatest probability, surest first, as JSON values."""
    wrong = np.flatnonzero(scored.predicted.labels != scored.y)
    sure = scored.predicted.proba[wrong].max(axis=1, initial=0.0)
    order = sorted(range(len(wrong)), key=lambda i: (-sure[i], scored.ids[wrong[i]]))
    return [_verdict(scored, int(wrong[i])) for i in order[:most]]


def pick_rows(scored: Scored, each: int = 4) -> list[dict[str, Any]]:
    """A few rows to show neighbours of: the surest mistakes, then right ones, drawn, of as many classes as can be."""
    good = np.flatnonzero(scored.predicted.labels == scored.y)
    order = np.random.default_rng(0).permutation(good).tolist()
    drawn: list[int] = []
    for fresh in (True, False):
        for i in order:
            known = {scored.y[j] for j in drawn}
            if len(drawn) < each and i not in drawn and (not fresh or scored.y[i] not in known):
                drawn.append(i)
    return [*mistakes(scored, each), *(_verdict(scored, i) for i in drawn)]


def _verdict(scored: Scored, row: int) -> dict[str, Any]:
    proba = dict(zip(scored.classes, scored.predicted.proba[row].tolist(), strict=True))
    predicted, true = str(scored.predicted.labels[row]), str(scored.y[row])
    return {
        "item_id": str(scored.ids[row]),
        "true": true,
        "predicted": predicted,
        "probability": proba[predicted],
        "probability_of_true": proba.get(true, 0.0),
    }


@dataclass(frozen=True)
class Near:
    """A training item near another.

    `cosine` is the mean of `by_input`, those that both have; `copy` lists the inputs whose content is the very same;
    `near_duplicate` tells whether a search for duplicates pairs the two, None if no search has looked.
    """

    item_id: str
    label: str
    cosine: float
    by_input: dict[str, float]
    copy: list[str]
    near_duplicate: bool | None = None


def neighbours(
    train: Samples, asked: Samples, searches: DuplicateSearches, k: int = 5
) -> dict[str, list[Near]]:
    """The `k` nearest training items of each of a few rows, by its id, best first; a row is no neighbour of itself.

    Nearest by cosine, each input centred by its mean in training, as heads see them (without the centre, all posts of one
    topic are alike); over several inputs the mean of their cosines. Of tokens, the mean of a row's tokens counts.
    """
    if not len(asked):
        return {}
    cosines: dict[str, np.ndarray] = {}
    for name in train.X.names:
        known, present = train.X.means(name).astype(np.float32), train.X.present(name)
        mean = known[present].mean(axis=0) if present.any() else np.zeros(known.shape[1], np.float32)
        units = _units(known - mean, present)
        queries = _units(asked.X.means(name).astype(np.float32) - mean, asked.X.present(name))
        cosines[name] = np.stack([units @ query for query in queries])
    each = np.stack(list(cosines.values()))
    both = np.isfinite(each)
    mean = np.full(each.shape[1:], -np.inf)
    np.divide(np.where(both, each, 0).sum(axis=0), both.sum(axis=0), out=mean, where=both.any(axis=0))
    found: dict[str, list[Near]] = {}
    for row, item in enumerate(asked.ids.tolist()):
        mean[row, train.ids == item] = -np.inf
        one = asked.take(np.array([row]))
        found[item] = []
        for i in np.argsort(-mean[row], kind="stable")[:k].tolist():
            if not np.isfinite(mean[row, i]):
                break
            copy = [
                name
                for name, content in one.content.items()
                if content[0] is not None and content[0] == train.content[name][i]
            ]
            pair = searches.near(one, {"train": [train.ids[i]]}) if searches.found else None
            near = Near(
                item_id=str(train.ids[i]),
                label=str(train.labels[i]),
                cosine=float(mean[row, i]),
                by_input={name: float(of[row, i]) for name, of in cosines.items() if np.isfinite(of[row, i])},
                copy=copy,
                near_duplicate=None if pair is None else bool(pair.rows[0]),
            )
            found[item].append(near)
    return found


def _units(rows: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rows of unit length; NaN where there is no row or no direction."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = (lengths[:, 0] > 0) & present
    units = np.divide(rows, lengths, out=np.full_like(rows, np.nan), where=lengths > 0)
    units[~usable] = np.nan
    return units


def _page(
    run: Run, data: dict[str, Any], drawings: Sequence[tuple[Chart, Drawing]], cards: Mapping[str, Card]
) -> str:
    """The page: `templates/report.html` over the report's data and what is made of it for the eye."""
    split = data["split"]
    shown: dict[str, Any] = {}
    sections = ["protocol"]
    notes = [*run.metrics["protocol"]["notes"], *data["notes"]]
    if split is not None:
        metrics = run.metrics[split]
        notes += metrics.get("notes", [])
        keys = {chart.key for chart, _ in drawings}
        chosen = {name: _short(value) for name, value in run.metrics["chosen"].items()}
        shown = {
            "metrics": metrics,
            "intervals": intervals_text(metrics),
            "looks": scoring_text(run.record["looks"]).capitalize() if "looks" in run.record else "",
            "tiles": list(_tiles(metrics)),
            "scores": _scores(run, split),
            "confusion": _confusion(metrics["confusion"]),
            "chosen": chosen.items(),
            "tried": _tried([] if keys & {"curve_loss", "curve_score"} else run.metrics["curve"]),
        }
        present = {
            "ranking": "roc" in keys,
            "curves": bool(chosen or keys & {"curve_loss", "curve_score"} or shown["tried"]["rows"]),
            "inputs": data["ablation"] is not None,
            "neighbours": bool(data["neighbours"]),
        }
        sections = ["scores", "classes", "confusion", "ranking", "calibration", "curves", "inputs"]
        sections += ["mistakes", "neighbours", "protocol"]
        sections = [key for key in sections if present.get(key, True)]
    return render(
        "report.html",
        title=f"{run.family} on {' + '.join(run.features)}",
        run=run,
        report=data,
        notes=notes,
        sections=sections,
        drawings=[{"chart": chart, "svg": drawing.svg} for chart, drawing in drawings],
        cards=cards,
        cell=_cell,
        made={
            "changed": [(name, _short(value)) for name, value in _changed(run).items()],
            "command": command_line(run),
            "remarks": list(_remarks(run)),
        },
        **shown,
    )


def _cell(score: Mapping[str, Any], share: bool = True) -> dict[str, Any]:
    """A score for the eye: value, interval, and the ends of its bar, on a scale from 0 to 1, with the value between."""
    low, high = score["low"], score["high"]
    return {
        "value": _value(score["value"], share),
        "interval": interval_text(low, high, "accuracy" if share else "log_loss"),
        "bar": None if not share or low is None or score["value"] is None else (low, score["value"], high),
    }


def _value(value: float | None, share: bool = True) -> str:
    return percent(value, 1) if share or value is None else f"{value:.3f}"


def _tiles(metrics: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The scores at the head of the page, each with what needs no head."""
    for name in ("macro_f1", "accuracy", "auroc"):
        score = metrics[name]
        if score["value"] is not None:
            yield {
                "value": percent(score["value"], 1),
                "title": title(name),
                "between": interval_text(score["low"], score["high"], name, "% to "),
                "chance": percent(metrics["majority"].get(name), 1),
            }


def _scores(run: Run, split: str) -> dict[str, Any]:
    """The table of scores: the split, the majority class, the rows without near-duplicates or copies in training, dev."""
    metrics = run.metrics[split]
    near = metrics.get("without_near_duplicates")
    apart = metrics["without_copies"] if near is None else near
    scored = "accuracy" in apart
    dev = run.metrics.get("dev") if split == "test" else None
    rows = []
    for name in METRICS:
        if metrics[name]["value"] is None:
            continue
        share = name != "log_loss"
        rows.append(
            {
                "title": title(name, metrics),
                "score": _cell(metrics[name], share),
                "majority": _value(metrics["majority"].get(name), share),
                "apart": _cell(apart[name], share) if scored else None,
                "dev": _value(dev[name]["value"], share) if dev else "",
            }
        )
    return {
        "rows": rows,
        "near": near,
        "copies": apart["copies"] if near is None else apart["near_duplicates"],
        "apart": apart["n"] if scored else None,
        "dev": bool(dev),
    }


def _confusion(confusion: Mapping[str, Any]) -> dict[str, Any]:
    """A matrix, rows true and columns predicted, with shares of the true; of many classes the commonest confusions."""
    labels, matrix = [str(label) for label in confusion["labels"]], confusion["matrix"]
    if matrix is not None and len(labels) <= _TABLE:
        table = []
        for i, (label, row) in enumerate(zip(labels, matrix, strict=True)):
            shares = [count / sum(row) if count else 0.0 for count in row]
            names = [
                " ".join(name for name, on in (("right", i == j), ("full", share > 0.65)) if on)
                for j, share in enumerate(shares)
            ]
            table.append((label, list(zip(row, shares, names, strict=True))))
        return {"labels": labels, "matrix": table}
    cells = (
        confusion["cells"]
        if matrix is None
        else [(i, j, count) for i, row in enumerate(matrix) for j, count in enumerate(row) if count]
    )
    totals = Counter[int]()
    for i, _, count in cells:
        totals[i] += count
    pairs = [
        {"true": labels[i], "predicted": labels[j], "rows": count, "share": count / totals[i]}
        for i, j, count in cells
        if i != j
    ]
    pairs.sort(key=lambda pair: (-pair["rows"], pair["true"], pair["predicted"]))
    return {"labels": labels, "matrix": None, "pairs": pairs[:_CONFUSIONS], "found": len(pairs)}


def _tried(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Table of the configurations tried, best first: for choices that are no curve."""
    rows = [row for row in curve if "log_loss" in row]
    if not rows:
        return {"rows": []}
    rows = sorted(rows, key=lambda row: row["log_loss"] if row["log_loss"] is not None else float("inf"))
    names = [
        name
        for name, value in rows[0].items()
        if isinstance(value, (int, float, str)) and name != "iterations"
    ]
    best = [[_short(row.get(name)) for name in names] for row in rows[:_TRIED]]
    return {"names": names, "rows": best, "count": len(rows)}


def command_line(run: Run) -> str:
    """The command that trains such a run again."""
    data, record = run.record["data"], run.record
    parts = ["icehouse", "train", run.family]
    parts += ["--inputs", ",".join(f"{name}={feature}" for name, feature in run.features.items())]
    parts += ["--label", run.label]
    for name, value in _changed(run).items():
        if len(text := _text(value)) <= _LONGEST:
            parts += ["-p", f"{name}={text}"]
    if data["split_column"] != "split":
        parts += ["--split-column", data["split_column"]]
    if data["where"]:
        parts += ["--where", data["where"]]
    if data["missing"] != "drop":
        parts += ["--missing", data["missing"]]
    if record["protocol"]["chosen_on"] and record["protocol"]["refit"] != _held_out(run):
        parts.append("--refit" if record["protocol"]["refit"] else "--no-refit")
    if run.positive is not None and record.get("positive_given"):
        parts += ["--positive", run.positive]
    if record["protocol"]["rows"]["test"] and "test" not in run.metrics:
        parts.append("--no-test")
    parts += ["--seed", str(record["seed"])]
    return " ".join(shlex.quote(part) for part in parts)


def _remarks(run: Run) -> Iterator[str]:
    """Remarks that the command line has no room for."""
    data = run.record["data"]
    others = sorted(set(data.get("required", {})) - set(run.features))
    if others:
        yield f"on the rows that have {', '.join(others)} too, as all of the sweep"
    if data.get("held_out_seed", run.record["seed"]) != run.record["seed"] and _held_out(run):
        yield f"with the dev rows that seed {data['held_out_seed']} holds out"
    if long := [name for name, value in _changed(run).items() if len(_text(value)) > _LONGEST]:
        yield f"with {', '.join(long)} as in run.json"


def _changed(run: Run) -> dict[str, Any]:
    """Parameters that are not the family's defaults; all of them if the family is not installed here."""
    params = run.record["head"]["params"]
    try:
        defaults = head_class(run.family).parameters()
    except Exception:  # a family of someone else's package, which may fail in any way
        return dict(params)
    return {
        name: value
        for name, value in params.items()
        if name != "seed" and (name not in defaults or value != plain({name: defaults[name]})[name])
    }


def _held_out(run: Run) -> bool:
    """Whether dev was held out of train, as far as there was one."""
    return not str(run.record["protocol"]["chosen_on"]).startswith("the dev split")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    """A parameter's value for the eye."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"


# Input ablation: the run's head fitted again on every subset of its inputs that matters, by the same protocol. All subsets
# learn from the same rows (those of the run) with the same seed, choose on dev, and are scored there; where there is no dev,
# on the rows of train out of fold. Test is not looked at. Dev scores flatter every subset a little, since each chose there;
# what is compared flatters alike. A difference is taken on the same resamples for both sides (paired bootstrap), so that
# easy and hard draws cancel.

_ABLATION, _ABLATION_FORMAT = "ablation.json", 2

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
        found = read_sealed(run.path / _ABLATION)
    except (OSError, ValueError):
        return None
    return found if found.get("format") == _ABLATION_FORMAT else None


def ablate(store: Store, run: Run, *, draws: int = DRAWS) -> dict[str, Any]:
    """Fit the run's head on subsets of its inputs and compare; leaves what it returns in the run's folder.

    ``subsets`` has for each: ``inputs``; for each of `SCORES` its ``value`` and interval; ``drop``, what all inputs
    have more than it, with interval and ``p``; or ``undefined``, why the head cannot be fitted on it. ``adds`` maps
    each input to what all inputs have more than all but this one. ``on`` is "dev", or "train, out of fold" where there
    is no dev. A `HeadError` says that the rows of the run are no longer in the store.
    """
    started = time.perf_counter()
    rows = _rows_as_trained(store, run)
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
            predicted[names] = _predict_subset(rows.select(list(names)), run)
        except IcehouseError as error:
            undefined[names] = " ".join(str(error).split())
    result = {
        "format": _ABLATION_FORMAT,
        "on": on,
        "rows": len(scored),
        "seed": run.record["seed"],
        **_compare_subsets(
            list(run.features), scored, rows.searches.groups(scored), predicted, undefined, draws
        ),
        "intervals": {
            "method": "closed form; differences: paired bootstrap, over groups of duplicates",
            "draws": draws,
            "level": LEVEL,
        },
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_sealed(run.path / _ABLATION, result)
    return result


def _rows_as_trained(store: Store, run: Run) -> Rows:
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


def _predict_subset(rows: Rows, run: Run) -> np.ndarray:
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


def _compare_subsets(
    inputs: list[str],
    scored: Samples,
    groups: np.ndarray,
    predicted: dict[tuple[str, ...], np.ndarray],
    undefined: dict[tuple[str, ...], str],
    draws: int,
) -> dict[str, Any]:
    everything = tuple(inputs)
    resampled = {score: Resampling(scored.labels, score, draws=draws, groups=groups) for score in SCORES}
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
