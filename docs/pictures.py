"""Pictures of the docs, `docs/images/`: a contact sheet, a gallery of duplicates and a report, from the demo; diagrams.

python docs/pictures.py [FOLDER]      makes the demo in FOLDER (else a temporary one) and takes the pictures, with Chromium
python docs/pictures.py --diagrams    draws the Mermaid diagrams, with `mmdc` (npm's @mermaid-js/mermaid-cli)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).resolve().parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1200, 800
MOST_BYTES = 150_000


def pages(folder: Path) -> dict[str, Path]:
    """Pages to show, by the name of their picture."""
    store = folder / "store"
    if not store.exists():
        _icehouse("demo", folder)
        _icehouse("dups", "calibrate", "--sample", 60, "-s", store)
        _icehouse("dups", "find", "--gallery", "-s", store)
    reports = sorted((store / "runs").glob("*/report.html"))
    gallery = next((store / "dups").glob("*/gallery/page-0001.html"))
    return {"search": folder / "fire.html", "gallery": gallery, "report": reports[0]}


def _icehouse(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "icehouse", *map(str, arguments)], check=True, cwd=tempfile.gettempdir()
    )


def _browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or sys.exit(f"none of {', '.join(BROWSERS)} is installed")


def take(page: Path, picture: Path) -> None:
    """Photograph the top of a page, as a WebP file that is small enough for a repository.

    Raises
    ------
    SystemExit
        If there is no Chromium, or the picture is too large.
    """
    browser = _browser()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/user",
        ]
        size = [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", "--virtual-time-budget=4000"]
        subprocess.run([browser, *options, *size, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(shot) as image:
            image.convert("RGB").save(picture, quality=80, method=6)
    if picture.stat().st_size > MOST_BYTES:
        sys.exit(f"{picture} has {picture.stat().st_size} bytes, more than {MOST_BYTES}")
    print(picture, picture.stat().st_size)


def draw() -> None:
    """Draw the diagrams of `architecture.md`; each picture ends with the checksum of what it was drawn from."""
    from generate import DIAGRAM

    for name, source in DIAGRAM.findall((IMAGES.parent / "architecture.md").read_text(encoding="utf-8")):
        picture = IMAGES.parent / name
        with tempfile.TemporaryDirectory() as folder:
            browser = {"executablePath": _browser(), "args": ["--no-sandbox"]}
            (Path(folder) / "browser.json").write_text(json.dumps(browser), encoding="utf-8")
            options = ["-p", f"{folder}/browser.json", "-b", "white", "-i", "-", "-o", str(picture)]
            subprocess.run(["mmdc", *options], input=source, text=True, check=True)
        with picture.open("a", encoding="utf-8") as file:
            file.write(f"<!-- {hashlib.sha256(source.encode()).hexdigest()} -->\n")


def main() -> None:
    """Make the demo where it is not there, and take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--diagrams", action="store_true")
    arguments = parser.parse_args()
    if arguments.diagrams:
        draw()
        return
    with tempfile.TemporaryDirectory() as temporary:
        IMAGES.mkdir(exist_ok=True)
        for name, page in pages(arguments.folder or Path(temporary) / "demo").items():
            take(page, IMAGES / f"{name}.webp")


if __name__ == "__main__":
    main()
