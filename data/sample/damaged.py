"""Scenes of the sample feed that show damage: by water, earthquake, fire and storm, from slight to total.

Each function paints on the setting's canvas and says in one plain sentence what it painted.
"""

from __future__ import annotations

import numpy as np

from . import things
from .brush import Colour
from .places import Scene, Setting, hills, people, row, street, with_people

__all__ = ["DAMAGED"]

WATERS: tuple[Colour, ...] = ((134, 112, 82), (112, 100, 78), (96, 98, 84), (152, 128, 96), (104, 104, 104))
STONES: tuple[Colour, ...] = (
    (168, 160, 150),
    (140, 132, 124),
    (176, 140, 112),
    (150, 96, 76),
    (196, 190, 180),
    (112, 106, 100),
)


def _depth(severity: float) -> str:
    return "ankle-deep" if severity < 0.4 else "knee-deep" if severity < 0.7 else "door-high"


def _flooded_row(s: Setting) -> str:
    c = s.c
    foot = row(s, drowned=0.05 + 0.26 * s.severity, ground="none")
    c.water(foot, c.pick(WATERS), murk=c.between(0.6, 0.85), waves=c.between(5, 14))
    cars = int(c.rng.integers(0, 3))
    for _ in range(cars):
        things.car(
            c,
            c.between(0.1, 0.9) * c.w,
            foot + s.u * c.between(4, 16),
            s.u * c.between(28, 40),
            sunk=0.3 + 0.35 * s.severity,
        )
    rescue = c.rng.random() < 0.3
    if rescue:
        x = c.between(0.1, 0.6) * c.w
        things.person(c, x + s.u * 12, foot + s.u * 15, s.u * 20, vest=True)
        things.boat(c, x, foot + s.u * 19, s.u * 34)
    what = (", with cars stuck in it" if cars else "") + (", and a rescue boat" if rescue else "")
    return f"A row of houses standing in {_depth(s.severity)} brown flood water {s.when}{what}."


def _flooded_street(s: Setting) -> str:
    c = s.c
    level = street(s, drowned=0.4 + 0.6 * s.severity)
    c.water(level + s.u * 2, c.pick(WATERS), murk=c.between(0.6, 0.85), waves=c.between(5, 14))
    car = c.rng.random() < 0.5
    if car:
        things.car(
            c,
            c.between(0.25, 0.75) * c.w,
            c.h * c.between(0.7, 0.85),
            s.u * c.between(24, 40),
            sunk=0.3 + 0.35 * s.severity,
        )
    who = people(s, c.h * 0.8, s.u * 20, 2)
    where = f"A town street under {_depth(s.severity)} muddy flood water {s.when}"
    return f"{where}{', a car half under' if car else ''}{with_people(who)}."


def _flooded_fields(s: Setting) -> str:
    c = s.c
    hills(s)
    level = s.horizon + (c.h - s.horizon) * c.between(0.2, 0.45)
    c.water(level, c.pick(WATERS), murk=c.between(0.65, 0.88), waves=c.between(4, 12))
    for _ in range(int(c.rng.integers(3, 9))):
        foot = level + (c.h - level) * c.between(0.1, 0.8)
        things.tree(c, c.between(0, c.w), foot, s.u * c.between(10, 24), bare=bool(c.rng.random() < 0.4))
    for t in c.rng.uniform(0, 1, int(c.rng.integers(4, 10))):
        c.draw.line(
            [(t * c.w, level + (c.h - level) * t), (t * c.w, level + (c.h - level) * t - s.u * 5)],
            fill=(70, 56, 44),
            width=3,
        )
    return f"Farmland under brown flood water, trees and fence posts standing in it, {s.when}."


def _collapsed_row(s: Setting) -> str:
    c = s.c
    foot = row(s, broken=0.35 + 0.6 * s.severity)
    for _ in range(1 + int(3 * s.severity)):
        x, wide = c.between(-0.1, 0.7) * c.w, c.w * c.between(0.25, 0.6)
        c.rubble(
            x,
            x + wide,
            foot + s.u * c.between(4, 18),
            s.u * (8 + 18 * s.severity),
            STONES,
            pieces=180,
            size=s.u * 1.9,
        )
    c.haze((190, 178, 160), 0.12 + 0.15 * s.severity)
    who = people(s, foot + s.u * 20, s.u * 22, 3, vests=0.5)
    amount = "Partly" if s.severity < 0.5 else "Badly"
    return f"{amount} collapsed houses with rubble in front of them {s.when}{with_people(who)}."


