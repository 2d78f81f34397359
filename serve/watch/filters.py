"""Filters of a stream: posts that repeat an earlier one, and collections of posts by rules.

Repeats are found in windows of the latest pictures and texts. A rule of a collection names keywords, hashtags, authors, a
box of coordinates and languages; collections are counted.
"""

from __future__ import annotations

import re
import threading
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dups.pair_graph import default_feature
from ...dups.stream import DuplicateStream, path_of
from ...dups.window import Arrival, Match, StreamResult
from ...errors import UsageError, brief, unknown_name
from ...store.store import Store
from ..predict import Feature, Model, Scorer, feature_of
from . import require
from .sources import Post, Source

if TYPE_CHECKING:
    from .commands import Settings
    from .worker import Work


#: Which parts of a post have to be repeated for it to be a repeat.
REPEATS = ("image", "text", "post", "off")

#: Name, where it has one, and spec of the feature that a modality is compared by.
Compared = Mapping[str, tuple[str | None, Mapping[str, Any]]]


def repeated_part(asked: str | None, models: Sequence[Model]) -> str:
    """What has to be repeated: as it is asked for, else the picture where a run looks at pictures."""
    if asked is not None and asked not in REPEATS:
        raise unknown_name(UsageError(f"--repeats {asked}: one of {', '.join(REPEATS)}"))
    return asked or ("image" if any("image" in model.modalities for model in models) else "text")


def compared_features(part: str, store: Store | None, models: Sequence[Model]) -> Compared:
    """Features to compare by: the first vectors that a run reads, else those of the store's pictures."""
    found: dict[str, tuple[str | None, Mapping[str, Any]]] = {}
    for model in models if part != "off" else ():
        for name, spec in model.run.specs.items():
            if spec["output"] != "tokens":
                found.setdefault(spec["modality"], (model.run.features[name], spec))
    if part == "image" and "image" not in found and store is not None:
        feature = default_feature(store)
        if feature is not None:
            found["image"] = feature, store.feature_table(feature).snapshot().spec
    return found


@dataclass(frozen=True)
class Window:
    """The latest contents of one modality, the feature that they are compared by, and the fingerprint of its space."""

    stream: DuplicateStream
    feature: Feature
    space: str


class Repeats:
    """Windows of pictures and of texts; `part` of a post is what has to be repeated."""

    def __init__(
        self,
        settings: Settings,
        part: str,
        compared: Compared,
        store: Store | None,
        folder: Path | None,
        scorer: Scorer,
        source: Source,
    ) -> None:
        self.part, self.source = part, source
        self.windows: dict[str, Window] = {}
        for modality in ("image", "text"):
            if modality in compared:
                feature, spec = compared[modality]
                stream = _open(settings, store, folder, feature, spec, scorer)
                self.windows[modality] = Window(stream, feature_of(spec), str(spec.get("fingerprint")))
        self._pending: Counter[str] = Counter()

    @property
    def pictures(self) -> DuplicateStream | None:
        """Window of pictures, if they are compared."""
        return self.windows["image"].stream if "image" in self.windows else None

    def notes(self) -> list[str]:
        """Remarks on the windows' rules."""
        names = {"image": "pictures", "text": "texts"}
        return [f"{names[name]}: {note}" for name, one in self.windows.items() for note in one.stream.notes]

    def sizes(self) -> dict[str, int]:
        """Contents in each window, as the status has them."""
        return {f"{name}s": len(one.stream.window) for name, one in self.windows.items()}

    def save(self) -> None:
        """Keep the windows for the next start."""
        for one in self.windows.values():
            one.stream.save()

    # ------------------------------------------------------------------ what need not be encoded

    def _keys(self, work: Work) -> dict[str, str]:
        """Keys of the contents that a post is held against the windows by, by modality."""
        known = {"image": work.image_key, "text": work.text_key}
        keys = {name: key for name, key in known.items() if key is not None and name in self.windows}
        if self.part == "off" or ("image" in work.contents.errors and self.part != "text"):
            return {}  # of two posts that say the same, one of which shows who knows what, none is known to repeat the other
        if self.part == "post" or not keys:
            return keys
        name = self.part if self.part in keys else next(iter(keys))
        return {name: keys[name]}

    def _knows(self, modality: str, key: str) -> bool:
        return self.windows[modality].stream.window.knows(key)

    def known(self, work: Work) -> bool:
        """Whether a post needs no look, since all that is compared of it is in the windows."""
        keys = self._keys(work)
        return bool(keys) and all(self._knows(*each) for each in keys.items())

    def pending(self, work: Work) -> bool:
        """Whether a copy of a post is on its way already; from now on this one is, too, until `settle`."""
        keys = "|".join(self._keys(work).values())
        if not keys:
            return False
        before = self._pending[keys] > 0
        work.pending = keys
        self._pending[keys] += 1
        return before

    def settle(self, work: Work) -> None:
        """Let copies wait for this post no longer."""
        if work.pending:
            self._pending[work.pending] -= 1
            if self._pending[work.pending] <= 0:
                del self._pending[work.pending]

    # ------------------------------------------------------------------ judging

    def judge(self, works: Sequence[Work], complete: Callable[[Work], None]) -> list[dict[str, Any] | None]:
        """Earlier post that each post repeats or, with what `differs`, is a variant of; or None. All are remembered.

        `complete` reads and encodes what was left out of a post.
        """
        for name, one in self.windows.items():  # what workers beside this one have seen
            window = one.stream.window
            window.remember(self.source.seen_by_others(name, one.space, window.dim))
        here: set[str] = set()
        for work in works:
            if any(not self._knows(*each) and each[1] not in here for each in self._keys(work).items()):
                complete(work)
            # Anew: a picture that turns out to be damaged is none.
            here.update(self._keys(work).values())
        keys = [self._keys(work) for work in works]
        found: list[list[dict[str, Any] | None]] = [[] for _ in works]
        for name, one in self.windows.items():
            rows = [row for row, of_work in enumerate(keys) if name in of_work]
            if not rows:
                continue
            window = one.stream.window
            arrivals = [_arrival(works[row], name, keys[row][name], one.feature) for row in rows]
            new = {each.key: each for each in reversed(arrivals) if not window.knows(each.key)}
            for row, result in zip(rows, window.judge(arrivals), strict=True):
                one.stream.counts[result.kind] += 1
                match = _of_another(result, works[row].post.id)
                found[row].append(None if match is None else _told(match, name))
            self.source.tell_seen(name, one.space, list(new.values()), window.capacity)
        return [_original(of_parts) for of_parts in found]


