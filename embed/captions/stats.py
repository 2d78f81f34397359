"""What a set of captions is like: how much of the store it covers, how long, how flawed, how varied."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...store.store import Store
from .answers import FLAGS
from .feature_keys import USELESS
from .plan import plan
from .showing import with_texts
from .structured import DAMAGE, SENTIMENT
from .table import DEFAULT_NAME, captions_of

__all__ = ["CaptionStats", "caption_stats", "words_of"]

#: Words of an opening: "the image shows".
OPENING = 3

#: Words of the window in which the moving type-token ratio counts.
WINDOW = 500

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}

# Words that are common in any English text, and tell nothing about what captions say.
_ENGLISH = (
    "a an and any are as at be been both but by can does for from has have he her his i in into is it its of on one or "
    "other she some that the their them then there these they this those to two up was were what where which while who "
    "with"
)
_FUNCTION_WORDS = frozenset(_ENGLISH.split())


@dataclass(frozen=True)
class CaptionStats:
    """What a set of captions is like.

    Attributes
    ----------
    captions : int
    useful : int
        Those that say something: neither empty nor refusing nor invalid.
    coverage : dict
        ``distinct`` pictures of the store (with texts: pairs of picture and text), those ``captioned``, ``failed``, ``left``
        to ask, and their ``share``; ``items`` without a picture; captions whose picture is no item's any more (``orphans``).
    flags : dict
        Flag -> captions that carry it; ``any`` of them.
    words, characters : dict
        Quantiles and mean of the lengths of captions that are not empty.
    attempts : dict
        Questions -> captions that took so many.
    tokens, seconds : dict
        Sum, and quantiles, of the answers kept; empty if nothing is known.
    tokens_per_second : float or None
        Of one question at a time: all tokens over all seconds of answers that have both.
    vocabulary : dict
        ``tokens`` (words in all), ``types`` (distinct ones, letter case aside), ``type_token_ratio``, ``once`` (types that
        occur once), and ``moving_ratio``: the mean type-token ratio of windows of 500 words, which unlike the plain one does
        not fall with size, so that sets can be compared (MATTR, Covington and McFall 2010,
        doi:10.1080/09296171003643098); None if there are fewer words.
    common : list of dict
        ``word``, ``captions`` that have it, their ``share``; English function words left out.
    openings : list of dict
        First three words, ``captions`` that begin so, their ``share``.
    distinct : dict
        ``texts`` that differ (white space and letter case aside), ``repeated`` captions (those whose text another one has
        too), their ``share``, and the ``commonest`` text with its ``times``.
    structured : dict or None
        Of captions that are structured: ``valid`` ones, counts of ``damage`` and ``sentiment``, quantiles of ``people``,
        ``with_people``, ``with_text``, and commonest ``objects``.
    """

    name: str
    captions: int
    useful: int
    coverage: dict[str, Any]
    flags: dict[str, int]
    words: dict[str, float]
    characters: dict[str, float]
    attempts: dict[int, int]
    tokens: dict[str, float]
    seconds: dict[str, float]
    tokens_per_second: float | None
    vocabulary: dict[str, Any]
    common: list[dict[str, Any]] = field(default_factory=list)
    openings: list[dict[str, Any]] = field(default_factory=list)
    distinct: dict[str, Any] = field(default_factory=dict)
    structured: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def words_of(text: str) -> list[str]:
    """Words of a text in lower case; an apostrophe or a hyphen within does not end one.

    >>> words_of("Two cars, half-sunk. It's dusk")
    ['two', 'cars', 'half-sunk', "it's", 'dusk']
    """
    return _WORD.findall(text.lower())


def caption_stats(store: Store | str | Path, name: str = DEFAULT_NAME, *, top: int = 12) -> CaptionStats:
    """Count what captions are like.

    Parameters
    ----------
    store : Store, str or Path
    name : str, default "default"
    top : int, default 12
        Entries of each list of the commonest.

    Raises
    ------
    CaptionError
        If there are no captions of that name.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    table = captions_of(store, name)
    rows = table.read()
    captions = [caption or "" for caption in rows["caption"].to_pylist()]
    flags = [[flag for flag in (one or "").split(",") if flag] for one in rows["flags"].to_pylist()]
    counted = Counter(flag for one in flags for flag in one)
    todo = plan(store, name, with_text=with_texts(table))
    split = [words_of(caption) for caption in captions]
    told = [words for words in split if words]
    tokens, seconds = rows["tokens"].to_pylist(), rows["seconds"].to_pylist()
    both = [(t, s) for t, s in zip(tokens, seconds, strict=True) if t is not None and s]
    attempts = Counter(n for n in rows["attempts"].to_pylist() if n is not None)
    return CaptionStats(
        name=name,
        captions=len(captions),
        useful=sum(
            bool(caption.strip()) and not set(USELESS) & set(one)
            for caption, one in zip(captions, flags, strict=True)
        ),
        coverage={
            "distinct": todo.distinct,
            "captioned": todo.done,
            "share": todo.done / todo.distinct if todo.distinct else None,
            "failed": todo.failed,
            "left": len(todo.jobs),
            "items_without_image": todo.without_image,
            "orphans": len(captions) - todo.done,
        },
        flags={**{flag: counted[flag] for flag in FLAGS}, "any": sum(bool(one) for one in flags)},
        words=_spread([len(words) for words in told]),
        characters=_spread([len(caption) for caption in captions if caption.strip()]),
        attempts=dict(sorted(attempts.items())),
        tokens=_spread([t for t in tokens if t is not None], total=True),
        seconds=_spread([s for s in seconds if s is not None], total=True),
        tokens_per_second=sum(t for t, _ in both) / sum(s for _, s in both) if both else None,
        vocabulary=_vocabulary(told),
        common=_common(told, top),
        openings=_openings(told, top),
        distinct=_repeats(captions),
        structured=_structured(rows.to_pylist(), top) if "damage" in rows.column_names else None,
    )


