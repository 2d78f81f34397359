"""Charts and matrices as HTML: inline SVG that takes the page's colours, light or dark, and tables that can be read out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ...webpage import escape, user_text
from .charts import DARK, DASHES, LIGHT, Chart, Series, ticks

__all__ = ["STYLE", "chart_html", "confusions_html", "matrix_html"]

_WIDTH, _HEIGHT = 430.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 12.0, 44.0
# Classes up to which a matrix of them is a table that a page can hold.
_TABLE = 24


def _variables(colours: Sequence[str]) -> str:
    return " ".join(f"--hue{i}: {colour};" for i, colour in enumerate(colours))


_HUES = "".join(
    f".hue{i} {{ stroke: var(--hue{i}); fill: var(--hue{i}); }}"
    + (f" .hue{i}.dash {{ stroke-dasharray: {' '.join(map(str, dash))}; }}" if dash else "")
    + "\n"
    for i, dash in enumerate(DASHES)
)

STYLE = f"""
:root {{ {_variables(LIGHT)} --huen: var(--ink); --heat: #004a78; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} --heat: #1f78bd; }} }}
.charts {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }}
.chart {{ margin: 0; min-width: 0; max-width: 38rem; }}
.chart figcaption {{ font-weight: 650; margin: 0 0 .3rem; }}
.chart svg.plot {{ display: block; width: 100%; height: auto; }}
.plot text {{ fill: var(--soft); font-size: 11px; stroke: none; }}
@media (max-width: 42rem) {{ .plot text {{ font-size: 13.5px; }} }}
.plot .axis {{ stroke: var(--soft); stroke-width: 1; fill: none; }}
.plot .grid {{ stroke: var(--line); stroke-width: 1; }}
.plot .ref {{ stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 3 4; fill: none; }}
.plot .line {{ fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }}
.plot .line.strong {{ stroke-width: 2.8; }}
.plot .whisker {{ stroke-width: 1.4; opacity: .65; }}
.huen {{ stroke: var(--huen); fill: var(--huen); }}
{_HUES}
.legend {{
  list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: .4rem 0 0; padding: 0; font-size: .82rem;
}}
.legend li {{ display: inline-flex; align-items: center; gap: .4rem; min-width: 0; overflow-wrap: anywhere; }}
.legend svg {{ flex: none; width: 30px; height: 10px; }}
.chart .remark {{ color: var(--soft); font-size: .8rem; margin: .3rem 0 0; }}
.scroll {{ overflow-x: auto; max-width: 100%; }}
.matrix {{ border-collapse: separate; border-spacing: 2px; font-variant-numeric: tabular-nums; font-size: .84rem; }}
.matrix th {{
  font-weight: 500; color: var(--soft); text-align: right; padding: .2rem .5rem; max-width: 12rem; overflow-wrap: break-word;
}}
.matrix thead th {{ text-align: center; vertical-align: bottom; min-width: 3.4rem; }}
.matrix td {{
  text-align: center; padding: .5rem .3rem; border-radius: .35rem; min-width: 3.4rem;
  background: color-mix(in srgb, var(--heat) calc(var(--share) * 100%), var(--well));
}}
.matrix td.full {{ color: #fff; }}
.matrix td.right {{ outline: 2px solid var(--line); outline-offset: -2px; }}
.matrix td small {{ display: block; opacity: .8; font-size: .74rem; }}
"""


def chart_html(chart: Chart) -> str:
    """A chart as a figure: plot, legend, remark."""
    parts = [f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>']
    described = f"{chart.title}: {chart.y_label} against {chart.x_label}"
    parts.append(
        f'<svg class="plot" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(described)}">'
    )
    parts += _axes(chart)
    for series in chart.series:
        parts += _points(chart, series) if series.kind == "points" else _line(chart, series)
    parts.append("</svg>")
    entries = "".join(
        f'<li><svg viewBox="0 0 30 10" aria-hidden="true">{_sample(series)}</svg>{user_text(series.name, limit=80)}</li>'
        for series in chart.series
    )
    parts.append(f'<ul class="legend">{entries}</ul>')
    if chart.note:
        parts.append(f'<p class="remark">{escape(chart.note)}</p>')
    return "".join([*parts, "</figure>"])


def matrix_html(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """A confusion matrix as a table, rows true and columns predicted; of many classes the commonest confusions instead."""
    if len(labels) > _TABLE:
        found = [(i, j, count) for i, row in enumerate(matrix) for j, count in enumerate(row) if count]
        return confusions_html(labels, found)
    head = "".join(f'<th scope="col">{user_text(label, limit=60)}</th>' for label in labels)
    rows = []
    for i, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        total = sum(row)
        cells = []
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            names = " ".join(name for name, on in (("right", i == j), ("full", share > 0.65)) if on)
            percent = f"<small>{100 * share:.0f}%</small>" if count else "<small>&nbsp;</small>"
            cells.append(f'<td class="{names}" style="--share:{share:.3f}">{count:,}{percent}</td>')
        rows.append(f'<tr><th scope="row">{user_text(label, limit=60)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll"><table class="matrix"><thead><tr><th>true ↓ &nbsp; predicted →</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def confusions_html(labels: Sequence[str], cells: Sequence[Sequence[int]]) -> str:
    """The commonest confusions as a table, from cells of true class, predicted class and rows."""
    total_of = Counter[int]()
    for i, _, count in cells:
        total_of[i] += count
    pairs = [(count, labels[i], labels[j], total_of[i]) for i, j, count in cells if i != j]
    pairs.sort(key=lambda pair: (-pair[0], str(pair[1]), str(pair[2])))
    rows = "".join(
        f"<tr><td>{user_text(true, limit=60)}</td><td>{user_text(said, limit=60)}</td>"
        f'<td class="num">{count:,}</td><td class="num">{100 * count / total:.0f}%</td></tr>'
        for count, true, said, total in pairs[:30]
    )
    more = (
        f'<p class="remark">The {min(30, len(pairs))} commonest of {len(pairs):,} confusions among {len(labels)} classes; '
        "metrics.json has the whole matrix.</p>"
    )
    return (
        '<div class="scroll"><table class="data"><thead><tr><th>true</th><th>predicted as</th><th class="num">rows</th>'
        f'<th class="num">of the true</th></tr></thead><tbody>{rows}</tbody></table></div>{more}'
    )


def _axes(chart: Chart) -> list[str]:
    x_end, y_end = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value, label in ticks(*chart.x_range, log=chart.x_log):
        x = _x(chart, value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{y_end}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y_end + 16}" text-anchor="middle">{escape(label)}</text>')
    for value, label in ticks(*chart.y_range, most=5):
        y = _y(chart, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{x_end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{y_end}H{x_end}"/>')
    if chart.diagonal:
        parts.append(f'<path class="ref" d="M{_LEFT} {y_end}L{x_end} {_TOP}"/>')
    if chart.mark is not None and chart.x_range[0] <= chart.mark <= chart.x_range[1]:
        x = _x(chart, chart.mark)
        anchor, shift = ("end", -5) if x > (_LEFT + x_end) / 2 else ("start", 5)
        parts.append(f'<path class="ref" d="M{x:.1f} {_TOP}V{y_end}"/>')
        parts.append(
            f'<text x="{x + shift:.1f}" y="{_TOP + 11}" text-anchor="{anchor}">chosen: {chart.mark:g}</text>'
        )
    middle = (_TOP + y_end) / 2
    parts.append(
        f'<text x="{(_LEFT + x_end) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(chart.y_label)}</text>'
    )
    return parts


def _line(chart: Chart, series: Series) -> list[str]:
    points = "L".join(
        f"{_x(chart, x):.1f} {_y(chart, y):.1f}" for x, y in zip(series.x, series.y, strict=True)
    )
    if len(series.x) == 1:
        return [_dot(chart, series, 0)]
    return [f'<path class="line {_css(series)}" d="M{points}"/>']


def _points(chart: Chart, series: Series) -> list[str]:
    parts = []
    for low, high, x in zip(series.low, series.high, series.x, strict=False):
        at = _x(chart, x)
        parts.append(
            f'<line class="whisker {_css(series, dash=False)}" x1="{at:.1f}" x2="{at:.1f}" y1="{_y(chart, low):.1f}" '
            f'y2="{_y(chart, high):.1f}"/>'
        )
    if len(series.x) > 1:
        parts += _line(chart, series)
    return parts + [_dot(chart, series, i) for i in range(len(series.x))]


def _dot(chart: Chart, series: Series, i: int) -> str:
    x, y = _x(chart, series.x[i]), _y(chart, series.y[i])
    if series.hue % 2:  # another shape, for those who see no hue
        return f'<rect class="{_css(series, dash=False)}" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
    return f'<circle class="{_css(series, dash=False)}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _sample(series: Series) -> str:
    shape = f'<path class="line {_css(series)}" d="M1 5H29" stroke-width="{2.8 if series.strong else 1.8}" fill="none"/>'
    if series.kind == "points":
        dot = (
            '<rect class="{0}" x="11.5" y="1.5" width="7" height="7"/>'
            if series.hue % 2
            else '<circle class="{0}" cx="15" cy="5" r="4"/>'
        )
        shape += dot.format(_css(series, dash=False))
    return shape


def _css(series: Series, *, dash: bool = True) -> str:
    hue = "n" if series.hue < 0 else series.hue % len(LIGHT)
    return f"hue{hue}{' dash' if dash else ''}{' strong' if series.strong else ''}"


def _x(chart: Chart, value: float) -> float:
    low, high = chart.x_range
    if chart.x_log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return _LEFT + _share(value, low, high) * (_WIDTH - _LEFT - _RIGHT)


def _y(chart: Chart, value: float) -> float:
    return _HEIGHT - _BOTTOM - _share(value, *chart.y_range) * (_HEIGHT - _TOP - _BOTTOM)


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5