def _open(
    settings: Settings,
    store: Store | None,
    folder: Path | None,
    feature: str | None,
    spec: Mapping[str, Any],
    scorer: Scorer,
) -> DuplicateStream:
    """A window that goes on from its state; by the store's calibration where it has this very feature."""
    encoder = scorer.encoders[spec["encoder"]]
    options: dict[str, Any] = {
        "rule": settings.threshold,
        "window": settings.window,
        "state": None if folder is None else folder / f"{spec['modality']}s.window",
    }
    if store is not None and feature is not None and feature in store.feature_names():
        own = store.feature_table(feature).snapshot().spec
        if own.get("fingerprint") == spec.get("fingerprint"):
            return DuplicateStream.from_store(store, feature=feature, encoder=encoder, **options)
    return DuplicateStream(
        encoder,
        modality=spec["modality"],
        output=spec["output"],
        cleaning=feature_of(spec)[3] or "none",
        **options,
    )


def _arrival(work: Work, modality: str, key: str, feature: Feature) -> Arrival:
    vector = work.contents.features.get(feature)
    if modality == "text":
        return Arrival(work.post.id, key, None, vector)
    views, thumb, grey = (None, None, None) if work.seen is None else work.seen
    return Arrival(
        work.post.id,
        key,
        work.phash,
        None if work.blank else vector,  # a picture of one colour proves nothing
        work.turned,
        views,
        thumb,
        work.post.text,
        path_of(work.path),
        grey,
    )


def _of_another(result: StreamResult, post_id: str) -> Match | None:
    """The best match that came before the post itself did.

    A post that was given to a worker a second time is in the window already, and no repeat of itself.
    """
    own = [match.position for match in result.matches if match.id == post_id]
    if not own:
        return result.match
    earlier = [match for match in result.matches if match.position < min(own)]
    return earlier[0] if earlier else None


def _original(rows: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What a post repeats, by what each of its parts does; where one is a variant the post is one, too."""
    told = [row for row in rows if row is not None]
    variant = next((row for row in told if "differs" in row), None)
    return variant or (told[0] if told and len(told) == len(rows) else None)


def _told(match: Match, modality: str) -> dict[str, Any]:
    differs = {"differs": match.differs} if match.variant else {}
    return differs | {
        "id": match.id,
        "by": modality,
        "kind": match.kind,
        "hamming": match.hamming,
        "cosine": None if match.cosine is None else round(match.cosine, 4),
        "orientation": match.orientation,
        "age": match.age,
    }


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
