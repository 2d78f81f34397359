"""What every encoder promises: one test each, over all of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import CONFIGS
from icehouse.embed.encoder import Encoder, Tokens, folder_name, load_encoder, shared_cores
from icehouse.errors import EncoderError, IcehouseError
from icehouse.store.schema import fingerprint
from PIL import Image
from threadpoolctl import threadpool_info

Load = Callable[..., Encoder]

NAMES = ["mini", *CONFIGS]
HOSTILE = [
    "",
    " \n\t ",
    "NUL \0 and escape \x1b",
    "😀 👩‍👩‍👧 ‮right to left",
    "half a pair \ud83d",
    "Überschwemmung in 北京 и Москве",
    "<end_of_text> [SEP] </s>",
    "&amp;lt;b&gt; http://example.org/?q=1#x",
]


@pytest.fixture(params=NAMES)
def encoder(request: pytest.FixtureRequest, encoders: Load) -> Encoder:
    return encoders(request.param)


@cache
def pictures() -> list[Image.Image]:
    """Pictures of awkward shapes, upright and RGB, as the reader hands them over."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (640, 480), (480, 640), (700, 20), (20, 700), (224, 224)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@cache
def pixels_of(encoder: Encoder) -> np.ndarray:
    return np.stack([encoder.prepare_image(picture) for picture in pictures()])


def names_of(encoder: Encoder, modality: str) -> list[str]:
    return [output.name for output in encoder.outputs if output.modality == modality]


