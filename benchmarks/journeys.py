"""How far one thing travels through the code: the files of icehouse that run in each journey of a user.

Each journey runs twice, the second time under ``sys.setprofile``, so that imports and caches do not count; a file counts
if a function of it was called. `python benchmarks/journeys.py [JOURNEY ...] [--files]`
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import icehouse
import numpy as np
from PIL import Image

ROOT = Path(icehouse.__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

Journey = Callable[[Path], Callable[[], Any]]


@contextlib.contextmanager
def files_that_run() -> Iterator[set[str]]:
    """Collect the paths, below the package's root, of files whose functions are called in any thread."""
    found: set[str] = set()
    seen: set[CodeType] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in seen:
            return
        seen.add(code)
        # Modules and bodies of classes run at import; only functions have optimised locals.
        if code.co_flags & inspect.CO_OPTIMIZED:
            file = Path(code.co_filename)
            if file.is_absolute() and file.is_relative_to(ROOT):
                path = file.relative_to(ROOT).as_posix()
                if not path.startswith((".venv/", "tests/", "benchmarks/")):
                    found.add(path)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def command(*arguments: str) -> None:
    """Run a command line as `icehouse` does, quietly."""
    from icehouse.cli import app
    from typer.main import get_command

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        get_command(app).main(list(arguments), prog_name="icehouse", standalone_mode=False)


def posts(folder: Path, n: int = 24) -> Path:
    """An annotation file of pictures with texts and labels; every third picture twice."""
    rng = np.random.default_rng(0)
    rows = ["id,image,text,label,split"]
    for i in range(n):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i}.jpg")
        if i % 3 == 0:
            picture.save(folder / f"{i}-again.jpg", quality=60)
            rows.append(f"again{i},{i}-again.jpg,words {i},{i % 2},train")
        rows.append(
            f"i{i},{i}.jpg,{'flood' if i % 2 else 'sun'} {i},{i % 2},{('train', 'train', 'dev', 'test')[i % 4]}"
        )
    path = folder / "posts.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def embed_one(folder: Path) -> Callable[[], Any]:
    posts(folder, 1)
    return lambda: command("embed", str(folder / "0.jpg"), "-s", str(folder / "store"), "-e", "mini")


def toy_store(folder: Path, tokens: bool = False) -> Path:
    from toys import ToyEncoder

    icehouse.embed_sources([posts(folder)], folder / "store", encoder=ToyEncoder(), tokens=tokens)
    return folder / "store"


def search_toy(folder: Path) -> Callable[[], Any]:
    from toys import ToyEncoder

    store = toy_store(folder)
    return lambda: icehouse.search(store, text="flood", encoder=ToyEncoder())


def search_mini(folder: Path) -> Callable[[], Any]:
    icehouse.embed_sources([posts(folder)], folder / "store", encoder="mini")
    return lambda: command("search", "-s", str(folder / "store"), "--text", "flood")


def dups_find(folder: Path) -> Callable[[], Any]:
    store = toy_store(folder)
    return lambda: command("dups", "find", "-s", str(store))


def train(folder: Path, *options: str) -> Callable[[], Any]:
    store = toy_store(folder, tokens=True)
    line = [
        "train",
        "guided-ca",
        "-s",
        str(store),
        "--inputs",
        "image/tokens,text/tokens",
        "-p",
        "epochs=2",
        *options,
    ]
    return lambda: command(*line)


def caption_one(folder: Path) -> Callable[[], Any]:
    from ollama_server import OllamaServer
    from toys import ToyEncoder

    posts(folder, 1)
    icehouse.embed_sources([folder / "0.jpg"], folder / "store", encoder=ToyEncoder())

    def run() -> None:
        with OllamaServer() as server:
            command("caption", "-s", str(folder / "store"), "--host", server.url, "--model", "llava:7b")

    return run


JOURNEYS: dict[str, Journey] = {
    "embed one JPEG": embed_one,
    "search (toy encoder)": search_toy,
    "search (mini)": search_mini,
    "dups find": dups_find,
    "train guided-ca, no report": lambda folder: train(folder, "--no-report"),
    "train guided-ca, report": train,
    "one caption": caption_one,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("journeys", nargs="*", metavar="JOURNEY", help=f"some of: {', '.join(JOURNEYS)}")
    parser.add_argument("--files", action="store_true", help="name the files")
    options = parser.parse_args()
    for name in options.journeys or JOURNEYS:
        with tempfile.TemporaryDirectory() as scratch:
            for turn in ("warm", "seen"):
                folder = Path(scratch) / turn
                folder.mkdir()
                run = JOURNEYS[name](folder)
                if turn == "warm":
                    run()
                    continue
                with files_that_run() as files:
                    run()
        print(f"{name:<28} {len(files):>3} files")
        if options.files:
            print("".join(f"    {path}\n" for path in sorted(files)), end="")


if __name__ == "__main__":
    main()
