"""Actions on found duplicates: moving what ``drop.csv`` names, replacing exact copies by hard links, or a script that does.

A plan looks at every file and touches none. Carrying it out writes each step to a log before it is taken, so that whatever
interrupts it, the log is enough to undo what was done. A step is taken only if the file and its keeper have, at that moment,
the SHA-256 that they were compared by. Nothing is ever overwritten, and nothing is deleted but a name whose file has
another one, or whose bytes were written elsewhere and read again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from .. import __version__
from ..data import image_files
from ..data.readers import read_rows
from ..errors import SourceError, StoreError, UsageError
from ..store.files import check_sums, fsync_dir, remove_leftovers, temp_name
from ..store.store import Store
from .judgements import active_judgements
from .pair_graph import Duplicates

Mode = Literal["move", "hardlink", "script"]

#: Kinds of members that are never acted upon: they say or hold something that their keeper does not.
_NEVER = ("variant", "container")

_LOG = "icehouse dups act"


@dataclass(frozen=True)
class Step:
    """A file to act upon, and the keeper that stands for it; `target` is where it is moved to."""

    item_id: str
    file: str
    sha256: str
    keeper_id: str
    keeper: str
    keeper_sha256: str
    bytes: int
    target: str | None = None


@dataclass(frozen=True)
class Plan:
    """Planned actions, and items left alone with the reason."""

    mode: Mode
    store: Path
    search: str
    steps: list[Step]
    skipped: list[tuple[str, str]]  # item, reason

    @property
    def bytes(self) -> int:
        """Bytes of all files to act upon."""
        return sum(step.bytes for step in self.steps)


@dataclass
class Outcome:
    """Result of the actions: items, items left alone with the reason, and the log that undoes it."""

    done: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    log: Path | None = None


#: SHA-256 of a regular file, or of a picture in a Parquet file; None where it cannot be read.
_Digests = Callable[[str], str | None]


def _digests() -> _Digests:
    """Give digests that are computed again whenever a file's status says that it may have changed."""
    computed = functools.cache(lambda file, *_status: _digest(file))

    def digest(file: str) -> str | None:
        if image_files.container(file) is not None:
            return image_files.sha256(file)
        try:
            about = os.stat(file)
            if not stat.S_ISREG(about.st_mode):
                return None
            status = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            return str(computed(file, *status))
        except (OSError, ValueError):
            return None

    return digest


