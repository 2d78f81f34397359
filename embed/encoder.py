"""Encoders: the contract, the registry, where a model runs, and which encoder ids found in data are trusted.

An encoder is a frozen model with one or two towers. It prepares an image in a worker thread (`prepare_image`,
pixels only, no tensors) and encodes batches on its device. It never sees files, tables or items.

Adding one is a new file with a subclass of `Encoder` and one line under ``[project.entry-points."icehouse.encoders"]``,
in this package or in yours.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import EncoderError, UsageError, unknown_name
from ..store.files import publish

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

# float32 is always right. A lower precision is chosen only where the hardware computes in it, since emulating one is
# slower than float32.


#: What `choose_precision` understands, besides "auto".
PRECISIONS = ("float32", "bfloat16", "float16")


def choose_device(wanted: str = "auto") -> str:
    """Device to compute on. A torch device."""
    # Huge pages for activations: a tenth faster on a CPU, more for convolutions. Torch asks once, at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError as error:
        raise UsageError(f"no device {wanted!r}; there are auto, cuda, mps, cpu") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise EncoderError(f"this machine has no {kind} device that torch can use; use --device auto")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """Arithmetic of the forward pass on `device`. One of `PRECISIONS`."""
    if wanted not in ("auto", *PRECISIONS):
        raise UsageError(f"no precision {wanted!r}; there are auto, {', '.join(PRECISIONS)}")
    kind = device.partition(":")[0]
    if wanted != "auto":
        if kind == "cpu" and wanted == "float16":
            raise EncoderError(
                "the CPU computes in float32 or bfloat16, not in float16; use --precision auto"
            )
        return wanted
    if kind == "cuda":
        return _cuda_precision(device)
    # MPS: half precision gains little there, and float32 is what can be trusted without a probe of the machine.
    return "bfloat16" if kind == "cpu" and _cpu_has_bfloat16() else "float32"


def _cuda_precision(device: str) -> str:
    import torch

    major, _minor = torch.cuda.get_device_capability(device)
    if major >= 8 and torch.cuda.is_bf16_supported():
        return "bfloat16"
    return "float16" if major >= 7 else "float32"


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 (AVX-512 BF16 or AMX tiles), by torch's own detection."""
    import torch

    # Underscored in torch: a version without them is answered as a processor without the instructions.
    return any(
        getattr(torch.cpu, name, lambda: False)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Context in which matrix products run in `precision` and sums, norms and residuals stay in float32."""
    if precision == "float32":
        return nullcontext()
    import torch

    return torch.autocast(device.partition(":")[0], dtype=getattr(torch, precision))


def batch_size(device: str, parameters: int) -> int:
    """Rows a batch that fill the device without straining its memory."""
    kind = device.partition(":")[0]
    small, medium, large = {"cuda": (256, 128, 64), "mps": (64, 32, 16)}.get(kind, (32, 16, 8))
    if parameters < 250_000_000:  # up to ViT-B
        return small
    return medium if parameters < 700_000_000 else large  # up to ViT-L, and beyond


def keep_freed_blocks() -> None:
    """Let the C library keep blocks of a network's size for the next layer, where it is glibc.

    It gives what is larger than some megabytes back to the system at once, which fills every page with noughts when the next
    layer asks again: a tenth of a small network's time on a CPU.
    """
    with contextlib.suppress(OSError, AttributeError):
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_MMAP_THRESHOLD, 64 * 2**20)
        c_library.mallopt(_TRIM_THRESHOLD, 128 * 2**20)


def return_freed_blocks() -> None:
    """Undo `keep_freed_blocks` and give the system what is free, for work that needs the memory and no network."""
    with contextlib.suppress(OSError, AttributeError):
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_MMAP_THRESHOLD, 2**20)
        c_library.mallopt(_TRIM_THRESHOLD, 2**20)
        c_library.malloc_trim(0)


@contextlib.contextmanager
def shared_cores() -> Iterator[None]:
    """Let a process that has many inputs in work at once share the cores among them.

    Threads of NumPy's and SciPy's BLAS that wait for the next small product spin meanwhile, which took a third of a server's
    processor time: a product keeps to the thread that asks. And an encoder's thread asks for its turn of Python after each
    of a network's hundred operators: turns are of half a millisecond, not of five, in which a core would stand still.
    """
    import scipy.linalg  # noqa: F401 (it brings a BLAS of its own, which has to be there to be told)
    from threadpoolctl import threadpool_limits

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        sys.setswitchinterval(before)


#: Parameters of glibc's ``mallopt``.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


class StreamPool(ThreadPoolExecutor):
    """Threads that encode a batch each, on one core each.

    Cores that share a batch wait for each other after every layer, and all of them wait for one that a decoding thread
    has taken. A batch a core does without: a quarter more images a second on two cores.
    """

    def __init__(self, streams: int) -> None:
        import torch

        # Torch keeps the number for threads that are yet to come, so it is put back afterwards.
        self._before = torch.get_num_threads()
        threads = 1 if streams > 1 else self._before
        super().__init__(
            streams,
            thread_name_prefix="icehouse-encode",
            initializer=torch.set_num_threads,
            initargs=(threads,),
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        import torch

        super().shutdown(wait, cancel_futures=cancel_futures)
        torch.set_num_threads(self._before)


def streams(device: str) -> int:
    """Batches to encode at once: one for each thread that torch would use on a CPU, one on any other device."""
    import torch

    return torch.get_num_threads() if device.partition(":")[0] == "cpu" else 1


def to_tensor(pixels: np.ndarray, device: str) -> torch.Tensor:
    """Pixels (n, h, w, 3) of bytes as float32 images (n, 3, h, w) on the device."""
    import torch

    if not pixels.flags.writeable:
        pixels = pixels.copy()  # torch warns of memory it could be asked to write to
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).to(torch.float32)


def describe(device: str) -> str:
    """One line for people: the device's name and, on a CPU, whether it multiplies in bfloat16."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind == "mps":
        return "Apple GPU (MPS)"
    return f"CPU, {torch.get_num_threads()} threads, {'with' if _cpu_has_bfloat16() else 'without'} bfloat16"


Modality = Literal["image", "text"]

#: Short names for the encoders people ask for most; a short name is also the folder in the store.
ALIASES = {"clip-b32": "openclip:ViT-B-32/laion2b_s34b_b79k"}

#: Families that icehouse itself brings; another package cannot take their names.
BUILT_IN = ("mini", "openclip")


@dataclass(frozen=True)
class Output:
    """One named representation of a modality: "joint", "pooled" or "tokens", with the width of a vector, or of a token's."""

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


#: Characters a token, generously: longer than all but freak tokens, so that the first cut nearly always fills the context.
_GENEROUS = 25
#: Tokens beyond the limit that a cut must leave, so that what its edge does to the last word is never read.
_MARGIN = 16


def encodable(text: str) -> str:
    """Replace what UTF-8 cannot hold (half of a surrogate pair, as cut JSON has it) by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def readable_prefix(text: str, limit: int, count: Callable[[str], int]) -> tuple[str, int]:
    """Cut a long text to a prefix that still fills a model's context.

    Byte-pair encoding in Python takes minutes over a megabyte, of which a model reads 77 tokens.
    """
    text = encodable(text)
    size = _GENEROUS * limit
    while size < len(text):
        head = text[:size]
        cut = max(head.rfind(space) for space in (" ", "\n", "\t"))
        prefix = head[:cut] if cut > size // 2 else head
        length = count(prefix)
        if length > limit + _MARGIN:
            return prefix, length
        size *= 4
    return text, count(text)


# A store, a run or a package says by which encoder it was made, and whoever made it may be a stranger. Built-in encoders are
# loaded on its word. Any other id (a checkpoint, a folder, a hub repository, another package's family) makes this machine
# read files or download a model of that stranger's choice, so it must have been named by this user once: with ``--encoder``,
# or as an argument in Python. What was named is remembered in the user's configuration folder.


def user_folder(kind: Literal["config", "cache"]) -> Path:
    """Folder of icehouse's settings or caches for this user, by the system's convention."""
    if os.name == "nt":
        variable, usual = ("APPDATA", "Roaming") if kind == "config" else ("LOCALAPPDATA", "Local")
        base = os.environ.get(variable) or Path.home() / "AppData" / usual
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / ("Application Support" if kind == "config" else "Caches")
    else:
        base = os.environ.get(f"XDG_{kind.upper()}_HOME") or Path.home() / f".{kind}"
    return Path(base) / "icehouse"


def trusted_file() -> Path:
    """File with the encoder ids that this user has named: JSON, ``{"encoders": [id, ...]}``."""
    return user_folder("config") / "trusted-encoders.json"


def is_trusted(encoder_id: str) -> bool:
    """Whether an encoder id from data may be loaded: it is built in, or this user has named it before.

    Built in are `mini`, the short names, and the tags of open_clip's own registry.
    """
    encoder_id = ALIASES.get(encoder_id, encoder_id)
    return encoder_id in _named() or _is_built_in(encoder_id)


def require_trusted(encoder_id: str) -> None:
    """Refuse an encoder id from data that `is_trusted` does not vouch for."""
    if not is_trusted(encoder_id):
        raise EncoderError(
            f"the data name the encoder {encoder_id}, which is not built in and was never used here; if you know where it "
            f"is from, say so once: icehouse doctor --trust {shlex.quote(encoder_id)}"
        )


def trust(encoder_id: str) -> None:
    """Remember that this user has named an encoder; without a writable configuration folder it holds for this process."""
    encoder_id = ALIASES.get(encoder_id, encoder_id)
    if is_trusted(encoder_id):
        return
    _THIS_PROCESS.add(encoder_id)
    file = trusted_file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with publish(file) as temp:
            temp.write_text(json.dumps({"encoders": sorted(_named())}, indent=2) + "\n", encoding="utf-8")


def load_named(encoder_id: str, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load an encoder that the user has named, and remember it as trusted; see `icehouse.embed.encoder.load_encoder`."""
    encoder = load_encoder(encoder_id, device=device, precision=precision)
    trust(encoder.id)
    return encoder


#: Named in this process, whether or not the file could be written.
_THIS_PROCESS: set[str] = set()


def _named() -> set[str]:
    try:
        found = json.loads(trusted_file().read_text(encoding="utf-8"))["encoders"]
    except (OSError, ValueError, KeyError, TypeError):
        found = []
    return {entry for entry in found if isinstance(entry, str)} | _THIS_PROCESS


def _is_built_in(encoder_id: str) -> bool:
    family, _, model = encoder_id.partition(":")
    if family not in BUILT_IN:
        return False
    if family != "openclip" or encoder_id in ALIASES.values():
        return True
    import open_clip

    architecture, _, tag = model.partition("/")
    return bool(architecture in open_clip.list_models() and open_clip.get_pretrained_cfg(architecture, tag))
