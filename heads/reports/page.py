"""The page of a report. Everything from outside is escaped; the page loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...webpage import escape, page, user_text
from ..evaluate import about_looks
from ..score_text import METRICS, interval_text, intervals_text, title
from . import svg
from .items import card, percent
from .look import REPORT
from .made import protocol_html, said, table_html

if TYPE_CHECKING:
    from ..runs import Run
    from .report import Report

__all__ = ["near_html", "report_page", "verdict_html"]

_ABLATED = {"macro_f1": "macro-F1", "accuracy": "accuracy"}


def report_page(report: Report) -> str:
    """Make the page."""
    run, data = report.run, report.data
    split = data["split"]
    sections: list[tuple[str, str, str]] = []
    if split is not None:
        metrics = run.metrics[split]
        charts = {chart.key: svg.chart_html(chart) for chart in report.charts}
        sections = [
            ("scores", "Scores", _scores(run, split)),
            ("classes", "Classes", _classes(metrics)),
            ("confusion", "Confusion", _confusion(metrics)),
            ("ranking", "ROC, precision and recall", _charts(charts, "roc", "precision_recall")),
            ("calibration", "Calibration", _calibration(data["calibration"], charts.get("reliability", ""))),
        ]
        sections.append(("curves", "Choice and learning curves", _curves(run, charts)))
        sections.append(("inputs", "What each input adds", _ablation(run, data["ablation"])))
        sections.append(("mistakes", "The surest mistakes", _mistakes(report)))
        sections.append(("neighbours", "What lies nearest in training", _neighbours(report)))
    sections.append(("protocol", "How it was made", protocol_html(run)))
    sections = [section for section in sections if section[2]]
    toc = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in sections)
    notes = [*run.metrics["protocol"]["notes"], *data["notes"]]
    if split is not None:
        notes += run.metrics[split].get("notes", [])
    listed = "".join(f"<li>{user_text(note)}</li>" for note in notes)
    body = [
        _hero(run, split),
        f'<ul class="notes">{listed}</ul>' if listed else "",
        f'<nav class="toc" aria-label="Sections">{toc}</nav>',
        *(f'<section id="{key}"><h2>{escape(title)}</h2>\n{html}</section>' for key, title, html in sections),
        (
            f"<footer>Run {escape(run.run_id)}, made by {escape(run.record.get('created_by', 'icehouse'))}; report of "
            f"{escape(data['made_at'])}. report.json holds the same as data, figures/ the charts as PNG.</footer>"
        ),
    ]
    inputs = " + ".join(f"<code>{escape(feature)}</code>" for feature in run.features.values())
    about = f"{inputs}; column {user_text(run.label)}, {len(run.classes)} classes"
    return page(
        f"{run.family} on {' + '.join(run.features)}",
        "\n".join(body),
        kicker="icehouse run",
        about=about,
        style=REPORT,
    )


def _hero(run: Run, split: str | None) -> str:
    if split is None:
        return "<p>This run has neither dev nor test rows: nothing was scored.</p>"
    metrics = run.metrics[split]
    base = metrics["majority"]
    tiles = []
    for name in ("macro_f1", "accuracy", "auroc"):
        score = metrics[name]
        if score["value"] is None:
            continue
        between = (
            f"{interval_text(score['low'], score['high'], name, '% to ')}%; "
            if score["low"] is not None
            else ""
        )
        chance = "by chance" if name == "auroc" else f"always {user_text(base['label'], limit=40)}"
        small = between + (f"{chance}: {percent(base[name], 1)}" if name in base else "")
        tiles.append(
            f"<div><dd>{percent(score['value'], 1)}</dd><dt>{title(name)}</dt><small>{small}</small></div>"
        )
    rows = run.metrics["protocol"]["rows"]
    tiles.append(
        f"<div><dd>{metrics['n']:,}</dd><dt>{escape(split)} rows</dt><small>learned from "
        f"{run.metrics['protocol']['trained_on']:,}, chose on {rows['dev']:,}</small></div>"
    )
    return f'<dl class="hero">{"".join(tiles)}</dl>'


def _scores(run: Run, split: str) -> str:
    metrics = run.metrics[split]
    level = metrics["intervals"]["level"]
    near = metrics.get("without_near_duplicates")
    apart = metrics["without_copies"] if near is None else near
    kind = "copies" if near is None else "near-duplicates"
    alike = apart["copies"] if near is None else apart["near_duplicates"]
    scored = "accuracy" in apart
    dev = run.metrics.get("dev") if split == "test" else None
    head = [
        "<th>score</th>",
        f'<th class="num">{escape(split)}, {metrics["n"]:,} rows</th><th>{level:.0%} interval</th><th></th>',
        '<th class="num">majority</th>',
    ]
    if scored:
        head.append(f'<th class="num">without {kind}, {apart["n"]:,} rows</th><th>interval</th>')
    if dev:
        head.append('<th class="num">dev (chosen there)</th>')
    rows = []
    for name in METRICS:
        if metrics[name]["value"] is None:
            continue
        share = name != "log_loss"
        line = [
            (
                f'<th scope="row">{user_text(title(name, metrics))}</th>'
                f'<td class="num"><b>{_value(metrics[name]["value"], share)}</b></td>'
                f'<td class="of">{_between(metrics[name], share)}</td><td>{_span(metrics[name]) if share else ""}</td>'
            ),
            f'<td class="num">{_value(metrics["majority"].get(name), share)}</td>',
        ]
        if scored:
            line.append(
                f'<td class="num">{_value(apart[name]["value"], share)}</td>'
                f'<td class="of">{_between(apart[name], share)}</td>'
            )
        if dev:
            line.append(f'<td class="num">{_value(dev[name]["value"], share)}</td>')
        rows.append(f"<tr>{''.join(line)}</tr>")
    where = "Test was not scored: these rows are those on which the head was chosen, and flatter it a little."
    if split == "test":
        looks = about_looks(run.record["looks"]).capitalize() + "." if "looks" in run.record else ""
        where = f"Test was scored by the head that was kept. {escape(looks)}"
    told = [
        (
            f"{where} Intervals: {escape(intervals_text(metrics))}. "
            f"Majority: always {user_text(metrics['majority']['label'], limit=60)}; ranked by chance, AUROC is 50% and "
            "average precision the share of positive rows."
        )
    ]
    if near is not None:
        searches = ", ".join(user_text(search["name"], limit=60) for search in near["searches"])
        told.append(
            f"{alike:,} of {metrics['n']:,} rows have a near-duplicate in {escape(' and '.join(near['against']))}, by the "
            f"search {searches}{'' if near['complete'] else ', which did not look at all of them'}."
        )
    else:
        told.append(
            f"{alike:,} of {metrics['n']:,} rows share a picture or a text with training; after <code>icehouse dups find "
            "--feature</code> of an input near-duplicates are told apart too."
        )
    for label, n in metrics["unseen"].items():
        told.append(
            f"{n:,} rows are {user_text(label, limit=60)}, which training never had; they count as errors."
        )
    return f"<p>{' '.join(told)}</p>{table_html(head, rows)}"


def _classes(metrics: Mapping[str, Any]) -> str:
    head = [
        (
            '<th>class</th><th class="num">rows</th><th class="num">predicted</th>'
            '<th class="num">F1</th><th>interval</th><th></th>'
            '<th class="num">precision</th><th class="num">recall</th><th class="num">AUROC</th>'
        )
    ]
    rows = [
        f'<tr><th scope="row">{user_text(row["label"], limit=80)}</th><td class="num">{row["support"]:,}</td>'
        f'<td class="num">{row["predicted"]:,}</td><td class="num"><b>{_value(row["f1"]["value"])}</b></td>'
        f'<td class="of">{_between(row["f1"])}</td><td>{_span(row["f1"])}</td>'
        f'<td class="num">{_value(row["precision"]["value"])}</td>'
        f'<td class="num">{_value(row["recall"]["value"])}</td><td class="num">{_value(row["auroc"])}</td></tr>'
        for row in metrics["per_class"]
    ]
    return table_html(head, rows)


def _confusion(metrics: Mapping[str, Any]) -> str:
    confusion = metrics["confusion"]
    labels = [str(label) for label in confusion["labels"]]
    if confusion["matrix"] is None:
        return svg.confusions_html(labels, confusion["cells"])
    return svg.matrix_html(labels, confusion["matrix"])


def _charts(charts: Mapping[str, str], *keys: str) -> str:
    found = [charts[key] for key in keys if key in charts]
    return f'<div class="charts">{"".join(found)}</div>' if found else ""


def _calibration(told: Mapping[str, Any], chart: str) -> str:
    ece, temperature = told["ece"], told["temperature"]
    chance = ece["by_chance"]
    verdict = (
        "which is no more than chance would show of a calibrated head"
        if ece["value"] <= chance["high"]
        else "which is more than chance would show of a calibrated head"
    )
    text = [
        (
            f"The expected calibration error is <b>{_value(ece['value'])}</b> ({_between(ece)}), {verdict} on "
            f"{told['n']:,} rows ({_value(chance['mean'])} on average, up to {_value(chance['high'])})."
        )
    ]
    rows = [_calibrated("as the head says", told)]
    if temperature["value"] is None:
        text.append(f"No temperature was fitted: {escape(temperature['why'])}.")
    else:
        change = temperature["change"]["log_loss"]
        sure = "too sure" if temperature["value"] > 1 else "not sure enough"
        text.append(
            f"The temperature that fits dev's {temperature['fitted_on']:,} rows best is <b>{temperature['value']:.2f}</b>: "
            f"there, the head is {sure}. With it, log loss changes by {change['value']:+.3f} "
            f"({_signed(change['low'], 3)} to {_signed(change['high'], 3)}). "
            "It is reported only: predictions are not changed by it."
        )
        rows.append(_calibrated(f"with temperature {temperature['value']:.2f}", temperature["after"]))
    head = [
        (
            "<th></th>"
            '<th class="num">expected calibration error</th><th>interval</th>'
            '<th class="num">Brier score</th><th>interval</th>'
            '<th class="num">log loss</th><th>interval</th>'
        )
    ]
    note = (
        '<p class="soft">Each point of the diagram holds about as many rows; whiskers are 95% intervals of its accuracy. On '
        "the diagonal, what was said with 80% is right in 80 of 100 cases; below it, the head is too sure.</p>"
    )
    return f'<p>{" ".join(text)}</p>{table_html(head, rows)}<div class="charts">{chart}</div>{note}'


def _calibrated(name: str, told: Mapping[str, Any]) -> str:
    cells = []
    for key in ("ece", "brier", "log_loss"):
        share = key == "ece"
        cells.append(
            f'<td class="num">{_value(told[key]["value"], share)}</td><td class="of">{_between(told[key], share)}</td>'
        )
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _curves(run: Run, charts: Mapping[str, str]) -> str:
    chosen = ", ".join(
        f"<code>{escape(name)} = {escape(said(value))}</code>"
        for name, value in run.metrics["chosen"].items()
    )
    told = (
        f"<p>Chosen on {escape(run.metrics['protocol']['chosen_on'] or 'nothing')}: {chosen}.</p>"
        if chosen
        else ""
    )
    drawn = _charts(charts, "curve_loss", "curve_score")
    return told + (drawn or _tried(run.metrics["curve"]))


def _tried(curve: Sequence[Mapping[str, Any]]) -> str:
    """What was tried, as a table: for choices that are no curve."""
    rows = [row for row in curve if "log_loss" in row]
    if not rows:
        return ""
    rows = sorted(rows, key=lambda row: row["log_loss"] if row["log_loss"] is not None else float("inf"))
    names = [
        name for name in rows[0] if isinstance(rows[0][name], (int, float, str)) and name != "iterations"
    ]
    head = ["".join(f"<th>{escape(name)}</th>" for name in names)]
    body = [
        f"<tr>{''.join(f'<td>{escape(said(row.get(name)))}</td>' for name in names)}</tr>"
        for row in rows[:12]
    ]
    more = f'<p class="remark">The best 12 of {len(rows):,} by log loss on dev.</p>' if len(rows) > 12 else ""
    return table_html(head, body) + more


def _ablation(run: Run, told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    lines = []
    for name, adds in told["adds"].items():
        gain = adds["macro_f1"]
        without = " + ".join(other for other in run.features if other != name)
        sure = (
            ""
            if gain["low"] > 0
            else ": on these rows, it cannot be told from nothing"
            if gain["high"] >= 0
            else ": it harms"
        )
        lines.append(
            f"<li><b>{user_text(name, limit=60)}</b> adds {100 * gain['value']:+.1f} points of macro-F1 to "
            f"{user_text(without)} "
            f"({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}){sure}.</li>"
        )
    head = ["<th>inputs</th>"]
    for heading in _ABLATED.values():
        head.append(
            f'<th class="num">{heading}</th><th>interval</th><th></th><th class="num">less than all</th><th>interval</th>'
        )
    rows = []
    for entry in told["subsets"]:
        cells = [f'<th scope="row">{user_text(" + ".join(entry["inputs"]))}</th>']
        if "undefined" in entry:
            cells.append(
                f'<td colspan="10" class="soft">not defined: {user_text(entry["undefined"], limit=300)}</td>'
            )
        else:
            for score in _ABLATED:
                drop = entry.get("drop", {}).get(score)
                cells.append(
                    f'<td class="num"><b>{_value(entry[score]["value"])}</b></td>'
                    f'<td class="of">{_between(entry[score])}</td>'
                    f"<td>{_span(entry[score])}</td>"
                )
                cells.append(
                    f'<td class="num">{100 * drop["value"]:+.1f}</td>'
                    f'<td class="of">{100 * drop["low"]:+.1f} to {100 * drop["high"]:+.1f}</td>'
                    if drop
                    else "<td></td><td></td>"
                )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    how = (
        "The head was fitted again on these inputs, with the same rows, seed and protocol, and scored on "
        f"{escape(told['on'])} "
        f"({told['rows']:,} rows). Differences in points, on the same resamples for both sides."
    )
    listed = f"<ul>{''.join(lines)}</ul>" if lines else ""
    return f"{listed}<p>{how}</p>{table_html(head, rows)}"


def _mistakes(report: Report) -> str:
    rows = report.data["mistakes"]
    split = report.data["split"]
    if not rows:
        return f"<p>There is none: every row of {escape(split)} is right.</p>"
    made = [
        card(report.items[row["item_id"]], report.pictures.get(row["item_id"]), verdict_html(row))
        for row in rows
    ]
    return (
        f"<p>Rows of {escape(split)} that were predicted wrongly, the greatest probability first. Some may be wrong in "
        f'the data, not in the head.</p><ul class="cards">{"".join(made)}</ul>'
    )


def _neighbours(report: Report) -> str:
    if not report.data["neighbours"]:
        return ""
    blocks = []
    for row in report.data["neighbours"]:
        asked = card(
            report.items[row["item_id"]], report.pictures.get(row["item_id"]), verdict_html(row), tag="div"
        )
        near = "".join(
            card(
                report.items[one["item_id"]], report.pictures.get(one["item_id"]), near_html(one, row["true"])
            )
            for one in row["nearest"]
        )
        blocks.append(f'<div class="asked">{asked}<ul class="cards">{near}</ul></div>')
    return (
        "<p>The surest mistakes, then rows that are right, each with the training items nearest to it: the mean cosine over "
        f"the inputs, each centred by its mean in training.</p>{''.join(blocks)}"
    )


def verdict_html(row: Mapping[str, Any]) -> str:
    """What was predicted of a row, with which probability, and what it is."""
    right = row["true"] == row["predicted"]
    css = "good" if right else "bad"
    said = f'<b class="{css}">{user_text(row["predicted"], limit=60)}</b> {percent(row["probability"])}'
    if right:
        return f'<p class="verdict"><span class="is">right:</span> {said}</p>'
    true = f"<b>{user_text(row['true'], limit=60)}</b> {percent(row['probability_of_true'])}"
    return f'<p class="verdict"><span class="is">predicted</span> {said}<br><span class="is">true</span> {true}</p>'


def near_html(near: Mapping[str, Any], label: str | None) -> str:
    """How near a training item is, and of which class."""
    css = "" if label is None else "good" if near["label"] == label else "bad"
    flags = ""
    if near["copy"]:
        flags = f'<span class="flag">same {escape(" and ".join(near["copy"]))}</span>'
    elif near["near_duplicate"]:
        flags = '<span class="flag">near-duplicate</span>'
    parts = ""
    if len(near["by_input"]) > 1:
        parts = ", ".join(f"{escape(name)} {value:.2f}" for name, value in near["by_input"].items())
        parts = f' <span class="is">({parts})</span>'
    return (
        f'<p class="verdict"><b class="{css}">{user_text(near["label"], limit=60)}</b><br>'
        f'<span class="is">cosine</span> {near["cosine"]:.2f}{parts}</p>{flags}'
    )


def _span(score: Mapping[str, Any]) -> str:
    """A value from 0 to 1 and its interval, drawn."""
    if score["value"] is None or score["low"] is None:
        return ""
    return (
        f'<span class="span" style="--low:{score["low"]:.4f};--high:{score["high"]:.4f};--at:{score["value"]:.4f}" '
        'aria-hidden="true"><i></i><b></b></span>'
    )


def _value(value: Any, share: bool = True) -> str:
    if value is None:
        return ""
    return percent(value, 1) if share else f"{float(value):.3f}"


def _between(score: Mapping[str, Any], share: bool = True) -> str:
    return interval_text(score["low"], score["high"], "accuracy" if share else "log_loss")


def _signed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:+.{digits}f}"
