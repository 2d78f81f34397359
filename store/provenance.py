"""Whether vectors may stand beside each other.

The spec of a feature table carries the provenance of its vectors and its fingerprint. The fingerprint decides; the
provenance explains. It is computed where encoders live, so here it is only compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CorruptError, SpaceError, StoreError

__all__ = ["check_space", "check_spec", "differences"]

_SHOWN = 4

#: What the entries of a feature's spec are.
_ENTRIES: dict[str, type] = {
    **dict.fromkeys(("encoder", "name", "modality", "output", "key", "dtype", "fingerprint"), str),
    "dim": int,
    **dict.fromkeys(("provenance", "probe"), dict),
}
#: Without these a feature cannot be read at all.
_NEEDED = ("encoder", "name", "modality", "output", "key", "dim", "dtype", "provenance")
#: What there is of one that was repaired from parts of an older version, which carry no spec: it has no fingerprint either.
_REPAIRED = ("encoder", "modality", "output", "key", "dim", "dtype")


def check_spec(spec: Any, what: str, needed: tuple[str, ...] = _NEEDED) -> None:
    """Refuse the spec of a feature that lacks an entry, or has one of another kind: whoever wrote it may be a stranger.

    Parameters
    ----------
    spec : mapping
    what : str
        What has the spec, for the message.
    needed : tuple of str
        Entries that must be there.

    Raises
    ------
    CorruptError
        That names the entry.
    """
    if not isinstance(spec, Mapping):
        raise CorruptError(f"{what} has no spec of a feature")
    if needed is _NEEDED and not {"name", "provenance", "fingerprint"} & spec.keys():
        needed = _REPAIRED
    for name, kind in _ENTRIES.items():
        value = spec.get(name)
        if value is None and name not in needed:
            continue
        if type(value) is not kind or (kind is not dict and not value):
            raise CorruptError(
                f"{what}: the entry {name!r} of its spec is {_short(value)}, no {_KINDS[kind]}"
            )
    cleaning = (spec.get("provenance") or {}).get("cleaning")
    if not isinstance(cleaning, (str, type(None))):
        raise CorruptError(f"{what}: the cleaning of texts in its spec is {_short(cleaning)}, no name")


_KINDS = {str: "name", int: "number", dict: "object"}


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
