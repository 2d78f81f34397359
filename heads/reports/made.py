"""How a run was made, and the command line that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...webpage import escape, user_text
from ..checks import plain
from ..registry import head_class

if TYPE_CHECKING:
    from ..runs import Run

__all__ = ["command_line", "protocol_html", "said", "table_html"]

# Characters of a parameter that a command line still shows.
_LONGEST = 300


def protocol_html(run: Run) -> str:
    """Rows, choices, features and versions behind a run, and the command that makes it again."""
    record, protocol = run.record, run.metrics["protocol"]
    data, rows = record["data"], protocol["rows"]
    where = f", where <code>{escape(data['where'])}</code>" if data["where"] else ""
    facts = [
        (
            "run",
            f"<code>{escape(run.run_id)}</code>, {escape(record['created_at'])}, {escape(record.get('created_by', ''))}",
        ),
        ("head", f"{escape(run.family)}, {_parameters(run)}"),
        (
            "rows",
            (
                f"train {rows['train']:,}, dev {rows['dev']:,}, test {rows['test']:,}; column "
                f"{user_text(data['split_column'])}{where}; "
                f"items that lack an input: {'kept' if data['missing'] == 'keep' else 'left out'}"
            ),
        ),
        ("choice", escape(f"on {protocol['chosen_on']}" if protocol["chosen_on"] else "none")),
        ("fitted again", "yes, with the rows of dev" if protocol["refit"] else "no"),
        (
            "items",
            f"version {escape(data['items']['version'])}, digest <code>{escape(data['items']['digest'])}</code>",
        ),
        ("seed", escape(record["seed"])),
        ("seconds", escape(", ".join(f"{name} {value:g}" for name, value in record["seconds"].items()))),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{html}</dd>" for name, html in facts)
    features = []
    for name, given in record["inputs"].items():
        spec = given["spec"]
        versions = ", ".join(f"{lib} {version}" for lib, version in (spec.get("versions") or {}).items())
        features.append(
            f'<tr><th scope="row">{user_text(name)}</th><td><code>{escape(given["feature"])}</code></td>'
            f"<td>{user_text(spec.get('encoder', ''), limit=120)}</td>"
            f'<td class="num">{escape(spec.get("dim", ""))}</td><td><code>{escape(given["fingerprint"])}</code></td>'
            f"<td>{escape(versions)}</td></tr>"
        )
    head = [
        "<th>input</th><th>feature</th><th>encoder</th><th>width</th><th>fingerprint</th><th>versions</th>"
    ]
    return (
        f'<dl class="kv">{listed}</dl><h3>Features</h3>{table_html(head, features)}<h3>The same again</h3>'
        f'<pre class="cli">{escape(command_line(run))}</pre>{_but(run)}'
    )


def _but(run: Run) -> str:
    """What the command line cannot say."""
    data, remarks = run.record["data"], []
    others = sorted(set(data.get("required", {})) - set(run.features))
    if others:
        remarks.append(f"on the rows that have {', '.join(others)} too, as all of the sweep")
    if data.get("held_out_seed", run.record["seed"]) != run.record["seed"] and _held_out(run):
        remarks.append(f"with the dev rows that seed {data['held_out_seed']} holds out")
    if long := [name for name, value in _changed(run).items() if len(_text(value)) > _LONGEST]:
        remarks.append(f"with {', '.join(long)} as in run.json")
    return f'<p class="remark">… {escape("; ".join(remarks))}</p>' if remarks else ""


def _parameters(run: Run) -> str:
    given = _changed(run)
    if not given:
        return "all parameters as they come"
    return ", ".join(f"<code>{escape(name)} = {escape(said(value))}</code>" for name, value in given.items())


def _changed(run: Run) -> dict[str, Any]:
    """Parameters that are not the family's defaults; nothing if the family is not installed here."""
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


def _held_out(run: Run) -> bool:
    """Whether dev was held out of train, as far as there was one."""
    return not str(run.record["protocol"]["chosen_on"]).startswith("the dev split")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def table_html(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls where it is too wide; all of it escaped already."""
    return (
        f'<div class="scroll"><table class="data"><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def said(value: Any) -> str:
    """A parameter's value, short."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"
