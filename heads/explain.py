"""Explanations of single predictions, as data and as a page.

Contributions are Shapley values over the inputs (Shapley 1953; Lundberg, Lee 2017), exact, since inputs are few: an
input's mean effect over all orders in which inputs can become known. An input that is not known is replaced by its mean
in training (a token input by one token, the mean of all). They add up to the prediction less that of nothing but means.
Two scales are given: probability of the predicted class, and log-odds of the predicted class against the runner-up, in
which a linear head's contribution of an input is exactly w · (x − mean), w being the difference of the two classes'
weights.

Of inputs that are tokens, each patch and word is left out in turn, and the fall of the log-odds is its effect. Beside
it stands attention, which says where a head looked, not what decided (Jain, Wallace 2019): in gated heads it often is
even, since what does not matter is gated away before it is pooled.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.text import clean
from ..dups.pair_graph import AUTO, DuplicateSearches
from ..embed.thumbnails import thumbnails
from ..errors import HeadError, IcehouseError, UsageError
from ..store.files import publish_text
from ..web.render import percent, render
from .head import Head
from .inputs import Array, Inputs, Samples, Tokens
from .report import Item, Near, item_cards, neighbours, read_items
from .runs import Run

if TYPE_CHECKING:
    from ..embed.thumbnails import Thumbnail
    from ..store.store import Store
    from .runs import Run

# A probability below this is taken for it, so that a head that is certain has finite log-odds.
_MIN_PROBABILITY = 1e-6
# Inputs beyond which all coalitions are too many.
_MAX_INPUTS = 10
# Rows of tokens that are predicted at once.
_TOKEN_ROWS = 64


@dataclass(frozen=True)
class TokenEffects:
    """Contribution of each real token of an input to the answer: patches of an image, pieces of a text.

    `effect` is how much the log-odds of the predicted class against the runner-up fall when the head does not see the
    token: positive for what speaks for the prediction. `attention` is its weight in the vector that the classifier sees
    (None for a head that does not attend); the weights sum to `share`, that of this input in the attention to all. An
    image has a `grid`, rows and columns of its patches, which lie row by row; a text has `words`, each with a space
    before it where it begins a word.
    """

    effect: list[float]
    attention: list[float] | None = None
    share: float = 1.0
    grid: tuple[int, int] | None = None
    words: list[str] | None = None

    @property
    def times(self) -> list[float]:
        """Attention as multiples of an even share; empty without attention."""
        weights = self.attention or []
        total = sum(weights) or 1.0
        return [weight * len(weights) / total for weight in weights]

    @property
    def even(self) -> bool:
        """Whether attention hardly tells one token from another."""
        return not self.times or (max(self.times) < 1.25 and min(self.times) > 0.8)


@dataclass(frozen=True)
class Explanation:
    """A prediction, taken apart."""

    item: Item
    proba: dict[str, float]  # class to probability, likeliest first
    label: str | None  # what the item is, where the store knows
    role: str | None  # "train", "dev" or "test", if it took part in the run
    #: `probability` of the predicted class and `log_odds` if all inputs were at their means
    base: dict[str, float]
    contributions: dict[str, dict[str, float]]  # input to what it adds to both
    tokens: dict[str, TokenEffects]  # of the inputs that are tokens
    nearest: list[Near]  # training items
    preprocessing: dict[str, dict[str, Any]]  # of the inputs that are images: what the model sees of them

    @property
    def predicted(self) -> str:
        """The likeliest class."""
        return next(iter(self.proba))

    @property
    def runner_up(self) -> str:
        """The second."""
        return list(self.proba)[1]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "item_id": self.item.item_id,
            "predicted": self.predicted,
            "runner_up": self.runner_up,
            "label": self.label,
            "role": self.role,
            "proba": self.proba,
            "base": self.base,
            "contributions": self.contributions,
            "tokens": {name: asdict(effects) for name, effects in self.tokens.items()},
            "nearest": [asdict(near) for near in self.nearest],
        }


def explain(store: Store, run: Run | str, items: Sequence[str], *, k: int = 5) -> list[Explanation]:
    """Explain what a run says of items of a store, labelled or not, one explanation an item.

    Each has `k` training neighbours. UsageError if there is no such item, or it lacks an input; HeadError if the head's
    answer for a row depends on other rows, or none of the training items is left.
    """
    run = run if isinstance(run, Run) else Run.load(store, run)
    wanted = list(dict.fromkeys(items))
    if not wanted:
        raise UsageError("name at least one item to explain")
    head = run.head
    if not head.batch_independent:
        raise HeadError(
            f"run {run.run_id} is {run.family} as published, whose answer depends on the rows beside it: there is nothing "
            "to say of one item"
        )
    if len(run.features) > _MAX_INPUTS:
        raise HeadError(f"run {run.run_id} has {len(run.features)} inputs; explain bears {_MAX_INPUTS}")
    roles = {item: role for role, ids in run.training_items().items() for item in ids}
    known = sorted(run.learned_items())
    if not known:
        # A head that learned from no rows has no neighbours there, and the mean of all rows is its mean.
        known, k = list(roles), 0
    train = _rows_of_run(store, run, known, run.label)
    if train is None:
        raise HeadError(f"none of the items that run {run.run_id} learned from is left in {store.path}")
    asked = _rows_of_run(store, run, wanted)
    _require(store, run, wanted, asked)
    assert asked is not None
    asked = asked.of(wanted)
    proba = head.predict_proba(asked.X)
    added = shapley(head, asked.X, training_means(train.X))
    near = neighbours(train, asked, DuplicateSearches.of(store, asked.specs, AUTO), k)
    shown = read_items(store, wanted, run.label)
    views = _views(head, asked, shown, proba)
    preprocessing = {
        name: dict(spec.get("provenance", {}).get("preprocessing") or {})
        for name, spec in asked.specs.items()
        if spec["modality"] == "image"
    }
    classes = [str(c) for c in head.classes_.tolist()]
    found = []
    for row, item in enumerate(wanted):
        order = np.argsort(-proba[row], kind="stable").tolist()
        found.append(
            Explanation(
                item=shown[item],
                proba={classes[c]: float(proba[row, c]) for c in order},
                label=shown[item].label,
                role=roles.get(item),
                base=added[row]["base"],
                contributions=added[row]["contributions"],
                tokens=views[row],
                nearest=near[item],
                preprocessing=preprocessing,
            )
        )
    return found


def shapley(head: Head, X: Inputs, means: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Shapley value of each input for each row's prediction; `means` replace inputs that are left out.

    For each row ``base`` and ``contributions`` (by input), each with ``probability`` of the predicted class and
    ``log_odds`` of it against the runner-up. An input that a row lacks contributes nothing.
    """
    names = list(head.widths_)
    X = X.select(names)
    whole = head.predict_proba(X)
    order = np.argsort(-whole, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    rows = np.arange(len(X))
    value_of: dict[frozenset[str], np.ndarray] = {}
    for size in range(len(names) + 1):
        for known in combinations(names, size):
            proba = whole if size == len(names) else head.predict_proba(_masked(X, known, means))
            at, other = proba[rows, first], proba[rows, second]
            value_of[frozenset(known)] = np.stack([at, _log_odds(at, other)])  # 2 n
    n = len(names)
    values = {}
    for name in names:
        others = [other for other in names if other != name]
        total = np.zeros((2, len(X)))
        for size in range(n):
            share = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for known in combinations(others, size):
                total += share * (value_of[frozenset((*known, name))] - value_of[frozenset(known)])
        values[name] = total
    base = value_of[frozenset()]
    scales = ("probability", "log_odds")
    return [
        {
            "base": {scale: float(base[i, row]) for i, scale in enumerate(scales)},
            "contributions": {
                name: {scale: float(value[i, row]) for i, scale in enumerate(scales)}
                for name, value in values.items()
            },
        }
        for row in range(len(X))
    ]


def _log_odds(proba: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(
        np.log(np.maximum(proba, _MIN_PROBABILITY)) - np.log(np.maximum(other, _MIN_PROBABILITY))
    )


def training_means(X: Inputs) -> dict[str, Array]:
    """Mean of each input over the rows that have it: (1, d), or `Tokens` of one row and one token, the mean of all."""
    means: dict[str, Array] = {}
    for name, array in X.items():
        if isinstance(array, Tokens):
            count = array.mask.sum(axis=1)
            mean = count @ array.means() / max(int(count.sum()), 1)
            means[name] = Tokens(mean[None, None].astype(np.float32), np.ones((1, 1), bool))
        else:
            present = X.present(name)
            means[name] = array[present].mean(axis=0, keepdims=True) if present.any() else array[:1] * 0
    return means


def means_of_training(store: Store, run: Run) -> dict[str, Array] | None:
    """`training_means` over the rows of a store that a run learned from; None if none of them is left."""
    learned = run.learned_items() or set().union(*run.training_items().values())
    train = _rows_of_run(store, run, sorted(learned), run.label)
    return None if train is None else training_means(train.X)


def _masked(X: Inputs, known: Sequence[str], means: Mapping[str, Array]) -> Inputs:
    """`X` with the inputs that are not `known` at their means, in the rows that have them."""
    arrays: dict[str, Array] = {}
    for name, array in X.items():
        if name in known:
            continue
        present, mean = X.present(name), means[name]
        if isinstance(array, Tokens) and isinstance(mean, Tokens):
            values, mask = np.zeros_like(array.values), np.zeros_like(array.mask)
            values[:, 0], mask[:, 0] = mean.values[0, 0], True
            values[~present], mask[~present] = array.values[~present], array.mask[~present]
            arrays[name] = Tokens(values, mask)
        else:
            own = X.vectors(name)
            arrays[name] = np.where(present[:, None], np.asarray(mean, own.dtype), own)
    return X.replaced(arrays)


def _views(
    head: Head, asked: Samples, shown: Mapping[str, Item], proba: np.ndarray
) -> list[dict[str, TokenEffects]]:
    """Token scores of each row, for the inputs that are tokens."""
    tokens = [name for name, array in asked.X.items() if isinstance(array, Tokens)]
    read = getattr(head, "attention", None)
    weights = read(asked.X) if read is not None and tokens else {}
    words = {
        name: _words(
            asked.specs[name],
            {item: text for item in asked.ids.tolist() if (text := shown[item].text) is not None},
        )
        for name in tokens
        if asked.specs[name]["key"] == "text_sha256"
    }
    found = []
    for row, item in enumerate(asked.ids.tolist()):
        views = {}
        for name in tokens:
            mask = asked.X[name].mask[row]
            if not mask.any():
                continue
            attention = None
            if name in weights:
                attention = weights[name][row, : len(mask)][mask].astype(float).tolist()
            spec, count = asked.specs[name], int(mask.sum())
            grid = pieces = None
            if spec["modality"] == "image":
                grid = patch_grid(count, spec.get("provenance", {}).get("preprocessing") or {})
            else:
                pieces = words.get(name, {}).get(item)
                if pieces is None or len(pieces) != count:
                    pieces = [f" {i}" for i in range(1, count + 1)]
            effect = _effects(head, asked.X[[row]], name, proba[row])
            share = 1.0 if attention is None else float(sum(attention))
            views[name] = TokenEffects(effect, attention, share, grid, pieces)
        found.append(views)
    return found


def _effects(head: Head, X: Inputs, name: str, proba: np.ndarray) -> list[float]:
    """Fall of the log-odds with each real token of an input left out, of one row."""
    first, second = np.argsort(-proba, kind="stable")[:2]

    def odds(p: np.ndarray) -> np.ndarray:
        return _log_odds(p[..., first], p[..., second])

    array: Tokens = X[name]
    places = np.flatnonzero(array.mask[0])
    whole, effects = float(odds(proba)), []
    for start in range(0, len(places), _TOKEN_ROWS):
        left_out = places[start : start + _TOKEN_ROWS]
        rows = np.arange(len(left_out))
        repeated = X[np.zeros(len(left_out), np.intp)]
        values, mask = repeated[name].values.copy(), repeated[name].mask.copy()
        values[rows, left_out], mask[rows, left_out] = 0, False
        without = head.predict_proba(repeated.replaced({name: Tokens(values, mask)}))
        effects += (whole - odds(without)).tolist()
    return effects


def _rows_of_run(store: Store, run: Run, ids: Sequence[str], label: str | None = None) -> Samples | None:
    """The rows of some items with the run's features; None if there are none."""
    few = len(ids) <= 500
    listed = ", ".join("'" + item.replace("'", "''") + "'" for item in ids)
    where = f"item_id in ({listed or 'null'})" if few else run.record["data"]["where"] or "true"
    try:
        # What is asked for, or was learned from, may have vanished since.
        samples = run.samples(store, label=label, where=f"({where}) and (missing or true)")
    except HeadError:
        if few:
            return None  # it says that there is nothing, which the caller says better
        raise
    kept = set(ids)
    rows = np.array([item in kept for item in samples.ids.tolist()], bool)
    return samples.take(rows) if rows.any() else None


def _require(store: Store, run: Run, wanted: Sequence[str], asked: Samples | None) -> None:
    """Say which item cannot be explained, and why."""
    there = set() if asked is None else set(asked.ids.tolist())
    for item in wanted:
        if item in there:
            continue
        quoted = item.replace("'", "''")
        where = f"item_id = '{quoted}' and (missing or true)"
        if not len(store.present_items(["item_id"], where)[0]):
            raise UsageError(
                f'no item {item!r} in {store.path}; `icehouse sql "select item_id from items"` lists them'
            )
        for name, feature in run.features.items():
            if not len(store.features(feature, where=where).ids):
                what = str(run.specs[name]["key"]).removesuffix("_sha256")
                raise UsageError(
                    f"item {item!r} has no {feature}, which run {run.run_id} needs: its {what} is missing, unreadable or "
                    "not yet embedded"
                )
        raise UsageError(f"item {item!r} has none of the inputs of run {run.run_id}")


def patch_grid(tokens: int, preprocessing: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a grid of `tokens` patches, row by row from the top left; None if they make no such grid.

    The preprocessing is that of the feature's provenance, so that a map can be drawn where the encoder is not at hand.
    """
    size = preprocessing.get("size") or [1, 1]
    height, width = (float(size[0]), float(size[-1])) if isinstance(size, (list, tuple)) else (1.0, 1.0)
    rows = round(math.sqrt(tokens * height / width))
    if rows < 1 or tokens % rows:
        return None
    columns = tokens // rows
    # Patches are square, but for what rounding leaves at an edge.
    square = abs(rows / columns - height / width) <= 0.5 * height / width / max(rows, 2)
    return (rows, columns) if square else None


def _words(spec: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """The pieces of items' texts that their tokens stand for, by item; empty where the encoder cannot be had."""
    from ..embed.encoder import load_encoder, require_trusted

    try:
        require_trusted(str(spec["encoder"]))
        encoder = load_encoder(str(spec["encoder"]), device="cpu")
    except IcehouseError:
        return {}
    cleaning = spec.get("provenance", {}).get("cleaning", "none")
    return {item: encoder.pieces(clean(text, cleaning)) for item, text in texts.items()}


_SIDE = 520
# Greatest height of a picture, in rem.
_TALLEST = 21
# Probabilities that are listed.
_CLASSES = 8
# Multiples of an even share at which the colour of a patch begins and ends.
_COLD, _HOT = 0.25, 8.0
# From what is hardly looked at to what is looked at most: red, green, blue, opacity.
_RAMP = ((8, 12, 40, 0.72), (90, 20, 110, 0.62), (225, 75, 40, 0.55), (255, 215, 70, 0.62))
# Of patches that speak for the answer, and against it.
_HUES = {True: (0, 130, 220), False: (225, 85, 0)}


def write_explanation(path: str | Path, store: Store, run: Run, found: Sequence[Explanation]) -> Path:
    """Write `explain_page` to a file; a `UsageError` if that cannot be written."""
    return publish_text(path, explain_page(store, run, found))


def explain_page(store: Store, run: Run, found: Sequence[Explanation]) -> str:
    """Make a page of explanations that needs no other file and no network."""
    near = read_items(store, [one.item_id for explained in found for one in explained.nearest])
    pictures = thumbnails([one.item.file for one in found], side=_SIDE)
    return render(
        "explain.html",
        title="Why this answer" if len(found) == 1 else f"Why these {len(found)} answers",
        run=run,
        explained=[_explained(one, picture) for one, picture in zip(found, pictures, strict=True)],
        cards=item_cards(near, side=200),
        hot=_HOT,
        ramp=", ".join(f"rgb({r} {g} {b})" for r, g, b, _ in _RAMP),
    )


def _explained(one: Explanation, picture: Thumbnail | None) -> dict[str, Any]:
    """An explanation for the eye."""
    return {
        "one": one,
        "right": one.label is None or one.label == one.predicted,
        "probabilities": list(one.proba.items())[:_CLASSES],
        "less_likely": max(len(one.proba) - _CLASSES, 0),
        "steps": list(contribution_steps(one.base, one.contributions)),
        "problem": None if picture is None else picture.problem,
        "photos": list(_photos(one, picture)),
        "tokens": [_token_texts(name, effects) for name, effects in one.tokens.items()],
        "text": None if any(effects.words for effects in one.tokens.values()) else one.item.text,
    }


def contribution_steps(
    base: Mapping[str, float], contributions: Mapping[str, Mapping[str, float]]
) -> Iterator[dict[str, Any]]:
    """From what all means would have to the prediction, one input after the other, on the axis of probability."""
    at = 0.0
    for name, added in (("all at their means", base), *contributions.items()):
        value, first = added["probability"], added is base
        low, high = (min(max(edge, 0.0), 1.0) for edge in sorted((at, at + value)))
        yield {
            "name": name,
            "start": low,
            "length": max(high - low, 0.003),
            "told": percent(value, 1) if first else f"{100 * value:+.1f}",
            "odds": added["log_odds"],
            "css": "rest" if first else "less" if value < 0 else "more",
        }
        at += value


def _photos(one: Explanation, picture: Thumbnail | None) -> Iterator[dict[str, Any]]:
    """The picture, then the maps over it: what the answer rests on, and attention where it tells anything apart."""
    shown = picture if picture is not None and picture.uri is not None else None
    if shown is not None:
        yield {"picture": shown, "width": _width(shown), "map": None, "caption": "the picture"}
    for name, effects in one.tokens.items():
        if effects.grid is None:
            continue
        across = f"{effects.grid[0]}×{effects.grid[1]} patches of {name}"
        most = max((abs(value) for value in effects.effect), default=0.0) or 1.0
        marks = [(*_HUES[value > 0], round(225 * abs(value) / most)) for value in effects.effect]
        maps = [(_png(effects, marks), f"what the answer rests on: {across}")]
        if not effects.even:
            heat = _png(effects, [_colour(heat_level(times)) for times in effects.times])
            maps.append((heat, f"attention: {across}{_of_all(effects)}"))
        box = None
        if shown is not None:
            box = seen_box(one.preprocessing.get(name, {}), shown.width, shown.height)
        for uri, caption in maps:
            yield {
                "picture": None if box is None else shown,
                "width": None if shown is None else _width(shown),
                "map": uri,
                "grid": effects.grid,
                "box": box and [100 * edge for edge in box],
                "caption": caption,
            }


def _width(picture: Thumbnail) -> float:
    """Greatest width of a picture, in rem."""
    return _TALLEST * picture.width / picture.height


def _token_texts(name: str, effects: TokenEffects) -> dict[str, Any]:
    """The words of an input, marked by what they do and by attention; and what the colours of its maps say."""
    most = max((abs(value) for value in effects.effect), default=0.0)
    told: dict[str, Any] = {"name": name, "effects": effects, "most": most, "texts": []}
    if effects.words is not None:
        marks = [
            ("for" if value > 0 else "against", abs(value) / (most or 1.0), f"{value:+.3f} log-odds")
            for value in effects.effect
        ]
        told["texts"].append((f"What the answer rests on: {name}", list(_marked_words(effects.words, marks))))
    if effects.words is not None and not effects.even:
        marks = [
            (
                "seen",
                max(0.0, math.log(max(times, 1e-9)) / math.log(_HOT)),
                f"{times:.2f} times an even share",
            )
            for times in effects.times
        ]
        told["texts"].append(
            (f"Attention over {name}{_of_all(effects)}", list(_marked_words(effects.words, marks)))
        )
    return told


def _marked_words(words: Sequence[str], marks: Sequence[tuple[str, float, str]]) -> Iterator[dict[str, Any]]:
    """Words as they stand in the text, each with a kind of mark, its strength from 0 to 1, and what it says."""
    for number, (word, (kind, strength, told)) in enumerate(zip(words, marks, strict=True)):
        bare = word.strip()
        special = bare.startswith(("[", "<")) and bare.endswith(("]", ">")) and len(bare) > 2
        yield {
            "text": bare,
            "space": " " if number and word.startswith(" ") else "",
            "css": f"{kind} special" if special else kind,
            "level": min(strength, 1.0),
            "told": told,
        }


def _of_all(effects: TokenEffects) -> str:
    return "" if effects.share > 0.999 else f", {percent(effects.share)} of all"


def _png(effects: TokenEffects, colours: Sequence[tuple[int, ...]]) -> str:
    """A map of an image's patches as a PNG with one pixel a patch, as data."""
    from PIL import Image

    assert effects.grid is not None
    pixels = np.array(colours, np.uint8).reshape(*effects.grid, 4)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def heat_level(times: float) -> float:
    """Place on the scale of colours, 0 to 1, of a multiple of the even share; equal factors are equal steps."""
    if times <= _COLD:
        return 0.0
    return min(math.log(times / _COLD) / math.log(_HOT / _COLD), 1.0)


def _colour(at: float) -> tuple[int, ...]:
    places = np.linspace(0, 1, len(_RAMP))
    r, g, b, a = (float(np.interp(at, places, channel)) for channel in zip(*_RAMP, strict=True))
    return round(r), round(g), round(b), round(255 * a)


def seen_box(
    preprocessing: Mapping[str, Any], width: int, height: int
) -> tuple[float, float, float, float] | None:
    """Region of an upright picture that a model sees: left, top, right and bottom as shares of its width and height.

    They are below 0 or above 1 where there is a border; None for a mode of preprocessing that is not known.
    """
    mode = preprocessing.get("mode")
    # "shortest" is the middle, after the shorter side fits; "longest" all of it, with a border; "squash" all of it, out of
    # shape; "middle 7/8" the middle of the shorter side, squared.
    if mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    if mode == "middle 7/8":
        side = 7 / 8 * min(width, height)
        seen_width = seen_height = side
    elif mode in ("shortest", "longest"):
        size = preprocessing["size"]
        across, down = size[-1] / width, size[0] / height
        scale = max(across, down) if mode == "shortest" else min(across, down)
        seen_width, seen_height = size[-1] / scale, size[0] / scale
    else:
        return None
    left, top = (1 - seen_width / width) / 2, (1 - seen_height / height) / 2
    return left, top, 1 - left, 1 - top
