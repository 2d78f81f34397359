"""Columns of an annotation file: as given, as a data set's preset has it, or guessed from names."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ..errors import SourceError, UsageError
from .image_files import is_image_name
from .labels import trim
from .rows import RESERVED, listed, show

if TYPE_CHECKING:
    from .manifest import SourceOptions
    from .rows import Header

# Tried in this order, without regard to case, where a column is not given.
_KNOWN = {
    "image": ("image", "image_path", "path", "file", "filename", "file_name", "img", "image_name"),
    "text": ("text", "caption", "tweet_text", "sentence", "tweet"),
    "id": ("id", "item_id", "image_id"),
}
# Of these, what may be the name of a picture that another column holds.
_FILE_NAMES = ("path", "file", "filename", "file_name")
_LIST_AS_TEXT = re.compile(r"\s*\[\s*['\"].*['\"]\s*\]\s*", re.DOTALL)
_BASE64 = ("data:image/", "/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")


@dataclass
class Columns:
    """Roles of one file's columns."""

    id: str | None = None
    image: str | None = None
    texts: tuple[str, ...] = ()
    split: str | None = None
    kept: dict[str, str] = field(default_factory=dict)  # name in the store -> column of the file
    notes: list[str] = field(default_factory=list)

    def wanted(self) -> list[str]:
        """Columns to read, once each."""
        names = [self.id, self.image, *self.texts, self.split, *self.kept.values()]
        return list(dict.fromkeys(name for name in names if name is not None))


def choose_columns(
    path: Path,
    header: Header,
    options: SourceOptions,
    preset: Preset | None,
    *,
    metadata: bool = False,
) -> Columns:
    """Decide which of a file's columns are read, and as what.

    With `metadata` it describes an image folder: `file_name` goes before other names, and ids are paths.
    UsageError names the columns that there are, SourceError what is missing.
    """
    chosen = _choose(_Finder(path, header), options, preset, metadata)
    for role, name in (("id", chosen.id), ("split", chosen.split)):
        if name in header.lists:
            raise UsageError(f"{path}: column {name!r} holds several values a row and cannot be the {role}")
    chosen.notes += _unread(chosen, header, path.name, known=preset is not None)
    return chosen


def _unread(chosen: Columns, header: Header, file: str, *, known: bool) -> list[str]:
    """Notes of what is not read, above all of what looks like pictures; a preset's further columns are known."""
    wanted = set(chosen.wanted())
    notes = []
    rest = []
    for name in header.columns:
        if name in wanted:
            cells = [cell for cell in header.sample.get(name, ()) if cell]
            if cells and 2 * sum(_LIST_AS_TEXT.fullmatch(cell) is not None for cell in cells) >= len(cells):
                notes.append(
                    f"{file}: column {name!r} holds lists written as text ({show(cells[0])}), which stay text; written as "
                    "JSON Lines or Parquet they are read as several values"
                )
            continue
        why = (
            "holds pictures"
            if name in header.pictures
            else looks_like_images(name, header.sample.get(name, ()))
        )
        if why is not None and (chosen.image is None or not known):
            remedy = "" if "download" in why or "base64" in why else f"; --image-column {name} reads it"
            notes.append(f"{file}: column {name!r} {why} and was not read{remedy}")
        else:
            rest.append(show(name))
    roles = {*itertools.chain(*_KNOWN.values()), "label", "split"}
    for name, why in header.unusable.items():
        if name.lower() in roles:
            notes.append(f"{file}: column {name!r} was not read: it {why}")
        else:
            rest.append(f"{show(name)} ({why})")
    if rest and not known:
        notes.append(f"{file}: not read: {listed(rest, 12)}")
    return notes


def looks_like_images(name: str, values: Sequence[str]) -> str | None:
    """Why a column of text may stand for pictures, in words that follow its name, or None."""
    values = [value for cell in values if (value := trim(cell))]
    half = (len(values) + 1) // 2

    def many(fits: Callable[[str], bool]) -> bool:
        return bool(values) and sum(map(fits, values)) >= half

    if many(lambda value: value.startswith(("http://", "https://"))):
        told = any(
            word in name.lower() for word in ("url", "uri", "link", "image", "img", "photo", "picture")
        )
        if told or many(lambda value: is_image_name(value.partition("?")[0])):
            return "holds URLs, which are not downloaded (download the images and give their paths)"
        return None
    if many(lambda value: value.startswith(_BASE64) and len(value) > 60):
        return "holds pictures as base64 text (write them to files, or as bytes into Parquet)"
    if many(lambda value: is_image_name(value) and "\n" not in value):
        return f"looks like image paths ({show(values[0])})"
    return None


