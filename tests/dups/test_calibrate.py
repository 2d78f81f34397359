"""A calibration from end to end: made of a store's own contents, kept with its fingerprint, and used by `find`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from galleries import csv_rows, embedded
from icehouse.cli import app
from icehouse.data.transforms import GRADED, TEXT_EDITS, TRANSFORMS
from icehouse.dups.calibrate import SHRINKAGES, Curves, Hashes, _chosen, calibrate, draw_curves, write_curves
from icehouse.dups.calibration import Calibration, apply_map
from icehouse.dups.find import find_duplicates
from icehouse.dups.views import make_views
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SourceError, SpaceError, UsageError
from icehouse.store.files import write_sums
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder, picture
from typer.testing import CliRunner

FEATURE = "toy-a/image/joint"


def written(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        picture(seed, 96, 72).save(folder / f"p{seed:02d}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("images") / "i")


@pytest.fixture(scope="module")
def ready(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = embedded(images, tmp_path_factory.mktemp("ready") / "s")
    make_views(store, store.items.read(["image_sha256", "root", "path"]))
    return store.path


@pytest.fixture
def store(ready: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(ready, tmp_path / "s"))


def made(store: Store, **options: object) -> Calibration:
    arguments = {"feature": FEATURE, "encoder": ToyEncoder(), "sample": 20, **options}
    return calibrate(store, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def calibrated_once(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(ready, tmp_path_factory.mktemp("calibrated") / "s"))
    made(Store.open(path))
    return path


@pytest.fixture
def calibrated(calibrated_once: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(calibrated_once, tmp_path / "calibrated"))


@pytest.mark.slow
def test_it_is_measured_kept_and_used(store: Store) -> None:
    calibration = made(store)
    report = calibration.report
    assert {row["transform"] for row in report["transforms"]} == set(GRADED)
    assert sum(row["copies"] for row in report["transforms"]) == 20 * 6
    for row in report["transforms"]:
        assert row["cascade"] >= max(row["embedding"], row["hash"])
    recall = {row["transform"]: row["cascade"] for row in report["transforms"]}
    assert recall["recompress"] == recall["format"] == recall["brightness"] == 1
    assert report["cosine"] == calibration.threshold(40, 1)
    assert len(calibration.copies) == 120  # those that are not found too: other thresholds find them
    assert report["thresholds"]["0.1"] >= report["thresholds"]["1"] >= report["thresholds"]["100"]
    found = find_duplicates(store, feature=FEATURE)
    chosen = found.summary["parameters"]
    assert chosen["cosine"] == report["cosine"]
    assert chosen["cosine_from"].startswith(f"calibration {FEATURE} {calibration.fingerprint}")
    assert chosen["whitened"] == (calibration.matrix is not None)
    assert any("by the calibration" in note for note in found.summary["notes"])
    assert not any("is a guess" in note for note in found.summary["notes"])


def test_a_threshold_of_ones_own_comes_first_and_false_pairs_choose_again(calibrated: Store) -> None:
    store, calibration = calibrated, Calibration.open(calibrated, FEATURE)
    given = find_duplicates(store, feature=FEATURE, rule=0.99, views=False).summary["parameters"]
    assert (given["cosine"], given["cosine_from"]) == (0.99, "given")
    options: dict[str, Any] = {"expected_false_pairs": 50, "views": False}
    loose = find_duplicates(store, feature=FEATURE, **options).summary["parameters"]
    assert loose["cosine"] == calibration.threshold(40, 50) < calibration.threshold(40, 1)
    with pytest.raises(UsageError, match="not both"):
        find_duplicates(store, feature=FEATURE, rule=0.9, expected_false_pairs=2)


@pytest.mark.slow
def test_the_same_seed_makes_the_same_calibration(store: Store) -> None:
    first, second, other = made(store), made(store), made(store, seed=1)
    assert (first.tail, first.report["transforms"]) == (second.tail, second.report["transforms"])
    assert first.report["transforms"] != other.report["transforms"]


def test_without_one_few_contents_are_told_by_near_certainty(store: Store) -> None:
    found = find_duplicates(store, feature=FEATURE)
    notes = found.summary["notes"]
    assert any("too few" in note and "near hashes" in note for note in notes)
    assert found.summary["parameters"]["cosine"] >= 0.9
    assert found.summary["parameters"]["measure"] == "cosine"
    with pytest.raises(UsageError, match="above 0"):
        find_duplicates(store, feature=FEATURE, expected_false_pairs=0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"fingerprint": "0" * 16}, f"of fingerprint {'0' * 16}"),
        ({"format": 1}, "has format 1; make one with"),
    ],
)
def test_one_of_another_fingerprint_or_format_is_left_alone(
    calibrated: Store, changed: Any, says: str
) -> None:
    file = Calibration.folder(calibrated, FEATURE) / "calibration.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    write_sums(file.parent)
    summary = find_duplicates(calibrated, feature=FEATURE, views=False).summary
    assert summary["parameters"]["cosine_from"] == "default"
    assert any(says in note for note in summary["notes"])


@pytest.mark.slow
def test_hashes_are_judged_without_views_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many contents for views, unrelated ones have near hashes just the same."""
    usual = made(store)
    monkeypatch.setattr("icehouse.dups.calibrate.MAX_VIEWED", 10)
    bare = made(store)
    assert set(usual.bits) >= {"whole"}
    assert bare.bits == {"whole": usual.bits["whole"]}
    assert (bare.agreement, bare.report["view_radius"]) == (None, None)


