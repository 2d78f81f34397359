"""Judgements of near-duplicates: read, kept by content, applied to groups and lists, undone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dup_stores import family_rows, family_store
from galleries import csv_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from icehouse.cli import app
from icehouse.dups.apply import apply_judgements
from icehouse.dups.evaluate import evaluate_duplicates, read_truth
from icehouse.dups.find import find_duplicates
from icehouse.dups.gallery import Choice, select, write_gallery
from icehouse.dups.groups import group_pairs
from icehouse.dups.judgements import Judged, read_judged, read_records, record_judgements, regroup
from icehouse.dups.pair_graph import Duplicates, PairGraph
from icehouse.errors import CorruptError, SourceError, UsageError
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from typer.testing import CliRunner

METHODS = ("star", "components", "cliques")


def rows_of_items() -> list[dict[str, Any]]:
    """Six families, and a few items that are like nothing else."""
    alone = [row for k, row in enumerate(family_rows(12, families=400, seed=9)) if k % 4]
    return [
        *family_rows(60, families=6, seed=3),
        *({**row, "item_id": f"single {k}"} for k, row in enumerate(alone)),
    ]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_store(tmp_path_factory.mktemp("families") / "s", rows_of_items()).path


@pytest.fixture
def store(families: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(families, tmp_path / "s"))


def search(store: Store, **options: Any) -> Duplicates:
    return find_duplicates(store, rule=0.9, views=False, **options)


def save(path: Path, rows: list[tuple[str, ...]], header: str = "a,b,label,keep") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def groups(found: Duplicates) -> dict[str, list[str]]:
    """Keeper to members, copies left out."""
    made: dict[int, list[str]] = {}
    for row in found.clusters().to_pylist():
        made.setdefault(row["group"], []).append(row["item_id"])
        assert row["keeper"] == (len(made[row["group"]]) == 1)
    return {members[0]: members[1:] for members in made.values()}


def listed(found: Duplicates, name: str) -> dict[str, dict[str, str]]:
    return {row["item_id"]: row for row in csv_rows(found.path / name)}


def contents(found: Duplicates) -> dict[str, str]:
    items = found.items()
    return dict(zip(items["item_id"].to_pylist(), items["content"].to_pylist(), strict=True))


def apart(found: Duplicates, of: str, members: list[str]) -> list[str]:
    """Members with another content than the keeper's."""
    sha = contents(found)
    return [member for member in members if sha[member] != sha[of]]


def files(found: Duplicates) -> dict[str, Any]:
    """Everything that a search says, dates and seconds aside."""
    return {
        "clusters": found.clusters(["item_id", "group", "keeper", "size", "copy_of", "kind"]).to_pylist(),
        "pairs": sorted(found.pairs().to_pylist(), key=lambda row: (row["id_a"], row["id_b"])),
        **{name: (found.path / name).read_text() for name in ("keep.csv", "drop.csv")},
    }


