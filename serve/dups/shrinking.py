"""How far a stream's pictures may be decoded smaller: found on the first ones, at the same place whenever it is run.

The outcome travels with the items, in their order, and what has been looked at so far is part of a stream's state. So
neither threads nor a restart change with how many pixels a picture is encoded, as long as the first pictures' files stay
where they are until it is settled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from ...data.images import image_size
from ...embed.decoding import LOOK_AT, SAMPLE, choose_shortest
from ...embed.encoder import Encoder
from ...embed.extract import Work, read_file

__all__ = ["Trial"]


@dataclass(frozen=True)
class Trial:
    """What the pictures up to some place in the stream have told.

    Attributes
    ----------
    settled : bool
        Whether it is decided.
    shortest : int or None
        What decoding may shrink to; see `icehouse.data.images.decode`.
    looked_at : int
        Files that were looked at.
    sample : tuple of str
        Paths of those large enough to tell, until it is decided.
    """

    settled: bool = False
    shortest: int | None = None
    looked_at: int = 0
    sample: tuple[str, ...] = ()

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Self:
        """Read from a state's notes what `as_notes` gave."""
        return cls(
            notes.get("settled", False),
            notes.get("shortest"),
            notes.get("looked_at", 0),
            tuple(notes.get("sample", ())),
        )

    def as_notes(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)

    def after(self, path: Path, encoder: Encoder, output: str) -> Trial:
        """Tell how things stand once `path` has come, too."""
        looked_at, sample = self.looked_at + 1, self.sample
        if _is_large(path, 2 * encoder.image_side):
            sample = (*sample, os.fspath(path))
        if len(sample) < SAMPLE and not (sample and looked_at >= LOOK_AT):
            return replace(self, looked_at=looked_at, sample=sample)
        try:
            shortest = choose_shortest(encoder, [Work(name, Path(name), None) for name in sample], output)
        except Exception:  # of the model, of a device: the stream goes on with whole pictures
            shortest = None
        return Trial(True, shortest, looked_at)


def _is_large(path: Path, side: int) -> bool:
    try:
        return min(image_size(read_file(path)[0])) >= side
    except Exception:  # whatever is wrong with it is told when it is read
        return False
