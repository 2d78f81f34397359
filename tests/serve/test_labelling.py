"""Labelling: the table of labels, votes, kappa, the queue, Label Studio's JSON, the command."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from icehouse.dups.apply import apply_judgements
from icehouse.dups.find import find_duplicates
from icehouse.errors import IcehouseError, UsageError
from icehouse.serve.label_table import (
    ADJUDICATOR,
    SKIP,
    UNDO,
    Entry,
    export_label_studio,
    export_labels,
    import_labels,
    load_task,
    set_task,
    standing,
    task_names,
)
from icehouse.serve.labelling import (
    Desk,
    annotators,
    decisions,
    disputed,
    find_units,
    fleiss_kappa,
    kappa_with_interval,
    majority,
)
from icehouse.store.maintain import verify
from icehouse.store.sql import query
from icehouse.store.store import Store
from served import make_store
from shell import ran, refused, told

CLASSES = ("day", "dark", "none")
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path, rows=24)


@pytest.fixture
def desk(store: Store) -> Desk:
    set_task(store, "light", classes=CLASSES, votes=2)
    return Desk(store, "light")


def entry(number: int, item: str, who: str, label: str | None, **more: Any) -> Entry:
    given = {"action": SKIP if label is None else "label", "label": label, **more}
    return Entry(f"e{number}", item, who, START + timedelta(seconds=number), **given)


def vote(desk: Desk, who: str, item: str, label: str | None, **more: Any) -> bool:
    vote.count += 1  # type: ignore[attr-defined]
    return desk.say(who, item, label, f"v{vote.count}", **more)  # type: ignore[attr-defined]


vote.count = 0  # type: ignore[attr-defined]


# Kappa


#: Table 1 of many textbooks on Fleiss (1971): 10 subjects, 14 raters, 5 classes.
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_kappa_is_the_published_one() -> None:
    assert fleiss_kappa(np.array(FLEISS)) == pytest.approx(0.210, abs=5e-4)
    kappa = kappa_with_interval(np.array(FLEISS))
    assert kappa["low"] < 0.210 < kappa["high"]
    assert kappa["items"] == 10


def test_kappa_by_hand_and_where_there_is_none() -> None:
    # Two items of two votes: one agreed (1), one not (0); shares 3/4 and 1/4: expected 10/16.
    assert fleiss_kappa(np.array([[2, 0], [1, 1]])) == pytest.approx((0.5 - 0.625) / 0.375)
    assert fleiss_kappa(np.array([[2, 0], [0, 2], [0, 1]])) == 1  # one vote says nothing of agreement
    assert fleiss_kappa(np.array([[2, 0], [3, 0]])) is None
    assert fleiss_kappa(np.zeros((0, 2))) is None
    assert kappa_with_interval(np.zeros((0, 2)))["value"] is None
    assert kappa_with_interval(np.array([[1, 0]]))["items"] == 0


# What holds


ITEMS = {"a": "a", "a2": "a", "b": "b", "c": "c"}
CONTENTS = {item: (f"{item}-image", None) for item in ITEMS}


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Labels, skips and undos of a few people on a few items."""
    made: list[Entry] = []
    for number in range(draw(st.integers(0, 14))):
        who, item = draw(st.sampled_from(["ann", "bob", "cem"])), draw(st.sampled_from([*ITEMS]))
        role = draw(st.sampled_from(["annotator", "annotator", ADJUDICATOR]))
        mine = [e for e in made if e.annotator == who and e.role == role]
        if mine and draw(st.integers(0, 3)) == 0:
            last = mine[-1]
            made.append(entry(number, last.item_id, who, None, action=UNDO, undoes=last.entry_id, role=role))
        else:
            label = draw(st.sampled_from([*CLASSES, None]))
            made.append(entry(number, item, who, label, role=role, image_sha256=f"{item}-image"))
    return made


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_arrivals_does_not_matter(history: list[Entry], random: Any) -> None:
    want = standing(history, ITEMS, CONTENTS, CLASSES)
    shuffled = [*history, *history[:3]]  # and what comes twice counts once
    random.shuffle(shuffled)
    got = standing(shuffled, ITEMS, CONTENTS, CLASSES)
    assert got == want
    assert [*got.votes] == [*want.votes]  # in the order in which they were begun
    assert decisions(got, 2) == decisions(want, 2)


