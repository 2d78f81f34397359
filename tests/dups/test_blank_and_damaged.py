"""Blank pictures are no evidence in any stage; whatever a decoder raises costs one file, in every command that decodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from galleries import csv_rows, embedded
from icehouse.data import images
from icehouse.dups import calibrate as calibrate_module
from icehouse.dups.calibrate import calibrate
from icehouse.dups.find import find_duplicates
from icehouse.dups.views import load_views
from icehouse.embed.pipeline import embed_sources
from icehouse.embed.tables import FeatureTables
from icehouse.embed.thumbnails import thumbnail
from icehouse.errors import SourceError, SpaceError
from icehouse.serve.query import search
from icehouse.store.store import Store
from PIL import Image, ImageFile
from streams import make_stream
from toys import ToyEncoder, picture

FEATURE = "toy-a/image/pooled"
COLOURS = ("white", "#fefefe", "black", (3, 3, 3), (90, 120, 40), (92, 121, 42))


def pile(folder: Path, count: int = 24) -> Path:
    """Pictures, and a folder's worth of blanks: in several colours, sizes and formats, and one that is there twice."""
    folder.mkdir()
    for seed in range(count):
        picture(seed, 96, 72).save(folder / f"p{seed:02d}.png")
    for k, colour in enumerate(COLOURS):
        for suffix in ("png", "jpg", "gif", "webp", "tif"):
            Image.new("RGB", (40 + k, 40), colour).save(folder / f"blank-{k}.{suffix}")
    Image.new("RGBA", (50, 40), (255, 0, 0, 0)).save(folder / "blank-clear.png")
    shutil.copy(folder / "blank-0.png", folder / "copy.png")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return embedded(pile(tmp_path / "pile"), tmp_path / "s")


def test_blank_pictures_are_duplicates_of_their_copies_only(store: Store) -> None:
    found = find_duplicates(store, feature=FEATURE, rule=0.9, views=True)
    pairs = found.pairs().to_pylist()
    blank = [p for p in pairs if not (p["id_a"].startswith("p") and p["id_b"].startswith("p"))]
    assert [(p["id_a"], p["id_b"], p["kind"]) for p in blank] in (
        [("blank-0.png", "copy.png", "exact")],
        [("copy.png", "blank-0.png", "exact")],
    )
    assert any("31 of 55 images are blank" in note for note in found.summary["notes"])
    assert not any("without a vector" in note for note in found.summary["notes"])
    dropped = [row["item_id"] for row in csv_rows(found.path / "drop.csv")]
    dropped = [item for item in dropped if not item.startswith("p")]
    assert len(dropped) == 1
    _, usable = load_views(store, store.items.read(), make=False)
    names = store.items.read(["item_id"])["item_id"].to_pylist()
    assert not usable[[k for k, name in enumerate(names) if not name.startswith("p")]].any()


def test_blank_pictures_of_an_earlier_store_are_known_by_their_hash(store: Store) -> None:
    """There the hash of one colour has the bit of the mean, but for black."""
    items = store.items.read(["item_id", "phash"])
    was = [1 << 63 if value == 0 and "-2." not in name else value for name, value in zip(
        *(items[column].to_pylist() for column in ("item_id", "phash")), strict=True)]  # fmt: skip
    changed = pa.table({"item_id": items["item_id"], "phash": pa.array(was, pa.uint64())})
    store.items.upsert(changed, key="item_id")
    found = find_duplicates(store, feature=FEATURE, rule=0.9, hamming=6, views=False)
    pairs = [(p["id_a"], p["id_b"]) for p in found.pairs().to_pylist() if p["id_a"][0] != "p"]
    assert [set(pair) for pair in pairs] == [{"blank-0.png", "copy.png"}]


