"""Write what the docs take from the code: README's layout, and docs/cli.md.

python docs/generate.py            rewrites both
python docs/generate.py --check    exits 1 if one is out of date; the tests do this
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("", "data", "store", "embed", "heads", "serve")
BEGIN, END = "<!-- layout -->", "<!-- /layout -->"


def layout() -> str:
    """One line a file: the first line of each module's docstring."""
    lines = []
    for room in ROOMS:
        folders = [ROOT / room]
        if room:
            folders += sorted(path.parent for path in (ROOT / room).glob("*/__init__.py"))
        for folder in folders:
            if room:
                lines.append(
                    f"\n**`{folder.relative_to(ROOT).as_posix()}/`** {_purpose(folder / '__init__.py')}\n"
                )
            lines += [
                f"- `{path.name}` {_purpose(path)}"
                for path in sorted(folder.glob("*.py"))
                if path.name != "__init__.py"
            ]
    return "\n".join(lines)


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n", 1)[0]


def commands() -> str:
    """Every command with its arguments and options."""
    from icehouse.cli import app
    from typer.main import get_command

    lines = [
        "# Commands",
        "",
        "Made by `python docs/generate.py` from the commands themselves. The store is `--store/-s`, else `ICEHOUSE_STORE`,",
        "else `./icehouse-store`. Exit status: 0, 1 for an error (one line on stderr), 2 for wrong usage.",
    ]
    for name, command in _leaves(get_command(app), "icehouse"):
        lines += ["", f"## `{name}`", "", " ".join((command.help or "").split()), ""]
        lines += [_option(param) for param in command.params if getattr(param, "help", None)]
    return "\n".join(lines) + "\n"


def _leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [leaf for key, sub in command.commands.items() for leaf in _leaves(sub, f"{name} {key}")]


def _option(param: Any) -> str:
    names = [name for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]
    shown = ", ".join(f"`{name}`" for name in names) if names else f"`{param.name.upper()}`"
    return f"- {shown}: {' '.join(param.help.split())}"


def main() -> int:
    """Rewrite what is out of date, or tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    wanted = {
        readme: f"{before}{BEGIN}\n{layout()}\n{END}{after}",
        ROOT / "docs" / "cli.md": commands(),
    }
    stale = [
        path
        for path, content in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != content
    ]
    for path in stale:
        print(
            f"{path.relative_to(ROOT)} is out of date"
            + ("; run python docs/generate.py" if check else ", rewritten")
        )
        if not check:
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