@given(histories(), st.sampled_from(["ann", "bob"]), st.sampled_from([*ITEMS]), st.sampled_from(CLASSES))
def test_undo_gives_what_was_before(history: list[Entry], who: str, item: str, label: str) -> None:
    before = standing(history, ITEMS, CONTENTS, CLASSES)
    said = entry(100, item, who, label, image_sha256=f"{item}-image")
    undo = entry(101, item, who, None, action=UNDO, undoes=said.entry_id)
    assert standing([*history, said, undo], ITEMS, CONTENTS, CLASSES) == before
    after = standing([*history, said], ITEMS, CONTENTS, CLASSES)
    assert after.votes[ITEMS[item]][who].label == label


def test_the_latest_word_of_each_holds_and_members_share_it() -> None:
    found = standing(
        [
            entry(1, "a", "ann", "day"),
            entry(2, "a2", "ann", "dark"),  # the same unit
            entry(3, "a", "bob", "dark"),
            entry(4, "gone", "bob", "dark"),
            entry(5, "b", "bob", "dark", image_sha256="another"),
            entry(6, "b", "ann", "purple"),
        ],
        ITEMS,
        CONTENTS,
        CLASSES,
    )
    assert {who: e.label for who, e in found.votes["a"].items()} == {"ann": "dark", "bob": "dark"}
    assert (found.gone, found.changed, found.foreign) == (1, 1, 1)
    assert "b" not in found.votes


def test_majority_disagreement_and_the_adjudicator() -> None:
    def of(*labels: str) -> dict[str, Entry]:
        return {f"p{i}": entry(i, "a", f"p{i}", label) for i, label in enumerate(labels)}

    assert majority(of("day", "day"), 3) is None
    assert majority(of("day", "day", "dark"), 3) == "day"
    assert majority(of("day", "dark", "none"), 3) is None
    assert majority(of("day", "dark"), 2) is None
    history = [entry(1, "a", "ann", "day"), entry(2, "a", "bob", "dark")]
    found = standing(history, ITEMS, CONTENTS, CLASSES)
    assert disputed(found, 2) == ["a"]
    found = standing([*history, entry(3, "a", "eve", "none", role=ADJUDICATOR)], ITEMS, CONTENTS, CLASSES)
    assert disputed(found, 2) == []
    assert decisions(found, 2)["a"] == decisions(found, 9)["a"]
    assert (decisions(found, 2)["a"].label, decisions(found, 2)["a"].by) == ("none", "adjudicator")


def test_agreement_is_with_the_majority_of_the_others() -> None:
    history = [
        *(entry(i, "a", who, label) for i, (who, label) in enumerate([("ann", "day"), ("bob", "day"), ("cem", "dark")])),
        *(entry(9 + i, "b", who, "dark") for i, who in enumerate(["ann", "bob", "cem"])),
        entry(20, "c", "ann", None),
    ]  # fmt: skip
    by_name = {one["annotator"]: one for one in annotators(standing(history, ITEMS, CONTENTS, CLASSES))}
    # On a: ann's others are split, so nothing is said of her; so are bob's; cem's agree on day.
    assert (by_name["ann"]["agreement"]["value"], by_name["ann"]["agreement"]["of"]) == (1.0, 1)
    assert (by_name["cem"]["agreement"]["value"], by_name["cem"]["agreement"]["of"]) == (0.5, 2)
    assert (by_name["ann"]["labels"], by_name["ann"]["skips"]) == (2, 1)


# The table