def test_labels_decide_what_counts_as_unrelated(store: Store) -> None:
    m = 60
    rng = np.random.default_rng(0)
    units = rng.standard_normal((m, 8)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    units[-1] = 0  # no direction: nothing is known of its pairs
    whole = rng.integers(0, 2**64, m, dtype=np.uint64)
    # Near, and yet not apart from all others.
    whole[1::2] = whole[::2] ^ np.uint64(0xFFFF)
    hashes = Hashes(whole, np.ones(m, bool), None)
    compared = np.arange(m)
    equal = {(k, k + 1): True for k in range(0, m - 2, 2)}

    def share(known: dict[tuple[int, int], bool]) -> float:
        start, slope = hashes.fit_bits(compared, units, 2.0, known)["whole"]
        return NormalDist().cdf(start + 16 * slope)

    # Duplicates, says the user; and the last one, without a direction, tells nothing.
    assert share(equal) < share({}) / 3
    # They are unrelated, says the user, though the embedding finds them.
    opposite = hashes.fit_bits(compared, np.ones_like(units), 0.5, dict.fromkeys(equal, False))
    assert set(opposite) <= {"whole"}


def test_another_encoder_is_refused(store: Store) -> None:
    with pytest.raises(SpaceError):
        made(store, encoder=ToyEncoder("b"))
    with pytest.raises(SpaceError):
        made(store, encoder=ToyEncoder(resample=Image.Resampling.NEAREST))


@pytest.mark.slow
def test_copies_in_the_store_do_not_drag_the_threshold_up(images: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "mixed")
    for k, name in enumerate(("crop_10", "pad", "caption_band", "blur")):
        GRADED[name](picture(k, 96, 72), np.random.default_rng(k)).save(folder / f"copy{k}.png")
    thresholds = []
    for number, source in enumerate((images, folder)):
        embed_sources([source], tmp_path / f"s{number}", encoder=ToyEncoder(), workers=1)
        thresholds.append(made(Store.open(tmp_path / f"s{number}")).tail.threshold(40))
    assert abs(thresholds[1] - thresholds[0]) < 0.1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_images_is_too_few(tmp_path: Path, count: int) -> None:
    embed_sources([written(tmp_path / "few", count)], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    with pytest.raises(
        UsageError, match=f"has {count} different contents?, and a calibration needs at least"
    ):
        made(Store.open(tmp_path / "s"))


def test_files_that_are_gone_are_said(tmp_path: Path) -> None:
    folder = written(tmp_path / "gone", 20)
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="none of the image files"):
        made(Store.open(tmp_path / "s"))


@pytest.mark.slow
def test_labelled_pairs_are_counted(store: Store, tmp_path: Path) -> None:
    ids = store.items.read(["item_id"])["item_id"].to_pylist()
    file = tmp_path / "pairs.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([["a", "b", "label"], [*ids[:2], 1], [*ids[2:4], 0]])
    calibration = made(store, pairs=file)
    known = calibration.report["labelled"]
    assert (known["positives"], known["negatives"], known["negatives_found"]) == (1, 1, 0)
    last = calibration.report["transforms"][-1]
    assert (last["transform"], last["copies"], last["embedding"]) == ("labelled", 1, known["positives_found"])
    assert calibration.report["sampled"] == 20
    vectors = store.vectors(FEATURE)
    items = store.items.read(["item_id", "image_sha256"]).to_pylist()
    digest = {item["item_id"]: item["image_sha256"] for item in items}
    rows = [vectors.keys.to_pylist().index(digest[one]) for one in ids[:2]]
    units = apply_map(vectors.X[rows], calibration.mean, calibration.matrix)
    assert last["median_cosine"] == pytest.approx(float(units[0] @ units[1]), abs=1e-6)
    file.write_text("a,b\nx,y\n")
    with pytest.raises(SourceError, match="none of the labelled pairs"):
        made(store, pairs=file)


def test_texts_are_edited(tmp_path: Path) -> None:
    words = [f"w{k}" for k in range(300)]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 12)) for _ in range(60)]
    table = tmp_path / "posts.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([f"t{k}", text] for k, text in enumerate(texts))])
    store = embedded(table, tmp_path / "s")
    report = made(store, feature="toy-a/text/pooled").report
    assert {row["transform"] for row in report["transforms"]} == set(TEXT_EDITS)
    recall = {row["transform"]: row for row in report["transforms"]}
    assert recall["case"]["embedding"] == 1
    assert recall["case"]["hash"] == 0
    assert (
        find_duplicates(store, feature="toy-a/text/pooled").summary["parameters"]["cosine"]
        == report["cosine"]
    )


