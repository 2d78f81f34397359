from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from icehouse.data.columns import PRESETS, get_preset
from icehouse.errors import SourceError, UsageError
from sources import by_id, column, notes, read, write_rows

CRISISMMD = Path(__file__).resolve().parents[3] / "shared" / "data" / "crisismmd"
real = pytest.mark.skipif(not CRISISMMD.is_dir(), reason="CrisisMMD is not there")

HEADER = "event_name\ttweet_id\timage_id\ttweet_text\timage\tlabel"
AGREED = f"{HEADER}\tlabel_text\tlabel_image\tlabel_text_image"


def crisis(folder: Path, task: str, split: str, *rows: str, header: str = HEADER) -> Path:
    path = folder / f"task_{task}_text_img_{'' if task == 'damage' else 'agreed_lab_'}{split}.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(number: int, text: str, label: str, *more: str) -> str:
    return "\t".join(["flood", str(number), f"{number}_0", text, f"data_image/{number}_0.jpg", label, *more])


def test_quotes_in_tweets_are_literal(tmp_path: Path) -> None:
    texts = ['"opened and never closed', 'she said "go"', '"whole"', 'doubled ""', "plain"]
    path = crisis(tmp_path, "damage", "dev", *(row(i, text, "mild_damage") for i, text in enumerate(texts)))
    manifest = read(path, preset="crisismmd")
    assert column(manifest, "text") == texts
    assert set(column(manifest, "split")) == {"dev"}
    assert manifest.labels == ("label", "event_name", "tweet_id")
    assert manifest.table["item_id"][0].as_py() == "0_0"
    assert manifest.rejected.num_rows == 0


def test_one_task_has_label_and_split(tmp_path: Path) -> None:
    train = crisis(
        tmp_path, "humanitarian", "train", row(1, "a", "vehicle_damage"), row(2, "b", "not_humanitarian")
    )
    test = crisis(tmp_path, "humanitarian", "test", row(3, "c", "missing_or_found_people"))
    table = read(train, test, preset="crisismmd").table
    assert table["split"].to_pylist() == ["train", "train", "test"]
    assert table["label"].to_pylist() == ["vehicle_damage", "not_humanitarian", "missing_or_found_people"]
    assert table["label5"].to_pylist() == [
        "infrastructure_and_utility_damage",
        "not_humanitarian",
        "affected_individuals",
    ]


def test_several_tasks_are_one_item_each(tmp_path: Path) -> None:
    crisis(tmp_path, "damage", "dev", row(1, "said no", "mild_damage"))
    crisis(
        tmp_path,
        "humanitarian",
        "train",
        row(1, '"said" no', "vehicle_damage", "x", "y", "Positive"),
        header=AGREED,
    )
    crisis(tmp_path, "informative", "test", row(1, '"said" no', "informative"), row(2, "b", "informative"))
    manifest = read(tmp_path, preset="crisismmd")
    first, second = manifest.table.to_pylist()
    assert first["item_id"] == "1_0"
    assert first["text"] == '"said" no'
    assert (first["split"], second["split"]) == (None, None)
    expected = {
        "damage": "mild_damage",
        "humanitarian": "vehicle_damage",
        "humanitarian5": "infrastructure_and_utility_damage",
        "humanitarian_text": "x",
        "informative": "informative",
        "split_damage": "dev",
        "split_humanitarian": "train",
        "split_informative": "test",
        "event_name": "flood",
    }
    assert {name: first[name] for name in expected} == expected
    assert second["damage"] is None
    assert "label" not in manifest.labels
    assert "the longer kept" in notes(manifest)


def test_contradicting_labels_of_one_task_are_not_merged(tmp_path: Path) -> None:
    crisis(tmp_path, "damage", "dev", row(1, "a", "mild_damage"))
    crisis(tmp_path, "damage", "test", row(1, "a", "severe_damage"))
    manifest = read(tmp_path, preset="crisismmd")
    assert column(manifest, "label") == ["mild_damage"]
    assert "differs in" in manifest.rejected["message"][0].as_py()


def test_a_task_that_cannot_be_told(tmp_path: Path) -> None:
    known = crisis(tmp_path, "damage", "dev", row(1, "a", "mild_damage"))
    other = tmp_path / "mine.tsv"
    other.write_bytes(known.read_bytes())
    with pytest.raises(SourceError, match=r"mine\.tsv"):
        read(known, other, preset="crisismmd")
    manifest = read(other, preset="crisismmd", split="holdout")
    assert column(manifest, "split") == ["holdout"]


def test_options_override_the_preset(tmp_path: Path) -> None:
    path = crisis(tmp_path, "damage", "dev", row(1, "a", "mild_damage"))
    given = {"split": "test", "label_columns": ("severity=label",), "id_column": "tweet_id"}
    (item,) = read(path, preset="crisismmd", **given).table.to_pylist()
    assert (item["item_id"], item["split"], item["severity"]) == ("1", "test", "mild_damage")
    assert "label" not in item


