"""The `openclip` family: any open_clip model, by tag, local checkpoint, folder or hub id, and its weights.

Vectors are open_clip's own: its preprocessing, its tokenizer, its forward pass. What is added is that one pass gives
joint, pooled and token states, that a CPU runs it on prepacked weights (both in `networks`), and that a batch of texts is
cut to its longest.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
    encodable,
    folder_name,
    readable_prefix,
    streams,
    to_tensor,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .networks import States, Tower

# The cache is asked first, with the network shut off; the network only for what is missing there, and only after it has
# answered within seconds. So a machine behind a firewall never waits for retries, and a cached model never goes out at all.
#
# A model's config is a stranger's: of what it may pass to the tokenizer, only what `_TOKENIZER_KWARGS` lists is let through,
# and transformers is kept from running Python code that lies beside a model, whatever the files there ask for.


_SECONDS_TO_ANSWER = 4.0
_CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors", ".npz")
_HUB, _FOLDER = "hf-hub:", "local-dir:"

#: What an ``open_clip_config.json`` may pass to its tokenizer: how texts are cleaned and closed, not where code is from.
_TOKENIZER_KWARGS = frozenset(
    (
        *("clean", "language", "strip_sep_token", "src_lang"),
        *("add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "legacy", "use_fast"),
        *("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token"),
        *("model_max_length", "padding_side", "truncation_side"),
    )
)
_TIMM_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True)
class Source:
    """A model's architecture and weights, found but not loaded."""

    id: str
    model: str
    pretrained: str | None = None
    quick_gelu: bool = False


@dataclass(frozen=True)
class Loaded:
    """A model in float32 on the CPU, its tokenizer and what was read from its config."""

    source: Source
    model: Any
    tokenizer: Any
    quick_gelu: bool


def find(name: str) -> Source:
    """Understand what follows ``openclip:`` in an encoder id."""
    import open_clip

    if name.startswith(_HUB):
        return Source(f"openclip:{name}", name)
    if name.startswith(_FOLDER):
        folder = Path(name.removeprefix(_FOLDER)).expanduser().resolve()
        if not (folder / "open_clip_config.json").is_file():
            raise EncoderError(
                f"no open_clip_config.json in {folder}, which openclip:{_FOLDER}… needs beside the weights"
            )
        return Source(f"openclip:{_FOLDER}{folder}", f"{_FOLDER}{folder}")

    model, _, pretrained = name.partition("/")
    models = open_clip.list_models()
    if model not in models:
        raise EncoderError(f"open_clip has no model {model!r}{_did_you_mean(model, models)}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not pretrained:
        one = f"openclip:{model}/{tags[0]}" if tags else f"openclip:{model}/checkpoint.pt"
        raise EncoderError(
            f"openclip:{model} names no weights; add a tag or a checkpoint's path, as in {one}"
        )

    config = open_clip.get_pretrained_cfg(model, pretrained)
    if config:
        quick, built_in = bool(config.get("quick_gelu")), _config_is_quick(open_clip.get_model_config(model))
        if built_in and not quick:
            raise EncoderError(
                f"the weights {pretrained} were trained without QuickGELU, and {model} uses it; "
                f"try openclip:{model.removesuffix('-quickgelu')}/{pretrained}"
            )
        return Source(f"openclip:{model}/{pretrained}", model, pretrained, quick_gelu=quick and not built_in)

    path = Path(pretrained).expanduser()
    if path.is_file():
        path = path.resolve()
        return Source(f"openclip:{model}/{path}", model, str(path))
    if "/" in pretrained or path.suffix in _CHECKPOINTS:
        raise EncoderError(f"no checkpoint {pretrained} for {model}")
    raise EncoderError(f"{model} has no weights {pretrained!r}{_did_you_mean(pretrained, tags)}")


def load(source: Source) -> Loaded:
    """Load a model with its tokenizer, in float32 on the CPU."""
    try:
        with _offline(), _quiet(), _no_remote_code():
            return _load(source)
    except Exception as error:
        if not _is_missing(error):
            raise EncoderError(f"cannot load {source.id}: {_first_line(error)}") from error
    if _forced_offline() or not _hub_answers():
        raise EncoderError(_unreachable(source))
    try:
        with _quiet(), _no_remote_code():
            return _load(source)
    except Exception as error:
        raise EncoderError(
            f"cannot download {source.id}: {_first_line(error)}; use the encoder mini instead"
        ) from error


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Digest of tensors by name: the same for the same weights, whatever file they came in."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(source: Source) -> Loaded:
    import open_clip

    _check_config(open_clip.get_model_config(source.model))
    # The tokenizer first: where it is missing, no time goes into building a model.
    tokenizer = open_clip.get_tokenizer(source.model)
    model = open_clip.create_model(
        source.model,
        source.pretrained,
        precision="fp32",
        device="cpu",
        force_quick_gelu=source.quick_gelu,
        force_custom_text=True,  # one shape of model for all: image tower in `visual`, text tower in `text`
        pretrained_text=False,
        require_pretrained=True,
        weights_only=True,
    )
    quick = source.quick_gelu or _config_is_quick(open_clip.get_model_config(source.model))
    return Loaded(source, model.eval().requires_grad_(False), tokenizer, quick)


def _check_config(config: Any) -> None:
    """Refuse a model's config that asks for more than an architecture and a tokenizer's settings."""
    if not isinstance(config, dict):
        raise EncoderError("its open_clip_config.json holds no model_cfg")
    text, vision = config.get("text_cfg"), config.get("vision_cfg")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise EncoderError("its open_clip_config.json lacks text_cfg or vision_cfg")
    given = text.get("tokenizer_kwargs") or {}
    if not isinstance(given, dict):
        raise EncoderError("text_cfg.tokenizer_kwargs of its open_clip_config.json is no object")
    for name, value in given.items():
        if name not in _TOKENIZER_KWARGS or not isinstance(value, (str, int, float, type(None))):
            raise EncoderError(
                f"text_cfg.tokenizer_kwargs of its open_clip_config.json sets {name}, which icehouse does not pass on; "
                "take it out, if you know where the model is from"
            )
    trunk = vision.get("timm_model_name")
    if trunk is not None and not (isinstance(trunk, str) and _TIMM_NAME.fullmatch(trunk)):
        raise EncoderError(
            f"vision_cfg.timm_model_name {trunk!r} of its open_clip_config.json is no model of timm's own"
        )


@contextmanager
def _swapped(module: Any, **values: Any) -> Iterator[None]:
    """Give names of another library's module other values for a while, those that it has."""
    before = {name: getattr(module, name) for name in values if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _no_remote_code() -> AbstractContextManager[None]:
    """Keep transformers from running, and from fetching, Python code that comes with a model, and from asking whether to."""
    from transformers import dynamic_module_utils

    def refuse(*_: Any, **__: Any) -> Any:
        raise EncoderError("the model brings Python code of its own (auto_map), which icehouse never runs")

    refused = dict.fromkeys(("get_class_in_module", "get_cached_module_file"), refuse)
    return _swapped(dynamic_module_utils, **refused, TIME_OUT_REMOTE_CODE=0)


def _config_is_quick(config: Mapping[str, Any] | None) -> bool:
    return bool((config or {}).get("quick_gelu", False))


def _did_you_mean(name: str, there: list[str]) -> str:
    by_lower = {other.lower().replace("_", "-"): other for other in there}
    close = difflib.get_close_matches(name.lower().replace("_", "-"), by_lower, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(by_lower[other] for other in close)}?"
    return f"; it has {', '.join(there)}" if 0 < len(there) <= 12 else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from narrating on the root logger what the caller learns from the result or the error."""
    root = logging.getLogger()
    level = root.manager.disable
    logging.disable(max(level, logging.ERROR))
    try:
        yield
    finally:
        logging.disable(level)


def _offline() -> AbstractContextManager[None]:
    """Shut the hub's client off from the network, and its cache with it from questions about newer versions."""
    from huggingface_hub import constants

    return _swapped(constants, HF_HUB_OFFLINE=True)


def _forced_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _is_missing(error: BaseException | None) -> bool:
    """Whether an error comes down to a file that the cache lacks; open_clip and transformers wrap it variously."""
    from huggingface_hub import errors

    missing = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, missing):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _hub_answers() -> bool:
    """Whether the hub answers at all, within seconds: its own client would go on trying for minutes."""
    answered: list[bool] = []

    def ask() -> None:
        from huggingface_hub import constants, get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=_SECONDS_TO_ANSWER)
        except Exception:  # any failure, of whichever client this version carries, means the same: no hub
            return
        answered.append(True)

    # In a thread, because looking up a name may hang longer than any timeout of the client.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS_TO_ANSWER + 1)
    return bool(answered)