def test_different_leaves_the_group_and_is_no_longer_dropped(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = next((k, m) for k, m in groups(found).items() if len(apart(found, k, m)) > 2)
    gone = apart(found, kept, members)[0]
    assert gone in listed(found, "drop.csv")
    done = apply_judgements(store, save(tmp_path / "judged.csv", [(kept, gone, "0", "")]), by="me")
    assert done.problems == []
    now = groups(done.search)
    assert gone not in now[kept]
    assert listed(done.search, "drop.csv").get(gone, {}).get("keeper") != kept
    sha = contents(found)
    assert all(
        {sha[r["id_a"]], sha[r["id_b"]]} != {sha[kept], sha[gone]} for r in done.search.pairs().to_pylist()
    )
    graph = PairGraph(done.search)
    a, b = graph.content[graph.numbers(pa.array([kept, gone]))]
    assert not ((graph.i == min(a, b)) & (graph.j == max(a, b))).any()
    (record,) = read_records(store)
    assert (record["by"], record["file"], record["content"]) == ("me", "judged.csv", "image_sha256")
    assert record["pairs"][0] | {"a": 0, "b": 0} == {
        "a": 0, "b": 0, "id_a": min(kept, gone), "id_b": max(kept, gone), "duplicate": False,
    }  # fmt: skip
    assert not [finding for finding in verify(store).findings if finding.problem]


def test_every_item_is_kept_or_dropped_once(store: Store, tmp_path: Path) -> None:
    found = search(store)
    rows = []
    for kept, members in groups(found).items():
        others = apart(found, kept, members)
        rows += [(kept, other, "0", "") for other in others[:1]] + [(kept, o, "1", o) for o in others[1:2]]
    done = apply_judgements(store, save(tmp_path / "judged.csv", rows)).search
    keep, drop = listed(done, "keep.csv"), listed(done, "drop.csv")
    assert not keep.keys() & drop.keys()
    assert keep.keys() | drop.keys() == set(found.items()["item_id"].to_pylist())
    assert done.summary["kept"] == len(keep)
    assert done.summary["dropped"] == len(drop)
    assert all(row["keeper"] in keep for row in drop.values())
    for _, other, label, chosen in rows:
        if chosen:
            assert other in keep
            assert label == "1"


@pytest.mark.parametrize("method", METHODS)
def test_the_next_search_says_what_apply_said(store: Store, tmp_path: Path, method: str) -> None:
    found = search(store, grouping_by=method)
    rows = []
    for kept, members in groups(found).items():
        others = apart(found, kept, members)
        rows += [(kept, other, "0", "") for other in others[:1]] + [
            (kept, o, "1", o) for o in others[1:][-1:]
        ]
    singles = [item for item in listed(found, "keep.csv") if listed(found, "keep.csv")[item]["group"] == ""]
    rows.append((singles[0], singles[1], "1", ""))
    applied = files(apply_judgements(store, save(tmp_path / "judged.csv", rows)).search)
    again = search(store, grouping_by=method)
    told = files(again)
    for row, other in zip(applied["pairs"], told["pairs"], strict=True):
        if row["kind"] == "judged":  # only a search measures what no stage found
            row |= {"cosine": other["cosine"], "hamming": other["hamming"]}
    assert applied["clusters"] == told["clusters"]
    assert applied["pairs"] == told["pairs"]
    assert [r["item_id"] for r in csv.DictReader(applied["drop.csv"].splitlines())] == [
        r["item_id"] for r in csv.DictReader(told["drop.csv"].splitlines())
    ]
    assert applied["keep.csv"] == told["keep.csv"]
    assert again.summary["judged"]["applied"] == len(rows) + sum(bool(row[3]) for row in rows)
    assert any("judgements applied" in note for note in again.summary["notes"])
    judged = [row for row in again.pairs().to_pylist() if row["kind"] == "judged"]
    assert {(row["id_a"], row["id_b"]) for row in judged} >= {tuple(sorted(singles[:2]))}
    assert judged[0]["cosine"] is not None
    assert PairGraph(again).near([singles[0]], [singles[1]]).all()
    splits = np.zeros(len(again.items()), np.int64)
    total = sum(matrix[0, 0] for matrix in PairGraph(again).pairs_between(splits, 1).values())
    assert total >= len(applied["pairs"])
    page = write_gallery(store).path.read_text(encoding="utf-8")
    assert "judged by people" in page
    by_hand = sum(row["kind"] == "judged" for row in again.clusters().to_pylist())
    for kind, members in (("judged", by_hand), ("indirect", None)):
        chosen = select(again.clusters(), Choice(kinds=frozenset([kind]), max_groups=10**6, members=500))
        rows = again.clusters().take(np.concatenate([*chosen.rows, np.empty(0, np.int64)])).to_pylist()
        shown = [row for row in rows if not row["keeper"]]
        assert {row["kind"] for row in shown} <= {"judged" if kind == "judged" else None}
        assert members in (None, len(shown))


def test_undo_brings_back_what_was_found(store: Store, tmp_path: Path) -> None:
    found = search(store)
    before = files(found)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    first, second = apart(found, kept, members)[:2]
    one = save(tmp_path / "one.csv", [(kept, first, "0", "")])
    two = save(tmp_path / "two.csv", [(kept, second, "0", "")])
    after_one = files(apply_judgements(store, one).search)
    apply_judgements(store, two)
    assert files(apply_judgements(store, undo=True).search) == after_one
    assert files(apply_judgements(store, one, undo=True).search) == before
    assert Duplicates.open(store).summary.get("judged") is None
    assert [record["kind"] for record in read_records(store)] == ["judgements", "judgements", "undo", "undo"]
    with pytest.raises(UsageError, match="nothing to undo"):
        apply_judgements(store, undo=True)
    # What was undone can be judged again.
    assert files(apply_judgements(store, one).search) == after_one
    with pytest.raises(UsageError, match=r"no judgements of .*two\.csv count; there are those of: one\.csv"):
        apply_judgements(store, two, undo=True)


def test_undo_leaves_judgements_of_other_contents_alone(store: Store, tmp_path: Path) -> None:
    found = search(store)
    before = files(found)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    judged = save(tmp_path / "pictures.csv", [(kept, apart(found, kept, members)[0], "0", "")])
    apply_judgements(store, judged)
    texts = save(tmp_path / "texts.csv", [(kept, members[0], "1", "")])
    record_judgements(store, read_judged(texts, store.items.read(["item_id"])["item_id"]), "text_sha256")
    done = apply_judgements(store, undo=True)
    assert done.record is not None
    assert done.record["file"] == "pictures.csv"
    assert files(done.search) == before
    with pytest.raises(UsageError, match="no judgements of pictures that count"):
        apply_judgements(store, undo=True)


def test_one_file_may_judge_pictures_and_texts(store: Store, tmp_path: Path) -> None:
    """Applied to the pictures before, it was taken for known, and the texts were left as they were."""
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    judged = save(tmp_path / "judged.csv", [(kept, apart(found, kept, members)[0], "0", "")])
    read = read_judged(judged, store.items.read(["item_id"])["item_id"])
    for key in ("image_sha256", "text_sha256", "image_sha256", "text_sha256"):
        record, _ = record_judgements(store, read, key)
        assert record["content"] == key
    assert [record["content"] for record in read_records(store)] == ["image_sha256", "text_sha256"]


def test_other_searches_of_the_same_pictures_are_named(store: Store, tmp_path: Path) -> None:
    """Their lists are as they were until the judgements are applied to them, too."""
    found = search(store)
    other = find_duplicates(store, name="hashes", feature=None)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    judged = save(tmp_path / "judged.csv", [(kept, apart(found, kept, members)[0], "0", "")])
    asked = ["dups", "apply", "-s", str(store.path)]
    said = CliRunner().invoke(app, [*asked, str(judged), "--name", found.name])
    assert "`icehouse dups apply --name hashes` takes it along" in said.output
    (other.path / "summary.json").write_text("damaged")
    done = apply_judgements(store, judged, found.name)
    assert done.others == []


def test_the_same_file_again_is_no_new_record(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = next(iter(groups(found).items()))
    judged = save(tmp_path / "judged.csv", [(kept, apart(found, kept, members)[0], "0", "")])
    first = files(apply_judgements(store, judged).search)
    assert files(apply_judgements(store, judged).search) == first
    assert len(read_records(store)) == 1


def test_a_file_that_another_overruled_counts_again_when_it_is_applied_again(
    store: Store, tmp_path: Path
) -> None:
    """The later judgement counts, and the file that was applied last is the later one, applied before or not."""
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    first, second = apart(found, kept, members)[:2]
    ada = save(tmp_path / "ada.csv", [(kept, first, "0", ""), (kept, second, "1", second)])
    bob = save(tmp_path / "bob.csv", [(kept, first, "1", ""), (kept, second, "1", kept)])
    after_ada = files(apply_judgements(store, ada).search)
    done = apply_judgements(store, bob)
    assert any("judged different before, a duplicate now" in line for line in done.problems)
    assert files(done.search) != after_ada
    again = apply_judgements(store, ada)
    assert files(again.search) == after_ada
    assert any("judged a duplicate before, different now" in line for line in again.problems)
    assert [record["file"] for record in read_records(store)] == ["ada.csv", "bob.csv", "ada.csv"]
    assert files(apply_judgements(store, ada).search) == after_ada
    assert len(read_records(store)) == 3


def test_keep_makes_a_keeper_and_leaves_the_group_as_it_is(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    wanted = apart(found, kept, members)[-1]
    done = apply_judgements(store, save(tmp_path / "judged.csv", [(kept, wanted, "1", wanted)])).search
    assert {wanted, *groups(done)[wanted]} == {kept, *members}
    drop = listed(done, "drop.csv")
    assert drop[kept]["keeper"] == wanted
    assert wanted not in drop


def test_a_copy_can_be_kept_in_place_of_the_other(store: Store, tmp_path: Path) -> None:
    found = search(store)
    copy = next(row for row in found.clusters().to_pylist() if row["copy_of"] is not None)
    one, other = copy["item_id"], copy["copy_of"]
    done = apply_judgements(store, save(tmp_path / "judged.csv", [(other, one, "1", one)])).search
    assert one in listed(done, "keep.csv")
    assert other in listed(done, "drop.csv")
    assert {row["item_id"]: row["copy_of"] for row in done.clusters().to_pylist()}[other] == one
    assert PairGraph(done).near([other], [one]).all()
    assert files(search(store))["clusters"] == files(done)["clusters"]


def test_judgements_follow_the_content(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    gone = apart(found, kept, members)[0]
    apply_judgements(store, save(tmp_path / "judged.csv", [(kept, gone, "0", "")]))
    shas = contents(found)
    renamed = [{**row, "item_id": f"renamed {k:04d}"} for k, row in enumerate(reversed(rows_of_items()))]
    other = family_store(tmp_path / "other", renamed)
    (tmp_path / "s" / "judgements").rename(tmp_path / "other" / "judgements")
    moved = search(other)
    by = contents(moved)
    assert moved.summary["judged"]["applied"] == 1
    for keeper, others in groups(moved).items():
        held = {by[item] for item in (keeper, *others)}
        assert not {shas[kept], shas[gone]} <= held


def test_bad_rows_cost_nothing_else(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    first, second, third = apart(found, kept, members)[:3]
    copy = next(row for row in found.clusters().to_pylist() if row["copy_of"] is not None)
    judged = save(
        tmp_path / "judged.csv",
        [
            (kept, first, "0", ""),
            ("nobody", first, "0", ""),
            (kept, second, "perhaps", ""),
            (kept, second, "1", "another"),
            (kept, kept, "1", ""),
            (kept, "", "1", ""),
            (kept, third, "1", ""),
            (third, kept, "0", ""),
            (copy["item_id"], copy["copy_of"], "0", ""),
        ],
    )
    with judged.open("a", encoding="utf-8") as file:
        file.write("a,b\r\n")
    done = apply_judgements(store, judged)
    told = "\n".join(done.problems)
    for words in (
        "row 3: the store has no item 'nobody'",
        "row 4: the label is 1 or 0, not 'perhaps'",
        "row 5: keep is one of the two items, not 'another'",
        f"row 6: {kept!r} is judged against itself",
        "row 7: needs two item ids",
        "rows 8 and 9",
        "line 11",
        "byte for byte",
    ):
        assert words in told, told
    assert done.search.summary["judged"]["applied"] == 1
    assert first not in groups(done.search)[kept]
    assert third in groups(done.search)[kept]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n1,2\n", "needs the columns a and b"),
        ("a,b\nitem 0000,item 0001\n", "label"),
        ("a,b,label\n", "no rows"),
        ("a,b,label\nno,body,1\n", "no judgement of .* can be used: .*row 2"),
    ],
)
def test_a_file_without_judgements_is_refused(store: Store, tmp_path: Path, text: str, words: str) -> None:
    found = search(store)
    before = files(found)
    path = tmp_path / "judged.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=words):
        apply_judgements(store, path)
    assert files(Duplicates.open(store)) == before
    assert read_records(store) == []


def test_conflicts_are_told_by_name(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    a, b, c = apart(found, kept, members)[:3]
    rows = [(a, b, "1", ""), (b, c, "1", ""), (a, c, "0", "")]
    done = apply_judgements(store, save(tmp_path / "judged.csv", rows))
    (told,) = done.problems
    assert "stay apart" in told
    assert all(repr(name) in told for name in (a, b, c))
    at = {row["item_id"]: row["group"] for row in done.search.clusters().to_pylist()}
    assert at.get(a, "none") != at.get(c, "neither")
    later = apply_judgements(store, save(tmp_path / "later.csv", [(a, c, "1", "")]))
    assert any("judged different before, a duplicate now" in line for line in later.problems)
    two = apply_judgements(store, save(tmp_path / "two.csv", [(a, b, "1", a), (kept, b, "1", b)]))
    assert any("both were to be kept" in line for line in two.problems)
    assert b in groups(two.search)


def test_a_damaged_record_is_named(store: Store, tmp_path: Path) -> None:
    found = search(store)
    kept, members = next(iter(groups(found).items()))
    apply_judgements(store, save(tmp_path / "judged.csv", [(kept, apart(found, kept, members)[0], "0", "")]))
    record = store.path / "judgements" / "000001.json"
    record.write_text(record.read_text().replace("false", "true"))
    with pytest.raises(CorruptError, match=r"000001\.json"):
        search(store)
    assert any(finding.problem for finding in verify(store).findings)


def test_evaluate_measures_what_was_found(store: Store, tmp_path: Path) -> None:
    """The same file is truth, and applying it changes no score: otherwise every search would be right."""
    found = search(store)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    first, second = apart(found, kept, members)[:2]
    singles = [item for item, row in listed(found, "keep.csv").items() if row["group"] == ""]
    rows = [(kept, first, "0", ""), (kept, second, "1", second), (singles[0], singles[1], "1", "")]
    judged = save(tmp_path / "judged.csv", rows)
    scores = evaluate_duplicates(found, read_truth(judged))
    assert scores["cascade"] | {"f1": None} == {
        "found": 2, "right": 1, "missed": 1, "precision": 0.5, "recall": 0.5, "f1": None,
    }  # fmt: skip
    assert evaluate_duplicates(apply_judgements(store, judged).search, read_truth(judged)) == scores


def test_the_command(store: Store, tmp_path: Path) -> None:
    found = search(store)
    (found.path / "gallery").mkdir()
    (found.path / "gallery" / "index.html").write_text("pages")
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    gone = apart(found, kept, members)[0]
    judged = save(tmp_path / "judged.csv", [(kept, gone, "0", ""), ("nobody", gone, "0", "")])

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["dups", "apply", *arguments, "-s", str(store.path)])

    result = run(str(judged), "--json", "--by", "Ada")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["record"]["by"] == "Ada"
    assert told["judged"]["different"] == 1
    assert told["after"]["dropped"] < told["before"]["dropped"] + 1
    assert "row 3" in result.stderr
    assert (found.path / "gallery" / "index.html").read_text() == "pages"
    result = run("--undo")
    assert result.exit_code == 0, result.output
    assert "judged.csv" in result.stderr
    assert (found.path / "gallery" / "index.html").read_text() == "pages"
    assert run().exit_code == 0
    assert run(str(tmp_path / "none.csv")).exit_code == 1
    assert not [finding for finding in verify(store).findings if finding.problem]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), method=st.sampled_from(METHODS))
def test_regrouping(data: st.DataObject, method: str) -> None:
    """Whatever is judged: different contents are apart, kept ones lead, and without judgements nothing changes."""
    n = data.draw(st.integers(2, 9))
    ends = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] < pair[1])
    found = sorted(data.draw(st.sets(ends, max_size=14)))
    labels = data.draw(st.dictionaries(ends, st.booleans(), max_size=8))
    keep = data.draw(st.lists(st.integers(0, n - 1), max_size=2, unique=True))
    i, j = np.array(found, np.int64).reshape(-1, 2).T
    keeper = group_pairs(n, i, j, method)
    names = [f"{k:02d}" for k in range(n)]
    unjudged = regroup(keeper, i, j, Judged(), names, method=method)
    assert (unjudged.keeper == keeper).all()
    assert unjudged.applied == 0
    judged = Judged(
        {(names[a], names[b]): same for (a, b), same in labels.items()}, [(names[k], names[k]) for k in keep]
    )
    barred = np.array(
        [a * n + b for a, b in data.draw(st.sets(ends, max_size=3)) if keeper[a] != keeper[b]], np.int64
    )
    made = regroup(keeper, i, j, judged, names, method=method, barred=barred)
    if not any(labels.values()):
        assert all(made.keeper[a] != made.keeper[b] for a, b in (divmod(code, n) for code in barred.tolist()))
    assert made.applied == len(labels) + len(keep)
    assert (made.keeper[made.keeper] == made.keeper).all()
    for (a, b), same in labels.items():
        together = made.keeper[a] == made.keeper[b]
        if not same:
            assert not together
        elif not made.conflicts:
            assert together
    for place, content in enumerate(keep):
        later = [other for other in keep[place + 1 :] if made.keeper[other] == made.keeper[content]]
        assert made.keeper[content] == content or later
    if not any(labels.values()):
        # Who stays with a keeper had been with it, or was found to be like it.
        for member in range(n):
            lead = int(made.keeper[member])
            others = {int(other) for other in np.flatnonzero(keeper == keeper[lead])}
            linked = {pair for pair in found if labels.get(pair, True)}
            assert member in others or any(
                (min(member, o), max(member, o)) in linked for o in range(n) if made.keeper[o] == lead
            )
    if not labels:
        # Another keeper alone leaves every group as it is.
        assert np.array_equal(made.keeper[:, None] == made.keeper, keeper[:, None] == keeper)


