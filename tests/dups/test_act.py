"""What people do with drop.csv: files moved, linked, scripted; told first, logged, undone, and never a byte lost."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from galleries import csv_rows, entry, filled, near
from icehouse.cli import app
from icehouse.dups import act
from icehouse.dups.act import (
    carry_out,
    plan_actions,
    read_log,
    script_text,
    shell_quoted,
    undo_actions,
    write_script,
)
from icehouse.dups.apply import apply_judgements
from icehouse.dups.find import find_duplicates
from icehouse.dups.judgements import read_judged, record_judgements
from icehouse.dups.pair_graph import Duplicates
from icehouse.errors import SourceError, UsageError
from icehouse.store.store import Store
from toys import picture
from typer.testing import CliRunner

ODD = 'it\'s "odd"\n$(touch pwned) `x` *.png'


def tree(*folders: Path) -> dict[str, str]:
    """Every file below some folders, by its bytes."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    (root / "sub").mkdir()
    picture(1, 400, 300).save(root / "large.png")
    shutil.copy2(root / "large.png", root / "sub" / "copy.png")
    shutil.copy2(root / "large.png", root / "-rf")
    picture(1, 200, 150).save(root / "sub" / "small.png")
    picture(1, 100, 75).save(root / f"{ODD}.png")
    picture(7, 64, 64).save(root / "alone.png")
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    """A picture, two copies of its bytes, two smaller versions, one of them with an odd name; and one alone."""
    root = Path(shutil.copytree(drawn, tmp_path / "pictures"))
    os.utime(root / "large.png", ns=(9 * 10**17, 9 * 10**17))  # of equal ones the oldest is kept
    for copy in (root / "sub" / "copy.png", root / "-rf"):
        os.utime(copy, ns=(10**18, 10**18))
    return root


NAMES = ["large.png", "sub/copy.png", "-rf", "sub/small.png", f"{ODD}.png", "alone.png"]


@pytest.fixture
def store(root: Path, tmp_path: Path) -> Store:
    items = [entry(root / name, name, path=name, root=str(root), source=str(root)) for name in NAMES]
    made = filled(tmp_path / "store", items, near([0, 0, 0, 3, 5, 90]))
    found = find_duplicates(made, rule=0.95, views=False)
    assert found.summary["dropped"] == 4
    return made


def planned(plan: act.Plan) -> set[str]:
    return {step.item_id for step in plan.steps}


def test_a_plan_changes_nothing(store: Store, root: Path, tmp_path: Path) -> None:
    before = tree(root, store.path)
    plan = plan_actions(store, "move", move_to=tmp_path / "out")
    assert planned(plan) == {"sub/copy.png", "-rf", "sub/small.png", f"{ODD}.png"}
    assert plan.skipped == []
    assert tree(root, store.path) == before
    assert not (tmp_path / "out").exists()


def test_moved_with_their_paths_and_back(store: Store, root: Path, tmp_path: Path) -> None:
    before = tree(root)
    times = {path: Path(path).stat().st_mtime_ns for path in before}
    out = tmp_path / "out"
    done = carry_out(plan_actions(store, "move", move_to=out))
    assert len(done.done) == 4
    assert done.skipped == []
    assert sorted(path.name for path in root.rglob("*.png")) == ["alone.png", "large.png"]
    assert (out / "sub" / "small.png").is_file()
    assert sorted({*tree(root, out).values()}) == sorted({*before.values()})
    assert done.log is not None
    told = undo_actions(done.log, dry_run=True)
    assert len(told.done) == 4
    assert (out / "sub" / "small.png").is_file()
    undone = undo_actions(done.log)
    assert undone.skipped == []
    assert tree(root) == before
    assert {path: Path(path).stat().st_mtime_ns for path in before} == times
    assert tree(out) == {}
    # Once more does nothing.
    again = undo_actions(done.log)
    assert (again.done, again.skipped) == ([], [])
    assert tree(root) == before


