"""open_clip models give open_clip's own vectors, from wherever their weights come."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from icehouse.embed import networks as packed
from icehouse.embed import openclip as weights
from icehouse.embed.encoder import Encoder, Tokens, load_encoder
from icehouse.embed.openclip import OpenClip
from icehouse.errors import EncoderError, UsageError
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

Checkpoint = Callable[[str], tuple[Any, str]]
Load = Callable[..., Encoder]

TEXTS = ["a photo of a cat", "", "floods in the city, people need help", "😀 NUL \0", "ice " * 200]


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    sizes = [(320, 240), (240, 320), (160, 160), (300, 40)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.fixture
def open_clip() -> Any:
    """Loaded where it is needed: it takes seconds, which other workers save."""
    return importlib.import_module("open_clip")


def transformed(model: Any) -> torch.Tensor:
    """The pictures as open_clip itself prepares them."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return torch.stack([transform(picture) for picture in pictures()])


def prepared(encoder: Encoder) -> np.ndarray:
    return np.stack([encoder.prepare_image(picture) for picture in pictures()])


def same(encoded: Any, expected: torch.Tensor) -> bool:
    return float((torch.from_numpy(encoded) * normalize(expected, dim=-1)).sum(-1).min()) > 0.99999


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache of this test's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_cache(hub: Path, repo: str, files: dict[str, Path]) -> None:
    """Lay files out as a hub's client leaves them."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    snapshot = folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    for name, path in files.items():
        shutil.copy(path, snapshot / name)


@pytest.mark.parametrize("name", checkpoints.CONFIGS)
@torch.inference_mode()
def test_vectors_are_open_clips_own(
    open_clip: Any, name: str, checkpoint: Checkpoint, encoders: Load
) -> None:
    model, encoder = checkpoint(name)[0], encoders(name)
    joint = encoder.encode_images(prepared(encoder), ["joint"])["joint"]
    assert same(joint, model.encode_image(transformed(model)))
    ids = open_clip.get_tokenizer(name)(TEXTS)
    assert same(encoder.encode_texts(TEXTS, ["joint"])["joint"], model.encode_text(ids))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-timm"])
def test_pixels_are_normalised_to_the_bit(name: str, checkpoint: Checkpoint, encoders: Load) -> None:
    encoder = encoders(name)
    assert isinstance(encoder, OpenClip)
    assert torch.equal(encoder._normalised(prepared(encoder)), transformed(checkpoint(name)[0]))


@torch.inference_mode()
def test_pooled_is_the_state_before_the_projection(checkpoint: Checkpoint, encoders: Load) -> None:
    model, encoder = checkpoint("tiny-vit")[0], encoders("tiny-vit")
    seen: list[torch.Tensor] = []
    handle = model.visual.ln_post.register_forward_hook(lambda *call: seen.append(call[2]))
    model.encode_image(transformed(model))
    handle.remove()
    encoded = encoder.encode_images(prepared(encoder), ["pooled", "tokens"])
    np.testing.assert_allclose(encoded["pooled"], seen[0][:, 0], rtol=1e-3, atol=1e-4)
    assert isinstance(encoded["tokens"], Tokens)
    np.testing.assert_allclose(encoded["tokens"].values, seen[0][:, 1:], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_the_last_block_is_whole_only_where_tokens_are_asked(encoders: Load) -> None:
    encoder = encoders("tiny-vit")
    assert isinstance(encoder, OpenClip)
    images = encoder._normalised(prepared(encoder))
    whole, short = (encoder._image_tower(images, tokens=tokens) for tokens in (True, False))
    assert (whole.tokens.shape[1], short.tokens.shape[1]) == (16, 0)  # type: ignore[union-attr]
    torch.testing.assert_close(short.pooled, whole.pooled, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_resnet_pools_as_its_own_attention_does(checkpoint: Checkpoint, encoders: Load) -> None:
    model, encoder = checkpoint("tiny-resnet")[0], encoders("tiny-resnet")
    encoded = encoder.encode_images(prepared(encoder), ["joint", "pooled", "tokens"])
    projected = model.visual.attnpool.c_proj(torch.from_numpy(encoded["pooled"]))
    assert same(encoded["joint"], projected)
    assert isinstance(encoded["tokens"], Tokens)
    assert encoded["tokens"].values.shape[1:] == (4, 512)


def test_a_tower_that_projects_nothing_offers_no_pooled(encoders: Load) -> None:
    offered = {(output.modality, output.name) for output in encoders("tiny-sigmoid").outputs}
    assert ("image", "pooled") not in offered
    assert ("text", "pooled") in offered


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-sigmoid"])
def test_a_long_text_is_read_as_far_as_the_whole_would_be(open_clip: Any, name: str, encoders: Load) -> None:
    encoder = encoders(name)
    assert isinstance(encoder, OpenClip)
    rng = np.random.default_rng(2)
    words = [
        "floods",
        "antidisestablishmentarianism",
        "naïve,",
        "&amp;",
        "北京",
        "http://t.co/aB3",
        "😀😀",
        "#help",
    ]
    long = ["\n ".join(rng.choice(words, 1500)) for _ in range(4)]
    assert torch.equal(encoder._ids(long), open_clip.get_tokenizer(name)(long))


def test_the_tokenizers_memory_does_not_grow_for_ever(
    encoders: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders("tiny-vit")
    assert isinstance(encoder, OpenClip)
    monkeypatch.setattr("icehouse.embed.openclip._REMEMBERED_WORDS", 50)
    before = encoder._ids(["<end_of_text> ice"])
    for i in range(30):
        encoder.count_tokens([f"qq{'xyz'[i % 3] * (i + 1)} zz{i}a"])
    assert len(encoder._tokenizer.cache) < 60
    assert torch.equal(encoder._ids(["<end_of_text> ice"]), before)


@pytest.mark.slow
def test_the_digest_is_of_the_weights_not_of_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, encoder_id = checkpoint("tiny-vit")
    other_file = checkpoints.save(model, tmp_path / "same.safetensors")
    other_names = tmp_path / "renamed.pt"  # as a training run saves it
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, other_names
    )
    other_weights = checkpoints.save(checkpoints.make("tiny-vit", seed=1), tmp_path / "other.pt")
    ids = [encoder_id, *(f"openclip:tiny-vit/{path}" for path in (other_file, other_names, other_weights))]
    first, *others = (load_encoder(i).provenance("image") for i in ids)
    assert [other == first for other in others] == [True, True, False]


def test_quick_gelu_is_part_of_the_space(checkpoint: Checkpoint, encoders: Load) -> None:
    _model, encoder_id = checkpoint("tiny-vit")
    path = encoder_id.split("/", 1)[1]
    quick = load_encoder(f"openclip:tiny-vit-quickgelu/{path}", precision="float32")
    plain = encoders("tiny-vit")
    a, b = (encoder.encode_texts(TEXTS, ["joint"])["joint"] for encoder in (quick, plain))
    assert not np.allclose(a, b, atol=1e-4)
    assert quick.provenance("text")["weights_sha256"] == plain.provenance("text")["weights_sha256"]
    assert quick.provenance("text") != plain.provenance("text")


@pytest.fixture
def tags(open_clip: Any, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    """Tags of weights for the small models, as open_clip's registry has them for large ones."""
    common = {
        "url": "",
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    entry = {
        "quick_s1": {**common, "hf_hub": "someone/tiny-quick/", "quick_gelu": True},
        "plain_s1": {**common, "hf_hub": "someone/tiny/"},
    }
    registry = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(registry, "tiny-vit", entry)
    monkeypatch.setitem(registry, "tiny-vit-quickgelu", entry)


@pytest.mark.usefixtures("tags")
@torch.inference_mode()
def test_a_tag_brings_its_activation_and_its_preprocessing(
    open_clip: Any, hub: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model, _ = checkpoint("tiny-vit-quickgelu")
    file = checkpoints.save(model, tmp_path / "w.safetensors")
    put_in_cache(hub, "someone/tiny-quick", {"open_clip_model.safetensors": file})
    encoder = load_encoder("openclip:tiny-vit/quick_s1", precision="float32")
    assert encoder.name == "openclip-tiny-vit-quick_s1"
    ids = open_clip.get_tokenizer("tiny-vit")(TEXTS)
    assert same(encoder.encode_texts(TEXTS, ["joint"])["joint"], model.encode_text(ids))
    preprocessing = encoder.provenance("image")["preprocessing"]
    assert (preprocessing["mode"], preprocessing["mean"]) == ("squash", [0.5, 0.5, 0.5])
    squashed = pictures()[0].resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(encoder.prepare_image(pictures()[0]), np.asarray(squashed))


@pytest.mark.usefixtures("tags")
def test_weights_trained_otherwise_than_the_model_computes_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"without QuickGELU.*try openclip:tiny-vit/plain_s1"):
        load_encoder("openclip:tiny-vit-quickgelu/plain_s1")


@pytest.mark.usefixtures("tags")
def test_weights_out_of_reach_are_named_with_the_way_out(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(weights, "_hub_answers", lambda: bool(asked.append("hub")))
    for forced in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", forced)
        for encoder_id in ("openclip:tiny-vit/plain_s1", "openclip:hf-hub:someone/nothing"):
            with pytest.raises(EncoderError) as caught:
                load_encoder(encoder_id)
            message = str(caught.value)
            assert "\n" not in message
            assert str(hub) in message
            assert "open_clip" in message
            assert "mini" in message
        assert constants.HF_HUB_OFFLINE is forced
    # Where the user forbids the network it is not even tried.
    assert asked == ["hub", "hub"]


@torch.inference_mode()
def test_a_hub_repository_is_read_from_the_cache(
    open_clip: Any, hub: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model, _ = checkpoint("tiny-vit")
    config = tmp_path / "open_clip_config.json"
    config.write_text(
        json.dumps({"model_cfg": checkpoints.CONFIGS["tiny-vit"], "preprocess_cfg": {"mean": [0.4] * 3}})
    )
    file = checkpoints.save(model, tmp_path / "w.bin")
    put_in_cache(hub, "someone/tiny", {"open_clip_config.json": config, "open_clip_pytorch_model.bin": file})
    encoder = load_encoder("openclip:hf-hub:someone/tiny", precision="float32")
    assert encoder.name == "openclip-hf-hub-someone-tiny"
    assert encoder.provenance("image")["preprocessing"]["mean"] == [0.4, 0.4, 0.4]
    ids = open_clip.get_tokenizer("tiny-vit")(TEXTS)
    assert same(encoder.encode_texts(TEXTS, ["joint"])["joint"], model.encode_text(ids))


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
@torch.inference_mode()
def test_a_folder_with_a_hugging_face_text_tower(open_clip: Any, pooler: str, tmp_path: Path) -> None:
    folder = checkpoints.save_text_model(tmp_path / "model", ["ice", "house", "a", "photo", "of", "cat"])
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp"}
    config = {
        "embed_dim": 24,
        "vision_cfg": checkpoints.VIT,
        "text_cfg": {**text, "hf_pooler_type": pooler, "context_length": 32},
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 64}})
    )
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    checkpoints.save(model, folder / "open_clip_model.safetensors")
    encoder = load_encoder(f"openclip:local-dir:{folder}", precision="float32")
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    encoded = encoder.encode_texts(TEXTS, ["joint", "pooled", "tokens"])
    assert same(encoded["joint"], model.encode_text(ids))
    assert encoded["pooled"].shape == (len(TEXTS), 32)
    counts = np.minimum(encoder.count_tokens(TEXTS), encoder.context_length)
    assert isinstance(encoded["tokens"], Tokens)
    skipped = 1 if pooler == "cls_pooler" else 0  # that pooler keeps the first token to itself
    assert encoded["tokens"].mask.sum(1).tolist() == (counts - skipped).tolist()
    # The folder's place is not part of the space.
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    config["text_cfg"]["hf_model_name"] = str(moved)
    (moved / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 64}})
    )
    assert load_encoder(f"openclip:local-dir:{moved}").provenance("text") == encoder.provenance("text")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("openclip:ViT-B32/laion2b_s34b_b79k", "did you mean .*ViT-B-32"),
        ("openclip:ViT-B-32/laion2b_s34b_b79", "did you mean laion2b_s34b_b79k"),
        ("openclip:ViT-B-32", "add a tag or a checkpoint's path, as in openclip:ViT-B-32/"),
        ("openclip:ViT-B-32/nowhere/weights.pt", "no checkpoint nowhere/weights.pt"),
        ("openclip:ViT-B-32/weights.safetensors", "no checkpoint weights.safetensors"),
        ("openclip:local-dir:nowhere", "no open_clip_config.json"),
    ],
)
def test_a_slip_is_answered_with_what_there_is(asked: str, answer: str) -> None:
    with pytest.raises(EncoderError, match=answer) as caught:
        load_encoder(asked)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_weights_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    _model, other = checkpoint("tiny-resnet")
    garbage, code = tmp_path / "garbage.safetensors", tmp_path / "code.pt"
    garbage.write_bytes(b"\x00" * 100)
    torch.save({"state_dict": {}, "hook": Path}, code)  # needs more than tensors to be read
    for path in (other.split("/", 1)[1], garbage, code):
        with pytest.raises(EncoderError, match="cannot load openclip:tiny-vit") as caught:
            load_encoder(f"openclip:tiny-vit/{path}")
        assert "\n" not in str(caught.value)


