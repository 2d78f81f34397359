"""Real photographs for demonstrations and tests: those that scikit-image ships."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import SourceError

__all__ = ["Photograph", "photographs"]


@dataclass(frozen=True)
class Photograph:
    """A real photograph: a plain id, its file, and a short title."""

    id: str
    path: Path
    title: str


# Files of scikit-image that are photographs, with a title that a stranger would give them.
_PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", "An astronaut in an orange space suit"),
    "brick": ("brick.png", "A brick wall"),
    "camera": ("camera.png", "A man with a film camera on a tripod"),
    "cat": ("chelsea.png", "A ginger cat"),
    "coffee": ("coffee.png", "A cup of coffee with a spoon"),
    "coins": ("coins.png", "Ancient coins"),
    "galaxies": ("hubble_deep_field.jpg", "Galaxies in deep space"),
    "grass": ("grass.png", "Grass"),
    "gravel": ("gravel.png", "Gravel"),
    "horse": ("horse.png", "The silhouette of a horse"),
    "moon": ("moon.png", "The surface of the moon"),
    "motorcycle": ("motorcycle_left.png", "A motorcycle in a garage"),
    "page": ("page.png", "A page of a printed book"),
    "retina": ("retina.jpg", "The retina of an eye"),
    "rocket": ("rocket.jpg", "A rocket on its launch pad"),
    "tissue": ("ihc.png", "Stained tissue under a microscope"),
}


def photographs(folder: str | Path) -> list[Photograph]:
    """Copy the photographs that come with scikit-image, those that this version of it has; nothing is downloaded."""
    try:
        import skimage
    except ImportError:
        raise SourceError("the photographs come with scikit-image: pip install 'icehouse[demo]'") from None
    source = Path(skimage.__file__).parent / "data"
    there = {key: value for key, value in _PHOTOGRAPHS.items() if (source / value[0]).is_file()}
    if not there:
        raise SourceError("this scikit-image ships none of the photographs; install another version")
    folder = Path(folder)
    rows = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, (name, title) in there.items():
            path = folder / f"{key}{Path(name).suffix}"
            shutil.copyfile(source / name, path)
            rows.append(Photograph(key, path, title))
    except OSError as error:
        raise SourceError(f"cannot write the photographs to {folder}: {error.strerror or error}") from error
    return rows