def test_a_task_is_made_once_and_changed_by_version(store: Store) -> None:
    assert task_names(store) == []
    with pytest.raises(UsageError, match="no labelling task yet"):
        load_task(store)
    with pytest.raises(UsageError, match="is new: name its classes"):
        set_task(store, "light", votes=2)
    for odd in (["a"], ["a", "A"], ["a", "nan"], ["a", "x" * 200], ["a", ""]):
        with pytest.raises(UsageError):
            set_task(store, "light", classes=odd)
    with pytest.raises(UsageError):
        set_task(store, "../x", classes=CLASSES)
    assert set_task(store, "light", classes=[" day ", "dark"]).version == 1
    assert set_task(store, "light", classes=["day", "dark"]).version == 1
    changed = set_task(store, "light", votes=1, instructions="Look well.")
    assert (changed.version, changed.votes, changed.classes) == (2, 1, ("day", "dark"))
    assert load_task(Store.open(store.path)) == changed


def test_many_labels_stay_few_files_and_sound(desk: Desk, store: Store) -> None:
    for number in range(80):
        assert vote(desk, f"p{number % 4}", f"i{number % 20}", CLASSES[number % 3])
    assert len(desk.labels.table.snapshot().parts) < 40
    assert len(desk.labels.read()) == 80
    assert query(store, "select count(distinct entry_id) as n from labels_light").to_pylist() == [{"n": 80}]
    report = verify(store)
    assert [finding for finding in report.findings if finding.problem] == []
    again = Desk(Store.open(store.path), "light")
    assert again.found == desk.found


def test_the_same_click_twice_and_two_at_once(desk: Desk) -> None:
    assert desk.say("ann", "i3", "day", "click-1")
    assert not desk.say("ann", "i3", "day", "click-1")
    assert len(desk.labels.read()) == 1
    other = Desk(Store.open(desk.store.path), "light")  # another process
    assert not other.say("ann", "i3", "day", "click-1")
    errors: list[Exception] = []

    def work(at: Desk, who: str) -> None:
        try:
            for number in range(6):
                at.say(who, f"i{number}", "dark", f"{who}-{number}")
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(at, who))
        for at, who in [(desk, "bob"), (desk, "cem"), (other, "dan"), (other, "eve")]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(desk.labels.read()) == 25
    assert desk.progress("eve")["mine"] == 6
    assert {*desk.found.votes["i3"]} == {"ann", "bob", "cem", "dan", "eve"}


# Units and the queue


def test_one_label_serves_copies_and_near_duplicates(store: Store) -> None:
    units = find_units(store)
    # i22 and i23 have the pictures of i0 and i1, and other texts: without a search they are their own.
    assert len(units.members) == 24
    find_duplicates(store, name="dups")
    units = find_units(store)
    clusters = Store.open(store.path)
    assert units.searches == ("dups",)
    assert set(units.of.values()) == set(units.members)
    assert sum(map(len, units.members.values())) == 24
    assert clusters.items.rows == 24


def test_a_desk_at_work_sees_a_search_and_judgements_that_come_later(desk: Desk, tmp_path: Path) -> None:
    assert desk.progress()["units"] == 24
    found = find_duplicates(desk.store, name="dups")
    group = found.clusters().to_pylist()[:2]
    desk.next_item("ann")
    grouped = desk.progress()["units"]
    assert grouped < 24
    assert len({desk.units.of[row["item_id"]] for row in group}) == 1
    alone = sorted({*desk.units.of} - {*found.clusters()["item_id"].to_pylist()})[:2]
    judged = tmp_path / "judged.csv"
    judged.write_text(f"a,b,label\n{alone[0]},{alone[1]},1\n")
    apply_judgements(desk.store, judged, "dups")
    desk.next_item("ann")
    assert desk.progress()["units"] == grouped - 1
    assert len({desk.units.of[item] for item in alone}) == 1