def _collapsed_street(s: Setting) -> str:
    c = s.c
    street(s, broken=0.35 + 0.6 * s.severity)
    for side in (0.0, 0.62):
        for reach in (0.62, 0.75, 0.95):
            x, wide = (side + c.between(-0.06, 0.06)) * c.w, c.w * 0.42 * reach
            c.rubble(
                x,
                x + wide,
                c.h * reach,
                s.u * (6 + 16 * s.severity) * reach,
                STONES,
                pieces=110,
                size=s.u * 2.2 * reach,
            )
    c.haze((190, 178, 160), 0.12 + 0.15 * s.severity)
    who = people(s, c.h * 0.84, s.u * 22, 3, vests=0.5)
    return f"A street of fallen buildings, rubble on both sides, {s.when}{with_people(who)}."


def _rubble_field(s: Setting) -> str:
    c = s.c
    s.sky()
    c.band(s.horizon, c.h, (140, 130, 118), (120, 110, 100), rough=0.2)
    for t in (0.25, 0.55, 0.9):
        foot = s.horizon + (c.h - s.horizon) * (t + 0.2)
        c.rubble(-0.1 * c.w, 1.1 * c.w, foot, s.u * 26, STONES, pieces=230, size=s.u * (1.4 + 2.6 * t))
    who = people(s, c.h * 0.8, s.u * 26, 4, vests=0.7)
    return f"A field of rubble where buildings stood, {s.when}{with_people(who)}."


def _broken_road(s: Setting) -> str:
    c, rng = s.c, s.c.rng
    hills(s)
    vx, top = c.w * c.between(0.35, 0.65), s.horizon + c.h * 0.06
    c.polygon([(vx - 6, top), (vx + 6, top), (c.w * 1.0, c.h), (0, c.h)], (92, 92, 94), rough=0.15)
    for _ in range(4 + int(8 * s.severity)):
        t = c.between(0.15, 1)
        x, y = vx + (c.between(-0.45, 0.45)) * c.w * t, top + (c.h - top) * t
        spots = [(x, y)]
        for _ in range(10):
            spots.append(
                (spots[-1][0] + float(rng.normal(0, 26 * t)), spots[-1][1] + float(rng.normal(0, 9 * t)))
            )
        c.draw.line(spots, fill=(34, 30, 28), width=max(2, int(9 * t)))
    x0 = c.between(0, 0.45) * c.w
    earth: list[Colour] = [(112, 84, 60), (130, 100, 72), (90, 70, 54), (150, 130, 108)]
    c.rubble(
        x0,
        x0 + c.w * 0.55,
        c.h * c.between(0.78, 0.98),
        s.u * (14 + 18 * s.severity),
        earth,
        pieces=320,
        size=s.u * 2.2,
    )
    return f"A cracked country road, partly buried by a landslide of earth and stones, {s.when}."


def _burning_row(s: Setting) -> str:
    c = s.c
    foot = row(s, torn=0.5)
    fires = 1 + int(3 * s.severity)
    for _ in range(fires):
        x = c.between(0.1, 0.9) * c.w
        c.smoke(x, foot - s.u * 22, s.u * c.between(9, 18), (52, 48, 48), density=0.9, drift=c.between(-1, 1))
        c.fire(x, foot - s.u * c.between(4, 26), s.u * c.between(14, 26), s.u * (20 + 30 * s.severity))
    who = people(s, foot + s.u * 16, s.u * 20, 4, vests=0.5)
    return f"Houses on fire with flames and dark smoke {s.when}{with_people(who)}."