def test_nothing_is_overwritten(store: Store, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "small.png").write_text("mine")
    plan = plan_actions(store, "move", move_to=out)
    assert [item for item, reason in plan.skipped if "is there already" in reason] == ["sub/small.png"]
    (out / "-rf").write_text("mine too, written meanwhile")
    done = carry_out(plan)
    assert [item for item, _ in done.skipped] == ["-rf"]
    assert (out / "sub" / "small.png").read_text() == "mine"
    assert (out / "-rf").read_text().startswith("mine too")
    assert (root / "-rf").is_file()
    # Nor by undoing.
    (root / f"{ODD}.png").write_text("new")
    assert done.log is not None
    undone = undo_actions(done.log)
    assert [item for item, _ in undone.skipped] == [f"{ODD}.png"]
    assert (root / f"{ODD}.png").read_text() == "new"
    assert (out / f"{ODD}.png").is_file()


@pytest.mark.parametrize("mode", ["move", "hardlink", "script"])
def test_what_is_left_alone(store: Store, root: Path, tmp_path: Path, mode: Any) -> None:
    (root / "sub" / "small.png").write_bytes(b"another picture")
    (root / "-rf").unlink()
    (root / "-rf").symlink_to(root / "large.png")
    os.link(root / "sub" / "copy.png", root / "sub" / "other-name.png")
    plan = plan_actions(store, mode, move_to=tmp_path / "out" if mode == "move" else None)
    told = dict(plan.skipped)
    assert told["-rf"] == "it is a symbolic link"
    assert told["sub/copy.png"] == "its file has another name, by a hard link"
    expected = "not byte for byte" if mode == "hardlink" else "no longer what was embedded"
    assert expected in told["sub/small.png"]
    assert planned(plan) == (set() if mode == "hardlink" else {f"{ODD}.png"})


def test_a_keeper_that_changed_protects_what_it_stands_for(store: Store, root: Path, tmp_path: Path) -> None:
    plan = plan_actions(store, "move", move_to=tmp_path / "out")
    (root / "large.png").write_bytes((root / "large.png").read_bytes() + b"!")
    before = tree(root)
    done = carry_out(plan)
    assert done.done == []
    assert {reason for _, reason in done.skipped} == {"its keeper 'large.png' is no longer what was embedded"}
    assert tree(root) == before
    (root / "large.png").unlink()
    assert plan_actions(store, "move", move_to=tmp_path / "out").steps == []


def test_variants_containers_and_links_of_the_list_are_never_acted_upon(
    store: Store, root: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "part.csv"
    with listed.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "keeper", "kind", "same_file_as"])
        writer.writerow(["sub/copy.png", "large.png", "variant", ""])
        writer.writerow(["-rf", "large.png", "container", ""])
        writer.writerow(["sub/small.png", "large.png", "embedding", "another"])
        writer.writerow(["nobody", "large.png", "exact", ""])
        writer.writerow(["alone.png", "nobody", "exact", ""])
        writer.writerow(["large.png", "large.png", "exact", ""])
        writer.writerow([f"{ODD}.png", "large.png", "embedding", ""])
        writer.writerow([f"{ODD}.png", "large.png", "embedding", ""])
    plan = plan_actions(store, "script", drop=listed)
    assert planned(plan) == {f"{ODD}.png"}
    assert len(plan.skipped) == 7
    listed.write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="item_id and keeper"):
        plan_actions(store, "script", drop=listed)


def test_a_list_of_before_is_held_against_the_search_as_it_is(
    store: Store, root: Path, tmp_path: Path
) -> None:
    """What people judged different since, and what never was a duplicate of that keeper, is left alone."""
    saved = Path(shutil.copy(Duplicates.open(store).path / "drop.csv", tmp_path / "monday.csv"))
    judged = tmp_path / "judged.csv"
    judged.write_text("a,b,label\nlarge.png,sub/small.png,0\n")
    apply_judgements(store, judged)
    with saved.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["alone.png", "", "large.png", "0", "embedding", "", "", ""])
    before = tree(root)
    plan = plan_actions(store, "move", move_to=tmp_path / "out", drop=saved)
    assert planned(plan) == {"sub/copy.png", "-rf", f"{ODD}.png"}
    told = dict(plan.skipped)
    assert set(told) == {"sub/small.png", "alone.png"}
    assert all("no group of that keeper" in reason for reason in told.values())
    assert tree(root) == before


def test_judgements_that_were_kept_and_not_applied_protect_a_file(
    store: Store, root: Path, tmp_path: Path
) -> None:
    """`apply` was killed after it had kept what people said, or it was applied to another search."""
    judged = tmp_path / "judged.csv"
    judged.write_text("a,b,label\nlarge.png,sub/small.png,0\n")
    ids = store.items.read(["item_id"])["item_id"]
    record_judgements(store, read_judged(judged, ids), "image_sha256")
    plan = plan_actions(store, "move", move_to=tmp_path / "out")
    assert planned(plan) == {"sub/copy.png", "-rf", f"{ODD}.png"}
    assert "judged it different" in dict(plan.skipped)["sub/small.png"]