def test_variants_are_not_members(store: Store) -> None:
    found = find_duplicates(store, name="dups")
    apart = {*found.variants()["item_id"].to_pylist()}
    clusters = found.clusters(["item_id", "group", "keeper"]).to_pylist()
    units = find_units(store)
    grouped = {frozenset(m) for m in units.members.values() if len(m) > 1}
    by_group: dict[int, set[str]] = {}
    for row in clusters:
        by_group.setdefault(row["group"], set()).add(row["item_id"])
    assert grouped == {frozenset(each) for each in by_group.values()}
    for item in apart - {row["item_id"] for row in clusters}:
        assert units.of[item] == item


def test_a_queue_gives_everybody_each_unit_once(desk: Desk) -> None:
    seen: dict[str, list[str]] = {"ann": [], "bob": [], "cem": []}
    for _ in range(40):
        for who, mine in seen.items():
            item = desk.next_item(who)
            if item is not None:
                mine.append(item)
                vote(desk, who, item, "day")
    units = len(desk.units.members)
    assert all(len(set(mine)) == len(mine) for mine in seen.values())
    votes = [len(of) for of in desk.found.votes.values()]
    assert votes == [2] * units  # none has more than it needs, none less
    assert desk.status()["decided"] == units
    assert desk.next_item("dan") is None


def test_a_name_in_other_case_has_no_second_vote(desk: Desk, store: Store, tmp_path: Path) -> None:
    """A phone begins with a capital: the same person there and at a desk is one annotator, and can take words back."""
    first = desk.next_item("ada l")
    assert first is not None
    vote(desk, "ada l", first, "day")
    assert desk.next_item("Ada L") != first
    vote(desk, "Ada L", first, "dark")
    assert {who: entry.label for who, entry in desk.found.votes[first].items()} == {"ada l": "dark"}
    assert (desk.progress("ADA L")["mine"], desk.progress()["decided"]) == (1, 0)
    assert desk.undo("Ada l", "back") == first
    assert {entry.label for entry in desk.found.votes[first].values()} == {"day"}
    file = tmp_path / "votes.csv"
    file.write_text(f"item_id,annotator,label,at\n{first},ADA L,dark,2020-01-01\n{first},bob,day,\n")
    assert import_labels(desk, file)["new"] == 2
    # The earliest spelling counts, wherever it came from, and the latest word.
    assert {who: e.label for who, e in Desk(store, "light").found.votes[first].items()} == {
        "ADA L": "day", "bob": "day",
    }  # fmt: skip


def test_skipped_items_come_to_others_and_undo_brings_them_back(desk: Desk) -> None:
    first = desk.next_item("ann")
    assert first is not None
    vote(desk, "ann", first, None)
    assert desk.next_item("ann") != first
    assert desk.next_item("bob") == first
    assert desk.undo("ann", "u1") == first
    assert desk.undo("ann", "u1") == first  # the same click
    assert desk.undo("ann", "u2") is None  # nothing is left to take back
    assert desk.next_item("ann") == first


def test_begun_items_are_finished_first(desk: Desk) -> None:
    first = desk.next_item("ann")
    assert first is not None
    vote(desk, "ann", first, "day")
    assert desk.next_item("bob") == first


def test_the_head_learns_and_what_it_is_sure_of_comes_late(store: Store) -> None:
    set_task(store, "light", classes=("day", "dark"), votes=1, inputs="image/pooled")
    desk = Desk(store, "light")
    for _ in range(12):
        item = desk.next_item("ann")
        assert item is not None
        vote(desk, "ann", item, "day" if int(item[1:]) % 2 == 0 else "dark")
    learned = desk.status(wait=True)["learning"]
    assert learned["labels"] == 12
    assert learned["accuracy"]["of"] == 4  # the first eight were learned before there was a head
    assert learned["accuracy"]["low"] <= learned["accuracy"]["value"] <= learned["accuracy"]["high"]
    assert learned["curve"][-1]["labels"] == 12
    again = Desk(Store.open(store.path), "light").status(wait=True)["learning"]
    assert again["labels"] == 12