def _digest(file: str) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def plan_actions(
    store: Store | str | Path,
    mode: Mode,
    name: str | None = None,
    *,
    move_to: str | Path | None = None,
    drop: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Plan what to do with the files of ``drop.csv``, or of `drop`, a part of it; nothing is changed.

    "move" takes the files to the folder `move_to`, where they keep their paths below the folder that was embedded;
    "hardlink" replaces those that are byte for byte their keeper by a hard link to it; "script" does neither, for
    `write_script`. A UsageError says that files would be moved into the store, or to where they would be embedded
    again.
    """
    store = Store.of(store)
    search = Duplicates.open(store, name)
    if search.content != "image_sha256":
        raise UsageError(f"the search {search.name!r} compared texts, and names no files to act upon")
    rows = _listed(search, drop)
    facts, sources = _facts(store, rows)
    allowed = None if drop is None else _found(search)
    judged = active_judgements(store, search.content).pairs
    target = None if move_to is None else _target_folder(store, Path(move_to), sources)
    plan = Plan(mode, store.path, search.name, [], [])
    digests = _digests()
    taken: set[str | None] = set()
    seen: set[str] = set()
    below = _folders({facts[row["item_id"]]["root"] for row in rows if row["item_id"] in facts})
    keepers = {row["keeper"] for row in rows}
    for number, row in enumerate(rows, 1):
        item_id, keeper_id = row["item_id"], row["keeper"]
        reason = "it is listed twice" if item_id in seen else _why_not(row, facts, keepers, allowed)
        seen.add(item_id)
        if reason is None:
            item, keeper = facts[item_id], facts[keeper_id]
            step = Step(item_id, item["file"], item["sha256"], keeper_id, keeper["file"], keeper["sha256"], 0)
            if target is not None:
                place = os.path.join(target, below[item["root"]], *_inside(item["path"]))
                step = replace(step, target=place)
            if (
                judged.get((min(step.sha256, step.keeper_sha256), max(step.sha256, step.keeper_sha256)))
                is False
            ):
                reason = "people judged it different from its keeper: run `icehouse dups apply`, or the search again"
            reason = reason or _why_not_now(step, mode, digests)
            if reason is None and step.target is not None:
                reason = _why_not_there(step.target, taken, sources)
        if reason is None:
            taken.add(step.target)
            plan.steps.append(replace(step, bytes=os.path.getsize(step.file)))
        else:
            plan.skipped.append((item_id, reason))
        if progress is not None:
            progress(number, len(rows))
    if mode != "hardlink":
        _tell_links(plan, rows, facts)
    return plan


def _tell_links(plan: Plan, rows: list[dict[str, str]], facts: dict[str, dict[str, str]]) -> None:
    """Tell of items whose file is acted upon by another of its names, that they go with it."""
    acted = {step.item_id for step in plan.steps}
    whose = {row["item_id"]: row.get("same_file_as") for row in rows}
    for place, (item_id, reason) in enumerate(plan.skipped):
        first = whose.get(item_id)
        if first in acted and reason == _shared(first):
            link = os.path.islink(facts[item_id]["file"])
            what = (
                "it is a link to the file of {!r}, and leads nowhere then"
                if link
                else "it goes with {!r}, the same file"
            )
            plan.skipped[place] = (item_id, what.format(first))


def _shared(item_id: str) -> str:
    return f"its file is that of {item_id!r} too"


def _why_not_there(place: str, taken: set[str | None], sources: list[str]) -> str | None:
    """Why a file cannot be moved to a place; None if it can."""
    if place in taken or os.path.lexists(place):
        return f"{place} is there already"
    for source in sources:
        if os.path.isdir(source) and Path(place).is_relative_to(os.path.realpath(source)):
            return f"{place} is inside {source}, where `icehouse embed` would find it again"
    return None


def _listed(search: Duplicates, drop: str | Path | None) -> list[dict[str, str]]:
    """Rows of the list of what to drop."""
    path = search.path / "drop.csv" if drop is None else Path(drop)
    if drop is None and search.summary.get("lists_withheld"):
        raise UsageError(
            f"the search {search.name} has no drop.csv, since the set looks alike; look at its pairs, and search again with "
            "`icehouse dups find --yes-drop` if they are duplicates"
        )
    if drop is None:
        check_sums(search.path, ["drop.csv"])
    wanted = ("item_id", "keeper", "kind", "same_file_as")
    rows = read_rows(path, lambda header: [column for column in wanted if column in header.columns])
    lacking = [column for column in wanted[:2] if column not in rows.table.column_names]
    if lacking:
        raise SourceError(f"{path} needs the columns item_id and keeper, as drop.csv has them")
    if rows.bad:
        raise SourceError(f"{path}, {rows.bad[0].where}: {rows.bad[0].message}; nothing was done")
    return [{key: value or "" for key, value in row.items()} for row in rows.table.to_pylist()]


def _facts(store: Store, rows: list[dict[str, str]]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Path, root, file and SHA-256 of the items that are named, and all sources that were embedded."""
    names = {row[key] for row in rows for key in ("item_id", "keeper")}
    items = store.items.read(["item_id", "path", "root", "image_sha256", "source"])
    found: dict[str, dict[str, str]] = {}
    sources = {source for source in items["source"].cast(pa.string()).unique().to_pylist() if source}
    quoted: dict[str, dict[str, str]] = {}
    for batch in items.drop_columns(["source"]).to_batches():
        for item in batch.to_pylist():
            item_id = item["item_id"]
            # With --excel-safe the list has ' before what a spreadsheet would take for a formula.
            for name, kept in ((item_id, found), (f"'{item_id}", quoted)):
                if name in names:
                    known = {"file": f"{item['root']}/{item['path']}", "sha256": item["image_sha256"]}
                    kept[name] = item | known
    # An item that is called so itself is meant before one that would be written so.
    found = quoted | found
    return {name: item for name, item in found.items() if None not in item.values()}, sorted(sources)


def _found(search: Duplicates) -> set[tuple[str, str]]:
    """Members of groups as they are now, each with its keeper: a list saved earlier may hold what was judged since."""
    clusters = search.clusters(["item_id", "group", "keeper"]).to_pylist()
    leads = {row["group"]: row["item_id"] for row in clusters if row["keeper"]}
    return {(row["item_id"], leads[row["group"]]) for row in clusters if not row["keeper"]}


def _target_folder(store: Store, folder: Path, sources: list[str]) -> str:
    """Folder to move to, if nothing that is moved there is in the store's way or embedded again."""
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise UsageError(f"{folder} is a file; give a folder to move to")
    if target.is_relative_to(store.path.resolve()):
        raise UsageError(f"{folder} is inside the store, which is no place for pictures; give another folder")
    for source in sources:
        if os.path.isdir(source) and target.is_relative_to(os.path.realpath(source)):
            raise UsageError(
                f"{folder} is inside {source}, where `icehouse embed` would find the moved files again; give a folder "
                "elsewhere"
            )
    return str(target)


def _folders(roots: set[str]) -> dict[str, str]:
    """Folder below the target for each root: none where there is one root alone, else its name, each once."""
    if len(roots) < 2:
        return dict.fromkeys(roots, "")
    found: dict[str, str] = {}
    for root in sorted(roots):
        name = os.path.basename(root.rstrip("/")) or "root"
        number = 1
        while (named := name if number == 1 else f"{name}-{number}") in found.values():
            number += 1
        found[root] = named
    return found


def _inside(path: str) -> list[str]:
    """Parts of a path that lead nowhere but down."""
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _why_not(
    row: dict[str, str],
    facts: dict[str, dict[str, str]],
    keepers: set[str],
    allowed: set[tuple[str, str]] | None,
) -> str | None:
    """Why an item is left alone whatever its file is like; None if nothing speaks against it.

    `allowed` are the members of groups with their keepers, which rows of a list from elsewhere are held against.
    """
    if row["item_id"] not in facts:
        return "it is no longer in the store, or has no file"
    if row["keeper"] not in facts:
        return f"its keeper {row['keeper']!r} is no longer in the store, or has no file"
    if row.get("kind") in _NEVER:
        return f"it is a {row['kind']} of its keeper, which is never acted upon"
    if row["item_id"] in keepers:
        return "it is the keeper of another item of the list"
    pair = tuple(facts[row[key]]["item_id"] for key in ("item_id", "keeper"))
    if allowed is not None and pair not in allowed:
        return "the search, with what was judged since, has it in no group of that keeper"
    if image_files.container(facts[row["item_id"]]["file"]) is not None:
        return "it is a picture inside a Parquet file, which cannot be taken out alone"
    if row.get("same_file_as"):
        return _shared(row["same_file_as"])
    return None


def _why_not_now(step: Step, mode: Mode, digests: _Digests) -> str | None:
    """Why a step cannot be taken as the files are; None if it can."""
    try:
        about = os.lstat(step.file)
    except (OSError, ValueError):
        return "its file is gone"
    if stat.S_ISLNK(about.st_mode):
        return "it is a symbolic link"
    if not stat.S_ISREG(about.st_mode):
        return "it is no regular file"
    folder = os.path.dirname(step.file)
    if os.path.realpath(folder) != os.path.normpath(folder):
        return "its file is reached through a linked folder"
    if mode != "move" and image_files.container(step.keeper) is not None:
        return "its keeper is inside a Parquet file"
    if mode == "hardlink":
        if step.sha256 != step.keeper_sha256:
            return "it is not byte for byte its keeper"
        if os.path.islink(step.keeper):
            return "its keeper is a symbolic link"
    try:
        kept = None if image_files.container(step.keeper) is not None else os.stat(step.keeper)
    except (OSError, ValueError):
        return f"its keeper {step.keeper_id!r} is gone"
    if kept is not None:
        if (about.st_dev, about.st_ino) == (kept.st_dev, kept.st_ino):
            return "it is its keeper's file already, by another name"
        if mode == "hardlink" and about.st_dev != kept.st_dev:
            return "its keeper is on another file system"
    if about.st_nlink > 1:
        return "its file has another name, by a hard link"
    if digests(step.keeper) != step.keeper_sha256:
        return f"its keeper {step.keeper_id!r} is no longer what was embedded"
    if digests(step.file) != step.sha256:
        return "its file is no longer what was embedded"
    if step.sha256 != step.keeper_sha256 and image_files.frames(step.file) > image_files.frames(step.keeper):
        return "it moves, or has several pages, and its keeper has fewer: only one picture of it was compared"
    return None


def _open_log(path: Path, *, new: bool) -> BinaryIO:
    """Open a log to write lines of JSON to, each on the medium before what it announces is done."""
    try:
        log = path.open("xb" if new else "ab")
    except FileExistsError:
        raise UsageError(f"{path} is there already; give another --log") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    if new:
        fsync_dir(path.absolute().parent)
    elif (written := path.read_bytes()) and not written.endswith(b"\n"):
        log.write(b"\n")
    return log


def _write(log: BinaryIO, record: dict[str, Any]) -> None:
    log.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
    log.flush()
    os.fsync(log.fileno())


def carry_out(
    plan: Plan, log: str | Path | None = None, *, progress: Callable[[int, int], None] | None = None
) -> Outcome:
    """Take the steps of a plan that moves files or makes hard links; gives what was done, and the log to undo it by.

    `log` is a new file, ``STORE/acts/<when>-<mode>.jsonl`` unless given. Every file and keeper is looked at again before its
    step; what is no longer as it was planned is left alone.
    """
    if plan.mode == "script":
        raise UsageError("a script is written, not carried out")
    path = _log_path(plan) if log is None else Path(log)
    outcome, digests = Outcome(log=path), _digests()
    if not plan.steps:
        return Outcome()
    with _open_log(path, new=True) as journal:
        _write(
            journal,
            {
                "log": _LOG,
                "format": 1,
                "icehouse": __version__,
                "mode": plan.mode,
                "store": str(plan.store.absolute()),
                "search": plan.search,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        for number, step in enumerate(plan.steps, 1):
            reason = _why_not_now(step, plan.mode, digests)
            if reason is None:
                try:
                    take = _move if plan.mode == "move" else _hardlink
                    reason = take(step, number, journal)
                except OSError as error:
                    reason = f"{error.strerror or error} ({error.filename or step.file})"
            if reason is None:
                _write(journal, {"step": number, "state": "done"})
                outcome.done.append(step.item_id)
            else:
                _write(
                    journal, {"step": number, "state": "skipped", "item_id": step.item_id, "reason": reason}
                )
                outcome.skipped.append((step.item_id, reason))
            if progress is not None:
                progress(number, len(plan.steps))
    return outcome


def _log_path(plan: Plan) -> Path:
    folder = plan.store / "acts"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    when = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return folder / f"{when}-{plan.mode}.jsonl"


def _move(step: Step, number: int, journal: BinaryIO) -> str | None:
    assert step.target is not None
    target = step.target
    if os.path.lexists(target):
        return f"{target} is there already"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    _write(journal, {"step": number, "state": "begun", **_facts_of(step), "to": target})
    _relocate(step.file, target, step.sha256)
    return None


def _facts_of(step: Step) -> dict[str, Any]:
    about = os.lstat(step.file)
    return {
        "item_id": step.item_id,
        "file": step.file,
        "sha256": step.sha256,
        "keeper": step.keeper,
        "mode": stat.S_IMODE(about.st_mode),
        "mtime_ns": about.st_mtime_ns,
        "uid": about.st_uid,
        "gid": about.st_gid,
    }


def _relocate(source: str, target: str, sha256: str) -> None:
    """Move a file to a name that is free, which another process may take meanwhile: then FileExistsError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        # Another file system, or one without hard links: copied, read again, and only then removed here.
        with _temporary_beside(target) as temp:
            shutil.copy2(source, temp, follow_symlinks=False)
            _sync(temp)
            if _digest(temp) != sha256:
                raise OSError(None, "the copy differs from the file", source) from None
            _give_name(temp, target)
        if _digest(source) != sha256:
            raise OSError(None, "the file changed while it was copied", source) from None
    fsync_dir(Path(target).parent)
    os.unlink(source)


@contextlib.contextmanager
def _temporary_beside(file: str) -> Iterator[str]:
    """A free name in the folder of a file; what is there afterwards is removed."""
    temp = os.path.join(os.path.dirname(file), temp_name(""))
    try:
        yield temp
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)


def _give_name(temp: str, target: str) -> None:
    """Give a file of ours its name, unless that is taken."""
    try:
        os.link(temp, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.close(handle)
        os.replace(temp, target)


def _sync(file: str) -> None:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def _hardlink(step: Step, number: int, journal: BinaryIO) -> str | None:
    _write(journal, {"step": number, "state": "begun", **_facts_of(step), "link_to": step.keeper})
    with _temporary_beside(step.file) as temp:
        os.link(step.keeper, temp, follow_symlinks=False)
        os.replace(temp, step.file)  # by another name of the same file, which leaves both
    return None


def read_log(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Header of a log, its begun steps without those that were undone, and lines that cannot be read.

    A last line without an end was cut off before its step began, and is none of these.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except ValueError:
            if number < len(lines):
                damaged.append(f"line {number} of {path} cannot be read: what it told is not undone")
            continue
        records.append(record)
    if not records or records[0].get("log") != _LOG:
        raise SourceError(f"{path} is no log of `icehouse dups act`")
    if records[0].get("format", 0) > 1:
        raise SourceError(f"{path} is of a later icehouse: update it")
    gone = {record.get("step") for record in records if record.get("state") == "undone"}
    begun = [
        record for record in records if record.get("state") == "begun" and record.get("step") not in gone
    ]
    return records[0], begun, damaged


def undo_actions(
    log: str | Path, *, dry_run: bool = False, progress: Callable[[int, int], None] | None = None
) -> Outcome:
    """Undo what a log tells, the last step first: files go back to where they were, hard links become files again.

    What lies on the disk decides, whatever the log had no time to say. A file that was changed since, or whose old name is
    taken, is left alone and told. Undoing twice, or again after an interruption, does no harm.
    """
    _, begun, damaged = read_log(log)
    path = Path(log)
    outcome = Outcome(log=path, skipped=[(path.name, line) for line in damaged])
    folders: set[str] = set()
    with contextlib.nullcontext() if dry_run else _open_log(path, new=False) as journal:
        for number, record in enumerate(reversed(begun), 1):
            item, reason, act = str(record.get("item_id")), None, None
            try:
                folders |= {
                    os.path.dirname(record["file"]),
                    os.path.dirname(record.get("to", record["file"])),
                }
                reason, act = _undoing(record)
                if act is not None and journal is not None:
                    act()
            except (OSError, KeyError, TypeError) as error:
                reason = getattr(error, "strerror", None) or f"the log is damaged here ({error})"
            if reason is not None:
                outcome.skipped.append((item, reason))
            else:
                if act is not None:
                    outcome.done.append(item)
                if journal is not None:
                    _write(journal, {"step": record["step"], "state": "undone"})
            if progress is not None:
                progress(number, len(begun))
        if journal is not None:
            # Copies in the making, where a kill interrupted one.
            for folder in filter(os.path.isdir, sorted(folders)):
                remove_leftovers(Path(folder))
    return outcome


def _undoing(record: dict[str, Any]) -> tuple[str | None, Callable[[], None] | None]:
    """Why a step cannot be undone, or what undoes it; neither where it was never taken."""
    file, sha256 = record["file"], record["sha256"]
    if "to" in record:
        target = record["to"]
        if not os.path.lexists(target):
            return (None, None) if os.path.lexists(file) else (f"neither {file} nor {target} is there", None)
        if os.path.islink(target) or not os.path.isfile(target) or _digest(target) != sha256:
            return f"{target} is no longer the file that was moved", None
        if os.path.lexists(file):
            # Interrupted between the new name and the end of the old one: the old one has the bytes too.
            if os.path.isfile(file) and not os.path.islink(file) and _digest(file) == sha256:
                return None, lambda: os.unlink(target)
            return f"{file} is taken by another file", None

        def back() -> None:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            _relocate(target, file, sha256)

        return None, back
    keeper = record["link_to"]
    if not os.path.lexists(file):
        return f"{file} is gone", None
    if os.path.islink(file) or not os.path.isfile(file):
        return f"{file} is no longer a regular file", None
    if not os.path.exists(keeper) or not os.path.samefile(file, keeper):
        return None, None  # never linked, or a file of its own again
    if _digest(file) != sha256:
        return f"{file} is no longer what it was", None
    return None, lambda: _unlink_from(file, record)


def _unlink_from(file: str, record: dict[str, Any]) -> None:
    """Make a hard link a file of its own again, with the rights and times that it had."""
    with _temporary_beside(file) as temp:
        shutil.copyfile(file, temp)
        if _digest(temp) != record["sha256"]:
            raise OSError(None, "the copy differs from the file", file)
        with contextlib.suppress(OSError):  # only the superuser gives files away
            os.chown(temp, record["uid"], record["gid"])
        os.chmod(temp, record["mode"])
        os.utime(temp, ns=(record["mtime_ns"], record["mtime_ns"]))
        _sync(temp)
        os.replace(temp, file)


_SCRIPT = """#!/bin/sh
# {what} {count} duplicates found by the search {search} of icehouse {version}, {at}.
# Without --yes it only says what it would do. Each file and its keeper must have, at that moment, the SHA-256
# that they were compared by; whatever has not is left alone and told.
set -u
LC_ALL=C; export LC_ALL
yes=no
case "${{1-}}" in
  --yes) yes=yes ;;
  '') ;;
  *) echo "usage: sh $0 [--yes]" >&2; exit 2 ;;
