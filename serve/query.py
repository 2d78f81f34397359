"""Search by text, image or item: the query is encoded as the store's features were.

The store alone cannot answer "a cat": it holds vectors, not models. Here the encoder that made a feature is loaded again
from the spec of the feature, held against fingerprint and probe, and asked for one vector more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from ..data import image_files
from ..data.images import decode
from ..data.text import clean
from ..embed.encoder import Encoder, Modality
from ..embed.tables import cleaning_beside, load_checked
from ..errors import SourceError, UsageError
from ..store.index import Found, find_item, find_vectors
from ..store.schema import tower_of
from ..store.search import Hit
from ..store.sql import left_out_note, names_missing
from ..store.store import Store


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and what was asked of what."""

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
        What to search. By default the images: for words in the `joint` space, for a picture, or an item that has one, in
        `pooled`, which tells copies better. The texts' `joint` space where there are no images.
    k : int, default 10
        Most hits.
    where : str, optional
        SQL condition over the items; those marked ``missing`` are left out unless it names that column.
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
    store = Store.of(store)
    if sum(question is not None for question in (text, image, item)) != 1:
        raise UsageError("ask one question: --text, --image or --item")
    if text is not None and not text.strip():
        raise UsageError("the text is empty: say what to look for")
    if feature is None:
        pictures = item is None or _has_image(store, item)
        feature = _default_feature(store, pictures=pictures, joint=text is not None)
    if item is not None:
        found = find_item(store, feature, item, k=k, where=where, exact=exact)
        return _result(store, found, feature, f"like {item}", where)
    spec = store.feature_table(feature).snapshot().spec
    asked: Modality = "text" if text is not None else "image"
    if spec["output"] == "tokens" or (spec["output"] != "joint" and tower_of(spec["modality"]) != asked):
        raise UsageError(
            f"{feature} cannot be searched by {asked}: that takes a joint space, as {spec['name']}/image/joint"
        )
    encoder = load_checked(spec, encoder, device=device, texts_only=text is not None)
    beside = feature.rpartition("/")[0] + "/joint"
    if image is not None and beside != feature and beside in store.feature_names():
        # What an average over the picture hides of another way to decode or resize shows in the other output.
        load_checked(store.feature_table(beside).snapshot().spec, encoder, device=device)
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
    return _result(store, found, feature, question, where)


def _result(store: Store, found: Found, feature: str, question: str, where: str | None) -> SearchResult:
    remarks = [] if found.remark is None else [found.remark]
    if not names_missing(where):
        left_out = pc.sum(store.items.read(["missing"])["missing"]).as_py()
        remarks += [left_out_note(left_out)] if left_out else []
    return SearchResult(found.hits, feature, question, found.engine, "; ".join(remarks) or None)


def _default_feature(store: Store, *, pictures: bool, joint: bool) -> str:
    """Feature to search: images before texts if `pictures`, their `joint` output alone if `joint`, else `pooled` first.

    Of two encoders, one that has no images does not count where there are images to search.
    """
    known = store.feature_names()
    images = ["image/joint"] if joint else ["image/pooled", "image/joint"]
    for wanted in [*images, "text/joint"] if pictures else ["text/joint", *images]:
        found = [name for name in known if name.count("/") == 2 and name.endswith(f"/{wanted}")]
        if len(found) > 1:
            encoders = ", ".join(name.split("/")[0] for name in found)
            raise UsageError(
                f"the store has features of {encoders}; choose with --feature, such as {found[0]}"
            )
        if found:
            return found[0]
    raise UsageError(f"{store.path} has no joint features to search; make some with `icehouse embed`")


def _has_image(store: Store, item: str) -> bool:
    items = store.items.read(["item_id", "image_sha256"])
    return bool(items.filter(pc.equal(items["item_id"], item))["image_sha256"].drop_null().length())


def _pixels(encoder: Encoder, path: Path) -> np.ndarray:
    try:
        data, _ = image_files.read(path)
        return encoder.prepare_image(decode(data).image)[None]
    except Exception as error:  # of the file, or of the encoder's own preprocessing
        reason = (error.strerror if isinstance(error, OSError) else error) or type(error).__name__
        raise SourceError(f"{path}: {reason}") from None