def test_a_gate_puts_what_it_rejects_last(store: Store) -> None:
    set_task(store, "light", classes=CLASSES, votes=1, gates=("label=day",))
    desk = Desk(store, "light")
    order = []
    while (item := desk.next_item("ann")) is not None:
        order.append(item)
        vote(desk, "ann", item, "none")
    bright = [int(item[1:]) % 2 == 0 for item in order]
    assert bright == sorted(bright, reverse=True)
    assert desk.queue.rejected == 12


def test_without_features_items_come_in_the_order_of_the_store(store: Store) -> None:
    set_task(store, "light", classes=CLASSES, inputs="video")
    desk = Desk(store, "light")
    assert desk.next_item("ann") == "i0"
    assert "no head learns" in desk.status()["notes"][0]


# Elsewhere


def test_label_studio_and_back(desk: Desk, store: Store, tmp_path: Path) -> None:
    vote(desk, "ann", "i2", "day")
    vote(desk, "bob", "i2", "day")
    vote(desk, "ann", "i5", "day")
    vote(desk, "bob", "i5", "dark")
    vote(desk, "eve", "i5", "none", adjudicate=True)
    out = tmp_path / "tasks.json"
    assert export_label_studio(desk, out) == len(desk.units.members)
    tasks = {task["data"]["item_id"]: task for task in json.loads(out.read_text())}
    result = tasks["i2"]["annotations"][0]["result"][0]
    assert (result["type"], result["value"], result["from_name"], result["to_name"]) == (
        "choices", {"choices": ["day"]}, "label", "image",
    )  # fmt: skip
    assert tasks["i2"]["data"]["majority"] == "day"
    assert [a["ground_truth"] for a in tasks["i5"]["annotations"]] == [False, False, True]
    assert import_labels(desk, out)["new"] == 0  # all of it is known
    set_task(store, "other", classes=CLASSES, votes=2)
    other = Desk(store, "other")
    assert import_labels(other, out)["new"] == 5
    assert other.decided() == desk.decided()
    assert import_labels(other, out)["new"] == 0


def test_an_export_of_label_studios_own(desk: Desk, tmp_path: Path) -> None:
    def task(number: int, data: Any, choice: Any, **more: Any) -> dict[str, Any]:
        result = [{"from_name": "x", "to_name": "y", "type": "choices", "value": {"choices": choice}}]
        annotation = {"id": number, "result": result, "created_at": "2026-03-09T22:16:08.728353Z", **more}
        return {"id": number, "data": data, "annotations": [annotation]}

    file = tmp_path / "export.json"
    path = "/data/local-files/?d=some%20folder/images/03.png"
    file.write_text(
        json.dumps(
            [
                task(1, {"item_id": "i2"}, ["day"], completed_by={"id": 4, "email": "ann@example.org"}),
                task(2, {"image": path}, ["dark"], completed_by=10),
                task(3, {"item_id": "i4"}, ["day"], was_cancelled=True),
                task(4, {"item_id": "i4"}, ["purple"]),
                task(5, {"item_id": "i4"}, ["day", "dark"]),
                task(6, {"item_id": "nobody"}, ["day"]),
                {"id": 7, "data": None, "annotations": None},
                {"id": 8, "data": {"item_id": "i6"}, "annotations": [None, {"result": [{"value": 3}]}]},
            ]
        )
    )
    brought = import_labels(desk, file)
    assert (brought["rows"], brought["labels"], brought["new"], brought["problems"]) == (8, 2, 2, 4)
    assert {unit: [*votes] for unit, votes in desk.found.votes.items()} == {
        "i2": ["ann@example.org"],
        "i3": ["label-studio-10"],
    }
    for odd, why in (
        ("{", "no JSON"),
        ('{"a": 1}', "neither"),
        ("[1]", "neither"),
        ("[" * 100_000, "no JSON"),
    ):
        file.write_text(odd)
        with pytest.raises(IcehouseError, match=why):
            import_labels(desk, file)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_what_is_exported_comes_whole_into_another_task(
    desk: Desk, store: Store, tmp_path: Path, suffix: str
) -> None:
    vote(desk, "ann", "i2", "day")
    vote(desk, "bob", "i2", "day")
    desk.say("ann", "i3", None, "skipped")
    vote(desk, "ann", "i5", "day")
    desk.undo("ann", "undone")
    vote(desk, "bob", "i5", "dark")
    vote(desk, "eve", "i5", "none", adjudicate=True)
    file = tmp_path / f"labels{suffix}"
    assert export_labels(desk, file) == 7
    set_task(store, "other", classes=CLASSES, votes=2)
    other = Desk(store, "other")
    assert import_labels(other, file) == {
        "rows": 7, "labels": 7, "new": 7, "problems": 0, "first_problems": [],
    }  # fmt: skip
    assert other.decided() == desk.decided()
    assert other.status()["annotators"] == desk.status()["annotators"]
    assert [each.at for each in other.labels.read()] == [each.at for each in desk.labels.read()]
    assert import_labels(other, file)["new"] == 0