def test_numbers_out_of_range_are_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="at least 1 content, not 0"):
        made(store, sample=0)
    for expected in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="above 0 and finite"):
            made(store, expected_false_pairs=expected)
    made(store)
    with pytest.raises(UsageError, match="above 0 and finite"):
        find_duplicates(store, feature=FEATURE, expected_false_pairs=float("inf"))


def test_a_feature_of_tokens_is_refused(images: Path, tmp_path: Path) -> None:
    embed_sources([images], tmp_path / "s", encoder=ToyEncoder(), workers=1, tokens=True)
    with pytest.raises(UsageError, match="one vector an image or a text"):
        made(Store.open(tmp_path / "s"), feature="toy-a/image/tokens")


@pytest.mark.slow
def test_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icehouse.embed.tables.load_encoder", lambda *_, **__: ToyEncoder())
    arguments = ["dups", "calibrate", "-s", str(store.path), "-f", FEATURE, "--sample", "10"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for name in ("caption_band", "crop_20", "mirror"):
        assert name in result.stdout
    assert "at 1 expected false pair among 40 contents" in result.stdout
    assert "perceptual hashes: pictures within 6 bits" in result.stdout
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["fingerprint"] == Calibration.open(store, FEATURE).fingerprint
    found = CliRunner().invoke(
        app, ["dups", "find", "-s", str(store.path), "-f", FEATURE, "--expected-false-pairs", "5"]
    )
    assert found.exit_code == 0, found.output
    assert "5 expected false pairs" in found.stderr


def test_curves_count_what_there_is(tmp_path: Path) -> None:
    positives, top = np.array([0.5, 0.8, 0.9, 1.0]), np.array([0.7, 0.6])
    curves = Curves.of(positives, top, np.linspace(-0.3, 0.6, 50), 100, 10, 0.75)
    at = int(np.flatnonzero(curves.cosine == 0.75)[0])
    assert (curves.recall[at], curves.false_rate[at], curves.precision[at]) == (0.75, 0, 1)
    low = int(np.searchsorted(curves.cosine, 0.65))
    assert curves.false_rate[low] == pytest.approx(0.01)
    assert curves.false_pairs[low] == pytest.approx(0.45)
    assert (np.diff(curves.recall) <= 0).all()
    write_curves(tmp_path, curves)
    assert [float(row["cosine"]) for row in csv_rows(tmp_path / "curves.csv")] == curves.cosine.tolist()
    assert not list(tmp_path.glob("*.png"))
    draw_curves(tmp_path, curves, "toy")
    for name in ("roc.png", "precision-recall.png"):
        with Image.open(tmp_path / name) as drawn:
            assert len(drawn.convert("RGB").getcolors(10**6)) > 10


@pytest.mark.parametrize("name", list(GRADED))
def test_transforms_change_every_size_of_picture(name: str) -> None:
    for size in ((17, 16), (64, 48), (300, 20)):
        copy = GRADED[name](picture(3, *size), np.random.default_rng(0))
        assert copy.mode == "RGB"
        assert min(copy.size) >= 8
    assert set(TRANSFORMS) - {"crop"} <= set(GRADED)


def test_crops_take_what_they_say() -> None:
    image = picture(0, 200, 100)
    for share in (5, 10, 15, 20):
        width, height = GRADED[f"crop_{share}"](image, np.random.default_rng(1)).size
        assert (width, height) == (
            pytest.approx(200 * (1 - share / 100), abs=1),
            pytest.approx(100 - share, abs=1),
        )


@pytest.mark.slow
def test_mini_finds_the_copies_of_photographs(tmp_path: Path) -> None:
    """The real encoder, pictures that are alike in kind, and a copy of each: all but the hardest come back, nothing else."""
    from icehouse.data.sample_feed import make_feed

    feed = make_feed(tmp_path / "feed", n=60, seed=3)
    embed_sources([feed.posts], tmp_path / "s", encoder="mini", workers=1)
    store = Store.open(tmp_path / "s")
    calibration = calibrate(store, sample=8)
    found = find_duplicates(store)
    planted = {frozenset((copy, of)) for copy, of, _ in feed.reposts}
    pairs = {frozenset((row["id_a"], row["id_b"])) for row in found.pairs().to_pylist()}
    assert found.summary["parameters"]["cosine"] == calibration.threshold(found.summary["contents"])
    assert planted <= pairs
    assert len(pairs - planted) <= 1
    assert isinstance(found.pairs(), pa.Table)


@pytest.mark.parametrize(("contents", "sampled"), [(16, 10), (40, 10), (600, 50), (100_000, 200)])
def test_few_copies_are_made_of_few_contents(
    contents: int, sampled: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To calibrate is not to take longer than to embed."""
    import icehouse.dups.calibrate as module

    table = pa.table({name: pa.nulls(contents) for name in ("item_id", "phash")})
    monkeypatch.setattr(module, "_contents", lambda *_: (table, np.ones((contents, 4), np.float16)))
    monkeypatch.setattr(module.Hashes, "of", classmethod(lambda *_: None))
    asked = []

    def stop(*arguments: Any) -> None:
        asked.append(min(arguments[5], contents))
        raise UsageError("enough")

    monkeypatch.setattr(module, "make_copies", stop)
    with pytest.raises(UsageError, match="enough"):
        made(store, sample=None)
    assert asked == [sampled]


def test_a_set_of_hardly_anything_but_copies_is_calibrated(tmp_path: Path) -> None:
    """Of the largest cosines all but a few are of copies, and the unrelated pairs that are needed come after them."""
    folder = tmp_path / "i"
    folder.mkdir()
    for seed in range(5):
        for k in range(24):
            image = picture(seed, 96, 72)
            image.putpixel((k, 0), (k, 0, 0))
            image.save(folder / f"p{seed}-{k:02d}.png")
    embed_sources([folder], tmp_path / "s", encoder=ToyEncoder(), workers=1)
    report = made(Store.open(tmp_path / "s"), sample=5).report
    assert report["contents"] == 120
    assert report["pairs_left_out"] >= 1000


def test_near_hashes_of_all_are_no_reason_to_refuse(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all pictures share near hashes, these tell no copies apart: equal vectors alone are left out then."""
    monkeypatch.setattr(Hashes, "related", lambda self, i, j: np.ones(len(i), bool))
    calibration = made(store)
    assert calibration.tail.pairs == 40 * 39 // 2
    assert calibration.report["pairs_left_out"] == 0


@pytest.mark.parametrize(
    ("recalls", "local", "shrinkage"),
    [
        ((0.954, 0.957), True, 0.4),
        ((0.793, 0.79), True, 0.4),
        ((0.7, 0.6), True, 1.0),
        ((0.954, 0.957), False, 1.0),
    ],
)
def test_a_map_that_gains_nothing_is_that_of_the_default_search(
    recalls: tuple[float, float], local: bool, shrinkage: float
) -> None:
    """Else a calibrated search finds less than the default one does, since what it doubts depends on the map."""
    from icehouse.dups.default_calibration import _SHRINKAGE

    tried = [
        SimpleNamespace(shrinkage=one, mean_recall=recall, local=object() if local else None)
        for one, recall in zip(SHRINKAGES, recalls, strict=True)
    ]
    assert _chosen(tried).shrinkage == shrinkage  # type: ignore[arg-type]
    assert SHRINKAGES[-1] == _SHRINKAGE