@real
@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("informative", {"train": 9601, "dev": 1573, "test": 1534}),
        ("humanitarian", {"train": 6126, "dev": 998, "test": 955}),
        ("damage", {"train": 2468, "dev": 529, "test": 529}),
    ],
)
def test_crisismmd_has_exactly_its_rows(task: str, expected: dict[str, int]) -> None:
    manifest = read(*sorted(CRISISMMD.glob(f"task_{task}_*.tsv")), preset="crisismmd")
    assert Counter(column(manifest, "split")) == expected
    assert manifest.rejected.num_rows == 0
    assert manifest.table["text"].null_count == 0
    if task == "humanitarian":
        merged = Counter(
            label
            for label, split in zip(
                *(manifest.table[c].to_pylist() for c in ("label5", "split")), strict=True
            )
            if split == "test"
        )
        assert merged == {
            "not_humanitarian": 504,
            "other_relevant_information": 235,
            "rescue_volunteering_or_donation_effort": 126,
            "infrastructure_and_utility_damage": 81,
            "affected_individuals": 9,
        }


@real
def test_crisismmd_whole() -> None:
    manifest = read(CRISISMMD, preset="crisismmd")
    assert manifest.table.num_rows == 13108
    assert manifest.rejected.num_rows == 0
    splits = manifest.table.select(["split_informative", "split_humanitarian", "split_damage"]).to_pylist()
    assert sum(len({s for s in item.values() if s}) > 1 for item in splits) == 4260
    again = read(*sorted(CRISISMMD.glob("*.tsv"), reverse=True), preset="crisismmd")
    assert by_id(manifest, "text") == by_id(again, "text")


def test_hateful_memes(tmp_path: Path) -> None:
    meme = {"id": 8291, "img": "img/08291.png", "label": 1, "text": 'a "b"\nc'}
    write_rows(tmp_path / "train.jsonl", [{"id": "01235", "img": "img/01235.png", "label": 0, "text": "t"}])
    write_rows(tmp_path / "dev_seen.jsonl", [meme])
    write_rows(tmp_path / "dev_unseen.jsonl", [meme, {"id": 7, "img": "img/07.png", "label": 0, "text": "u"}])
    write_rows(tmp_path / "test_seen.jsonl", [{"id": 9, "img": "img/09.png", "text": "no label"}])
    manifest = read(tmp_path, preset="hateful-memes")
    items = {item["item_id"]: item for item in manifest.table.to_pylist()}
    assert {key: item["split"] for key, item in items.items()} == {
        "01235": "train",
        "8291": "dev",
        "7": "dev_unseen",
        "9": "test",
    }
    assert items["8291"]["label"] == "1"
    assert items["8291"]["text"] == 'a "b"\nc'
    assert items["9"]["label"] is None
    assert manifest.rejected.num_rows == 0
    assert "in several splits" in notes(manifest)


def test_multioff(tmp_path: Path) -> None:
    for name, image in (("Training", "a.png"), ("Validation", "b.png"), ("Testing", "c.png")):
        text = f'image_name,sentence,label\n{image},"YOU, ""SIR""",Non-offensiv\n'
        (tmp_path / f"{name}_meme_dataset.csv").write_text(text, encoding="utf-8")
    manifest = read(tmp_path, preset="multioff")
    assert by_id(manifest, "split") == {"a.png": "train", "b.png": "dev", "c.png": "test"}
    assert set(column(manifest, "text")) == {'YOU, "SIR"'}


def test_memotion(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        ",image_name,text_ocr,text_corrected,humour,sarcasm,offensive,motivational,overall_sentiment\n"
        "0,image_1.jpg,OCR 1,corrected 1,hilarious,general,not_offensive,not_motivational,very_positive\n"
        "1,image_2.jpg,OCR 2,,not_funny,general,not_offensive,motivational,positive\n",
        encoding="utf-8",
    )
    (tmp_path / "2000_testdata.csv").write_text(
        "Image_name,Image_URL,OCR_extracted_text,corrected_text\n10.jpg,http://x/10.jpg,ocr,fixed\n",
        encoding="utf-8",
    )
    manifest = read(tmp_path / "labels.csv", preset="memotion")
    assert column(manifest, "text") == ["corrected 1", "OCR 2"]
    assert manifest.labels == ("humour", "sarcasm", "offensive", "motivational", "overall_sentiment")
    assert column(manifest, "motivational") == ["not_motivational", "motivational"]
    test = read(tmp_path / "2000_testdata.csv", preset="memotion").table
    assert (test["text"].to_pylist(), test["split"].to_pylist()) == (["fixed"], ["test"])


def test_a_file_of_another_data_set_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("picture,words\na.jpg,b\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"no column image_name.*'picture', 'words'"):
        read(path, preset="multioff")
    with pytest.raises(SourceError, match=r"no annotation file of crisismmd"):
        read(tmp_path, preset="crisismmd")


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match=r"did you mean crisismmd\?.*multioff"):
        get_preset("CrisisMM")
    assert all(preset.name == name and preset.about for name, preset in PRESETS.items())
