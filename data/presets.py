"""What icehouse knows of published data sets: which column is what, and what a file's name tells.

A preset is data, not code: one frozen `Preset` in `PRESETS`. Adding a data set is one more entry.

Column names are looked up without regard to case, since mirrors of a data set differ in it; where several are listed,
an image or an id comes from the first that exists, a text from the first that is not empty in the row.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ..errors import UsageError

__all__ = ["HUMANITARIAN_5", "PRESETS", "Derived", "Preset", "get_preset", "merge_humanitarian"]

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
    """A label made of another by merging classes.

    Parameters
    ----------
    name : str
        The new label's column.
    column : str
        The label it is made of.
    merged : mapping of str to str
        Class to the class it becomes; classes not named stay.
    task : str, optional
        Only in files of this task.
    """

    name: str
    column: str
    merged: Mapping[str, str]
    task: str | None = None


@dataclass(frozen=True)
class Preset:
    """The choices that a data set's own files ask for.

    Parameters
    ----------
    name, about : str
        Its name on the command line, and one line on the data set.
    files : tuple of str
        Patterns of its annotation files, for a folder given as source.
    image, text, id : tuple of str
        Candidate columns. An empty `id` makes the image's path the id.
    labels, meta : tuple of str
        Columns kept where they exist.
    splits, tasks : tuple of (pattern, name)
        Regular expressions looked for in the file's stem, in order, without regard to case.
    quotes : {"auto", "literal"}
        "literal": a quote in a TSV is a character like any other.
    derived : tuple of Derived
        Labels made by merging classes.
    merge : bool
        Rows of one id in several of its files are one item.
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
    """Preset called `name`.

    Raises
    ------
    UsageError
        If there is none; the message lists those that exist.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name.lower(), PRESETS, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(f"unknown preset {name!r}{hint}; there are {', '.join(PRESETS)}")


def merge_humanitarian(label: str | None) -> str | None:
    """Class of CrisisMMD's task 2 after the usual merge of eight classes into five.

    >>> merge_humanitarian("vehicle_damage")
    'infrastructure_and_utility_damage'
    """
    return None if label is None else HUMANITARIAN_5.get(label, label)