def test_a_confirmed_pair_changes_no_group(store: Store, tmp_path: Path) -> None:
    found = search(store)
    before = groups(found)
    rows = [(kept, other, "1", "") for kept, members in before.items() for other in members]
    assert groups(apply_judgements(store, save(tmp_path / "judged.csv", rows)).search) == before


def test_read_judged_takes_ids_in_their_usual_spelling(tmp_path: Path) -> None:
    path = save(tmp_path / "j.csv", [(" 7", "8.0", "yes", "")])
    read = read_judged(path, pa.chunked_array([["7", "8"]]))
    assert read.pairs == {("7", "8"): True}


def test_variants_stay_apart_unless_people_say_otherwise(tmp_path: Path) -> None:
    """Pictures that say something else are no duplicates; a judgement makes them one, and no other judgement does."""
    rows = family_rows(12, families=1, spread=0.02, seed=4)
    store = family_store(tmp_path / "s", rows)
    items = store.items.read()
    words = ["the river is rising fast tonight", "free kittens in the park on sunday"]
    texts = pa.array([words[int(sha[0], 16) % 2] for sha in items["image_sha256"].to_pylist()])
    store.items.delete("item_id", items["item_id"].to_pylist())
    place = items.schema.get_field_index("text")
    store.items.append(items.set_column(place, items.schema.field(place), texts), unique="item_id")
    found = search(store)
    listed_before = (found.path / "variants.csv").read_text()
    assert len(listed_before.splitlines()) > 1
    at = {row["item_id"]: row["group"] for row in found.clusters().to_pylist()}
    sha = contents(found)
    kept, members = max(groups(found).items(), key=lambda group: len(group[1]))
    other = next(
        row
        for row in found.pairs().to_pylist()
        if row["kind"] == "variant"
        and sha[row["id_a"]] != sha[row["id_b"]]
        and kept in (row["id_a"], row["id_b"])
    )
    stranger = other["id_b"] if other["id_a"] == kept else other["id_a"]
    gone = apart(found, kept, members)[0]
    assert at.get(stranger) != at[kept]
    done = apply_judgements(store, save(tmp_path / "one.csv", [(kept, gone, "0", "")])).search
    again = search(store)
    assert files(done)["clusters"] == files(again)["clusters"]
    assert (again.path / "variants.csv").read_text() == (done.path / "variants.csv").read_text()
    done = apply_judgements(store, save(tmp_path / "two.csv", [(kept, stranger, "1", "")])).search
    rows_now = {row["item_id"]: row for row in done.clusters().to_pylist()}
    assert rows_now[stranger]["group"] == rows_now[kept]["group"]
    assert rows_now[stranger if not rows_now[stranger]["keeper"] else kept]["kind"] == "judged"
    assert files(search(store))["clusters"] == files(done)["clusters"]
    apply_judgements(store, undo=True)
    undone = apply_judgements(store, undo=True).search
    assert (undone.path / "variants.csv").read_text() == listed_before
