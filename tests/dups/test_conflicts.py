"""Label conflicts: duplicates with different labels are listed once, and shown side by side."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from galleries import csv_rows, looking_alike
from html_page import HOSTILE, HtmlPage
from icehouse.cli import app
from icehouse.dups.apply import apply_judgements
from icehouse.dups.evaluate import CONFLICTS, find_conflicts
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import conflicts_page
from icehouse.errors import StoreError, UsageError
from icehouse.store.store import Store
from typer.testing import CliRunner

#: id, which picture it looks like, content, text, label
Row = tuple[str, int, int, str | None, str | None]

ROWS: list[Row] = [
    ("a", 0, 0, None, "hateful"),
    ("a-copy", 0, 0, None, "fine"),
    ("a-copy2", 0, 0, None, "fine"),
    ("a-near", 0, 1, None, "Hateful "),  # another spelling of the same label
    ("b", 1, 2, None, "fine"),
    ("b-near", 1, 3, None, "hateful"),
    ("b-bare", 1, 4, None, None),
    ("c", 2, 5, None, None),
    ("c-copy", 2, 5, None, "fine"),  # stands for its content, whose best has no label
    ("c-near", 2, 6, None, "hateful"),
    ("m1", 3, 7, "when monday hears homework", "fine"),
    ("m2", 3, 8, "cats are liquid and that is fine", "hateful"),
    ("alone", 4, 9, None, "fine"),
]


def made_store(path: Path, rows: list[Row], labels: str = "label") -> Store:
    names = ("item_id", "look", "content", "text", labels)
    return looking_alike(path, [dict(zip(names, row, strict=True)) for row in rows])


@pytest.fixture
def labelled(tmp_path: Path) -> Store:
    store = made_store(tmp_path / "s", ROWS)
    find_duplicates(store, hamming=None, rule=0.9)
    return store


def test_each_contradiction_is_listed_once(labelled: Store) -> None:
    made = find_conflicts(labelled)
    told = [(r["id_a"], r["id_b"], r["label_a"], r["label_b"], r["kind"]) for r in made.pairs.to_pylist()]
    assert sorted(told) == [
        ("a", "a-copy", "hateful", "fine", "exact"),
        ("b", "b-near", "fine", "hateful", "embedding"),
        ("c-copy", "c-near", "fine", "hateful", "embedding"),
        ("m1", "m2", "fine", "hateful", "variant"),
    ]
    assert [row[4] for row in told] == ["exact", "embedding", "embedding", "variant"]
    assert made.pairs.schema == CONFLICTS
    assert made.counts == {"exact": 1, "perceptual": 0, "embedding": 2, "variant": 1, "container": 0}
    assert made.compared == {"exact": 2, "perceptual": 0, "embedding": 3, "variant": 1, "container": 0}
    assert made.unlabelled == 2
    variant = made.pairs.to_pylist()[-1]
    assert (variant["text_a"], variant["text_b"]) == (ROWS[10][3], ROWS[11][3])
    assert variant["cosine"] > 0.9


def test_pairs_that_only_people_call_duplicates_contradict_too(labelled: Store, tmp_path: Path) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text("a,b,label\na,alone,1\nb-near,c-near,1\n")
    apply_judgements(labelled, judged)
    made = find_conflicts(labelled)
    told = [(r["id_a"], r["id_b"], r["label_a"], r["label_b"], r["kind"]) for r in made.pairs.to_pylist()]
    assert ("a", "alone", "hateful", "fine", "judged") in told
    assert [row[4] for row in told] == ["exact", "judged", "embedding", "embedding", "variant"]
    assert (made.counts["judged"], made.compared["judged"]) == (1, 2)
    page = conflicts_page(labelled, made)
    assert "of 2 by judged by people" not in page
    assert "of 2 judged by people" in page
    said = CliRunner().invoke(app, ["dups", "conflicts", "-s", str(labelled.path)]).output
    assert "1 of 2 judged" in said


def test_judged_pairs_without_a_contradiction_are_counted_as_compared(
    labelled: Store, tmp_path: Path
) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text("a,b,label\nb-near,c-near,1\n")
    apply_judgements(labelled, judged)
    made = find_conflicts(labelled)
    assert (made.counts["judged"], made.compared["judged"]) == (0, 1)
    assert "of 1 judged by people" in conflicts_page(labelled, made)
    said = CliRunner().invoke(app, ["dups", "conflicts", "-s", str(labelled.path)]).output
    assert "0 of 1 judged" in said


def test_find_tells_how_many_there_are(labelled: Store) -> None:
    summary = find_duplicates(labelled, hamming=None, rule=0.9).summary
    assert summary["labels"]["column"] == "label"
    assert summary["labels"]["conflicting"] == {
        "exact": 2,
        "perceptual": 0,
        "embedding": 1,
        "variant": 1,
        "container": 0,
    }
    assert any("3 of 4 pairs of duplicates have different labels (75%)" in note for note in summary["notes"])
    bare = made_store(labelled.path.parent / "bare", ROWS, labels="likes")
    assert find_duplicates(bare, hamming=None, rule=0.9).summary["labels"] is None


@pytest.mark.parametrize("seed", range(5))
def test_conflicts_are_those_of_comparing_everything(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for k in range(40):
        content = int(rng.integers(25))
        label = [None, "x", "y", "z"][rng.integers(4)]
        rows.append((f"i{k:02d}", content // 3, content, None, label))
    store = made_store(tmp_path / "s", rows)
    find_duplicates(store, hamming=None, rule=0.9)
    made = find_conflicts(store)
    told = {(row["id_a"], row["id_b"]) for row in made.pairs.to_pylist()}
    assert len(told) == made.pairs.num_rows
    look, content, label = ({row[0]: row[k] for row in rows} for k in (1, 2, 4))
    for a, b in told:
        assert look[a] == look[b] and None not in (label[a], label[b]) and label[a] != label[b]  # noqa: PT018
    # Whatever contradicts is told by some pair of the same contents with one of these labels.
    pairs = {frozenset((content[a], content[b])) for a, b in told}
    first = {}
    for item, _, number, _, value in rows:
        if value is not None:
            first.setdefault(number, (item, value))
    for p, q in itertools.combinations(sorted(first), 2):
        if p // 3 == q // 3:
            assert (frozenset((p, q)) in pairs) == (first[p][1] != first[q][1])
    for number, (_, value) in first.items():
        others = {row[4] for row in rows if row[2] == number} - {None, value}
        assert sum(content[a] == content[b] == number for a, b in told) == len(others)


def test_the_page_shows_both_sides(labelled: Store) -> None:
    made = find_conflicts(labelled)
    page = HtmlPage(conflicts_page(labelled, made))
    assert page.policy.startswith("default-src 'none'")
    text = page.text
    for word in ("a-copy", "c-near", "same picture and other words", "when monday hears homework", "hateful"):
        assert word in text
    short = conflicts_page(labelled, made, limit=1)
    assert "the first 1 are shown" in short
    assert "c-near" not in short


def test_pairs_without_labels_are_no_agreement(tmp_path: Path) -> None:
    bare = made_store(tmp_path / "bare", [(*row[:4], None) for row in ROWS])
    find_duplicates(bare, hamming=None, rule=0.9)
    done = CliRunner().invoke(app, ["dups", "conflicts", "-s", str(bare.path)])
    assert done.exit_code == 0, done.output
    assert "has a 'label' on both sides: nothing was compared" in done.stderr


def test_the_command_lists_writes_and_shows(labelled: Store, tmp_path: Path) -> None:
    ask = ["dups", "conflicts", "-s", str(labelled.path)]
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    assert "4 pairs with different label: 1 of 2 exact, 2 of 3 embedding, 1 of 1 variant" in done.output
    done = CliRunner().invoke(app, [*ask, "-o", str(tmp_path / "c.csv"), "--page", str(tmp_path / "c.html")])
    assert done.exit_code == 0, done.output
    assert [row["id_a"] for row in csv_rows(tmp_path / "c.csv")] == ["a", "c-copy", "b", "m1"]
    assert "<html" in (tmp_path / "c.html").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, [*ask, "--json"])
    told = json.loads(done.stdout)
    assert told["conflicts"] == len(told["pairs"]) == 4
    assert told["by_kind"]["variant"] == 1


def test_what_cannot_be_compared_is_refused(labelled: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'labell' of labels"):
        find_conflicts(labelled, label="labell")
    with pytest.raises(StoreError, match="no duplicates 'other'"):
        find_conflicts(labelled, "other")
    bare = made_store(tmp_path / "bare", ROWS, labels="verdict")
    find_duplicates(bare, hamming=None, rule=0.9)
    with pytest.raises(UsageError, match="no column 'label'; name one with --label: split, verdict"):
        find_conflicts(bare)
    assert find_conflicts(bare, label="verdict").pairs.num_rows == 4


def test_what_strangers_wrote_stays_text(tmp_path: Path) -> None:
    rows: list[Row] = [
        (f"{word}-{k}", number, 2 * number + k, word, f"{word}{k}")
        for number, word in enumerate(HOSTILE)
        for k in (0, 1)
    ]
    store = made_store(tmp_path / "s", rows)
    find_duplicates(store, hamming=None, rule=0.9)
    made = find_conflicts(store)
    assert made.pairs.num_rows == len(HOSTILE)
    HtmlPage(conflicts_page(store, made))  # whatever is no markup of ours fails there
