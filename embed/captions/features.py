"""Captions as features: what a model said about a picture, through the text tower of an encoder.

The modality is ``caption`` for the captions named "default" and ``caption-NAME`` for others: ``mini/caption/pooled``,
``mini/caption-crisis/joint``. A vector belongs to a picture (``image_sha256``), as the caption does; where posts' texts
went into the prompt, a caption belongs to a picture and a text, and its vectors are kept by item. Both follow the items
wherever a feature is asked for: heads take ``--inputs image,text,caption``. Structured captions also give the feature
``fields/caption-fields/numbers``, see `icehouse.embed.captions.fields`.

Captions that are empty, refuse, or broke their schema say nothing about the picture and are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...data.text import CLEANERS
from ...errors import CaptionError, UsageError
from ...store.store import Store
from ..encoder import Encoder, folder_name, load_encoder, trust
from ..pipeline import choose_encoder
from .feature_keys import Keys, useful
from .feature_writer import OUTPUTS, Writer
from .fields import FieldsReport, write_fields
from .stats import view_of
from .table import DEFAULT_NAME, captions_of

__all__ = ["CaptionFeatures", "embed_captions", "modality_of"]

Progress = Callable[[int, int, str], None]


@dataclass
class CaptionFeatures:
    """Outcome of one `embed_captions` call.

    Attributes
    ----------
    captions : int
        Captions of the table.
    known : int
        Those that had their vectors.
    embedded : int
        Those that were embedded now.
    useless : int
        Those left out, by their flags.
    pooled : int
        Of those embedded now, how many did not fit the encoder's context and were pooled over sentences.
    failed : int
        Those that the encoder could not take.
    fields : FieldsReport or None
        What became of their columns, if they are structured.
    features : list of str
    """

    store: str
    name: str
    encoder: str
    captions: int = 0
    known: int = 0
    embedded: int = 0
    useless: int = 0
    pooled: int = 0
    failed: int = 0
    fields: FieldsReport | None = None
    features: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def modality_of(name: str) -> str:
    """Modality of the captions of that name, in a feature's name and as an input of heads.

    >>> modality_of("default"), modality_of("crisis")
    ('caption', 'caption-crisis')
    """
    return "caption" if name == DEFAULT_NAME else f"caption-{name}"


def embed_captions(
    store: Store | str | Path,
    captions: str = DEFAULT_NAME,
    *,
    encoder: str | Encoder = "auto",
    name: str | None = None,
    cleaning: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> CaptionFeatures:
    """Embed whatever captions of that name have no vectors yet.

    Parameters
    ----------
    store : Store, str or Path
    captions : str, default "default"
        Name of the captions.
    encoder : str or Encoder, default "auto"
        Its text tower is used; "auto" takes the store's own, else what `icehouse embed` would.
    name : str, optional
        Folder of the features, by default the encoder's short name.
    cleaning : str, optional
        Text cleaning, by default the one these features were made with, else "social-v1".
    dtype : {"float16", "float32"}, optional
        How vectors are stored, by default as they already are, else float16.
    device, precision, batch_size : optional
        As for `icehouse.embed.pipeline.embed_sources`.
    progress : callable, optional
        Called with (captions done, captions in all, what is going on).

    Returns
    -------
    CaptionFeatures

    Raises
    ------
    CaptionError
        If there are no such captions, or none can be used.
    SpaceError
        If there are vectors by another encoder, of other captions, or cleaned in another way.
    """
    begun = time.perf_counter()
    if cleaning is not None and cleaning not in CLEANERS:
        raise UsageError(f"no text cleaning {cleaning!r}; there are {', '.join(CLEANERS)}")
    store = Store.of(store)
    table = captions_of(store, captions)
    model = encoder if isinstance(encoder, Encoder) else None
    named = encoder != "auto"
    if isinstance(encoder, str):
        encoder, model = choose_encoder(encoder, store, [], device=device, precision=precision)
    encoder_id = encoder if isinstance(encoder, str) else encoder.id
    folder, name = name, name or (model.name if model else folder_name(encoder_id))
    report = CaptionFeatures(str(store.path), captions, encoder_id)
    keyed = Keys.of(store, table)
    rows, report.useless = useful(table)
    report.captions = len(rows) + report.useless
    modality = modality_of(captions)
    todo = keyed.missing(store, [f"{name}/{modality}/{output}" for output in OUTPUTS], rows)
    report.known = len(rows) - len({row.key for row, _ in todo})
    if not rows:
        view = view_of(store, captions)
        see = f'; see `icehouse sql "select flags, count(*) from {view} group by flags"`' if view else ""
        raise CaptionError(f"the captions {captions!r} of {store.path} hold none that can be embedded{see}")
    # First, since no encoder is needed for them.
    report.fields = write_fields(store, table, name=folder, dtype=dtype)
    if todo:
        model = model or load_encoder(encoder_id, device=device, precision=precision)
        if named:
            trust(model.id)
        writer = Writer(store, name, modality, model, cleaning, dtype, table, keyed)
        writer.admit(rows)
        writer.write(todo, report, batch_size or model.batch_size, progress)
    report.features = [f for f in store.feature_names() if f.startswith(f"{name}/{modality}/")]
    report.features += [report.fields.feature] if report.fields else []
    report.seconds = round(time.perf_counter() - begun, 3)
    return report