def _burning_hills(s: Setting) -> str:
    c = s.c
    s.light = str(c.rng.choice(["dusk", "night", "overcast", "sun"]))
    hills(s, burnt=0.3 + 0.6 * s.severity)
    for _ in range(2 + int(4 * s.severity)):
        x, y = c.between(0, 1) * c.w, s.horizon + (c.h - s.horizon) * c.between(0, 0.5)
        c.smoke(x, y, s.u * c.between(10, 22), (120, 108, 100), density=0.85, drift=c.between(-1, 1))
        for _ in range(3):
            c.fire(x + c.between(-20, 20) * s.u, y + s.u * 4, s.u * c.between(8, 20), s.u * c.between(12, 34))
    if s.severity > 0.4:
        c.haze((206, 130, 70), 0.3 * s.severity)
    return f"A wildfire on wooded hills with flames and thick smoke {s.when}."


def _burnt_row(s: Setting) -> str:
    c = s.c
    foot = row(s, broken=0.7, torn=0.8)
    box = (0, 0, c.w, c.h)
    ramp = np.clip(np.linspace(-0.3, 2, c.h, dtype=np.float32), 0, 1)[:, None]
    soot = (np.clip(c.grain(1, box) * 1.6 - 0.15, 0.15, 1) * ramp)[..., None]
    c.paste(np.asarray(c.image, np.float32) * (1 - 0.7 * soot) + 20 * soot, box, None)
    ash: list[Colour] = [(60, 58, 58), (84, 82, 82), (40, 38, 38), (120, 116, 112)]
    c.rubble(0, c.w, foot + s.u * 14, s.u * 20, ash, pieces=260, size=s.u * 1.8)
    c.smoke(c.between(0.2, 0.8) * c.w, foot, s.u * 10, (130, 128, 126), density=0.6, drift=c.between(-1, 1))
    return f"Burnt-out ruins of houses covered in ash, still smoking, {s.when}."


def _storm_row(s: Setting) -> str:
    c = s.c
    foot = row(s, torn=0.5 + 0.5 * s.severity, broken=0.15 * s.severity)
    planks: list[Colour] = [(150, 120, 84), (96, 76, 58), (180, 176, 168), (120, 60, 46)]
    for _ in range(1 + int(3 * s.severity)):
        things.fallen_tree(
            c, c.between(0.1, 0.9) * c.w, foot + s.u * c.between(6, 20), c.w * c.between(0.3, 0.55)
        )
    c.rubble(
        -20, c.w + 20, foot + s.u * 22, s.u * 18, planks, pieces=int(60 + 150 * s.severity), size=s.u * 1.3
    )
    return f"Houses with torn roofs behind fallen trees and scattered debris {s.when}."


def _storm_street(s: Setting) -> str:
    c = s.c
    street(s, torn=0.9)
    things.car(c, c.between(0.3, 0.7) * c.w, c.h * 0.8, s.u * c.between(24, 36))
    for _ in range(1 + int(2 * s.severity)):
        things.fallen_tree(
            c, c.between(0.15, 0.85) * c.w, c.h * c.between(0.68, 0.92), c.w * c.between(0.4, 0.65)
        )
    planks: list[Colour] = [(150, 120, 84), (96, 76, 58), (180, 176, 168), (70, 90, 56)]
    c.rubble(0, c.w, c.h * 0.97, s.u * 22, planks, pieces=int(60 + 140 * s.severity), size=s.u * 1.4)
    return f"A street blocked by fallen trees and broken branches after a storm, a car caught among them, {s.when}."


DAMAGED: dict[str, Scene] = {
    "flooded_row": Scene(_flooded_row, "damage", "flood"),
    "flooded_street": Scene(_flooded_street, "damage", "flood"),
    "flooded_fields": Scene(_flooded_fields, "damage", "flood", weight=0.6),
    "collapsed_row": Scene(_collapsed_row, "damage", "earthquake"),
    "collapsed_street": Scene(_collapsed_street, "damage", "earthquake"),
    "rubble": Scene(_rubble_field, "damage", "earthquake", weight=0.7),
    "broken_road": Scene(_broken_road, "damage", "earthquake", weight=0.6),
    "burning_row": Scene(_burning_row, "damage", "wildfire"),
    "burning_hills": Scene(_burning_hills, "damage", "wildfire"),
    "burnt_row": Scene(_burnt_row, "damage", "wildfire", weight=0.8),
    "storm_row": Scene(_storm_row, "damage", "storm"),
    "storm_street": Scene(_storm_street, "damage", "storm"),
}
