"""The docs tell the truth: what is generated is up to date, and what they name exists."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_in_the_menu_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]

    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [
            page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)
        ]

    outside = ["benchmarks.md", "contributing.md", "changelog.md"]
    assert sorted(pages(nav)) == sorted([*outside, *(path.name for path in (ROOT / "docs").glob("*.md"))])


def test_diagrams_are_drawn_as_they_are_written() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"<!-- drawn: (\S+) -->\n```mermaid\n(.*?)```", text, re.DOTALL)
    assert len(drawn) == text.count("```mermaid") == 2
    for name, source in drawn:
        picture = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert hashlib.sha256(source.encode()).hexdigest() in picture, "python docs/pictures.py --diagrams"


def test_pictures_are_small() -> None:
    large = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert {name: size for name, size in large.items() if size > 150_000} == {}


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_import_what_exists(page: Path) -> None:
    examples = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for line in (line.strip() for example in examples for line in example.splitlines()):
        if re.match(r"(from|import) icehouse", line):
            exec(line, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_that_are_mentioned_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)\b", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(icehouse\.(?:data|store|embed|dups|heads|serve|web)(?:\.\w+)+)`", text):
        resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    from icehouse.cli import app
    from typer.main import get_command

    root = get_command(app)
    for line in re.findall(
        r"^\s*\$ (icehouse [^#\n]*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        words = line.split()[1:]
        command = root
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"{page.name}: {line}"
            command = command.commands[words.pop(0)]
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", " " + " ".join(words)):
            assert option in known or option == "--help", f"{page.name}: {option} in {line}"