esac
if command -v sha256sum >/dev/null 2>&1; then digest() {{ sha256sum <"$1"; }}
elif command -v shasum >/dev/null 2>&1; then digest() {{ shasum -a 256 <"$1"; }}
else echo "neither sha256sum nor shasum is installed" >&2; exit 2
fi
done_=0 left=0
is() {{
  [ -f "$1" ] || return 1
  sum=$(digest "$1") || return 1
  [ "${{sum%% *}}" = "$2" ]
}}
leave() {{ left=$((left + 1)); printf '%s: %s\\n' "$1" "$2" >&2; }}
drop() {{
  if [ -L "$1" ] || ! is "$1" "$2"; then leave "$1" "no longer what was compared"; return; fi
  if ! is "$3" "$4"; then leave "$1" "its keeper is no longer what was compared"; return; fi
  if [ "$1" -ef "$3" ]; then leave "$1" "its keeper's own file"; return; fi
{act}
  done_=$((done_ + 1))
}}
"""
_REMOVE = """  if [ "$yes" = yes ]; then rm -f -- "$1" || { leave "$1" "cannot be removed"; return; }
  else printf 'rm %s\\n' "$1"
  fi"""
_MOVE = """  if [ -e "$5" ] || [ -L "$5" ]; then leave "$1" "$5 is there already"; return; fi
  if [ "$yes" = yes ]; then
    mkdir -p -- "${5%/*}" && mv -- "$1" "$5" || { leave "$1" "cannot be moved"; return; }
  else printf 'mv %s %s\\n' "$1" "$5"
  fi"""


def script_text(plan: Plan) -> bytes:
    """POSIX shell script that removes the files of a plan, or moves those with a target; without ``--yes`` it only tells.

    Names are quoted byte for byte, so that line ends, quotes, leading dashes and bytes that are no text are safe.
    """
    moving = any(step.target is not None for step in plan.steps)
    head = _SCRIPT.format(
        what="Moves" if moving else "Removes",
        count=len(plan.steps),
        search=plan.search,
        version=__version__,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        act=_MOVE if moving else _REMOVE,
    )
    lines = [head.encode()]
    for step in plan.steps:
        parts = [step.file, step.sha256, step.keeper, step.keeper_sha256]
        if step.target is not None:
            parts.append(step.target)
        lines.append(b"drop " + b" ".join(shell_quoted(part) for part in parts) + b"\n")
    lines.append(b'printf \'%s files, %s left alone\\n\' "$done_" "$left" >&2\n')
    return b"".join(lines)


def shell_quoted(name: str) -> bytes:
    """A file name as one word of a POSIX shell, in the bytes that it has on disk; never an option.

    >>> shell_quoted("a b"), shell_quoted("-rf")
    (b"'a b'", b'./-rf')
    """
    return os.fsencode(shlex.quote(f"./{name}" if name.startswith("-") else name))


def write_script(plan: Plan, path: str | Path) -> Path:
    """Write `script_text` to a new file; one that is there is not replaced."""
    path = Path(path)
    try:
        with open(path, "xb", opener=functools.partial(os.open, mode=0o755)) as file:
            file.write(script_text(plan))
    except FileExistsError:
        raise UsageError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def reasons(skipped: list[tuple[str, str]]) -> Iterator[tuple[str, int, str]]:
    """Reasons with how many items each keeps back, and the first of them; those that name something else are one each."""
    counted: dict[str, list[str]] = {}
    for item, reason in skipped:
        counted.setdefault(reason, []).append(item)
    for reason, items in sorted(counted.items(), key=lambda one: -len(one[1])):
        yield reason, len(items), items[0]
