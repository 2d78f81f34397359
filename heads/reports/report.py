"""The report of a run: ``report.html``, the same as ``report.json``, and its figures as PNG files, in the run's folder.

A run is whole without it. It is made from what the run left (predictions, metrics) and from the store (texts, pictures,
features); where something is gone, the report says so in its place and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import HeadError, IcehouseError
from ...store.files import publish, publish_folder
from ..evaluate import load_run_samples
from ..exclusion import AUTO, Searches, duplicate_groups
from ..metrics import DRAWS
from ..runs import Run, write_json
from .ablation import ablate, ablation_seconds, known_ablation
from .calibration import calibration
from .charts import Chart, curve_charts, ranking_charts, reliability_chart
from .items import Shown, read_items, thumbnails
from .mistakes import Known, Scored, mistakes, neighbours, pick_rows, rows_of

if TYPE_CHECKING:
    from ...embed.thumbnails import Thumbnail
    from ...store.store import Store

__all__ = ["AFFORDABLE", "Report", "leave_report", "write_report"]

FORMAT = 1

#: Seconds of fitting up to which an ablation is made without being asked for.
AFFORDABLE = 30.0


@dataclass(frozen=True)
class Report:
    """What a report says, before it is a page.

    Attributes
    ----------
    run : Run
    data : dict
        ``report.json``.
    charts : list of Chart
    items : dict of str to Shown
        Items that it shows, by id.
    pictures : dict of str to Thumbnail
    """

    run: Run
    data: dict[str, Any]
    charts: list[Chart]
    items: dict[str, Shown]
    pictures: dict[str, Thumbnail]


def write_report(
    store: Store,
    run: Run | str,
    *,
    ablation: bool | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    affordable: float = AFFORDABLE,
) -> Path:
    """Make a run's report, in the place of one that is there.

    Parameters
    ----------
    store : Store
    run : Run or str
        A run, its id, or "latest".
    ablation : bool, optional
        Whether to say what each input adds, for which the head is fitted again on subsets of its inputs. None does so
        where it was done before or will take no more than about `affordable` seconds; True in any case; False never.
    draws, seed
        Of the bootstrap; 0 draws leave the intervals of the calibration out.
    affordable : float, default 30

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    HeadError
        If there is no such run, or the folder cannot be written to.
    """
    from .page import report_page

    run = run if isinstance(run, Run) else Run.load(store, run)
    report = make_report(store, run, ablation=ablation, draws=draws, seed=seed, affordable=affordable)
    html = report_page(report)
    try:
        with publish_folder(run.path / "figures", parents=False, sums=False) as folder:
            _draw(folder, report)
        with publish(run.path / "report.json") as temp:
            write_json(temp, report.data)
        with publish(run.path / "report.html") as temp:
            temp.write_bytes(html.encode())
    except OSError as error:
        raise HeadError(f"cannot write the report into {run.path}: {error.strerror or error}") from error
    return run.path / "report.html"


def leave_report(
    store: Store,
    run: Run,
    *,
    ablation: bool | None = None,
    draws: int = DRAWS,
    affordable: float = AFFORDABLE,
) -> str | None:
    """Make the report of a run that was just trained; a run is a run without one.

    Returns
    -------
    str or None
        What went wrong, in one line; None if the report is there.
    """
    try:
        write_report(store, run, ablation=ablation, draws=draws, affordable=affordable)
    except Exception as error:  # hours of training are not lost to a drawing, whatever is wrong with it
        kind = "" if isinstance(error, (IcehouseError, OSError)) else f"{type(error).__name__} "
        told = " ".join(f"{kind}{error}".split())
        return f"run {run.run_id} is whole, but has no report: {told}; `icehouse report {run.run_id}` tries again"
    return None


def make_report(
    store: Store,
    run: Run,
    *,
    ablation: bool | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    affordable: float = AFFORDABLE,
) -> Report:
    """Gather what a report says; see `write_report`."""
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
    shown: dict[str, Shown] = {}
    if split is not None:
        scored = Scored.of(run, split)
        dev = Scored.of(run, "dev") if split == "test" and "dev" in run.metrics else None
        told = calibration(
            scored.proba,
            scored.codes,
            None if dev is None else (dev.proba, dev.codes),
            groups=_groups(store, run, scored.ids),
            draws=draws,
            seed=seed,
        )
        after = told["temperature"].get("after") or {}
        charts += [
            *ranking_charts(scored.proba, scored.codes, scored.classes, run.positive),
            reliability_chart(told["bins"], after.get("bins", ())),
        ]
        data["calibration"] = told
        data["mistakes"] = mistakes(scored)
        data["neighbours"] = _neighbours(store, run, scored, seed, notes)
        ids = [row["item_id"] for row in data["mistakes"]]
        for row in data["neighbours"]:
            ids += [row["item_id"], *(near["item_id"] for near in row["nearest"])]
        shown = read_items(store, ids)
        for row in data["mistakes"]:
            item = shown[row["item_id"]]
            row |= {"text": item.text, "path": item.path}
    charts += curve_charts(run.metrics.get("curve", []), run.metrics.get("chosen", {}))
    data["charts"] = {chart.key: chart.as_json() for chart in charts}
    data["notes"] = notes
    return Report(run, data, charts, shown, thumbnails(shown))


def _ablation(
    store: Store, run: Run, wanted: bool | None, draws: int, affordable: float, notes: list[str]
) -> dict[str, Any] | None:
    if wanted is False:
        return None
    if len(run.features) < 2:
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


def _neighbours(store: Store, run: Run, scored: Scored, seed: int, notes: list[str]) -> list[dict[str, Any]]:
    """A few rows of the split with the nearest of what the head learned from."""
    picked = pick_rows(scored, seed=seed)
    try:
        samples = load_run_samples(store, run, label=run.label, where=run.record["data"]["where"])
        roles = run.training_items()
        learned = roles.get("train", set()) | (
            roles.get("dev", set()) if run.record["protocol"]["refit"] else set()
        )
        train = samples.take(np.array([item in learned for item in samples.ids.tolist()], bool))
        if not len(train):
            return []
        asked = rows_of(samples, [row["item_id"] for row in picked])
        near = neighbours(Known(train), asked, Searches.of(store, samples.specs, AUTO))
    except IcehouseError as error:
        notes.append(f"the nearest training items could not be told: {' '.join(str(error).split())}")
        return []
    return [
        {**row, "nearest": [one.as_json() for one in near[row["item_id"]]]}
        for row in picked
        if row["item_id"] in near
    ]


def _draw(folder: Path, report: Report) -> None:
    from .figures import write_chart, write_matrix

    for chart in report.charts:
        write_chart(folder / f"{chart.key}.png", chart)
    split = report.data["split"]
    if split is not None:
        confusion = report.run.metrics[split]["confusion"]
        if confusion["matrix"] is None:
            return  # more classes than a picture has points
        write_matrix(folder / "confusion.png", [str(c) for c in confusion["labels"]], confusion["matrix"])
