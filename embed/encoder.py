"""The contract that every encoder keeps, and the registry that finds them.

An encoder is a frozen model with one or two towers. It prepares an image in a worker thread (`prepare_image`,
pixels only, no tensors) and encodes batches on its device. It never sees files, tables or items.

Adding one is a new file with a subclass of `Encoder` and one line under ``[project.entry-points."icehouse.encoders"]``,
in this package or in yours.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import EncoderError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = [
    "ALIASES",
    "BUILT_IN",
    "Encoder",
    "Modality",
    "Output",
    "Tokens",
    "available",
    "fingerprint",
    "folder_name",
    "load_encoder",
]

Modality = Literal["image", "text"]

#: Short names for the encoders people ask for most; a short name is also the folder in the store.
ALIASES = {"clip-b32": "openclip:ViT-B-32/laion2b_s34b_b79k"}

#: Families that icehouse itself brings; another package cannot take their names.
BUILT_IN = ("mini", "openclip")


@dataclass(frozen=True)
class Output:
    """One named representation of one modality.

    Parameters
    ----------
    modality : {"image", "text"}
    name : {"joint", "pooled", "tokens"}
    dim : int
        Width of a vector (of a token's vector where `name` is "tokens").
    """

    modality: Modality
    name: str
    dim: int


@dataclass(frozen=True)
class Tokens:
    """Token states of a batch: `values` (n, t, dim) float32, `mask` (n, t) bool, True where a token is real."""

    values: np.ndarray
    mask: np.ndarray


class Encoder(ABC):
    """A frozen model: images and texts in, named arrays out.

    Parameters
    ----------
    model : str
        What stands behind the family's colon: ``ViT-B-32/laion2b_s34b_b79k`` in ``openclip:ViT-B-32/laion2b_s34b_b79k``.
    device : str, default "auto"
        "cuda", "mps", "cpu", or "auto": the first of these that is there.
    precision : {"auto", "float32", "bfloat16", "float16"}, default "auto"
        Arithmetic of the forward pass; "auto" takes bfloat16 where the device is fast in it.

    Attributes
    ----------
    id : str
        What `load_encoder` takes to make this encoder again.
    name : str
        Short name; the folder of its features in a store.
    outputs : tuple of Output
        Every output it offers, `tokens` included.
    image_side : int
        Shortest side, in pixels, that `prepare_image` makes of an image; a reader may shrink a larger image in advance.
    batch_size : int
        A good number of rows a batch on this device.
    streams : int
        Batches that are encoded at once, each in a thread of `stream_pool`; 1 where a batch fills the device.
    """

    family: ClassVar[str]
    id: str
    name: str
    outputs: tuple[Output, ...]
    image_side: int
    batch_size: int
    streams: int = 1
    device: str
    precision: str

    @abstractmethod
    def provenance(self, modality: Modality) -> dict[str, Any]:
        """Everything that decides what a vector of `modality` means, as JSON values.

        Holds at least ``family``, ``model``, ``weights_sha256`` and, for images, ``preprocessing`` (a mapping: size, mode,
        interpolation, mean, std), for texts ``context_length`` and ``tokenizer``. Device, precision and library versions
        stay out: they may differ between writers of one table.
        """

    @abstractmethod
    def prepare_image(self, image: Image) -> np.ndarray:
        """Resize and crop an upright RGB image as the model's own preprocessing does.

        Returns
        -------
        ndarray of uint8, shape (height, width, 3)
            Before scaling and normalisation, which happen on the device.
        """

    @abstractmethod
    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """Encode a batch of prepared images.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, height, width, 3)
        outputs : sequence of str
            Names among this encoder's image outputs.

        Returns
        -------
        dict
            Each output's (n, dim) float32 array, or `Tokens`. ``joint`` rows have unit length.
        """

    @abstractmethod
    def encode_texts(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """Encode a batch of cleaned texts; see `encode_images`."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Length of each text in tokens, special ones included, before any cut: int32, shape (n,)."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Most tokens of a text that the model reads; what lies beyond is cut."""

    def pieces(self, text: str) -> list[str]:
        """What each token of a cleaned text stands for, in the order of the text's `tokens` output.

        Returns
        -------
        list of str
            One a token that the model reads, special ones included and in brackets; a space in front where it begins a
            word. Numbers from 1, for an encoder that cannot tell.
        """
        length = min(int(self.count_tokens([text])[0]), self.context_length)
        return [f" {i}" for i in range(1, length + 1)]

    def stream_pool(self) -> ThreadPoolExecutor:
        """Threads to encode in, `streams` of them; `encode_images` and `encode_texts` must bear being called at once."""
        return ThreadPoolExecutor(self.streams, thread_name_prefix="icehouse-encode")

    def output(self, modality: str, name: str) -> Output:
        """Find one of `outputs`.

        Raises
        ------
        EncoderError
            If the encoder does not offer it; the message lists what it offers.
        """
        for output in self.outputs:
            if (output.modality, output.name) == (modality, name):
                return output
        offered = ", ".join(f"{o.modality}/{o.name}" for o in self.outputs)
        raise EncoderError(f"{self.id} has no output {modality}/{name}; it offers {offered}")


def fingerprint(provenance: Mapping[str, Any]) -> str:
    """Digest of a provenance: vectors may share a table, a search or a head only where it agrees.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    canonical = json.dumps(provenance, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@cache
def available() -> dict[str, Any]:
    """Encoder families by name, as entry points of the group ``icehouse.encoders``; nothing is imported yet."""
    points = entry_points(group="icehouse.encoders")
    ours = {
        name: point
        for name in BUILT_IN
        for point in points
        if point.value.startswith(f"{__package__}.{name}:")
    }
    return {point.name: point for point in points} | ours


def folder_name(encoder_id: str) -> str:
    """Short name of an encoder id: its alias if it has one, else the id with only ``A-Za-z0-9._-`` left.

    A checkpoint's path contributes its last component only.
    """
    for short, full in ALIASES.items():
        if encoder_id in (short, full):
            return short
    family, colon, model = encoder_id.partition(":")
    architecture, slash, weights = model.partition("/")
    if slash and Path(weights).expanduser().exists():
        encoder_id = f"{family}{colon}{architecture}/{Path(weights).name}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", encoder_id).strip("-.")


def load_encoder(encoder_id: str, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Make an encoder from its id: ``mini``, ``clip-b32``, ``openclip:<model>/<pretrained>``, ``<family>:<model>``.

    Raises
    ------
    EncoderError
        If the family is unknown or its weights cannot be had; the message says what to do.
    """
    family, _, model = ALIASES.get(encoder_id, encoder_id).partition(":")
    point = available().get(family)
    if point is None:
        known = ", ".join(sorted({*available(), *ALIASES}))
        raise unknown_name(
            EncoderError(
                f"no encoder {encoder_id!r}; known: {known} (openclip:<model>/<pretrained> for any open_clip model)"
            )
        )
    encoder: Encoder = point.load()(model, device=device, precision=precision)
    return encoder