class _Finder:
    """Looks a column up, and says what there is instead."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self.columns = header.columns
        self._unusable = header.unusable

    def exact(self, name: str, flag: str) -> str:
        name = name if name in self.columns else trim(name)
        if name in self.columns:
            return name
        if name in self._unusable:
            raise UsageError(f"{self.path}: column {name!r} ({flag}) {self._unusable[name]}")
        folded = {column.lower(): column for column in self.columns}
        close = folded.get(name.lower()) or next(iter(difflib.get_close_matches(name, self.columns, 1)), None)
        hint = f" (did you mean {close!r}?)" if close else ""
        raise UsageError(f"{self.path} has no column {name!r} for {flag}{hint}; it has {self.listed()}")

    def known(self, names: Sequence[str]) -> str | None:
        """First of the well-known names that is there, in any case."""
        folded = {column.lower(): column for column in reversed(self.columns)}
        return next((folded[name.lower()] for name in names if name.lower() in folded), None)

    def all_known(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are there, in any case."""
        return [column for name in names if (column := self.known([name])) is not None]

    def file_name(self) -> str | None:
        """Column of a metadata file that tells its images: `file_name`, `file_names`, or a name that ends so."""
        ends = tuple(name for name in self.columns if re.search(r"_file_names?$", name, re.IGNORECASE))
        return self.known(("file_name", "file_names", *ends))

    def image(self) -> str | None:
        """Column of pictures or of their paths: a well-known name, else one that holds pictures."""
        found = self.known(_KNOWN["image"])
        if self.header.pictures and (found is None or found.lower() in _FILE_NAMES):
            return next(name for name in self.columns if name in self.header.pictures)
        return found

    def kept(self, specs: Sequence[str], flag: str) -> dict[str, str]:
        """Name in the store to column of the file, for "column" and "name=column"."""
        found: dict[str, str] = {}
        for spec in specs:
            name, equals, column = spec.partition("=")
            if spec in self.columns or not equals:
                name = column = spec
            if not trim(name):
                raise UsageError(f"{flag} {spec!r}: a name is missing before '='")
            found[trim(name)] = self.exact(column, f"{flag} {spec}")
        return found

    def listed(self) -> str:
        shown = listed([show(column) for column in self.columns], 30)
        unusable = "".join(f"; {show(name)} {why}" for name, why in list(self._unusable.items())[:3])
        return f"{shown or 'none that can be used'}{unusable}"


def _choose(finder: _Finder, options: SourceOptions, preset: Preset | None, metadata: bool) -> Columns:
    """Columns given, else those that the preset has, else guessed from well-known names."""
    chosen = Columns()
    guessed: list[str] = []

    def guess(role: str, found: str | None) -> list[str]:
        guessed.extend([] if found is None else [f"{role} = {found}"])
        return [] if found is None else [found]

    def find(role: Literal["image", "text", "id"], given: str | None) -> list[str]:
        if given is not None:
            return [finder.exact(given, f"--{role}-column")]
        if preset is not None:
            names: tuple[str, ...] = getattr(preset, role)
            found = finder.all_known(names)
            if names and not found:
                raise SourceError(
                    f"{finder.path} has no column {' or '.join(names)}, which preset {preset.name} reads; "
                    f"it has {finder.listed()}"
                )
            return found
        if role == "image":
            return guess(role, (finder.file_name() if metadata else None) or finder.image())
        # A metadata file's images are called by their paths.
        return [] if role == "id" and metadata else guess(role, finder.known(_KNOWN[role]))

    chosen.image = next(iter(find("image", options.image_column)), None)
    chosen.texts = tuple(find("text", options.text_column))
    if preset is None and chosen.image is None and not chosen.texts:
        raise SourceError(
            f"{finder.path}: which column is the image or the text? It has {finder.listed()}; "
            f"give --image-column or --text-column{_hint(finder.header)}"
        )
    chosen.id = next(iter(find("id", options.id_column)), None)
    if options.split_column is not None:
        chosen.split = finder.exact(options.split_column, "--split-column")
    elif preset is None and options.split is None:
        chosen.split = next(iter(guess("split", finder.known(("split",)))), None)
    if options.label_columns:
        chosen.kept = finder.kept(options.label_columns, "--label-column")
    elif preset is None:
        chosen.kept = {label.lower(): label for label in guess("label", finder.known(("label",)))}
    else:
        chosen.kept = {name: column for name in preset.labels for column in finder.all_known([name])}
        if preset.labels and not chosen.kept:
            chosen.notes.append(
                f"{finder.path.name}: no column {' or '.join(preset.labels)}: its rows have no label"
            )
    if preset is not None and not options.meta_columns:
        chosen.kept |= {name: column for name in preset.meta for column in finder.all_known([name])}
    meta = finder.kept(options.meta_columns, "--meta-column")
    names = [*chosen.kept, *meta]
    for name in names:
        check_label_name(name)
    # DuckDB's column names do not know upper from lower case.
    twice = [name for name, times in Counter(name.lower() for name in names).items() if times > 1]
    if twice:
        raise UsageError(
            f"two columns would be called {twice[0]!r}; rename one with --label-column NAME={twice[0]}"
        )
    chosen.kept |= meta
    if guessed:
        chosen.notes.append(f"{finder.path.name}: columns taken by their names: {', '.join(guessed)}")
    return chosen


def _hint(header: Header) -> str:
    """Names of the columns that look like images, for an error."""
    found = [
        (name, why)
        for name in header.columns
        if (why := looks_like_images(name, header.sample.get(name, ())))
    ]
    return "".join(f"; column {name!r} {why}" for name, why in found[:3])


