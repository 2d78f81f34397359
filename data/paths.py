"""Image paths of annotation files: each taken as written, or as the one file that it can only mean.

A path that names no file is spelt otherwise (backslashes, ``file://``, percent-encoding, blanks around it), then held
against the names on disk (Unicode form, case, a missing suffix, a doubled folder, the end of another machine's absolute
path). Where exactly one file fits it is taken, and said; where none or several do, the path stays as it is.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import stat
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import count_of
from .image_files import is_image_name
from .labels import trim
from .rows import path_below, show

_MAX_PATH = 4096
# Pictures as text: long, in the alphabet of base64, and beginning as JPEG, PNG, GIF or WebP do.
_BASE64 = re.compile(r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=_\s-]+")
_BASE64_FROM = 60
# The beginning of a path of another machine, or of its user's home.
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|~[\w.-]*[\\/]|\\\\|//")

_QUOTES = "\"'`\u2018\u2019\u201c\u201d"

_AROUND = "blanks or quotes around it"
_FILE_URL = "a file:// URL"
_BACKSLASHES = "backslashes"
_PERCENT = "percent-encoding"
_CERTAIN = frozenset({_AROUND, _FILE_URL, _BACKSLASHES})

_OWN_FOLDER = "the annotation file's own folder"
_UNICODE = "another Unicode form (NFC, NFD)"
_CASE = "another case of letters"
_SUFFIX = "a suffix left out"
_DOUBLED = "a folder named twice or once too little"
_ELSEWHERE = "the end of a path from elsewhere"
# These say which file was meant, not how its name is written: two paths that come to one file by them are left alone.
_GUESSES = frozenset({_CASE, _SUFFIX, _DOUBLED, _ELSEWHERE})


@dataclass
class Located:
    """Paths relative to the root, reasons of rows without one, how others were understood, and advice if none is there."""

    paths: pa.ChunkedArray
    reasons: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    advice: str | None = None


@dataclass
class _Found:
    """One distinct path: what it became, how it was understood, the files that fit where that is not one."""

    path: str | None
    kinds: tuple[str, ...] = ()
    there: bool = False
    error: str | None = None
    several: tuple[str, ...] = ()


def locate_images(raw: pa.ChunkedArray, root: str, starts: Sequence[str]) -> Located:
    """Find the file of each image path as written, relative to the absolute folder `root`.

    `starts` are the absolute folders that relative paths may start from, the likeliest first.
    """
    codes = raw.combine_chunks().dictionary_encode()
    values = codes.dictionary.to_pylist()
    finder = _Finder(root, starts)
    found = [finder.find(value) for value in values]
    _undo_ambiguous(values, found)
    errors = {i: one.error for i, one in enumerate(found) if one.error is not None}
    where = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(np.isin(where, list(errors))) if errors else ()
    paths = pa.array([one.path for one in found], pa.string())
    located = Located(
        pa.chunked_array([pc.take(paths, codes.indices)]),
        {int(row): errors[where[row]] for row in rows},
        list(_notes(values, found)),
    )
    there = [one.there for one in found if one.error is None]
    if there and not any(there[:20]):
        located.advice = finder.advice([v for v, f in zip(values, found, strict=True) if f.error is None])
    return located


def _undo_ambiguous(values: list[str], found: list[_Found]) -> None:
    """Take back guesses by which several paths, meant differently, would be one file."""
    owners: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(found):
        if one.there and one.path is not None:
            owners[one.path].append(i)
    for path, places in owners.items():
        if len({posixpath.normpath(_spellings(values[i])[-1][1]) for i in places}) < 2:
            continue
        for i in places:
            if not _GUESSES.isdisjoint(found[i].kinds):
                other = next(values[j] for j in places if j != i)
                reason = (
                    f"{show(values[i])} is not there; {show(path)} would fit, and {show(other)} names that"
                )
                kept = _written(values[i])
                absolute = _DRIVE.match(kept) or kept.startswith("/")
                found[i] = _Found(None, error=reason) if absolute else _Found(posixpath.normpath(kept))


def _notes(values: list[str], found: list[_Found]) -> Iterator[str]:
    by_kind: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, one in enumerate(found):
        if one.kinds and one.there:
            by_kind[one.kinds].append(i)
    for kinds, places in by_kind.items():
        first = places[0]
        if kinds != (_OWN_FOLDER,):
            shown = f"{show(values[first])} is {show(found[first].path or '')}"
            yield f"{count_of(len(places), 'image path')} understood by {' and '.join(kinds)}: {shown}"
    several = [i for i, one in enumerate(found) if one.several]
    if several:
        fits = " or ".join(show(path) for path in found[several[0]].several[:3])
        many = count_of(len(several), "image path fits", "image paths fit")
        yield f"{many} several files: {show(values[several[0]])} may be {fits}"


def _spellings(raw: str) -> list[tuple[tuple[str, ...], str]]:
    """The path as written, then in the ways that other programs write one, each with what was done to it."""
    made: list[tuple[tuple[str, ...], str]] = [((), raw)]

    def then(kind: str, text: str) -> None:
        kinds, last = made[-1]
        if text and text != last:
            made.append(((*kinds, kind), text))

    then(_AROUND, trim(trim(raw).strip(_QUOTES)))
    text = made[-1][1]
    if text[:5].lower() == "file:":
        local = re.sub(r"^file:(//(localhost)?(?=/|[A-Za-z]:))?", "", text, flags=re.IGNORECASE)
        then(_FILE_URL, unquote(re.sub(r"^/(?=[A-Za-z]:)", "", local)))
    then(_BACKSLASHES, made[-1][1].replace("\\", "/"))
    if "&" in made[-1][1]:
        then("HTML references", html.unescape(made[-1][1]))
    if is_image_name(before := re.split(r"[?#]", made[-1][1])[0]):
        then("a URL's query", before)
    if "%" in made[-1][1]:
        then(_PERCENT, unquote(made[-1][1]))
    if "+" in made[-1][1]:
        then("plus signs for blanks", made[-1][1].replace("+", " "))
    if is_image_name(made[-1][1].rstrip(".")):
        then("a full stop at its end", made[-1][1].rstrip("."))
    return made


def _written(raw: str) -> str:
    """The path in its plainest spelling that nothing on disk has to confirm."""
    return next(text for kinds, text in reversed(_spellings(raw)) if _CERTAIN.issuperset(kinds))


class _Finder:
    """Finds files for paths, with each folder listed once."""

    def __init__(self, root: str, starts: Sequence[str]) -> None:
        self.root = root
        self.starts = list(dict.fromkeys(starts))
        self._disk = _DirectoryCache()

    def find(self, raw: str) -> _Found:
        refused = _refused(raw)
        if refused is not None:
            return _Found(None, error=refused)
        as_written = posixpath.normpath(posixpath.join(self.starts[0], raw))
        if _is_file(as_written) and (inside := path_below(as_written, self.root)) is not None:
            return _Found(inside, there=True)
        spellings = _spellings(raw)
        outside = None
        for kinds, text in spellings:
            for start in self.starts:
                full = posixpath.normpath(posixpath.join(start, text))
                if _is_file(full):
                    path = path_below(full, self.root)
                    if path is not None:
                        own = () if start == self.starts[0] or text.startswith("/") else (_OWN_FOLDER,)
                        return _Found(path, (*kinds, *own), there=True)
                    outside = outside or full
        if outside is not None:
            return _Found(None, error=self._outside(raw, outside))
        for kinds, text in reversed(spellings if not spellings[-1][1].endswith("/") else []):
            for further, fits in self._fitting(text):
                paths = {path for full in fits if (path := path_below(full, self.root)) is not None}
                if len(paths) == 1:
                    return _Found(paths.pop(), (*kinds, *further), there=True)
                if paths:
                    return self._unfound(raw, tuple(sorted(paths)))
        return self._unfound(raw)

    def _unfound(self, raw: str, several: tuple[str, ...] = ()) -> _Found:
        """Result for a path that names no file: kept, since the file may come later, unless it cannot be below the root."""
        text = _written(raw)
        places = [posixpath.normpath(posixpath.join(start, text)) for start in self.starts]
        if text.endswith("/") or posixpath.normpath(text) == "." or os.path.isdir(places[0]):  # noqa: PTH112
            return _Found(None, error=f"the image's path {show(raw)} names a folder")
        inside = None
        if not _DRIVE.match(text):
            inside = next(
                (path for full in places if (path := path_below(full, self.root)) is not None), None
            )
        if inside is not None:
            return _Found(inside, several=several)
        if several:
            fits = " or ".join(show(path) for path in several[:3])
            return _Found(None, error=f"the image's path {show(raw)} fits several files: {fits}")
        return _Found(None, error=self._outside(raw, places[0]))

    def _outside(self, raw: str, full: str) -> str:
        """Reason for a path that is not below the root, with the root that would have it."""
        text = _written(raw)
        if _DRIVE.match(text) or (text.startswith("/") and not _is_file(full)):
            remedy = "give as --root the folder where the end of it can be found"
            return (
                f"the image's path {show(raw)} is outside {self.root}, where no file ends like it; {remedy}"
            )
        way = "is outside" if text.startswith("/") else "leads out of"
        common = posixpath.commonpath([posixpath.dirname(full), self.root])
        return f"the image's path {show(raw)} {way} {self.root}; give --root {common}"

    def _fitting(self, text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
        """Files that a path may mean, by the kind of difference, the smallest first."""
        parts = [part for part in posixpath.normpath(text).split("/") if part and part != ".."]
        if _DRIVE.match(text) or text.startswith("/"):
            parts = parts[1:] if re.match("[A-Za-z]:|~", text) else parts
            for skipped in range(len(parts)):
                for start in self.starts:
                    tail = posixpath.join(start, *parts[skipped:])
                    yield (_ELSEWHERE,), [tail] if _is_file(tail) else []
                    for kind, fits in self._disk.similar(tail, within=start):
                        yield (_ELSEWHERE, kind), fits
            return
        for start in self.starts:
            for kind, fits in self._disk.similar(posixpath.normpath(posixpath.join(start, text))):
                yield (kind,), fits
        for start in self.starts:
            above = [part for part in start.split("/") if part]
            ways = [[*parts[:1], *parts], [*above[-1:], *parts]]
            ways += [parts[n:] for n in range(1, len(parts)) if parts[:n] == above[-n:]]
            if parts[:1] == parts[1:2]:
                ways.append(parts[1:])
            yield (_DOUBLED,), [full for way in ways if _is_file(full := posixpath.join(start, *way))]

    def advice(self, values: Sequence[str]) -> str:
        """Advice if none of the first images exists: the nearby folder that has them, if any."""
        start = self.starts[0]
        names = [text for value in values[:20] if not (text := _written(value)).startswith("/")]
        near = [folder for folder in self._disk.near(start) if folder != start]
        hits = {folder: sum(_is_file(posixpath.join(folder, name)) for name in names) for folder in near}
        best = max(near, key=lambda folder: hits[folder], default=start)
        if hits.get(best):
            return f"none of the first images named is below {start}, but below {best}: give --root {best}"
        # Without the file's name: said once for a root, not once a file.
        return (
            f"none of the first images named is below {start}; --root tells where they are, --only text takes "
            "the texts alone"
        )


def _refused(raw: str) -> str | None:
    """Reason why no file can be meant."""
    if "\0" in raw:
        return f"the image's path {show(raw)} holds a NUL byte"
    if re.match(r"\s*data:", raw) or (len(raw) > _BASE64_FROM and _BASE64.fullmatch(raw)):
        return f"{show(raw)} holds the image itself; write the images to files and give their paths"
    if "://" in raw and not re.match(r"\s*[\"']?file:", raw, re.IGNORECASE):
        return f"{show(raw)} is a URL; download the images and give their paths"
    if len(raw) > _MAX_PATH:
        return f"the image's path is {len(raw)} characters long ({show(raw)})"
    return None


def why_missing(file: Path) -> str:
    """Reason why a file is missing, as one line; empty if none is known."""
    global _recent
    if time.monotonic() - _recent[0] > 2:
        _recent = (time.monotonic(), _DirectoryCache())
    disk = _recent[1]
    full = posixpath.normpath(file.absolute().as_posix())
    if os.path.islink(full):  # noqa: PTH114
        return "a link to a file that is not there"
    for kind, fits in disk.similar(full):
        shown = ", ".join(show(posixpath.basename(path)) for path in fits[:3])
        return f"{shown} would fit, by {kind}" if len(fits) == 1 else f"{len(fits)} files would fit: {shown}"
    folder, _, name = full.rpartition("/")
    lost = None
    while folder and not disk.is_folder(folder):
        folder, _, lost = folder.rpartition("/")
    if lost is not None:
        inside = f"{folder or '/'}/{lost}"
        if os.path.lexists(inside):
            return f"{inside} is not a folder"
        hint = "; backslashes part folders elsewhere" if "\\" in lost else ""
        return f"there is no folder {show(lost)} in {folder or '/'}{hint}"
    stem = _key(posixpath.splitext(name)[0])
    others = disk.listing(folder).stems.get(stem, [])
    return f"{show(others[0])} is there: another suffix" if others else ""


@dataclass
class _Listing:
    """Names in one folder: whether each is a folder, and what they are compared by."""

    names: dict[str, bool] = field(default_factory=dict)
    forms: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    stems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def named(self, name: str, kind: str, *, folder: bool) -> list[str]:
        """Files, or folders, of that name or of one that differs from it in that way."""
        if self.names.get(name) is folder:
            return [name]
        if kind == _SUFFIX and not folder:
            return [] if is_image_name(name) else self.stems.get(_key(name), [])
        if kind == _UNICODE:
            found = self.forms.get(unicodedata.normalize("NFC", name), [])
        else:
            found = self.keys.get(_key(name), [])
        return [other for other in found if self.names[other] is folder]


class _DirectoryCache:
    """Directory listings, each read once per reading of the sources."""

    def __init__(self) -> None:
        self._listings: dict[str, _Listing] = {}
        self._folders: dict[str, bool] = {}

    def is_folder(self, path: str) -> bool:
        if path not in self._folders:
            self._folders[path] = os.path.isdir(path or "/")  # noqa: PTH112
        return self._folders[path]

    def listing(self, folder: str) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = _read_listing(folder or "/")
        return self._listings[folder]

    def similar(self, full: str, within: str = "/") -> Iterator[tuple[str, list[str]]]:
        """Files whose path differs from `full` in Unicode form, in case, in that or a suffix left out."""
        folder, *rest = posixpath.split(full)
        while len(folder) > len(within) and not self.is_folder(folder):
            folder, name = posixpath.split(folder)
            rest.insert(0, name)
        for kind in (_UNICODE, _CASE, _SUFFIX):
            fits = [folder]
            for place, name in enumerate(rest):
                inner = place < len(rest) - 1
                fits = [
                    posixpath.join(one, other)
                    for one in fits
                    for other in self.listing(one).named(name, kind, folder=inner)
                ]
            if fits:
                yield kind, fits

    def near(self, start: str, most: int = 300) -> list[str]:
        """Folders up to two levels below `start`, then those above it and beside."""
        found: list[str] = []
        parent = posixpath.dirname(start)
        for top, levels in ((start, 3), (parent, 2)):
            level = [top]
            for _ in range(levels):
                found += level
                level = [
                    posixpath.join(folder, name)
                    for folder in level
                    for name, is_folder in sorted(self.listing(folder).names.items())
                    if is_folder and not name.startswith(".")
                ][:most]
        return list(dict.fromkeys([*found, posixpath.dirname(parent)]))


def _read_listing(folder: str) -> _Listing:
    listing = _Listing()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    listing.names[entry.name] = entry.is_dir()
                except OSError:  # a link that leads to itself
                    listing.names[entry.name] = False
    except OSError:  # not there, or not to be listed: then no name in it is near
        return listing
    for name, is_folder in sorted(listing.names.items()):
        listing.forms[unicodedata.normalize("NFC", name)].append(name)
        listing.keys[_key(name)].append(name)
        if not is_folder and is_image_name(name):
            listing.stems[_key(posixpath.splitext(name)[0])].append(name)
    return listing


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def _is_file(path: str) -> bool:
    """Whether there is anything but a folder; a broken link is a file that cannot be read."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return os.path.islink(path)  # noqa: PTH114


#: When `why_missing` began to look, and what it saw: thousands of files may be missing in one folder.
_recent: tuple[float, _DirectoryCache] = (float("-inf"), _DirectoryCache())