def test_an_item_whose_name_is_another_one_quoted_is_not_taken_for_it(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    names = ["=1", "'=1", "kept"]
    for number in range(3):
        picture(1, 100 * (number + 1), 75 * (number + 1)).save(root / f"{number}.png")
    items = [entry(root / f"{k}.png", name, path=f"{k}.png", root=str(root)) for k, name in enumerate(names)]
    store = filled(tmp_path / "store", items, near([0, 3, 5]))
    find_duplicates(store, rule=0.95, views=False)
    plan = plan_actions(store, "script")
    assert {step.item_id: Path(step.file).name for step in plan.steps} == {"=1": "0.png", "'=1": "1.png"}


def test_pictures_inside_parquet_files_are_left_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "pictures"
    root.mkdir()
    picture(1, 40, 30).save(root / "a.png")
    data = (root / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [data, data]}), root / "rows.parquet")
    inside = [
        entry(root / "a.png", f"in {k}", path=f"rows.parquet#image:{k}", root=str(root), source=str(root))
        for k in range(2)
    ]
    store = filled(tmp_path / "store", [entry(root / "a.png", "a"), *inside], near([0, 0, 0]))
    find_duplicates(store, rule=0.95, views=False)
    plan = plan_actions(store, "move", move_to=tmp_path / "out")
    assert plan.steps == []
    assert any("Parquet" in reason for _, reason in plan.skipped)


def test_hard_links_save_space_and_become_files_again(store: Store, root: Path) -> None:
    before = tree(root)
    facts = (root / "sub" / "copy.png").stat()
    plan = plan_actions(store, "hardlink")
    assert planned(plan) == {"sub/copy.png", "-rf"}
    done = carry_out(plan)
    assert done.skipped == []
    assert tree(root) == before
    assert (root / "sub" / "copy.png").samefile(root / "large.png")
    assert (root / "large.png").stat().st_nlink == 3
    # Linked ones are one file now, and are not acted upon again.
    assert plan_actions(store, "hardlink").steps == []
    assert done.log is not None
    assert undo_actions(done.log).skipped == []
    assert (root / "large.png").stat().st_nlink == 1
    assert tree(root) == before
    now = (root / "sub" / "copy.png").stat()
    assert (now.st_mtime_ns, now.st_mode) == (facts.st_mtime_ns, facts.st_mode)
    assert not list(root.rglob(".tmp-*"))