def _unreachable(source: Source) -> str:
    from huggingface_hub import constants

    arguments = ", ".join(repr(part) for part in (source.model, source.pretrained) if part)
    fetch = f"import open_clip as o; o.create_model({arguments}); o.get_tokenizer({source.model!r})"
    return (
        f"{source.id} is not in {constants.HF_HUB_CACHE} and the model hub cannot be reached: on a connected machine run "
        f'python -c "{fetch}" and copy that folder here, or use the encoder mini, which needs no hub'
    )


#: Words that open_clip's tokenizer may remember: it never forgets one, and a stream of hashtags would fill the memory.
_REMEMBERED_WORDS = 200_000
_SAMPLE_TEXTS = ["a photo of a cat", "ice"]


class OpenClip(Encoder):
    """An open_clip model."""

    family: ClassVar[str] = "openclip"

    def __init__(self, model: str, *, device: str = "auto", precision: str = "auto") -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)

        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Normalize

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
        self.batch_size = batch_size(self.device, sum(t.numel() for t in weights.values()))
        self.streams = streams(self.device)
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

        from .networks import open_image_tower, open_text_tower

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
            with autocast(self.device, self._precisions["image"]):
                self.outputs = tuple(_offered("image", self._image_tower(images)))
            with autocast(self.device, self._precisions["text"]):
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
        return StreamPool(self.streams)

    def encode_images(self, pixels: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """See `Encoder.encode_images`."""
        import torch

        with torch.inference_mode():
            images = self._normalised(pixels)
            with autocast(self.device, self._precisions["image"]):
                return self._picked("image", self._image_tower(images, tokens="tokens" in outputs), outputs)

    def encode_texts(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray | Tokens]:
        """See `Encoder.encode_texts`."""
        import torch

        with torch.inference_mode():
            ids = self._ids(texts)
            with autocast(self.device, self._precisions["text"]):
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
        return to_tensor(pixels, self.device).div_(255).sub_(self._mean).div_(self._std)

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
