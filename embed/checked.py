"""The encoder behind a stored feature, loaded again and held against what the store remembers of it.

A store holds vectors, not models. To encode one thing more (a query, a class prompt, a row to predict) the encoder is
loaded from the feature's spec, and must still have its fingerprint and pass its probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..store.provenance import check_space, check_spec
from ..store.schema import tower_of
from .encoder import Encoder, fingerprint, load_encoder
from .pipeline import DEFAULT_CLEANING
from .probe import check_probe
from .tables import provenance_now
from .trust import require_trusted

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = ["cleaning_beside", "load_checked"]

_SPACE = ("encoder", "name", "modality", "output")


def load_checked(
    spec: Mapping[str, Any],
    encoder: Encoder | None = None,
    *,
    device: str = "auto",
    texts_only: bool = False,
) -> Encoder:
    """Load the encoder that a feature's spec names, and make sure that it still is the one.

    Parameters
    ----------
    spec : mapping
    encoder : Encoder, optional
        Loaded already.
    device : str
    texts_only : bool, default False
        Only texts will be encoded for the feature, so that how its images were decoded does not matter.

    Raises
    ------
    SpaceError
        If the fingerprint or the probe disagrees.
    EncoderError
        If it cannot be had, or is neither built in nor trusted (see `icehouse.embed.trust`).
    """
    check_spec(spec, "the feature", (*_SPACE, "provenance"))
    if encoder is None:
        require_trusted(spec["encoder"])
        encoder = load_encoder(spec["encoder"], device=device)
    modality, output = spec["modality"], spec["output"]
    now = provenance_now(encoder, spec, DEFAULT_CLEANING)
    if texts_only:
        now.pop("decoder", None)
        now |= {key: spec["provenance"][key] for key in ("decoder",) if key in spec["provenance"]}
    feature = f"the feature {spec['name']}/{modality}/{output}"
    check_space(feature, spec, {"encoder": encoder.id, "provenance": now, "fingerprint": fingerprint(now)})
    check_probe(encoder, tower_of(modality), f"{spec['name']}/{modality}", {output: spec.get("probe") or {}})
    return encoder


def cleaning_beside(store: Store, spec: Mapping[str, Any]) -> str:
    """Cleaning of the texts that were embedded beside this feature, so that another text is treated as they were."""
    prefix = f"{spec['name']}/text/"
    for name in store.feature_names():
        if name.startswith(prefix):
            provenance = store.feature_table(name).snapshot().spec.get("provenance") or {}
            return str(provenance.get("cleaning") or DEFAULT_CLEANING)
    return DEFAULT_CLEANING