def test_moving_to_another_file_system(
    store: Store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no link can be made, a file is copied, read again, and only then gone."""
    before, real = tree(root), os.link

    def link(source: str, target: str, **options: Any) -> None:
        if str(root) in str(source) or str(root) in str(target):
            raise OSError(18, "Invalid cross-device link", source)
        real(source, target, **options)

    monkeypatch.setattr(act.os, "link", link)
    plan = plan_actions(store, "move", move_to=tmp_path / "out")
    done = carry_out(plan)
    assert len(done.done) == 4
    assert (tmp_path / "out" / "sub" / "copy.png").stat().st_mtime_ns == 10**18
    assert done.log is not None
    assert undo_actions(done.log).skipped == []
    assert tree(root) == before

    def broken(source: str, target: str, **options: Any) -> None:
        Path(target).write_bytes(b"half of it")

    monkeypatch.setattr(act.shutil, "copy2", broken)
    failed = carry_out(plan_actions(store, "move", move_to=tmp_path / "out2"))
    assert failed.done == []
    assert all("differs" in reason for _, reason in failed.skipped)
    assert tree(root) == before
    assert tree(tmp_path / "out2") == {}


def test_where_files_are_not_moved_to(store: Store, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would find the moved files again"):
        plan_actions(store, "move", move_to=root / "dropped")
    with pytest.raises(UsageError, match="inside the store"):
        plan_actions(store, "move", move_to=store.path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        plan_actions(store, "move", move_to=tmp_path / "file")


def test_two_roots_do_not_collide(tmp_path: Path) -> None:
    items = []
    for name in ("one/photos", "two/photos"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for k, size in enumerate((300, 150)):
            picture(3, size, size).save(folder / f"{k}.png")
            items.append(entry(folder / f"{k}.png", f"{name}/{k}", source=str(folder)))
    picture(3, 160, 160).save(tmp_path / "two/photos/1.png")
    items[3] = entry(tmp_path / "two/photos/1.png", "two/photos/1", source=str(tmp_path / "two/photos"))
    store = filled(tmp_path / "store", items, near([0, 3, 0, 4]))
    find_duplicates(store, rule=0.95, views=False)
    done = carry_out(plan_actions(store, "move", move_to=tmp_path / "out"))
    assert done.skipped == []
    moved = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert {"photos/1.png", "photos-2/1.png"} <= moved


KILLS = [
    (name, count, after)
    for name in ("link", "unlink", "replace", "fsync")
    for count in (1, 3)
    for after in (False, True)
]


def kill_at(name: str, count: int, after: bool) -> None:
    """Let this process be killed at the `count`-th call of a function of `os`, before it or after."""
    calls, real = [0], getattr(os, name)

    def killing(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, name, killing)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("mode", ["move", "hardlink"])
def test_a_killed_run_can_be_undone(store: Store, root: Path, tmp_path: Path, mode: Any) -> None:
    """Killed before or after any call that changes the disk, the log undoes what was done, and no byte is lost."""
    before = tree(root)
    for name, count, after in KILLS:
        out, log = (tmp_path / f"{kind}-{name}-{count}-{after}" for kind in ("out", "log"))
        plan = plan_actions(store, mode, move_to=out if mode == "move" else None)
        child = os.fork()
        if child == 0:
            try:
                kill_at(name, count, after)
                carry_out(plan, log)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        held = set(tree(root).values()) | (set(tree(out).values()) if out.exists() else set())
        assert set(before.values()) <= held, (name, count, after)
        if log.exists() and log.read_bytes().strip():
            assert undo_actions(log).skipped == [], (name, count, after)
        assert tree(root) == before, (name, count, after)
        assert tree(out) == {}, (name, count, after)
        assert all(Path(path).stat().st_nlink == 1 for path in before), (name, count, after)


def test_damaged_logs(store: Store, root: Path, tmp_path: Path) -> None:
    before = tree(root)
    log = tmp_path / "log.jsonl"
    carry_out(plan_actions(store, "move", move_to=tmp_path / "out"), log)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines) + lines[1][:40])  # cut off by a kill: its step never began
    assert read_log(log)[2] == []
    log.write_bytes(b"".join([*lines[:3], b"{nonsense}\n", *lines[3:]]))
    undone = undo_actions(log)
    assert any("line 4" in reason for _, reason in undone.skipped)
    assert tree(root) == before
    for text in (b"", b'{"a": 1}\n', b"\x00\x01\n", b"[]\n"):
        log.write_bytes(text)
        with pytest.raises(SourceError, match="no log"):
            undo_actions(log)
    with pytest.raises(SourceError, match="cannot be read"):
        undo_actions(tmp_path / "none.jsonl")


def run_script(path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", str(path), *arguments], capture_output=True, cwd=path.parent, check=False)


def test_the_script_removes_what_is_sound(store: Store, root: Path, tmp_path: Path) -> None:
    script = write_script(plan_actions(store, "script"), tmp_path / "drop.sh")
    before = tree(root)
    told = run_script(script)
    assert told.returncode == 0
    assert tree(root) == before
    assert b"4 files, 0 left alone" in told.stderr
    assert b"rm " in told.stdout
    assert run_script(script, "--really").returncode == 2
    (root / "sub" / "small.png").write_bytes(b"another picture")
    done = run_script(script, "--yes")
    assert b"3 files, 1 left alone" in done.stderr, done.stderr
    assert sorted(path.name for path in root.rglob("*.png")) == ["alone.png", "large.png", "small.png"]
    assert not (tmp_path / "pwned").exists()
    assert not (root / "pwned").exists()
    with pytest.raises(UsageError, match="there already"):
        write_script(plan_actions(store, "script"), script)


def test_the_script_keeps_all_where_the_keeper_changed(store: Store, root: Path, tmp_path: Path) -> None:
    script = write_script(plan_actions(store, "script"), tmp_path / "drop.sh")
    (root / "large.png").write_bytes(b"changed")
    before = tree(root)
    done = run_script(script, "--yes")
    assert b"0 files, 4 left alone" in done.stderr
    assert tree(root) == before


def test_the_script_moves(store: Store, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = write_script(plan_actions(store, "script", move_to=out), tmp_path / "move.sh")
    before = set(tree(root).values())
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "copy.png").write_text("mine")
    done = run_script(script, "--yes")
    assert b"3 files, 1 left alone" in done.stderr, done.stderr
    assert (out / f"{ODD}.png").is_file()
    assert (out / "sub" / "copy.png").read_text() == "mine"
    assert before <= set(tree(root, out).values())


def test_names_are_quoted_byte_for_byte(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    names = [b"\xff\xfe.png", b"a\nb", b"it's", b'"$x`y`"', b"-n", b" space ", b"\\", b"*", "\u00e9".encode()]
    steps = []
    keeper = tmp_path / "keeper"
    keeper.write_bytes(b"k")
    for name in names:
        file = folder + b"/" + name
        Path(os.fsdecode(file)).write_bytes(b"x" + name)
        sums = [hashlib.sha256(data).hexdigest() for data in (b"x" + name, b"k")]
        steps.append(act.Step("i", os.fsdecode(file), sums[0], "k", str(keeper), sums[1], 1))
    script = tmp_path / "drop.sh"
    script.write_bytes(script_text(act.Plan("script", tmp_path, "s", steps, [])))
    done = run_script(script, "--yes")
    assert b"9 files, 0 left alone" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drop.sh", "keeper"]
    assert shell_quoted("-n") == b"./-n"


def test_the_command(store: Store, root: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["dups", "act", *arguments])

    at = ["-s", str(store.path)]
    before = tree(root)
    result = run("--move-to", str(tmp_path / "out"), *at)
    assert result.exit_code == 0, result.output
    assert "nothing was done" in result.stderr
    assert tree(root) == before
    log = tmp_path / "log.jsonl"
    result = run("--move-to", str(tmp_path / "out"), "--yes", "--log", str(log), "--json", *at)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["done"]) == 4
    assert tree(root) != before
    assert run("--undo", str(log)).exit_code == 0
    assert tree(root) != before
    result = run("--undo", str(log), "--yes")
    assert result.exit_code == 0, result.output
    assert tree(root) == before
    result = run("--hardlink", *at)
    assert "2 files would become hard links" in result.stdout
    result = run("--script", str(tmp_path / "d.sh"), *at)
    assert result.exit_code == 0, result.output
    assert os.access(tmp_path / "d.sh", os.X_OK)
    for wrong in (
        [],
        ["--hardlink", "--move-to", "x"],
        ["--undo", str(log), "--hardlink"],
        ["--script", "a", "--log", "b"],
    ):
        assert run(*wrong, *at).exit_code == 2, wrong
    assert tree(root) == before


def test_ids_that_excel_safe_has_guarded(root: Path, tmp_path: Path) -> None:
    items = [
        entry(root / "large.png", "=1", source=str(root)),
        entry(root / "sub" / "small.png", "=2", path="sub/small.png", root=str(root), source=str(root)),
    ]
    store = filled(tmp_path / "guarded", items, near([0, 3]))
    result = CliRunner().invoke(
        app, ["dups", "find", "-s", str(store.path), "--excel-safe", "--threshold", "0.95", "--no-views"]
    )
    assert result.exit_code == 0, result.output
    assert "'=2" in (Duplicates.open(store).path / "drop.csv").read_text()
    assert len(plan_actions(store, "script").steps) == 1


def test_an_animation_is_not_given_up_for_a_still(tmp_path: Path) -> None:
    """Only one picture of it was compared: what else it shows is in no other file."""
    root = tmp_path / "pictures"
    root.mkdir()
    first, second = picture(1, 120, 90), picture(2, 120, 90)
    picture(1, 240, 180).save(root / "still.png")
    first.save(root / "moves.gif", save_all=True, append_images=[second])
    first.save(root / "stands.gif")
    first.save(root / "pages.tif", save_all=True, append_images=[second])
    first.save(root / "page.tif")
    names = ["still.png", "moves.gif", "stands.gif", "pages.tif", "page.tif"]
    items = [entry(root / name, name, path=name, root=str(root), source=str(root)) for name in names]
    store = filled(tmp_path / "store", items, near([0, 3, 5, 7, 9]))
    found = find_duplicates(store, rule=0.95, views=False)
    assert {row["item_id"] for row in csv_rows(found.path / "drop.csv")} == {"stands.gif", "page.tif"}
    assert {"moves.gif", "pages.tif"} < {row["item_id"] for row in csv_rows(found.path / "keep.csv")}
    assert any("2 duplicates are kept: animations" in note for note in found.summary["notes"])
    listed = tmp_path / "all.csv"
    listed.write_text("item_id,keeper\n" + "".join(f"{name},still.png\n" for name in names[1:]))
    plan = plan_actions(store, "move", move_to=tmp_path / "out", drop=listed)
    assert planned(plan) == {"stands.gif", "page.tif"}
    assert {item for item, reason in plan.skipped if "several pages" in reason} == {"moves.gif", "pages.tif"}


def test_a_link_to_what_is_moved_is_told(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    picture(1, 240, 180).save(root / "kept.png")
    picture(1, 120, 90).save(root / "small.png")
    (root / "link.png").symlink_to("small.png")
    names = ["kept.png", "small.png", "link.png"]
    items = [entry(root / name, name, path=name, root=str(root), source=str(root)) for name in names]
    store = filled(tmp_path / "store", items, near([0, 3, 3]))
    find_duplicates(store, rule=0.95, views=False)
    plan = plan_actions(store, "move", move_to=tmp_path / "out")
    assert planned(plan) == {"small.png"}
    assert plan.skipped == [("link.png", "it is a link to the file of 'small.png', and leads nowhere then")]


def test_what_was_moved_is_gone_and_not_in_the_way(store: Store, root: Path, tmp_path: Path) -> None:
    """Asked again, one line says it of all; and what would land in an embedded folder by its own path stays."""
    carry_out(plan_actions(store, "move", move_to=tmp_path / "out"))
    assert {reason for _, reason in plan_actions(store, "move", move_to=tmp_path / "out").skipped} == {
        "its file is gone"
    }


def test_a_path_does_not_lead_back_into_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    (root / "pictures").mkdir(parents=True)
    picture(1, 240, 180).save(root / "kept.png")
    picture(1, 120, 90).save(root / "pictures" / "small.png")
    names = ["kept.png", "pictures/small.png"]
    items = [entry(root / name, name, path=name, root=str(root), source=str(root)) for name in names]
    store = filled(tmp_path / "store", items, near([0, 3]))
    find_duplicates(store, rule=0.95, views=False)
    plan = plan_actions(store, "move", move_to=tmp_path)
    assert plan.steps == []
    assert "would find it again" in plan.skipped[0][1]


def test_the_commands_that_are_told_can_be_pasted(root: Path, tmp_path: Path) -> None:
    """Paths with spaces are quoted; and of thousands of reasons not each gets a line."""
    (tmp_path / "my pictures").mkdir()
    names = [f"{k}.png" for k in range(30)]
    for k, name in enumerate(names):
        picture(1, 300 - k, 200 - k).save(tmp_path / "my pictures" / name)
    here = str(tmp_path / "my pictures")
    items = [entry(Path(here) / name, name, path=name, root=here, source=here) for name in names]
    store = filled(tmp_path / "my store", items, near([k / 10 for k in range(30)]))
    find_duplicates(store, rule=0.95, views=False)
    out = tmp_path / "out"
    out.mkdir()
    for name in names[:25]:
        (out / name).write_text("in the way")
    asked = ["dups", "act", "-s", str(store.path), "--move-to", str(out)]
    told = CliRunner().invoke(app, asked).output
    assert told.count("is there already") == 20
    assert "left alone: 4 more" in told or "left alone: 5 more" in told
    told = CliRunner().invoke(app, [*asked, "--yes"]).output
    (line,) = [line for line in told.splitlines() if line.startswith("undo: ")]
    words = shlex.split(line.removeprefix("undo: icehouse ").partition(";")[0])
    assert CliRunner().invoke(app, words).exit_code == 0
    assert sorted(path.name for path in Path(here).iterdir()) == sorted(names)
    told = CliRunner().invoke(
        app, ["dups", "act", "-s", str(store.path), "--script", str(tmp_path / "a b.sh")]
    )
    assert f"`sh '{tmp_path / 'a b.sh'}' --yes`" in told.output