class Peeking(nn.Module):
    """A model that computes with a layer's weight behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.layer.weight


class Drifting(nn.Module):
    """A model that would give something else once packed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if type(self.layer) is nn.Linear else -self.layer(x)


@pytest.mark.parametrize("kind", [Peeking, Drifting])
@torch.inference_mode()
def test_a_model_that_cannot_be_packed_is_left_as_it_was(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(3, 8)
    before, layer = model(x), model.layer
    assert not packed.pack(model, "float32", lambda: model(x))
    assert model.layer is layer
    assert torch.equal(model(x), before)


@torch.inference_mode()
def test_packing_fuses_the_exact_gelu_only() -> None:
    for gelu in (nn.GELU(), nn.GELU("tanh"), nn.ReLU()):
        model, x = nn.Sequential(nn.Linear(8, 16), gelu, nn.Linear(16, 4)).eval(), torch.randn(5, 8)
        expected = model(x)
        packed.pack(model, "float32", lambda model=model, x=x: model(x))  # type: ignore[misc]
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_device_and_precision_are_checked() -> None:
    from icehouse.embed import encoder as device

    assert device.choose_device("cpu") == "cpu"
    assert device.choose_precision("auto", "cpu") in ("float32", "bfloat16")
    assert device.choose_precision("auto", "mps") == "float32"
    with pytest.raises(UsageError, match="there are auto, cuda"):
        device.choose_device("toaster")
    with pytest.raises(UsageError, match="float32, bfloat16"):
        device.choose_precision("double", "cpu")
    with pytest.raises(EncoderError, match="not in float16"):
        device.choose_precision("float16", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(EncoderError, match="no cuda"):
            device.choose_device("cuda:0")
    assert (
        device.batch_size("cuda", 10**8) > device.batch_size("cpu", 10**8) > device.batch_size("cpu", 10**9)
    )


def test_older_gpus_get_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    from icehouse.embed import encoder as device

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    for capability, expected in (((9, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, c=capability: c)
        assert device.choose_precision("auto", "cuda") == expected
