"""The order of the rooms, what `icehouse --help` may load, names that occur once, and the size of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = [ROOT.joinpath(*package.split(".")[1:]) for package in SETUP["packages"]]
FILES = sorted(path for folder in FOLDERS for path in folder.glob("*.py"))

#: A room imports itself and those before it.
ORDER = ["errors", "console", "data", "store", "embed", "dups", "heads", "serve", "cli"]
ALLOWED = {room: {*ORDER[: place + 1]} for place, room in enumerate(ORDER)}
#: Pages stand beside them.
ALLOWED["web"] = {"errors", "console", "web"}
for user in ("dups", "heads", "serve"):
    ALLOWED[user].add("web")
# `--max-pixels`, where it is given, sets the limit of `data.images`.
ALLOWED["console"].add("data")

HEAVY = [
    "PIL",
    "duckdb",
    "faiss",
    "jinja2",
    "lightgbm",
    "matplotlib",
    "numpy",
    "open_clip",
    "pyarrow",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
]

#: Names of modules that occur in two rooms and mean the same in both.
SAME_MEANING = {
    "commands": "the commands of a room",
    "options": "options that commands of a room share",
    "evaluate": "results against known answers",
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and room of every import of icehouse's own, in functions and under TYPE_CHECKING too."""
    package = ["icehouse", *path.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            names = [f"{module}.{name.name}" for name in node.names] if module == "icehouse" else [module]
        else:
            continue
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("icehouse.")]
    return found


def test_no_room_imports_one_above_it() -> None:
    wrong = []
    for path in FILES:
        if path.parent == ROOT and path.name in ("__init__.py", "__main__.py"):
            continue  # they name what they load on demand
        allowed = ALLOWED.get(room(path), set()) | {"__version__"}
        wrong += [f"{path.relative_to(ROOT)}:{line} {to}" for line, to in imports(path) if to not in allowed]
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_a_room_is_packaged() -> None:
    rooms = [folder for folder in FOLDERS if folder.parent == ROOT]
    found = {path.parent for folder in rooms for path in folder.rglob("*.py")}
    assert found == {*FOLDERS} - {ROOT}


def test_help_loads_nothing_heavy() -> None:
    help_only = {
        "attr",
        "markdown_it",
        "pygments",
    }  # what Typer and rich load, and icehouse's help does without
    code = f"""
import sys, contextlib, io, icehouse.cli
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    icehouse.cli.app(["--help"])
print("dups" in shown.getvalue(), *({{*{HEAVY}}} | {help_only}) & set(sys.modules))
from rich.markdown import Markdown
from rich.traceback import Traceback
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


def test_a_module_name_occurs_in_one_room() -> None:
    rooms = defaultdict(set)
    for path in FILES:
        if path.name not in ("__init__.py", "__main__.py") and path.stem not in SAME_MEANING:
            rooms[path.stem].add(room(path))
    twice = [f"{name}: {', '.join(sorted(where))}" for name, where in sorted(rooms.items()) if len(where) > 1]
    assert not twice, "\n".join(twice)


def test_the_house_is_small() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert [f"{path}: {n}" for path, n in lines.items() if n > 900] == []
    assert len(lines) <= 156


def test_the_public_names_are_those_that_others_rely_on() -> None:
    import icehouse
    import icehouse.heads

    assert icehouse.__all__ == [
        "IcehouseError",
        "Store",
        "__version__",
        "embed_sources",
        "open",
        "predict",
        "search",
    ]
    for module in (icehouse, icehouse.heads):
        assert all(hasattr(module, name) for name in module.__all__)