def _spread(values: Sequence[float], *, total: bool = False) -> dict[str, float]:
    """Quantiles and mean; {} of nothing."""
    if not values:
        return {}
    array = np.asarray(values, np.float64)
    found = dict(zip(_QUANTILES, np.quantile(array, list(_QUANTILES.values())).tolist(), strict=True))
    return {**found, "mean": float(array.mean()), **({"sum": float(array.sum())} if total else {})}


def _vocabulary(told: Sequence[Sequence[str]]) -> dict[str, Any]:
    counts = Counter(word for words in told for word in words)
    total = counts.total()
    return {
        "tokens": total,
        "types": len(counts),
        "once": sum(count == 1 for count in counts.values()),
        "type_token_ratio": len(counts) / total if total else None,
        "moving_ratio": _moving_ratio(word for words in told for word in words),
    }


def _moving_ratio(words: Iterable[str], window: int = WINDOW) -> float | None:
    """Mean share of distinct words in every window; None where there is not one."""
    held: deque[str] = deque()
    counts: Counter[str] = Counter()
    types, windows = 0, 0
    for word in words:
        held.append(word)
        counts[word] += 1
        if len(held) > window:
            gone = held.popleft()
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
        if len(held) == window:
            types += len(counts)
            windows += 1
    return types / (windows * window) if windows else None


def _common(told: Sequence[Sequence[str]], top: int) -> list[dict[str, Any]]:
    having = Counter(word for words in told for word in set(words))
    content = ((word, count) for word, count in _ranked(having) if word not in _FUNCTION_WORDS)
    return [
        {"word": word, "captions": count, "share": count / len(told)}
        for (word, count), _ in zip(content, range(top), strict=False)
    ]


def _openings(told: Sequence[Sequence[str]], top: int) -> list[dict[str, Any]]:
    begun = Counter(" ".join(words[:OPENING]) for words in told)
    return [
        {"opening": opening, "captions": count, "share": count / len(told)}
        for opening, count in _ranked(begun)[:top]
    ]


def _repeats(captions: Sequence[str]) -> dict[str, Any]:
    """Captions that are the same but for white space and letter case."""
    written: dict[str, str] = {}
    texts: Counter[str] = Counter()
    for caption in captions:
        plain = " ".join(caption.split())
        if plain:
            written.setdefault(plain.lower(), plain)
            texts[plain.lower()] += 1
    total = texts.total()
    repeated = sum(count for count in texts.values() if count > 1)
    often, times = _ranked(texts)[0] if texts else (None, 0)
    return {
        "texts": len(texts),
        "repeated": repeated,
        "share": repeated / total if total else None,
        "commonest": written[often] if often and times > 1 else None,
        "times": times if times > 1 else 0,
    }


def _structured(rows: Sequence[dict[str, Any]], top: int) -> dict[str, Any]:
    valid = [row for row in rows if row["damage"] is not None]
    objects = Counter(name for row in valid for name in {o.lower() for o in row["objects"] or ()})
    damage = Counter(row["damage"] for row in valid)
    sentiment = Counter(row["sentiment"] for row in valid)
    people = [row["people"] for row in valid if row["people"] is not None]
    return {
        "valid": len(valid),
        "damage": {level: damage[level] for level in DAMAGE},
        "sentiment": {level: sentiment[level] for level in SENTIMENT},
        "people": _spread(people),
        "with_people": sum(count > 0 for count in people),
        "with_text": sum(bool(row["visible_text"]) for row in valid),
        "objects": [{"object": name, "captions": count} for name, count in _ranked(objects)[:top]],
    }


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    """Commonest first, equals by the alphabet."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