def check_label_name(name: str) -> None:
    """Raise UsageError if a label or metadata column cannot have this name."""
    if name.lower() in RESERVED:
        raise UsageError(
            f"a label cannot be called {name!r}, a column of every store; rename it: --label-column my_{name}={name}"
        )


# A preset is data, not code: one frozen `Preset` in `PRESETS`. Adding a data set is one more entry.
#
# Column names are looked up without regard to case, since mirrors of a data set differ in it; where several are listed,
# an image or an id comes from the first that exists, a text from the first that is not empty in the row.


#: CrisisMMD task 2 as the literature scores it: eight classes become five.
HUMANITARIAN_5: Mapping[str, str] = MappingProxyType(
    {
        "injured_or_dead_people": "affected_individuals",
        "missing_or_found_people": "affected_individuals",
        "vehicle_damage": "infrastructure_and_utility_damage",
    }
)


@dataclass(frozen=True)
class Derived:
    """A label made of another, `column`, by merging classes (others stay), perhaps only in files of one `task`."""

    name: str
    column: str
    merged: Mapping[str, str]
    task: str | None = None


@dataclass(frozen=True)
class Preset:
    """The choices that a data set's own files ask for.

    Of several candidate columns an image or an id comes from the first that exists, a text from the first that
    is not empty in the row; an empty `id` makes the image's path the id. `splits` and `tasks` are regular
    expressions looked for in the file's stem, with the name they tell; with `merge`, rows of one id in several
    files are one item.
    """

    name: str
    about: str
    files: tuple[str, ...]
    image: tuple[str, ...]
    text: tuple[str, ...]
    id: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    meta: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    tasks: tuple[tuple[str, str], ...] = ()
    quotes: Literal["auto", "literal"] = "auto"
    derived: tuple[Derived, ...] = field(default=())
    merge: bool = False

    def split_of(self, stem: str) -> str | None:
        """Split that the file's stem tells, or None."""
        return _first_match(self.splits, stem)

    def task_of(self, stem: str) -> str | None:
        """Task that the file's stem tells, or None."""
        return _first_match(self.tasks, stem)


def _first_match(rules: Sequence[tuple[str, str]], stem: str) -> str | None:
    return next((name for pattern, name in rules if re.search(pattern, stem, re.IGNORECASE)), None)


_PLAIN_SPLITS = (
    (r"(^|[_\W])train(ing)?([_\W]|$)", "train"),
    (r"(^|[_\W])(dev|val|valid|validation)([_\W]|$)", "dev"),
    (r"(^|[_\W])test(ing)?([_\W]|$)", "test"),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="crisismmd",
                about="CrisisMMD v2.0: tweets with images from seven disasters, three tasks",
                files=("task_*_text_img*.tsv",),
                id=("image_id",),
                image=("image",),
                text=("tweet_text",),
                labels=("label", "label_text", "label_image", "label_text_image"),
                meta=("event_name", "tweet_id"),
                splits=((r"_train$", "train"), (r"_dev$", "dev"), (r"_test$", "test")),
                tasks=(
                    (r"task_informative_", "informative"),
                    (r"task_humanitarian_", "humanitarian"),
                    (r"task_damage_", "damage"),
                ),
                quotes="literal",
                derived=(Derived("label5", "label", HUMANITARIAN_5, task="humanitarian"),),
                merge=True,
            ),
            Preset(
                name="hateful-memes",
                about="Hateful Memes (Kiela et al. 2020): memes, hateful (1) or not (0)",
                files=("*.jsonl",),
                id=("id",),
                image=("img",),
                text=("text",),
                labels=("label",),
                # "seen" is the split that papers report; "unseen" is the later competition's, and keeps its name.
                splits=(
                    (r"^dev_unseen", "dev_unseen"),
                    (r"^test_unseen", "test_unseen"),
                    *_PLAIN_SPLITS,
                ),
                merge=True,
            ),
            Preset(
                name="multioff",
                about="MultiOFF (Suryawanshi et al. 2020): memes of the 2016 election, offensive or not",
                files=("*_meme_dataset.csv",),
                image=("image_name",),
                text=("sentence",),
                labels=("label",),
                splits=_PLAIN_SPLITS,
            ),
            Preset(
                name="memotion",
                about="Memotion 7k (SemEval-2020 task 8): memes with five graded emotions",
                files=("labels.csv", "*testdata.csv"),
                image=("image_name",),
                # The last two are the spellings of the test file.
                text=("text_corrected", "text_ocr", "corrected_text", "OCR_extracted_text"),
                labels=("humour", "sarcasm", "offensive", "motivational", "overall_sentiment"),
                splits=((r"testdata", "test"), *_PLAIN_SPLITS),
            ),
        )
    }
)


def get_preset(name: str) -> Preset:
    """Preset called `name`, or UsageError with those that exist."""
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name.lower(), PRESETS, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(f"unknown preset {name!r}{hint}; there are {', '.join(PRESETS)}")