def rows(value: np.ndarray | Tokens) -> np.ndarray:
    """One vector a row, for comparing: of tokens, the mean of the real ones."""
    if isinstance(value, Tokens):
        weights = value.mask[..., None]
        return np.asarray((value.values * weights).sum(1) / weights.sum(1))
    return value


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def check(encoder: Encoder, modality: str, encoded: dict[str, Any], n: int) -> None:
    """Shapes, dtypes and lengths that the contract names."""
    for name, value in encoded.items():
        dim = encoder.output(modality, name).dim
        if isinstance(value, Tokens):
            assert value.values.shape == (*value.mask.shape, dim)
            assert value.values.shape[0] == n
            assert value.mask.dtype == bool
            assert value.mask.any(axis=1).all()
            value = value.values
        else:
            assert value.shape == (n, dim)
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
    np.testing.assert_allclose(np.linalg.norm(encoded["joint"], axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_it_says_what_it_is(encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    pairs = [(output.modality, output.name) for output in encoder.outputs]
    assert len(set(pairs)) == len(pairs)
    assert {("image", "joint"), ("text", "joint")} <= set(pairs)
    assert encoder.output("image", "joint").dim == encoder.output("text", "joint").dim
    assert encoder.batch_size > 0
    assert encoder.image_side > 0
    assert (encoder.device, encoder.precision) == ("cpu", "float32")
    assert encoder.name == folder_name(encoder.id)


@pytest.mark.slow
def test_its_id_makes_it_again(encoder: Encoder) -> None:
    again = load_encoder(encoder.id, device="cpu", precision="float32")
    assert (again.id, again.name, again.outputs) == (encoder.id, encoder.name, encoder.outputs)
    assert again.provenance("image") == encoder.provenance("image")
    pixels = pixels_of(encoder)
    a, b = (each.encode_images(pixels, ["joint"])["joint"] for each in (encoder, again))
    np.testing.assert_array_equal(a, b)


def test_images_become_pixels(encoder: Encoder) -> None:
    shapes = {encoder.prepare_image(picture).shape for picture in pictures()}
    assert len(shapes) == 1
    assert shapes.pop()[2] == 3
    assert encoder.prepare_image(pictures()[0]).dtype == np.uint8


def test_images_become_vectors(encoder: Encoder) -> None:
    pixels = pixels_of(encoder)
    check(encoder, "image", encoder.encode_images(pixels, names_of(encoder, "image")), len(pixels))


def test_any_text_becomes_vectors(encoder: Encoder) -> None:
    encoded = encoder.encode_texts(HOSTILE, names_of(encoder, "text"))
    check(encoder, "text", encoded, len(HOSTILE))


@pytest.mark.slow
def test_a_megabyte_of_text_costs_no_more_than_its_beginning(encoder: Encoder) -> None:
    texts = ["x" * 1_000_000, "word " * 200_000, "a " + "é" * 500_000]
    check(encoder, "text", encoder.encode_texts(texts, ["joint"]), len(texts))
    assert encoder.count_tokens(texts)[1] > encoder.context_length


def test_tokens_are_counted_before_the_cut(encoder: Encoder) -> None:
    counts = encoder.count_tokens(["", "ice", "ice ice", "ice " * 500])
    assert counts.dtype == np.int32
    assert counts[0] < counts[1] < counts[2] < encoder.context_length
    assert counts[3] > encoder.context_length


def test_real_tokens_are_those_that_were_counted(encoder: Encoder) -> None:
    texts = ["ice", "a photo of a cat", "", "ice " * 300]
    tokens = encoder.encode_texts(texts, ["tokens"])["tokens"]
    assert isinstance(tokens, Tokens)
    counted = np.minimum(encoder.count_tokens(texts), encoder.context_length)
    assert tokens.mask.sum(1).tolist() == counted.tolist()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_same_batch_gives_the_same_bits(encoder: Encoder, modality: str) -> None:
    outputs = names_of(encoder, modality)

    def encode(asked: list[str]) -> dict[str, Any]:
        if modality == "image":
            return encoder.encode_images(pixels_of(encoder), asked)
        return encoder.encode_texts(HOSTILE, asked)

    together, again = encode(outputs), encode(outputs)
    for name in outputs:
        np.testing.assert_array_equal(rows(together[name]), rows(again[name]))
        # An encoder may take a shorter way to fewer outputs, but not to another place.
        assert cosines(rows(encode([name])[name]), rows(together[name])).min() > 0.999999


def test_a_row_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    pixels, texts = pixels_of(encoder), [*HOSTILE, "a long text " * 20]
    images, words = names_of(encoder, "image"), names_of(encoder, "text")
    for names, batch, shuffled, alone in (
        (
            images,
            encoder.encode_images(pixels, images),
            encoder.encode_images(pixels[::-1].copy(), images),
            [encoder.encode_images(row[None], images) for row in pixels],
        ),
        (
            words,
            encoder.encode_texts(texts, words),
            encoder.encode_texts(texts[::-1], words),
            [encoder.encode_texts([text], words) for text in texts],
        ),
    ):
        for name in names:
            assert cosines(rows(batch[name]), rows(shuffled[name])[::-1]).min() > 0.999999
            one_by_one = np.concatenate([rows(one[name]) for one in alone])
            assert cosines(rows(batch[name]), one_by_one).min() > 0.999999


def test_pixels_may_be_read_only(encoder: Encoder) -> None:
    before = pixels_of(encoder)
    pixels = before.copy()
    pixels.flags.writeable = False
    encoder.encode_images(pixels, ["joint"])
    np.testing.assert_array_equal(pixels, before)


def test_an_output_it_does_not_have_is_refused(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match="offers image/joint"):
        encoder.encode_images(pixels_of(encoder), ["caption"])
    with pytest.raises(EncoderError, match="no output text/caption"):
        encoder.encode_texts(["ice"], ["caption"])


def test_provenance_says_what_decides_a_vector(encoder: Encoder) -> None:
    image, text = encoder.provenance("image"), encoder.provenance("text")
    for provenance in (image, text):
        assert json.loads(json.dumps(provenance)) == provenance
        assert {"family", "model", "weights_sha256"} <= set(provenance)
        assert len(provenance["weights_sha256"]) == 64
    assert {"size", "mode", "interpolation", "mean", "std"} <= set(image["preprocessing"])
    assert text["context_length"] == encoder.context_length
    assert text["tokenizer"]
    assert fingerprint(image) != fingerprint(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close_and_of_the_same_space(encoders: Load, name: str) -> None:
    exact, fast = encoders(name), encoders(name, "bfloat16")
    pixels = pixels_of(exact)
    for output in names_of(exact, "image"):
        a, b = (rows(each.encode_images(pixels, [output])[output]) for each in (exact, fast))
        assert cosines(a, b).min() > 0.999
    for output in names_of(exact, "text"):
        a, b = (rows(each.encode_texts(HOSTILE, [output])[output]) for each in (exact, fast))
        assert cosines(a, b).min() > 0.999
    for modality in ("image", "text"):
        assert exact.provenance(modality) == fast.provenance(modality)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["nope", "nope:x", "mini:2", "", "openclip:"])
def test_an_unknown_encoder_is_answered_in_one_line(asked: str) -> None:
    with pytest.raises(IcehouseError) as caught:
        load_encoder(asked)
    assert "\n" not in str(caught.value)


def test_the_documented_example_keeps_the_contract() -> None:
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/encoders.md", "exec"), namespace)
    encoder = namespace["Colours"]()
    assert isinstance(encoder, Encoder)
    pixels = np.stack(
        [encoder.prepare_image(Image.new("RGB", (40, 30), colour)) for colour in ("red", "lime", "blue")]
    )
    images = encoder.encode_images(pixels, ["joint"])
    texts = encoder.encode_texts(["red", "green", "blue"], ["joint"])
    check(encoder, "image", images, 3)
    check(encoder, "text", texts, 3)
    assert (texts["joint"] @ images["joint"].T).argmax(1).tolist() == [0, 1, 2]
    assert fingerprint(encoder.provenance("image")) != fingerprint(encoder.provenance("text"))


def test_shared_cores_take_one_thread_a_product_and_short_turns_of_threads() -> None:
    def blas() -> set[int]:
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    before = blas(), sys.getswitchinterval()
    with shared_cores():
        assert blas() == {1}
        assert sys.getswitchinterval() == pytest.approx(0.0005)
    assert (blas(), sys.getswitchinterval()) == before
