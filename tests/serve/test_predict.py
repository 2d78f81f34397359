"""Predictions on raw rows: the same as on stored features, and never with another encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import HeadError, SpaceError
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.serve.predict import predict
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures with words, a store of them, and a run trained on both inputs."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    rows = ["id,image,text,label,split"]
    (folder / "images").mkdir()
    for i in range(60):
        bright = i % 2 == 0
        pixels = rng.integers(140, 256, (24, 24, 3)) if bright else rng.integers(0, 116, (24, 24, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
        split = ("train", "train", "dev", "test")[i // 2 % 4]
        rows.append(
            f"i{i},images/{i:02d}.png,{'sun' if bright else 'night'} number{i},{'day' if bright else 'dark'},{split}"
        )
    (folder / "posts.csv").write_text("\n".join(rows) + "\n")
    embed_sources([folder / "posts.csv"], folder / "store", encoder=ToyEncoder(), dtype="float32")
    train(Store.open(folder / "store"), "logreg", inputs="image/joint,text", label="label")
    return folder


def test_raw_rows_as_stored_ones(work: Path) -> None:
    stored = predict(work / "store", "latest").table.to_pylist()
    raw = predict(work / "store", "latest", [work / "posts.csv"], encoder=ToyEncoder()).table.to_pylist()
    assert [row["item_id"] for row in raw] == [row["item_id"] for row in stored]
    for a, b in zip(raw, stored, strict=True):
        assert a["predicted"] == b["predicted"]
        assert a["p_day"] == pytest.approx(b["p_day"], abs=1e-6)
    assert {row["predicted"] for row in raw} == {"day", "dark"}


def test_rows_that_cannot_be_predicted_are_null_and_told(work: Path) -> None:
    (work / "images" / "bad.png").write_bytes(b"nothing")
    table = work / "new.csv"
    table.write_text(
        "id,image,text\na,images/00.png,sun again\nb,images/bad.png,night again\nc,,no picture\nd,../out.png,x\n"
    )
    made = predict(work / "store", "latest", [table], encoder=ToyEncoder())
    assert made.table["item_id"].to_pylist() == ["a", "b", "c"]
    assert made.table["predicted"].to_pylist() == ["day", None, None]
    assert made.table["reason"].to_pylist()[::2] == [None, "no image"]
    assert any("columns taken by their names" in note for note in made.notes)
    assert [failure.item_id for failure in made.failures] == ["b"]
    assert made.rejected is not None
    assert len(made.rejected) == 1


def test_rows_that_lack_an_input_are_predicted_where_training_kept_such(work: Path) -> None:
    """As the store says of the same rows; null is left for a row that has nothing."""
    folder = work / "kept"
    folder.mkdir()
    lines = (work / "posts.csv").read_text().replace("images/", "../images/").splitlines()
    lines = [line.replace("night number3,", ",").replace("../images/08.png", "") for line in lines]
    (folder / "posts.csv").write_text("\n".join(lines) + "\n")
    (work / "all.csv").write_text("\n".join(line.replace("../", "") for line in lines) + "\nnothing,,,,\n")
    embed_sources([work / "all.csv"], folder / "store", encoder=ToyEncoder(), dtype="float32")
    store = Store.open(folder / "store")
    run = train(store, "logreg", inputs="image/joint,text", label="label", missing="keep")
    stored = {row["item_id"]: row for row in predict(store, run).table.to_pylist()}
    made = predict(store, run, [work / "all.csv"], encoder=ToyEncoder()).table.to_pylist()
    raw = {row["item_id"]: row for row in made}
    assert {"i3", "i8"} <= set(stored) <= set(raw)
    for item, row in stored.items():
        assert raw[item]["predicted"] == row["predicted"]
        assert raw[item]["p_day"] == pytest.approx(row["p_day"], abs=1e-6)
    assert {item for item, row in raw.items() if row["predicted"] is None} == set(raw) - set(stored)


class Unused(ToyEncoder):
    """An encoder that must not be asked for anything."""

    def encode_texts(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing is to be encoded")

    encode_images = encode_texts


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("id,image,text\na,,words alone\nb,,more words\n", "none of the 2 rows has an image: --image-column"),
        ("id,image,words\na,images/00.png,x\n", "none of the 1 row has a text: --text-column .*words"),
        ("id,image,text\na,images/00.png,\nb,,x\n", "none of the 2 rows has both: --image-column and --text"),
        ("id,image,text\na,pics/00.png,x\n", "none of 1 image file is there, .*no folder 'pics'.*--root"),
    ],
)
def test_without_any_row_to_predict_nothing_is_encoded(work: Path, rows: str, why: str) -> None:
    (work / "none.csv").write_text(rows)
    with pytest.raises(HeadError, match=f"needs an image and a text, and {why}"):
        predict(work / "store", "latest", [work / "none.csv"], encoder=Unused())


def test_items_without_prediction_say_why(work: Path) -> None:
    folder = work / "partial"
    folder.mkdir()
    (work / "images" / "bad.png").write_bytes(b"nothing")
    lines = (work / "posts.csv").read_text().splitlines()
    more = ["x1,images/bad.png,sun,day,test", "x2,,only words,day,test", "x3,images/00.png,,day,test"]
    (work / "partial.csv").write_text("\n".join([lines[0], more[0], *lines[1:], *more[1:]]) + "\n")
    embed_sources([work / "partial.csv"], folder / "store", encoder=ToyEncoder(), dtype="float32")
    store = Store.open(folder / "store")
    run = train(store, "logreg", inputs="image/joint,text", label="label")
    (work / "few.csv").write_text("\n".join([lines[0], *lines[1:3], *more]) + "\n")
    made = predict(store, run, [work / "few.csv"], encoder=ToyEncoder())
    raw = {row["item_id"]: row for row in made.table.to_pylist()}
    whole = predict(store, run).table
    assert (
        whole.column_names == ["item_id", "predicted", "p_dark", "p_day", "reason"] == made.table.column_names
    )
    assert whole["item_id"].to_pylist() == store.items.read(["item_id"])["item_id"].to_pylist()
    stored = {row["item_id"]: row for row in whole.to_pylist()}
    for rows in (raw, stored):
        assert rows["i0"]["reason"] is None
        assert rows["i0"]["predicted"] == "day"
        assert [rows[x]["predicted"] for x in ("x1", "x2", "x3")] == [None] * 3
        assert rows["x1"]["reason"].startswith("decode: not an image of a known format")
        assert rows["x2"]["reason"] == "no image"
        assert rows["x3"]["reason"] == "no text"
    assert predict(store, run, where="item_id in ('i0', 'x2')").table["item_id"].to_pylist() == ["i0", "x2"]


def test_another_encoder_is_refused_by_fingerprint(work: Path) -> None:
    with pytest.raises(SpaceError, match=r"run .*toy:b|toy:b.*run "):
        predict(work / "store", "latest", [work / "posts.csv"], encoder=ToyEncoder("b"))


def test_another_resize_is_refused_by_the_probe(work: Path) -> None:
    with pytest.raises(SpaceError, match="probe"):
        predict(
            work / "store",
            "latest",
            [work / "posts.csv"],
            encoder=ToyEncoder(resample=Image.Resampling.NEAREST),
        )


def test_an_unknown_run_lists_those_there_are(work: Path) -> None:
    with pytest.raises(HeadError, match=Run.load(work / "store", "latest").run_id):
        predict(work / "store", "nothing-like-it")
