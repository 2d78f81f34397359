"""A set of which an implausible share would be duplicates gets no list of what to drop, unless that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from galleries import embedded
from icehouse.cli import app
from icehouse.data.sample_scenes import SCENES, paint
from icehouse.data.transforms import GRADED, encode
from icehouse.dups.act import plan_actions
from icehouse.dups.default_calibration import careful_expected
from icehouse.dups.find import find_duplicates
from icehouse.dups.linked_pairs import _same_colours
from icehouse.dups.results import implausible
from icehouse.errors import UsageError
from icehouse.store.store import Store
from PIL import Image, ImageDraw
from typer.testing import CliRunner

LISTS = {"keep.csv", "drop.csv"}


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 110 different pictures that are all alike to the encoder."""
    folder = tmp_path_factory.mktemp("alike")
    (folder / "i").mkdir()
    rng = np.random.default_rng(0)
    for k in range(110):
        pixels = 128 + rng.normal(0, 12, (24, 24, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "i" / f"p{k:03d}.png")
    return embedded(folder / "i", folder / "s")


def test_no_lists_without_a_word(alike: Store) -> None:
    found = find_duplicates(alike, rule=0.5, hamming=None, views=None)
    assert found.summary["pairs"]["total"] > 0.02 * 110 * 109 / 2
    assert found.summary["lists_withheld"] is True
    assert not LISTS & {file.name for file in found.path.iterdir()}
    assert any("this set looks alike" in note and "--yes-drop" in note for note in found.summary["notes"])
    with pytest.raises(UsageError, match=r"no drop\.csv, since the set looks alike"):
        plan_actions(alike, "script")
    asked = find_duplicates(alike, rule=0.5, hamming=None, views=None, yes_drop=True)
    assert asked.summary["lists_withheld"] is False
    assert {file.name for file in asked.path.iterdir()} >= LISTS
    assert asked.summary["dropped"] == found.summary["dropped"] > 0


def test_command(alike: Store) -> None:
    command = ["dups", "find", "-s", str(alike.path), "--threshold", "0.5", "--no-perceptual"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "drop.csv, variants.csv" not in done.output
    assert "drop.csv, variants.csv" in CliRunner().invoke(app, [*command, "--yes-drop"]).output


@pytest.mark.parametrize(
    ("pairs", "contents", "largest", "says"),
    [
        (63 * 276, 63 * 24, 24, ""),  # every picture with 23 copies
        (4000, 100, 100, ""),  # a small set is looked at as a whole
        (0, 700, 1, ""),
        (110_000, 700, 300, "45.0% of all pairs"),
        (1546, 333, 40, "2.8% of all pairs"),
        (5000, 3000, 700, "700 of 3000 contents in one group"),
        (5000, 3000, 600, ""),
    ],
)
def test_what_is_plausible(pairs: int, contents: int, largest: int, says: str) -> None:
    told = implausible(pairs, contents, largest)
    assert says in told
    assert bool(told) == bool(says)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 112 flags of 4 patterns in 28 pairs of colours, many with equal hashes, and a smaller copy of 3."""
    folder = tmp_path_factory.mktemp("flags")
    (folder / "i").mkdir()
    rng = np.random.default_rng(3)
    for pattern in range(4):
        shape = np.random.default_rng(pattern).random((6, 6)) < 0.5
        for k in range(28):
            # The light colour is always lighter, as a hash has it.
            dark, light = rng.integers(0, 110, 3), rng.integers(140, 256, 3)
            pixels = np.where(shape.repeat(20, 0).repeat(20, 1)[..., None], light, dark).astype(np.uint8)
            image = Image.fromarray(pixels)
            image.save(folder / "i" / f"flag{pattern}-{k:02d}.png")
            if not k and pattern:
                image.resize((90, 90)).save(folder / "i" / f"flag{pattern}-{k:02d}-copy.png")
    return embedded(folder / "i", folder / "s")


@pytest.mark.slow
def test_equal_hashes_prove_nothing_where_all_have_them(
    flags: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icehouse.dups.find.default_calibration", lambda *_, **__: None)
    found = find_duplicates(flags)
    pairs = found.pairs(["id_a", "id_b", "kind"]).to_pylist()
    stems = {tuple(sorted(Path(row[side]).stem for side in ("id_a", "id_b"))) for row in pairs}
    assert stems == {(f"flag{k}-00", f"flag{k}-00-copy") for k in (1, 2, 3)}
    assert found.summary["dropped"] == 3
    assert found.summary["stages"]["refuted"] > 30
    assert any("where the thumbnails hardly differ" in note for note in found.summary["notes"])
    # What is asked for by hand is what comes.
    by_hand = find_duplicates(flags, name="by-hand", hamming=0)
    assert by_hand.summary["pairs"]["by_kind"]["perceptual"] > 30


def test_fewer_false_pairs_are_expected_of_small_sets() -> None:
    assert careful_expected(0) > 0
    assert careful_expected(250) == 0.5
    assert careful_expected(500) == careful_expected(10**6) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seams", [False, True])
def test_copies_beside_the_frames_of_a_film_are_found_by_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seams: bool
) -> None:
    """Frames have hundreds of near hashes, so that these prove nothing; pixels do, of contents that have few near ones.

    So they do where both pictures look like collages by their `seams`.
    """
    monkeypatch.setattr("icehouse.dups.find.default_calibration", lambda *_, **__: None)
    if seams:
        monkeypatch.setattr("icehouse.dups.find.have_cells", lambda _, contents: np.ones(len(contents), bool))
    rng, names = np.random.default_rng(5), list(SCENES)[:4]
    film = paint(rng, "lake", long_side=96)[0].convert("RGB")
    (tmp_path / "i").mkdir()
    for k in range(94):
        noisy = np.asarray(film, np.float32) + rng.normal(0, 5, (film.height, film.width, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "i" / f"frame{k:03d}.png")
    for k, name in enumerate(names):
        scene = paint(np.random.default_rng(k), name, long_side=240)[0].convert("RGB")
        scene.save(tmp_path / "i" / f"scene{k}.png")
        edit = ("recompress", "watermark", "brightness", "crop_5")[k % 4]
        copy = GRADED[edit](scene, np.random.default_rng(k))
        (tmp_path / "i" / f"scene{k}-copy.jpg").write_bytes(encode(copy, "jpg", 80))
    found = find_duplicates(embedded(tmp_path / "i", tmp_path / "s"))
    pairs = found.pairs(["id_a", "id_b"]).to_pylist()
    ends = {tuple(sorted(Path(row[side]).stem.split("-")[0] for side in ("id_a", "id_b"))) for row in pairs}
    ends = {pair for pair in ends if not pair[0].startswith("frame")}
    assert {a for a, b in ends if a != b} == set()
    assert len(ends) == 4
    assert found.summary["stages"]["registered"]["agreeing"] >= 2


def test_pictures_that_agree_in_grey_are_told_apart_by_their_colours() -> None:
    flag = np.full((32, 32, 3), (250, 250, 250), np.float32)
    flag[:11], flag[22:] = (200, 16, 46), (0, 56, 147)
    other = flag.copy()
    other[13:19, 13:19] = (0, 151, 57)  # an emblem
    another = other.copy()
    another[13:19, 13:19] = (111, 38, 61)
    assert _same_colours(flag, flag * 0.8)
    assert _same_colours(flag, np.roll(flag, 3, axis=0))
    banded = np.concatenate([np.zeros((5, 32, 3), np.float32), flag])[np.linspace(0, 36, 32).astype(int)]
    assert _same_colours(flag, banded)
    assert not _same_colours(other, another)
    assert not _same_colours(flag, flag[::-1])
    assert not _same_colours(flag, None)


def icon(ground: tuple[int, int, int], points: Sequence[tuple[int, int]]) -> Image.Image:
    """A white figure on a coloured ground."""
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((8, 8, 120, 120), 24, ground)
    draw.polygon(points, "white")
    return image


def test_icons_that_hardly_differ_are_told_apart_and_copies_of_them_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of icons a near-certain cosine proves little, and near thumbnails of the same colours that agree prove much."""
    monkeypatch.setattr("icehouse.dups.find.default_calibration", lambda *_, **__: None)
    monkeypatch.setattr("icehouse.dups.rule.near_certain_cosine", lambda *_, **__: 0.9999)
    monkeypatch.setattr("icehouse.dups.linked_pairs.suspects", lambda _: 12.0)
    monkeypatch.setattr("icehouse.dups.linked_pairs._LEAST_LOOKS", 12)
    folder, rng = tmp_path / "i", np.random.default_rng(4)
    folder.mkdir()
    for k in range(110):
        x, y, wide, high = rng.integers((24, 24, 20, 20), (60, 60, 50, 50)).tolist()
        points = [(x, y + high), (x + wide, y + high), (x + wide // 2, y), (x + wide // 3, y + high // 2)]
        made = icon(tuple(rng.integers(0, 200, 3).tolist()), points[: 3 + k % 2])
        made.save(folder / f"icon{k:03d}.png")
        if k < 4:
            (folder / f"icon{k:03d}-copy.jpg").write_bytes(encode(made, "jpg", 40))
    orange = (255, 127, 14)
    icon(orange, [(66, 90), (102, 90), (84, 50)]).save(folder / "like-one.png")
    icon(orange, [(65, 91), (95, 91), (80, 52)]).save(folder / "like-two.png")
    store = embedded(folder, tmp_path / "s")
    # The two that are alike have a cosine between these, and the copies have one below the second.
    for alike in (0.9999, 0.999999):
        monkeypatch.setattr("icehouse.dups.rule.alike_cosine", lambda _, alike=alike: alike)
        found = find_duplicates(store)
        pairs = found.pairs(["id_a", "id_b", "kind"]).to_pylist()
        ends = [
            tuple(sorted(Path(row[side]).stem for side in ("id_a", "id_b")))
            for row in pairs
            if row["kind"] != "variant"
        ]
        assert sorted(ends) == [(f"icon{k:03d}", f"icon{k:03d}-copy") for k in range(4)]
        assert found.summary["dropped"] == 4


def test_crops_of_a_quarter_are_found_in_a_set_of_a_few_pictures(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    for k, name in enumerate(list(SCENES)[:5]):
        scene = paint(np.random.default_rng(k), name, long_side=320)[0].convert("RGB")
        scene.save(tmp_path / "i" / f"scene{k}.png")
        if k == 2:
            wide, high = scene.size
            scene.crop((wide // 8, high // 8, wide, high)).save(tmp_path / "i" / "crop.png")
    found = find_duplicates(embedded(tmp_path / "i", tmp_path / "s"))
    pairs = found.pairs(["id_a", "id_b"]).to_pylist()
    assert [{Path(row[side]).stem for side in ("id_a", "id_b")} for row in pairs] == [{"crop", "scene2"}]