def test_votes_of_a_spreadsheet(desk: Desk, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    lines = [
        "item_id;image;label;annotator;colour",
        "i2;;day;ann;red",
        "i2;;dark;<script>alert(1)</script>;",
        "i4;;day;ann;",
        "i4;;dark;ann;",  # a change of mind
        "i4;;day;ann;",  # and back
        ";C:/data/images/03.png;dark;ann;",
        "nobody;;day;ann;",
        "i6;;purple;ann;",
        "i6;;;ann;",
        "i6;;day;;",
    ]
    file.write_text("\n".join(lines) + "\n")
    told_of = import_labels(desk, file)
    assert (told_of["rows"], told_of["labels"], told_of["new"]) == (10, 6, 6)
    assert [line.partition(": ")[2] for line in told_of["first_problems"]] == [
        "no item of the store", "'purple' is no class of light", "no label", "no annotator",
    ]  # fmt: skip
    assert {
        unit: {who: each.label for who, each in votes.items()} for unit, votes in desk.found.votes.items()
    } == {
        "i2": {"ann": "day", "<script>alert(1)</script>": "dark"},
        "i3": {"ann": "dark"},
        "i4": {"ann": "day"},
    }
    assert import_labels(desk, file)["new"] == 0
    said = ran(store, "label", "--name", "light", "--import", str(file)).output
    assert "0 new labels of 6 in 10 rows" in said
    assert "note: row 8: no item of the store" in said
    file.write_text("item_id,label\ni2,day\n")
    assert "item_id, label and annotator are needed" in refused(
        store, "label", "--import", str(file), status=1
    )


def test_a_vote_on_a_picture_that_several_items_have_is_told(store: Store, tmp_path: Path) -> None:
    """i22 has the picture of i0 and another text: which is meant, nobody knows; after a search it does not matter."""
    set_task(store, "light", classes=CLASSES, votes=1)
    desk = Desk(store, "light")
    image = desk.units.contents["i22"][0]
    assert image == desk.units.contents["i0"][0]
    file = tmp_path / "votes.csv"
    file.write_text(f"image_sha256,image,annotator,label\n{image},,ann,day\n,C:\\x\\images\\00.png,ann,day\n")
    told = import_labels(desk, file)
    assert (told["new"], told["problems"]) == (0, 2)
    for row, line in zip((2, 3), told["first_problems"], strict=True):
        assert line.startswith(f"row {row}: 2 items have this picture, such as 'i0' and 'i22'")
        assert "item_id" in line
    find_duplicates(store, name="dups")
    desk = Desk(store, "light")
    assert import_labels(desk, file)["new"] == 2
    assert desk.decided()["i22"].label == "day"


def test_what_a_task_leaves_out_is_told_as_that(store: Store, tmp_path: Path) -> None:
    set_task(store, "light", classes=CLASSES, votes=1, where="label = 'dark'")
    desk = Desk(store, "light")
    file = tmp_path / "votes.csv"
    file.write_text("item_id,annotator,label\ni0,ann,day\n i1 ,ann,day\nnobody,ann,day\n")
    told = import_labels(desk, file)
    assert told["new"] == 1
    assert told["first_problems"] == [
        "row 2: the task leaves this item out, by its condition or since its file is gone",
        "row 4: no item of the store",
    ]
    assert "an item needs 2 votes" in refused(store, "label", "--votes", "2", "--apply", "mine", status=2)
    none = ran(store, "label", "--where", "1 = 0", "--status").output
    assert "no item to label: --where true takes all" in none


def test_a_gate_is_taken_off(store: Store) -> None:
    ran(store, "label", "--classes", "day,dark", "--gate", "label=day", "--status")
    assert load_task(store).gates == ("label=day",)
    ran(store, "label", "--votes", "2", "--status")
    assert load_task(store).gates == ("label=day",)
    ran(store, "label", "--gate", "none", "--status")
    assert load_task(store).gates == ()


def test_an_exported_entry_that_was_edited_is_told_and_not_lost(
    desk: Desk, store: Store, tmp_path: Path
) -> None:
    """Entries are never changed: whoever edits the label of one in a spreadsheet learns that, and what to do."""
    vote(desk, "ann", "i0", "day")
    vote(desk, "ann", "i1", "dark")
    file = tmp_path / "labels.csv"
    export_labels(desk, file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line.replace(",day,", ",dark,") for line in lines) + "\n")
    brought = import_labels(desk, file)
    assert (brought["rows"], brought["labels"], brought["new"], brought["problems"]) == (2, 1, 0, 1)
    assert "leave entry_id and at empty" in brought["first_problems"][0]
    file.write_text("item_id,annotator,label,entry_id,at\ni0,ann,dark,,\n")
    assert import_labels(desk, file)["new"] == 1
    assert desk.found.votes["i0"]["ann"].label == "dark"


