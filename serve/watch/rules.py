"""Collections of a stream: rules by keyword, hashtag, author, box of coordinates and language, with counts."""

from __future__ import annotations

import re
import threading
import tomllib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UsageError, brief
from .messages import Post

#: Characters of a text that its language is told by.
_READ = 2000

_HASHTAG = re.compile(r"(?<!\w)#(\w+)")

#: Keys of a rule, and what each holds.
_LISTS = ("keywords", "not_keywords", "hashtags", "authors", "languages")


@dataclass(frozen=True)
class CollectionRule:
    """Rule of one collection.

    A post belongs if one of `keywords`, `hashtags`, `authors` and `box` finds it (with ``match = "all"`` each that is
    given), it is in one of `languages`, where some are given, and has none of `not_keywords`.
    """

    name: str
    keywords: re.Pattern[str] | None = None
    not_keywords: re.Pattern[str] | None = None
    hashtags: frozenset[str] = frozenset()
    authors: frozenset[str] = frozenset()
    box: tuple[float, float, float, float] | None = None  # west, south, east, north
    languages: frozenset[str] = frozenset()
    match_all: bool = False

    def takes(self, post: Post, text: str, language: str | None) -> bool:
        """Whether a post belongs, `text` being its text in the form of `folded`."""
        if self.languages and language not in self.languages:
            return False
        if self.not_keywords is not None and self.not_keywords.search(text):
            return False
        found = []
        if self.keywords is not None:
            found.append(self.keywords.search(text) is not None)
        if self.hashtags:
            tags = {*_HASHTAG.findall(text), *(folded(tag).lstrip("#") for tag in post.hashtags)}
            found.append(not self.hashtags.isdisjoint(tags))
        if self.authors:
            found.append(folded(post.author or "").lstrip("@") in self.authors)
        if self.box is not None:
            found.append(post.coordinates is not None and _within(post.coordinates, self.box))
        if not found:
            return True
        return all(found) if self.match_all else any(found)


def folded(text: str) -> str:
    """A text as it is compared: one form of each character, no difference of case."""
    return unicodedata.normalize("NFKC", text).casefold()


def _within(place: tuple[float, float], box: tuple[float, float, float, float]) -> bool:
    (lon, lat), (west, south, east, north) = place, box
    if not south <= lat <= north:
        return False
    # A box may lie across the line where east becomes west.
    return west <= lon <= east if west <= east else (lon >= west or lon <= east)


def _words(words: list[str]) -> re.Pattern[str] | None:
    """Any of some words or phrases, as whole words where the script has such."""
    if not words:
        return None
    parts = []
    for word in sorted((folded(word) for word in words), key=len, reverse=True):
        phrase = r"\s+".join(re.escape(piece) for piece in word.split())
        left = r"(?<!\w)" if re.match(r"[#@\w]", word) else ""
        # Scripts without spaces (Thai, Chinese, Japanese) have no whole words to tell.
        spaced = not re.search(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]", word)
        parts.append(f"{left}{phrase}(?!\\w)" if spaced else phrase)
    return re.compile("|".join(parts))


@dataclass
class Collections:
    """The rules of a file, what they found so far, and the language of a text."""

    rules: list[CollectionRule]
    counts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    _identifier: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def read(cls, path: Path) -> Collections:
        """Read rules from TOML; UsageError if the file cannot be read, or a rule has a key or a value that none has."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--collect {path}: {brief(error)}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"--collect {path} is no TOML: {brief(error)}") from error
        tables = found.pop("collection", None)
        if found or not isinstance(tables, list) or not tables:
            odd = f", but {next(iter(found))!r}" if found else ""
            raise UsageError(f"--collect {path}: rules are tables [[collection]]{odd} (see docs/watch.md)")
        rules = [_rule(path, number, table) for number, table in enumerate(tables, 1)]
        names = [rule.name for rule in rules]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(
                f"--collect {path}: two collections are called {twice!r}; give each its own name"
            )
        made = cls(rules)
        if any(rule.languages for rule in rules):
            made._load()
            known = set(made._identifier.nb_classes)
            for rule in rules:
                if unknown := sorted(rule.languages - known):
                    raise UsageError(
                        f"--collect {path}: no language {unknown[0]!r} in {rule.name!r}; there are "
                        f"{', '.join(sorted(known))}"
                    )
        return made

    def _load(self) -> None:
        from . import require

        require("py3langid", "watch", "languages are told")
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def of(self, post: Post) -> list[str]:
        """Names of the collections that a post belongs to; they are counted."""
        text = folded(post.text or "")
        language = self._language(post.text) if self._identifier is not None else None
        names = [rule.name for rule in self.rules if rule.takes(post, text, language)]
        with self._lock:
            self.counts.update(names)
            if language is not None:
                self.languages[language] += 1
        return names

    def _language(self, text: str | None) -> str | None:
        # Addresses and names are in no language.
        words = re.sub(r"https?://\S+|[@#]\w+", " ", (text or "")[:_READ]).strip()
        if not any(char.isalpha() for char in words):
            return None
        with self._lock:
            return str(self._identifier.classify(words)[0])


def _rule(path: Path, number: int, table: Any) -> CollectionRule:
    where = f"--collect {path}, rule {number}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} is no table")
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{where} has no name")
    where = f"--collect {path}, {name!r}"
    if odd := sorted(table.keys() - {"name", "box", "match", *_LISTS}):
        raise UsageError(f"{where}: no key {odd[0]!r}; there are name, match, box, {', '.join(_LISTS)}")
    lists: dict[str, list[str]] = {}
    for key in _LISTS:
        value = table.get(key, [])
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(word, str) and word.strip() for word in value):
            raise UsageError(f"{where}: {key} is a list of words")
        lists[key] = value
    match = table.get("match", "any")
    if match not in ("any", "all"):
        raise UsageError(f'{where}: match is "any" or "all", not {match!r}')
    box = table.get("box")
    if box is not None:
        numbers = isinstance(box, list) and all(
            isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in box
        )
        if not numbers or len(box) != 4 or not (box[1] <= box[3] and max(map(abs, box)) <= 180):
            raise UsageError(f"{where}: box is [west, south, east, north] in degrees")
        box = tuple(float(edge) for edge in box)
    if not any(lists[key] for key in _LISTS if key != "not_keywords") and box is None:
        raise UsageError(
            f"{where} says nothing that a post must have: keywords, hashtags, authors, box or languages"
        )
    return CollectionRule(
        name,
        _words(lists["keywords"]),
        _words(lists["not_keywords"]),
        frozenset(folded(tag).lstrip("#") for tag in lists["hashtags"]),
        frozenset(folded(author).lstrip("@") for author in lists["authors"]),
        box,
        frozenset(lists["languages"]),
        match == "all",
    )
