"""What a search for duplicates tells its user: what was left out, where it stopped, and how far it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from .cascade import Cascade, Contents, Rule

__all__ = ["lacking", "notes"]


def lacking(contents: Contents, items: pa.Table, key: str, feature: str | None) -> list[str]:
    """Tell what cannot be compared, for want of content or of a vector."""
    if not len(items):
        return ["there is no item to compare"]
    told, what = [], key.removesuffix("_sha256")
    if blank := items[key].null_count:
        told.append(f"{blank} of {len(items)} items without {what}: not compared, and kept")
    same = int(contents.blank.sum())
    if same:
        told.append(
            f"{same} of {len(contents)} images are blank, all of one colour: they match only their exact copies"
        )
    if feature is None:
        return told
    if bare := len(contents) - len(contents.with_vector) - same:
        told.append(
            f"{bare} of {len(contents)} contents without a vector of {feature}: not compared by it; "
            "`icehouse embed` makes the missing ones"
        )
    if contents.rows is not None and (useless := len(contents.rows.unusable)):
        told.append(
            f"{useless} of {len(contents.rows)} vectors of {feature} zero or not finite: they match nothing"
        )
    return told


def notes(rule: Rule, feature: str | None, cascade: Cascade, whole: bool) -> list[str]:
    """Tell how the stages went, once all pairs are read; `whole` says whether the groups are."""
    told = []
    if feature is None:
        told.append("no embedding stage: no feature")
    told += cascade.engine.notes
    if cascade.stats.get("views", {}).get("left_out"):
        told.append("parts of images were not compared: too many of them resemble each other")
    if cascade.capped:
        groups = "the groups are whole all the same" if whole else "groups led by the others may lack members"
        told.append(
            f"stopped at {cascade.max_pairs} pairs: {cascade.complete} of {len(cascade.contents)} contents, those preferred "
            f"as keepers, have all theirs, and {groups}; raise --max-pairs or the threshold for the rest"
        )
    perceptual: Mapping[str, Any] = cascade.stats.get("perceptual", {})
    if mute := perceptual.get("uninformative"):
        told.append(
            f"{mute} of {perceptual['hashes']} perceptual hashes say nothing (flat or almost empty images) and were left to "
            "the other stages"
        )
    return told
