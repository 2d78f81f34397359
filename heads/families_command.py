"""`icehouse heads`: the families there are, and what one of them takes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ..console import JsonOption, echo, print_json, print_table

__all__ = ["heads"]

_PROMPTS = {"never": "", "optional": "if there are", "required": "yes"}


def heads(
    family: Annotated[
        str | None, typer.Argument(help="A family to show whole.", show_default="list all")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the families of heads, or show the parameters of one."""
    from .describe import describe, families

    if family is not None:
        found = describe(family)
        print_json(found) if as_json else _show(found)
        return
    rows = families()
    if as_json:
        print_json(rows)
        return
    print_table(
        ["head", "what it is", "tokens", "missing inputs", "class prompts"],
        [
            [row["family"], row["error"], "", "", ""]
            if "error" in row
            else [
                row["family"],
                row["summary"],
                _tick(row["tokens"]),
                _tick(row["missing"]),
                _PROMPTS[row["prompts"]],
            ]
            for row in rows
        ],
    )
    echo("")
    echo("parameters: icehouse heads NAME; train one: icehouse train NAME -p PARAMETER=VALUE")


def _show(found: dict[str, Any]) -> None:
    echo(found["about"], lines=True)
    echo("")
    echo(f"tokens: {_tick(found['tokens']) or 'no, one vector a row and input'}")
    echo(f"items that lack an input: {'yes, with --missing keep' if found['missing'] else 'no'}")
    if found["prompts"] != "never":
        echo(
            f"class prompts: {_PROMPTS[found['prompts']]}, from --prompts FILE or -p template='a photo of {{class}}'"
        )
    echo("")
    print_table(
        ["parameter", "default", "values", "what it does"],
        [[row["name"], _default(row["default"]), row["type"], row["about"]] for row in found["parameters"]],
    )


def _tick(there: bool) -> str:
    return "yes" if there else ""


def _default(value: Any) -> str:
    """A default as `-p` would take it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
