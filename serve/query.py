"""Questions in words or pictures: the query is encoded as the store's features were, then searched.

The store alone cannot answer "a cat": it holds vectors, not models. Here the encoder that made a feature is loaded again
from the spec of the feature, held against fingerprint and probe, and asked for one vector more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from ..data.images import decode
from ..data.text import clean
from ..embed.checked import cleaning_beside, load_checked
from ..embed.encoder import Encoder, Modality
from ..embed.extract import read_file
from ..errors import ImageError, SourceError, UsageError
from ..store.index.find import Found, find_item, find_vectors
from ..store.schema import tower_of
from ..store.search import Hit
from ..store.store import Store

__all__ = ["SearchResult", "search"]


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and what was asked of what.

    Attributes
    ----------
    hits : list of Hit
    feature : str
        Name of the feature that was searched.
    query : str
        The question, as a person would write it.
    engine : str
        "exact": every vector was compared; otherwise the kind of index that chose.
    remark : str or None
        What else is worth knowing of the engine, such as why an index was not used.
    """

    hits: list[Hit]
    feature: str
    query: str
    engine: str = "exact"
    remark: str | None = None


def search(
    store: Store | str | Path,
    *,
    text: str | None = None,
    image: str | Path | None = None,
    item: str | None = None,
    feature: str | None = None,
    k: int = 10,
    where: str | None = None,
    exact: bool = False,
    encoder: Encoder | None = None,
    device: str = "auto",
) -> SearchResult:
    """Find the items nearest to a text, a picture or another item.

    Parameters
    ----------
    store : Store, str or Path
    text, image, item : str
        The question; exactly one of them. `image` is a file, `item` the id of an item of the store.
    feature : str, optional
        What to search, by default the images in the joint space, or the texts where there are no images.
    k : int, default 10
        Most hits.
    where : str, optional
        SQL condition over the items.
    exact : bool, default False
        Compare every vector, even if there is a fresh index.
    encoder : Encoder, optional
        An encoder that is loaded already, held against the feature like any other.

    Returns
    -------
    SearchResult

    Raises
    ------
    UsageError
        If not exactly one question is asked, or the feature cannot answer it.
    SpaceError
        If the encoder is no longer the one the feature was made with.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    if sum(question is not None for question in (text, image, item)) != 1:
        raise UsageError("ask one question: --text, --image or --item")
    feature = feature or _default_feature(store, image_first=item is None or _has_image(store, item))
    if item is not None:
        found = find_item(store, feature, item, k=k, where=where, exact=exact)
        return _result(found, feature, f"like {item}")
    spec = store.feature_table(feature).snapshot().spec
    asked: Modality = "text" if text is not None else "image"
    if spec["output"] == "tokens" or (spec["output"] != "joint" and tower_of(spec["modality"]) != asked):
        raise UsageError(
            f"{feature} cannot be searched by {asked}: that takes a joint space, as {spec['name']}/image/joint"
        )
    encoder = load_checked(spec, encoder, device=device, texts_only=text is not None)
    cleaning = cleaning_beside(store, spec)
    if text is not None:
        encoded = encoder.encode_texts([clean(text, cleaning)], [spec["output"]])
        question = text
    else:
        assert image is not None
        encoded = encoder.encode_images(_pixels(encoder, Path(image)), [spec["output"]])
        question = f"like the picture {image}"
    vector = encoded[spec["output"]]
    assert isinstance(vector, np.ndarray)
    found = find_vectors(store, feature, vector[0], k=k, where=where, exact=exact)
    return _result(found, feature, question)


def _result(found: Found, feature: str, question: str) -> SearchResult:
    return SearchResult(found.hits, feature, question, found.engine, found.remark)


def _default_feature(store: Store, *, image_first: bool) -> str:
    """The joint space of the store's only encoder."""
    names = [name for name in store.feature_names() if name.endswith("/joint")]
    encoders = sorted({name.split("/")[0] for name in names})
    if not names:
        raise UsageError(f"{store.path} has no joint features to search; make some with `icehouse embed`")
    if len(encoders) > 1:
        raise UsageError(
            f"the store has features of {', '.join(encoders)}; choose with --feature, such as {names[0]}"
        )
    order = ("image", "text") if image_first else ("text", "image")
    return next(f"{encoders[0]}/{m}/joint" for m in order if f"{encoders[0]}/{m}/joint" in names)


def _has_image(store: Store, item: str) -> bool:
    items = store.items.read(["item_id", "image_sha256"])
    return bool(items.filter(pc.equal(items["item_id"], item))["image_sha256"].drop_null().length())


def _pixels(encoder: Encoder, path: Path) -> np.ndarray:
    try:
        data, _ = read_file(path)
        return encoder.prepare_image(decode(data).image)[None]
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: {reason}") from None
