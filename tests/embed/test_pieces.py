"""What tokens stand for, and which part of a picture the patches are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from icehouse.embed.encoder import Encoder, Tokens
from icehouse.embed.mini import Mini
from icehouse.heads.explain import seen_box
from PIL import Image
from toys import ToyEncoder

Load = Callable[[str], Encoder]

TEXTS = ["Flooding in café Ödön, naïve 😀 #storm", "", "word " * 400, "supercalifragilistic!!", "שלום 世界"]


@pytest.mark.parametrize("name", ["mini", "tiny-vit", "tiny-sigmoid"])
def test_every_real_token_has_its_piece(name: str, encoders: Load) -> None:
    encoder = encoders(name)
    for text in TEXTS:
        states = encoder.encode_texts([text], ["tokens"])["tokens"]
        assert isinstance(states, Tokens)
        assert len(encoder.pieces(text)) == states.mask.sum()


@pytest.mark.parametrize("name", ["mini", "tiny-vit"])
def test_pieces_read_as_the_text(name: str, encoders: Load) -> None:
    first, *words, last = encoders(name).pieces("Unbelievable flooding, help!")
    assert "".join(words).replace(" ", "") == "unbelievableflooding,help!"
    assert "".join(words).split()[:1] == ["unbelievable"]
    assert first.strip()[0] in "<["
    assert last.strip()[-1] in ">]"


def test_characters_of_several_bytes_are_whole(encoders: Load) -> None:
    assert "café" in "".join(encoders("tiny-vit").pieces("a café"))


def test_an_encoder_that_cannot_tell_numbers_them() -> None:
    assert ToyEncoder().pieces("one two three") == [" 1", " 2", " 3"]
    assert len(ToyEncoder().pieces("w " * 50)) == 16


def ramps(width: int, height: int) -> Image.Image:
    """Red tells where a pixel lies across, green where down."""
    across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    return Image.fromarray((255 * np.stack([across, down, 0 * down], axis=2)).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (240, 240)])
@pytest.mark.parametrize("mode", ["middle 7/8", "shortest", "longest", "squash"])
def test_the_box_is_what_the_encoder_sees(mode: str, size: tuple[int, int]) -> None:
    picture = ramps(*size)
    if mode == "middle 7/8":
        pixels, about = Mini.prepare_image(None, picture), {"mode": mode, "size": [224, 224]}  # type: ignore[arg-type]
    else:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        steps = image_transform_v2(PreprocessCfg(size=96, resize_mode=mode), is_train=False).transforms
        image: Any = picture
        for step in steps[: next(i for i, s in enumerate(steps) if type(s).__name__ == "MaybeToTensor")]:
            image = step(image)
        pixels, about = np.asarray(image), {"mode": mode, "size": [96, 96]}
    box = seen_box(about, *size)
    assert box is not None
    side = len(pixels)
    for channel, low, high in ((0, box[0], box[2]), (1, box[1], box[3])):
        line = pixels[side // 2, :, channel] if channel == 0 else pixels[:, side // 2, channel]
        expected = low + (np.arange(side) + 0.5) / side * (high - low)
        inside = (expected > 0.03) & (expected < 0.97)
        assert np.abs(line[inside] / 255 - expected[inside]).max() < 0.02
