"""Whether vectors may stand beside each other.

The spec of a feature table carries the provenance of its vectors and its fingerprint. The fingerprint decides; the
provenance explains. It is computed where encoders live, so here it is only compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SpaceError, StoreError

__all__ = ["check_space", "differences"]

_SHOWN = 4


def differences(
    have: Mapping[str, Any], want: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Compare two provenances.

    Returns
    -------
    dict
        Dotted key to its two values, for each that differs; None stands for absent.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*have, *want}):
        a, b = have.get(key), want.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def check_space(what: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    """Refuse to mix two vector spaces.

    Parameters
    ----------
    what : str
        What holds the first space, for the message: "the feature mini/image/pooled", "run 7".
    have, want : mapping
        Specs (or any mapping with ``fingerprint``, and for the message ``encoder`` and ``provenance``).

    Raises
    ------
    SpaceError
        If the fingerprints differ; the message names both and what differs.
    StoreError
        If one has no fingerprint.
    """
    for spec in (have, want):
        if not spec.get("fingerprint"):
            raise StoreError(
                f"{what}: vectors of unknown origin (a spec without fingerprint) cannot be compared"
            )
    if have["fingerprint"] == want["fingerprint"]:
        return
    unlike = differences(have.get("provenance") or {}, want.get("provenance") or {})
    shown = [f"{key} ({_short(a)} / {_short(b)})" for key, (a, b) in list(unlike.items())[:_SHOWN]]
    if len(unlike) > _SHOWN:
        shown.append(f"and {len(unlike) - _SHOWN} more")
    reason = f"; they differ in {', '.join(shown)}" if shown else ""
    remedy = "use the same encoder and options, or another store"
    if set(unlike) == {"decoder"}:
        remedy = (
            "the encoder is the same, but an earlier version of icehouse decoded some images otherwise (deep samples,"
            " transparency, blank first frames); embed the images again, into a table of its own with `icehouse embed "
            "--name NEW` or into a new store, and train and calibrate on that; search by text and item goes on as before"
        )
    raise SpaceError(
        f"{what} is in the space of {_name(have)}, which does not mix with {_name(want)}{reason}: {remedy}"
    )


def _name(spec: Mapping[str, Any]) -> str:
    return f"{spec.get('encoder', 'an encoder')} (fingerprint {spec['fingerprint']})"


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
