"""The `openclip` family: any open_clip model, by tag, local checkpoint, folder or hub id.

Vectors are open_clip's own: its preprocessing, its tokenizer, its forward pass. What is added is that one pass gives joint,
pooled and token states (`towers`), that a CPU runs it on prepacked weights (`packed`), and that a batch of texts is cut to
its longest.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import device as devices
from .encoder import Encoder, Modality, Output, Tokens, encodable, folder_name, readable_prefix

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .openclip_towers import States, Tower

__all__ = ["OpenClip"]

#: Words that open_clip's tokenizer may remember: it never forgets one, and a stream of hashtags would fill the memory.
_REMEMBERED_WORDS = 200_000
_SAMPLE_TEXTS = ["a photo of a cat", "ice"]


class OpenClip(Encoder):
    """An open_clip model."""

    family: ClassVar[str] = "openclip"

    def __init__(self, model: str, *, device: str = "auto", precision: str = "auto") -> None:
        self.device = devices.choose_device(device)
        self.precision = devices.choose_precision(precision, self.device)

        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Normalize

        from .openclip_weights import find, load, state_sha256

        loaded = load(find(model))
        clip, self._tokenizer = loaded.model, loaded.tokenizer
        # Hugging Face's tokenizers refuse, and open_clip's memory of words does not bear, two threads at once.
        self._tokenizing = threading.Lock()
        towers = {"visual": clip.visual, "text": clip.text}
        weights = {
            f"{side}.{key}": t for side, tower in towers.items() for key, t in tower.state_dict().items()
        }

        config = PreprocessCfg(**clip.visual.preprocess_cfg)
        steps = image_transform_v2(config, is_train=False).transforms
        self._to_pixels = steps[
            : next(i for i, step in enumerate(steps) if type(step).__name__ == "MaybeToTensor")
        ]
        normalize = next(step for step in steps if isinstance(step, Normalize))
        height, width = config.input_size[1:]

        self.id = loaded.source.id
        self.name = folder_name(self.id)
        self.image_side = max(height, width)
        self.batch_size = devices.batch_size(self.device, sum(t.numel() for t in weights.values()))
        self.streams = devices.streams(self.device)
        self._provenance = {
            "family": self.family,
            "model": _portable_name(loaded.source.model),
            "quick_gelu": loaded.quick_gelu,
            "weights_sha256": state_sha256(weights),
        }
        self._tokenizer_name = _tokenizer_name(self._tokenizer)
        self._preprocessing = {
            "size": [height, width],
            "mode": config.resize_mode,
            "interpolation": config.interpolation,
            "mean": list(config.mean),
            "std": list(config.std),
            "fill": config.fill_color,
        }
        self._open(clip, normalize, (height, width))

    def _open(self, clip: Any, normalize: Any, size: tuple[int, int]) -> None:
        """Move the towers to the device, open and speed them up, and learn from a sample what they offer."""
        import torch

        from .openclip_towers import open_image_tower, open_text_tower

        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
            for values in (normalize.mean, normalize.std)
        )
        pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
        with torch.inference_mode():
            images, ids = self._normalised(pixels), self._ids(_SAMPLE_TEXTS)
            # Convolutions read pixels in the order in which `prepare_image` leaves them.
            clip.visual.to(self.device, memory_format=torch.channels_last)
            clip.text.to(self.device)
            self._image_tower = open_image_tower(clip.visual, images)
            self._text_tower = open_text_tower(clip.text, self._tokenizer, ids)
            self._precisions = {
                "image": self._accelerate(self._image_tower, images),
                "text": self._accelerate(self._text_tower, ids),
            }
            with devices.autocast(self.device, self._precisions["image"]):
                self.outputs = tuple(_offered("image", self._image_tower(images)))
            with devices.autocast(self.device, self._precisions["text"]):
                self.outputs += tuple(_offered("text", self._text_tower(ids)))
        self.precision = self._precisions["image"]

    def _accelerate(self, tower: Tower, sample: torch.Tensor) -> str:
        """Pack a tower for the CPU; returns the precision it will run in."""
        if self.device.partition(":")[0] != "cpu":
            return self.precision
        from .networks import pack

        if pack(tower.module, self.precision, lambda: tower(sample).joint):
            return self.precision
        return "float32"  # without packing, bfloat16 on a CPU is slower than float32

    @property
    def context_length(self) -> int:
        """Most tokens of a text that the model reads."""
        return int(self._tokenizer.context_length)

    def provenance(self, modality: Modality) -> dict[str, Any]:
        """See `Encoder.provenance`."""
        if modality == "image":
            return {**self._provenance, "preprocessing": self._preprocessing}
        return {**self._provenance, "context_length": self.context_length, "tokenizer": self._tokenizer_name}

    def prepare_image(self, image: Image) -> np.ndarray:
        """Resize and crop as open_clip does; see `Encoder.prepare_image`."""
        for step in self._to_pixels:
            image = step(image)
        return np.asarray(image)

    def stream_pool(self) -> ThreadPoolExecutor:
        """See `Encoder.stream_pool`."""
        return devices.StreamPool(self.streams)

    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """See `Encoder.encode_images`."""
        import torch

        with torch.inference_mode():
            images = self._normalised(pixels)
            with devices.autocast(self.device, self._precisions["image"]):
                return self._picked("image", self._image_tower(images, tokens="tokens" in outputs), outputs)

    def encode_texts(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """See `Encoder.encode_texts`."""
        import torch

        with torch.inference_mode():
            ids = self._ids(texts)
            with devices.autocast(self.device, self._precisions["text"]):
                return self._picked("text", self._text_tower(ids, tokens="tokens" in outputs), outputs)

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder.count_tokens`; of a text far beyond the context, a lower bound that is beyond it too."""
        limit = self.context_length
        with self._tokenizing:
            return np.array([readable_prefix(text, limit, self._length)[1] for text in texts], dtype=np.int32)

    def pieces(self, text: str) -> list[str]:
        """See `Encoder.pieces`."""
        ids = self._ids([text])[0].tolist()
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            # A text may end with a token of padding that is read (SigLIP); `count_tokens` says how many are.
            tokens = inner.convert_ids_to_tokens(ids)[: int(self.count_tokens([text])[0])]
            return [f" {token[1:]}" if token.startswith("▁") else token for token in tokens]
        end = self._tokenizer.eot_token_id
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        found, begins = [], True
        for token in (self._tokenizer.decoder[i] for i in ids):
            raw = token.removesuffix("</w>")
            special = raw.startswith("<") and raw.endswith(">") and len(raw) > 2
            piece = raw if special else _from_bytes(raw, self._tokenizer.byte_decoder)
            found.append(f" {piece}" if begins else piece)
            begins = special or token.endswith("</w>")
        return found

    def _normalised(self, pixels: np.ndarray) -> torch.Tensor:
        """Pixels (n, h, w, 3) as ToTensor and Normalize make them: the same operations in the same order."""
        import torch

        if not pixels.flags.writeable:
            pixels = pixels.copy()  # torch warns of memory it could be asked to write to
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        return images.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

    def _ids(self, texts: Sequence[str]) -> torch.Tensor:
        limit = self.context_length
        with self._tokenizing:
            # Most texts are short, and need not be counted before they are read.
            readable = [
                encodable(text) if len(text) <= 4 * limit else readable_prefix(text, limit, self._length)[0]
                for text in texts
            ]
            return self._tokenizer(readable).to(self.device)

    def _length(self, text: str) -> int:
        """Tokens of one text, the special ones included."""
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            clean = getattr(self._tokenizer, "clean_fn", str)
            return len(inner(clean(text), verbose=False)["input_ids"])
        memory = self._tokenizer.cache
        if len(memory) > _REMEMBERED_WORDS:
            special = {self._tokenizer.decoder[i] for i in self._tokenizer.all_special_ids}
            for word in [word for word in memory if word not in special]:
                del memory[word]
        return len(self._tokenizer.encode(text)) + 2

    def _picked(
        self, modality: Modality, states: States, outputs: Sequence[str]
    ) -> dict[str, np.ndarray | Tokens]:
        """Chosen outputs of a forward pass as arrays."""
        import torch

        picked: dict[str, np.ndarray | Tokens] = {}
        for name in outputs:
            self.output(modality, name)
            value = getattr(states, name).float()
            if name == "joint":
                picked[name] = torch.nn.functional.normalize(value, dim=-1).cpu().numpy()
            elif name == "tokens":
                mask = torch.ones(value.shape[:2], dtype=torch.bool) if states.mask is None else states.mask
                picked[name] = Tokens(value.cpu().numpy(), mask.cpu().numpy())
            else:
                picked[name] = value.cpu().numpy()
        return picked


def _from_bytes(token: str, alphabet: dict[str, int]) -> str:
    """A token of CLIP's tokenizer, which spells bytes as letters, as text; half a character becomes U+FFFD."""
    return bytearray(alphabet[letter] for letter in token).decode("utf-8", "replace")


def _offered(modality: Modality, states: States) -> list[Output]:
    """Outputs that a tower turned out to have."""
    found = {"joint": states.joint, "pooled": states.pooled, "tokens": states.tokens}
    return [
        Output(modality, name, int(value.shape[-1])) for name, value in found.items() if value is not None
    ]


def _portable_name(model: str) -> str:
    """A model's name without the folder it happened to lie in: the weights' digest says the rest."""
    return "local" if model.startswith("local-dir:") else model


def _tokenizer_name(tokenizer: Any) -> str:
    """What decides how a text is cut into tokens: the kind of tokenizer, its cleaning and its vocabulary."""
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary = tokenizer.encoder if inner is None else inner.get_vocab()
    digest = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()[:16]
    clean = (
        getattr(tokenizer.clean_fn, "__name__", "").removeprefix("_clean_")
        if hasattr(tokenizer, "clean_fn")
        else ""
    )
    return "/".join(part for part in (type(tokenizer).__name__, clean, digest) if part)