def test_the_command_tells_applies_and_exports(store: Store, tmp_path: Path) -> None:
    assert "no labelling task yet" in refused(store, "label", "--status")
    (tmp_path / "words.txt").write_text("Bright or dark?")
    words = ["--instructions", str(tmp_path / "words.txt")]
    ran(store, "label", "--classes", "day,dark", "--votes", "1", *words, "--name", "light", "--status")
    desk = Desk(store, "light")
    assert desk.task.instructions == "Bright or dark?"
    for item in ("i0", "i1", "i2"):
        vote(desk, "ann", item, "day" if item != "i1" else "dark")
    status = told(store, "label", "--status")
    assert (status["decided"], status["labels"], status["kappa"]["value"]) == (3, 3, None)
    assert status["annotators"][0]["annotator"] == "ann"
    assert "3 of " in ran(store, "label", "--status").stdout
    ran(store, "label", "--apply", "light", "--export", str(tmp_path / "labels.csv"))
    sql = "select item_id, light from items where light is not null"
    assert {row["item_id"]: row["light"] for row in query(store, sql).to_pylist()} == {
        "i0": "day",
        "i1": "dark",
        "i2": "day",
    }
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 4
    assert "column of icehouse's own" in refused(store, "label", "--apply", "split")
    before = load_task(store)
    for option, value, why in [
        ("--gate", "label=purple", "has no class 'purple'"),
        ("--gate", "nothing", "write RUN=CLASS"),
        ("--inputs", "video", "no feature fits"),
        ("--where", "nonsense =", "nonsense"),
    ]:
        assert why in refused(store, "label", option, value, "--status")
    assert load_task(store) == before
