"""Generated docs: the files in `architecture.md`, the commands in `cli.md`, the public API in `api.md`.

python docs/generate.py               rewrites them
python docs/generate.py --check       exits 1 if one is out of date; the tests do this
python docs/generate.py --site DIR    gathers all pages in DIR/pages and the package in DIR/icehouse, for `make docs`
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BEGIN, END = "<!-- files -->", "<!-- /files -->"

#: A Mermaid diagram and the picture of it that `docs/pictures.py` made: code hosts draw the one, the site shows the other,
#: since Mermaid would be fetched from elsewhere by every reader.
DIAGRAM = re.compile(r"<!-- drawn: (\S+) -->\n```mermaid\n(.*?)```", re.DOTALL)

#: Pages of the site that lie outside `docs/`: where, and what they are called in the site.
OUTSIDE = {
    "benchmarks/RESULTS.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

#: The public API: module that one imports from, and the names in it. Where each is defined does not matter.
API = {
    "icehouse": ["open", "embed_sources", "search", "predict", "Store"],
    "icehouse.embed.encoder": ["Encoder"],
    "icehouse.heads": ["train", "Run", "Head", "Inputs"],
}


def packages() -> list[Path]:
    """Folders of the package: the root, then the rooms and what they hold."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    return [ROOT.joinpath(*name.split(".")[1:]) for name in setup["packages"]]


def files() -> str:
    """One line a file: the first line of each module's docstring, room by room."""
    lines = []
    for folder in packages():
        if folder != ROOT:
            name = folder.relative_to(ROOT).as_posix()
            lines.append(f"\n**`{name}/`** {_first_line(folder / '__init__.py')}\n")
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"- `{path.name}` {_first_line(path)}" for path in modules]
    return "\n".join(lines)


def _first_line(path: Path) -> str:
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


def api() -> str:
    """The page of the public API: one mkdocstrings directive an object, where it is defined."""
    from icehouse.heads.registry import FAMILIES, head_class

    lines = [
        "# Python",
        "",
        "The public API; everything else may change without notice. The list is made by `python docs/generate.py`, the text",
        "from the docstrings when the site is built (`make docs`).",
    ]
    for module, names in API.items():
        lines += ["", f"## `{module}`"]
        for name in names:
            lines += ["", _directive(getattr(import_module(module), name))]
    lines += ["", "## Head families", "", "`icehouse.heads.create(family, **parameters)` makes one."]
    for family in FAMILIES:
        lines += ["", f"`{family}`:", "", _directive(head_class(family))]
    return "\n".join(lines) + "\n"


def _directive(item: Any) -> str:
    return f"::: {item.__module__}.{item.__qualname__}"


def gather(folder: Path) -> None:
    """Copy what the site is built from into one folder.

    The pages, their links among themselves led to where they are there; and the package, which mkdocstrings cannot find
    where its folder is not called as it is.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder / "pages", ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.md"))
    pages = {path: path.name for path in DOCS.glob("*.md")}
    pages |= {ROOT / path: name for path, name in OUTSIDE.items()}
    for path, name in pages.items():

        def relink(match: re.Match[str], here: Path = path.parent) -> str:
            page = pages.get((here / match["target"]).resolve())
            return f"]({page}{match['anchor']})" if page else match[0]

        text = DIAGRAM.sub(r"![](\1)", path.read_text(encoding="utf-8"))
        text = re.sub(r"\]\((?P<target>[^)#\s:]+)(?P<anchor>(?:#[^)\s]*)?)\)", relink, text)
        (folder / "pages" / name).write_text(text, encoding="utf-8")
    for package in packages():
        target = folder / "icehouse" / package.relative_to(ROOT)
        target.mkdir(parents=True, exist_ok=True)
        for module in package.glob("*.py"):
            shutil.copy(module, target)


def main() -> int:
    """Rewrite what is out of date, or tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--site", type=Path)
    arguments = parser.parse_args()
    if arguments.site:
        gather(arguments.site)
        return 0
    architecture = DOCS / "architecture.md"
    before, rest = architecture.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    wanted = {
        architecture: f"{before}{BEGIN}\n{files()}\n{END}{after}",
        DOCS / "cli.md": commands(),
        DOCS / "api.md": api(),
    }
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        print(
            f"{path.relative_to(ROOT)} is out of date"
            + ("; run python docs/generate.py" if arguments.check else ", rewritten")
        )
        if not arguments.check:
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
