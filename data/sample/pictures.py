"""Every scene of the sample feed by name, and the one function that paints one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .brush import Canvas
from .damaged import DAMAGED
from .oddments import ODDMENTS
from .places import LIGHTS, Scene, Setting
from .whole import WHOLE

__all__ = ["SCENES", "Painting", "paint"]

#: Every scene by name.
SCENES: dict[str, Scene] = {**WHOLE, **DAMAGED, **ODDMENTS}

_SHAPES = ((4, 3), (3, 2), (16, 9), (1, 1), (3, 4), (4, 5), (9, 14))


@dataclass(frozen=True)
class Painting:
    """A finished picture and the truth about it.

    Attributes
    ----------
    image : PIL.Image.Image
        RGB.
    scene : str
        Key into `SCENES`.
    light : str or None
        Key into `LIGHTS`; None where there is no place to light.
    severity : float or None
        How bad the damage is, 0 to 1; None where there is none.
    caption : str
        One plain sentence that says what can be seen.
    """

    image: Image.Image
    scene: str
    light: str | None
    severity: float | None
    caption: str


def paint(rng: np.random.Generator, name: str, *, long_side: int) -> Painting:
    """Paint one scene.

    Parameters
    ----------
    rng : numpy.random.Generator
    name : str
        Key into `SCENES`.
    long_side : int
        Longer side of the result in pixels.
    """
    scene = SCENES[name]
    across, down = _SHAPES[int(rng.choice(len(_SHAPES), p=[0.3, 0.2, 0.14, 0.12, 0.12, 0.07, 0.05]))]
    scale = 544 / max(across, down)
    canvas = Canvas(rng, round(across * scale), round(down * scale))
    light = str(rng.choice(list(LIGHTS), p=[0.34, 0.3, 0.14, 0.08, 0.14]))
    severity = float(rng.beta(2.2, 1.4))
    setting = Setting(canvas, light, severity, canvas.h * canvas.between(0.36, 0.58))
    caption = scene.paint(setting)
    factor = long_side / max(across, down)
    size = (round(across * factor), round(down * factor))
    if scene.kind == "irrelevant":
        return Painting(canvas.image.resize(size, Image.Resampling.LANCZOS), name, None, None, caption)
    if scene.indoors:
        return Painting(canvas.develop(size), name, None, None, caption)
    if setting.light == "rain" and rng.random() < 0.7:
        canvas.rain(int(rng.integers(150, 500)))
    elif rng.random() < 0.16:
        canvas.haze((206, 206, 204), canvas.between(0.1, 0.42))
    image = canvas.develop(size, light=LIGHTS[setting.light][3])
    damage = round(severity, 2) if scene.kind == "damage" else None
    return Painting(image, name, setting.light, damage, caption)