@pytest.mark.slow
def test_blank_pictures_have_no_part_in_a_calibration(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    copies = calibrate_module.make_copies

    def noted(*arguments: object) -> object:
        held.append(arguments[2].num_rows)  # type: ignore[attr-defined]
        return copies(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate_module, "make_copies", noted)
    made = calibrate(store, feature=FEATURE, encoder=ToyEncoder(), sample=8)
    assert (held, made.report["contents"]) == ([24], 24)


def test_blank_pictures_match_nothing_in_a_stream(store: Store) -> None:
    folder = Path(store.items.read(["root"])["root"][0].as_py())
    paths = sorted(folder.glob("blank-*")) + sorted(folder.glob("p*.png")) + [folder / "copy.png"]
    encoder = ToyEncoder()
    with make_stream(encoder, window=200, shrink=False) as stream:
        verdicts = {Path(v.id).name: v for v in stream.judge_many(paths)}
    matched = {name: v.kind for name, v in verdicts.items() if v.matches and not name.startswith("p")}
    assert matched == {"copy.png": "exact"}
    assert not any(v.error for v in verdicts.values())
    assert sum(encoder.batches) == 24, "what proves nothing is not encoded"


def test_vectors_of_an_earlier_decoder_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import icehouse.embed.tables as tables

    made = tables.feature_provenance

    def earlier(*arguments: object) -> dict[str, object]:
        return {key: value for key, value in made(*arguments).items() if key != "decoder"}  # type: ignore[arg-type]

    monkeypatch.setattr(tables, "feature_provenance", earlier)
    embed_sources([pile(tmp_path / "pile", 4)], tmp_path / "old", encoder=ToyEncoder())
    monkeypatch.undo()
    old = Store.open(tmp_path / "old")
    assert "decoder" not in old.feature_table(FEATURE).spec["provenance"]
    picture(77).save(tmp_path / "pile" / "new.png")
    with pytest.raises(SpaceError, match=r"decoder \(absent / 2\).*embed the images again.*--name NEW"):
        embed_sources([tmp_path / "pile"], old, encoder=ToyEncoder())
    with pytest.raises(SpaceError, match="--name NEW"):
        search(old, image=tmp_path / "pile" / "p00.png", feature="toy-a/image/joint", encoder=ToyEncoder())
    assert search(old, text="red", feature="toy-a/image/joint", encoder=ToyEncoder()).hits
    assert search(old, item="p01.png", feature="toy-a/image/joint").hits
    assert find_duplicates(old, feature=FEATURE).summary["items"] == 36
    # The remedy of the message works.
    assert embed_sources([tmp_path / "pile"], old, encoder=ToyEncoder(), name="new").images == 36
    assert FeatureTables is tables.FeatureTables


class Choking(ImageFile.ImageFile):
    """A decoder that raises what no list of exceptions foresees."""

    format = "PPM"

    def _open(self) -> None:
        self._size, self._mode = (8, 8), "RGB"
        self.tile = [ImageFile._Tile("raw", (0, 0, 8, 8), 0, "RGB")]

    def load(self) -> object:  # type: ignore[override]
        raise ZeroDivisionError("of a codec's own")


@pytest.fixture
def choking(monkeypatch: pytest.MonkeyPatch) -> None:
    images._formats()
    monkeypatch.setitem(Image.OPEN, "PPM", (Choking, lambda prefix: prefix[:2] == b"P6"))


@pytest.mark.slow
def test_whatever_a_decoder_raises_costs_that_file(
    store: Store, tmp_path: Path, choking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pile"
    bad = folder / "bad.png"
    bad.write_bytes(b"P6 8 8 255\n" + bytes(192))
    report = embed_sources([folder], store, encoder=ToyEncoder())
    assert (report.new, report.failed) == (1, 1)
    row = Store.open(store.path).failures.read().to_pylist()[0]
    assert (row["item_id"], row["stage"], row["error"]) == ("bad.png", "decode", "ImageError")
    assert row["message"] == "damaged PPM: of a codec's own"
    assert thumbnail(bad).problem == "damaged PPM: of a codec's own"
    with pytest.raises(SourceError, match=r"bad.png: damaged PPM"):
        search(store, image=bad, feature="toy-a/image/joint", encoder=ToyEncoder())
    with make_stream(ToyEncoder()) as stream:
        assert [v.error for v in stream.judge_many([bad, folder / "p00.png"])] == [
            "damaged PPM: of a codec's own",
            None,
        ]
    # In the place of files that were sound when they were embedded.
    for seed in range(0, 24, 2):
        shutil.copy(bad, folder / f"p{seed:02d}.png")
    assert find_duplicates(store, feature=FEATURE, views=True).summary["items"] == 57
    assert calibrate(store, feature=FEATURE, encoder=ToyEncoder(), sample=8).report["sampled"] == 8


def test_a_picture_that_an_encoder_cannot_prepare_costs_only_itself(tmp_path: Path) -> None:
    class Picky(ToyEncoder):
        def prepare_image(self, image: Image.Image) -> np.ndarray:
            if image.width == 50:
                raise KeyError("no such width")
            return super().prepare_image(image)

    (tmp_path / "photos").mkdir()
    for seed in range(6):
        picture(seed, 50 if seed < 2 else 60).save(tmp_path / "photos" / f"{seed}.png")
    report = embed_sources([tmp_path / "photos"], tmp_path / "store", encoder=Picky())
    assert (report.items, report.images, report.failed) == (6, 4, 2)


def test_flat_pictures_could_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for level in range(0, 200, 20):
        Image.new("RGB", (90, 70), (level, level, 90)).save(folder / f"{level}.png")
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    notes = find_duplicates(tmp_path / "s", feature=None).summary["notes"]
    assert any("10 of 10 images are blank" in note for note in notes)
    assert not any("could be read" in note for note in notes)


def test_files_that_are_gone_could_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    for level in (20, 90):
        Image.new("RGB", (90, 70), (level, level, 90)).save(folder / f"{level}.png")
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    for file in folder.iterdir():
        file.unlink()
    notes = find_duplicates(tmp_path / "s", feature=None).summary["notes"]
    assert any("no image file could be read again" in note for note in notes)
