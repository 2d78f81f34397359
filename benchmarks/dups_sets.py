"""Sets of pictures with planted near-duplicates and their truth, for `benchmarks/dups_quality.py`.

A set is a folder: `pictures/`, `items.csv` (id, image, and text where the pictures have words) and `truth.csv`, which says
of each file the picture that it is a copy of, the edit, and the sequence of frames that it belongs to. Two files are
duplicates if they come from one picture. Pairs within one sequence, a collage with the pictures in it, and a meme with the
bare picture that its words were written on, are neither right nor wrong.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from icehouse.data.images import decode
from icehouse.data.sample_feed import make_feed
from icehouse.data.sample_scenes import SCENES, paint
from icehouse.data.transforms import GRADED, TRANSFORMS, encode
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]

SUBJECTS = ("my landlord", "the new intern", "your cat", "grandma", "the group chat", "a senior developer", "the weather",
            "every teacher", "the referee", "my phone", "the last train", "monday", "this diet", "the dentist")  # fmt: skip
EVENTS = ("finds the last biscuit", "asks for one small change", "sees the electricity bill", "reads the manual",
          "hears the word homework", "forgets the password again", "wins an argument", "meets the neighbours",
          "arrives five minutes early", "opens the fridge at night", "loses the remote", "says we need to talk")  # fmt: skip


def caption(rng: np.random.Generator) -> tuple[str, str]:
    """Words for the top and for the bottom of a meme."""
    return f"when {SUBJECTS[rng.integers(len(SUBJECTS))]}", str(EVENTS[rng.integers(len(EVENTS))])


def captions(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """`n` different captions."""
    every = [(f"when {a}", b) for a in SUBJECTS for b in EVENTS]
    return [every[i] for i in rng.permutation(len(every))[:n].tolist()]


def write_words(image: Image.Image, words: tuple[str, str]) -> Image.Image:
    """Write narrow white capitals with a black outline at the top and at the bottom, as memes have them."""
    import matplotlib

    face = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    out = image.convert("RGB")
    tall = round(max(14, min(out.height * 0.13, out.width * 0.12)))
    for text, low in zip(words, (False, True), strict=True):
        font = ImageFont.truetype(str(face), tall)
        edge = max(1, tall // 11)
        wide = round(font.getlength(text.upper())) + 4 * edge
        line = Image.new("RGBA", (wide, round(tall * 1.4)))
        ImageDraw.Draw(line).text(
            (2 * edge, 0), text.upper(), "white", font, stroke_width=edge, stroke_fill="black"
        )
        scale = min(0.72, 0.96 * out.width / wide)
        line = line.resize((round(wide * scale), line.height), Image.Resampling.LANCZOS)
        y = out.height - line.height - tall // 6 if low else tall // 6
        out.paste(line, ((out.width - line.width) // 2, y), line)
    return out


def _upscale(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    return image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC)


def _downscale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = float(rng.uniform(0.4, 0.7))
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def _crop(share: float) -> Edit:
    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        wide, high = round(image.width * (1 - share)), round(image.height * (1 - share))
        x, y = rng.integers(image.width - wide + 1), rng.integers(image.height - high + 1)
        return image.crop((x, y, x + wide, y + high))

    return edit


def _words(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return write_words(image, caption(rng))


def _sticker(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A round smiling face or a logo of a channel in a corner."""
    out = image.convert("RGB")
    size = round(min(out.size) * float(rng.uniform(0.18, 0.3)))
    face = Image.new("RGBA", (200, 200))
    draw = ImageDraw.Draw(face)
    if rng.random() < 0.5:
        draw.ellipse((4, 4, 196, 196), "#ffcc33", "#aa7700", 5)
        for x in (66, 134):
            draw.ellipse((x - 13, 60, x + 13, 96), "#553300")
        draw.chord((50, 90, 150, 168), 0, 180, "#773300")
    else:
        draw.rounded_rectangle((4, 44, 196, 156), 24, "#c8102e")
        draw.text(
            (100, 100),
            f"TV{rng.integers(2, 60)}",
            "white",
            ImageFont.load_default(76),
            anchor="mm",
            stroke_width=3,
        )
    face = face.resize((size, size), Image.Resampling.LANCZOS)
    x, y = (
        rng.choice([0.03, 0.97 - size / side]) for side in out.size
    )  # a corner, not over the middle of what is shown
    out.paste(face, (round(x * out.width), round(y * out.height)), face)
    return out


def _tone(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast or gamma."""
    which, more = rng.integers(3), rng.random() < 0.5
    if which == 2:
        power = 0.6 if more else 1.6
        return image.convert("RGB").point([round(255 * (v / 255) ** power) for v in range(256)] * 3)
    maker = (ImageEnhance.Brightness, ImageEnhance.Contrast)[which]
    return maker(image).enhance(float(rng.uniform(1.25, 1.5) if more else rng.uniform(0.6, 0.8)))


def _grey(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def _colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A filter: warmer or colder, and more or less saturated."""
    warm = float(rng.uniform(0.12, 0.25)) * (1 if rng.random() < 0.5 else -1)
    toned = np.asarray(image.convert("RGB"), np.float32) * (1 + warm, 1, 1 - warm)
    return ImageEnhance.Color(Image.fromarray(np.clip(toned, 0, 255).astype(np.uint8))).enhance(
        float(rng.choice([0.6, 1.5]))
    )


def _sharpen(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.UnsharpMask(2, 180, 0))


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    noisy = np.asarray(image.convert("RGB"), np.float32) + rng.normal(0, 14, (image.height, image.width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _gif(image: Image.Image, _rng: np.random.Generator) -> Image.Image:
    return image.convert("RGB").quantize(64).convert("RGB")


def _squash(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    narrow = float(rng.uniform(0.65, 0.8))
    wide, high = (narrow, 1) if rng.random() < 0.5 else (1, narrow)
    return image.resize((round(image.width * wide), round(image.height * high)), Image.Resampling.LANCZOS)


#: The five orientations that are not the original's, without the two that need a corner turned: they are turns of a flip.
TURNS = {"turn_90": Image.Transpose.ROTATE_90, "turn_180": Image.Transpose.ROTATE_180,
         "turn_270": Image.Transpose.ROTATE_270, "flip_across": Image.Transpose.FLIP_LEFT_RIGHT,
         "flip_down": Image.Transpose.FLIP_TOP_BOTTOM}  # fmt: skip


def _turn(how: Image.Transpose) -> Edit:
    return lambda image, _rng: image.transpose(how)


def _quarter_turn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(TURNS[("turn_90", "turn_180", "turn_270")[rng.integers(3)]])


def _app(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A screenshot of a phone with the picture in a post: status bar, name, words, icons, a bar below."""
    dark = rng.random() < 0.5
    ground, ink, faint = ("#15202b", "#f0f0f0", "#8899a6") if dark else ("white", "#14171a", "#657786")
    wide = 540
    high = round(wide * float(rng.uniform(1.75, 2.1)))
    out = Image.new("RGB", (wide, high), ground)
    draw = ImageDraw.Draw(out)
    small, middle = ImageFont.load_default(19), ImageFont.load_default(24)
    draw.text((26, 12), f"{rng.integers(6, 23)}:{rng.integers(10, 60)}", ink, small)
    draw.rectangle((wide - 66, 16, wide - 30, 32), None, ink, 2)
    draw.rectangle((wide - 63, 19, wide - 40, 29), ink)
    draw.line((0, 56, wide, 56), faint, 1)
    colour = tuple(rng.integers(60, 220, 3).tolist())
    draw.ellipse((20, 76, 76, 132), colour)
    draw.text((92, 78), str(rng.choice(["Old Mill", "Lena K.", "City Watch", "newsdesk"])), ink, middle)
    draw.text((92, 108), f"@user{rng.integers(10, 9999)} · {rng.integers(1, 23)}h", faint, small)
    upper, lower = caption(rng)
    draw.text((20, 148), f"{upper} {lower}", ink, small)
    room = (wide - 40, high - 420)
    shown = ImageOps.contain(image.convert("RGB"), room, Image.Resampling.LANCZOS)
    out.paste(shown, ((wide - shown.width) // 2, 190))
    y = 190 + shown.height + 22
    for k, x in enumerate((40, 170, 300, 430)):
        (draw.ellipse, draw.rectangle)[k % 2]((x, y, x + 22, y + 22), None, faint, 2)
        draw.text((x + 32, y - 1), str(rng.integers(3, 999)), faint, small)
    for top in range(y + 60, high - 150, 84):
        draw.ellipse((24, top, 60, top + 36), tuple(rng.integers(60, 220, 3).tolist()))
        draw.text((74, top), f"user{rng.integers(10, 9999)}", faint, small)
        draw.text((74, top + 26), caption(rng)[1], ink, small)
    draw.line((0, high - 84, wide, high - 84), faint, 1)
    for x in (70, 200, 330, 460):
        draw.rounded_rectangle((x - 17, high - 62, x + 17, high - 28), 8, None, ink, 3)
    return out


def _screen(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A photograph of a screen: bezel, a slant, stripes of the pixel grid, glare, noise."""
    shown = image.convert("RGB")
    shown.thumbnail((900, 900), Image.Resampling.BICUBIC)
    across, down = (round(side * 0.07) for side in shown.size)
    out = Image.new("RGB", (shown.width + 2 * across, shown.height + 2 * down), (14, 14, 16))
    out.paste(shown, (across, down))
    w, h = out.size
    lean = rng.uniform(-0.045, 0.045, 8)
    corners = np.array([0, 0, 0, h, w, h, w, 0]) + lean * np.tile([w, h], 4)
    out = out.transform(
        (w, h), Image.Transform.QUAD, corners.tolist(), Image.Resampling.BICUBIC, fillcolor=(52, 47, 44)
    )
    y, x = np.mgrid[:h, :w].astype(np.float32)
    period, angle = rng.uniform(2.6, 5.5), rng.uniform(-0.12, 0.12)
    stripes = 1 + 0.07 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)[..., None]
    cx, cy = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h
    glare = 70 * np.exp(-(((x - cx) / (0.25 * w)) ** 2 + ((y - cy) / (0.25 * h)) ** 2))[..., None]
    seen = np.asarray(out, np.float32) * 0.9 * stripes * (1.03, 1, 0.94) + glare + rng.normal(0, 6, (h, w, 1))
    return Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))


def collage(image: Image.Image, others: Sequence[Image.Image]) -> Image.Image:
    """Four pictures in two rows, `image` first."""
    cell, gap = (480, 360), 8
    out = Image.new("RGB", (2 * cell[0] + 3 * gap, 2 * cell[1] + 3 * gap), "white")
    for k, part in enumerate((image, *others[:3])):
        fitted = ImageOps.fit(part.convert("RGB"), cell, Image.Resampling.LANCZOS)
        out.paste(fitted, (gap + (k % 2) * (cell[0] + gap), gap + (k // 2) * (cell[1] + gap)))
    return out


#: What the internet does to a picture; "collage" needs other pictures and is made by `copy_of`.
EDITS: dict[str, Edit] = {
    "recompress": TRANSFORMS["recompress"], "format": TRANSFORMS["format"], "downscale": _downscale,
    "upscale_3x": _upscale, "crop_5": _crop(0.05), "crop_10": _crop(0.1), "crop_25": _crop(0.25),
    "border": TRANSFORMS["pad"], "caption_band": TRANSFORMS["caption_band"], "words": _words, "sticker": _sticker,
    "watermark": TRANSFORMS["watermark"], "tone": _tone, "greyscale": _grey, "colour": _colour, "blur": GRADED["blur"],
    "sharpen": _sharpen, "noise": _noise, "gif_64": _gif, "rotate": GRADED["rotate"], "quarter_turn": _quarter_turn,
    "flip": GRADED["mirror"], "squashed": _squash, "app_frame": _app, "screen_photo": _screen,
    "collage": lambda image, _rng: image, "crop_quarter": _crop(0.5),
}  # fmt: skip


@dataclass
class Made:
    """A set while it is being written."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(
        self,
        file: str,
        data: bytes,
        source: str,
        edit: str = "",
        *,
        text: str = "",
        also: str = "",
        sequence: str = "",
    ) -> None:
        """Write a file; see the fields of `Row`."""
        path = self.folder / "pictures" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.rows.append(
            {"id": Path(file).stem, "image": f"pictures/{file}", "text": text, "source": source, "edit": edit, "also": also,
             "sequence": sequence}
        )  # fmt: skip

    def finish(self) -> None:
        """Write `items.csv` and `truth.csv`."""
        words = any(row["text"] for row in self.rows)
        for name, columns in (
            ("items.csv", ("id", "image", *(["text"] if words else []))),
            ("truth.csv", ("id", "source", "edit", "also", "sequence")),
        ):
            with (self.folder / name).open("w", encoding="utf-8", newline="") as out:
                writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows)


@dataclass(frozen=True)
class Original:
    """A picture that copies are made of."""

    name: str
    data: bytes
    kind: str
    text: str = ""

    @property
    def image(self) -> Image.Image:
        return decode(self.data).image


def copy_of(
    original: Original, edit: str, rng: np.random.Generator, others: Sequence[Original]
) -> tuple[bytes, str, str]:
    """Bytes of a copy as it would be saved, its file type, and names of other pictures that are in it."""
    image, also = original.image, ""
    if edit == "collage":
        chosen = [others[i] for i in rng.permutation(len(others))[:3].tolist()]
        also = " ".join(other.name for other in chosen)
        return encode(collage(image, [other.image for other in chosen]), "jpg", 88), "jpg", also
    made = (EDITS.get(edit) or GRADED.get(edit) or _turn(TURNS[edit]))(image, rng)
    if edit == "gif_64":
        buffer = io.BytesIO()
        made.quantize(64).save(buffer, "GIF")
        return buffer.getvalue(), "gif", also
    kind = "webp" if edit == "format" else "png" if edit in TURNS else "jpg"
    quality = int(rng.integers(38, 60)) if edit == "recompress" else int(rng.integers(72, 94))
    return encode(made, kind, quality), kind, also


def originals_of(made: Made, originals: Iterable[Original], prefix: str = "") -> list[Original]:
    """Write the originals; give them."""
    listed = list(originals)
    for one in listed:
        made.add(f"{prefix}{one.name}.{one.kind}", one.data, prefix + one.name, text=one.text)
    return listed


def plant(made: Made, originals: Sequence[Original], count: int, seed: int, prefix: str = "") -> None:
    """Add `count` copies of different originals, each changed by one of `GRADED`; these take turns."""
    names = list(GRADED)
    order = np.random.default_rng([seed, 1]).permutation(len(originals))[:count]
    for k, i in enumerate(order.tolist()):
        edit, one = names[k % len(names)], originals[i]
        data, kind, _ = copy_of(one, edit, np.random.default_rng([seed, i, 2]), originals)
        made.add(f"{prefix}{one.name}__{edit}.{kind}", data, prefix + one.name, edit, text=one.text)


def _files(paths: Iterable[Path]) -> list[Original]:
    return [Original(path.stem, path.read_bytes(), path.suffix[1:].lower()) for path in paths]


def textile(n: int = 500) -> list[Original]:
    """Photographs of cloth, all alike: `conformal-clip-data`."""
    import conformal_clip_data

    files = sorted(Path(conformal_clip_data.__file__).parent.rglob("*.jpg"))
    picked = sorted(np.random.default_rng(0).permutation(len(files))[:n].tolist())
    return [Original(f"{files[i].parent.name}_{files[i].stem}", files[i].read_bytes(), "jpg") for i in picked]


def cells(n: int = 500) -> list[Original]:
    """Solar cells in electroluminescence: `elpv-dataset`."""
    import elpv_dataset

    files = sorted((Path(elpv_dataset.__file__).parent / "data" / "images").glob("*.png"))
    return _files(files[i] for i in sorted(np.random.default_rng(0).permutation(len(files))[:n].tolist()))


def feed(folder: Path, n: int = 700) -> list[Original]:
    """Posts of the sample feed with their texts, every third with words on the picture."""
    import json

    made = make_feed(folder, n=round(n * 1.2), seed=3)
    truth = json.loads(made.truth.read_text())
    copies = {pair["item"] for pair in truth["duplicates"]} | set(made.broken)
    rows = [row for row in csv.DictReader(made.posts.open(encoding="utf-8")) if row["id"] not in copies]
    out, rng = [], np.random.default_rng(4)
    for k, row in enumerate(rows[:n]):
        path = made.folder / row["image"]
        one = Original(row["id"], path.read_bytes(), path.suffix[1:], row["text"])
        if k % 3 == 0:
            words = caption(rng)
            drawn = encode(write_words(one.image, words), "jpg", 88)
            one = Original(one.name, drawn, "jpg", f"{row['text']} {' '.join(words)}")
        out.append(one)
    return out


def photographs() -> list[Original]:
    """Photographs and scans of scikit-image and scikit-learn, one of each."""
    import skimage
    import sklearn

    names = ("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
             "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
             "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png")  # fmt: skip
    data = Path(skimage.__file__).parent / "data"
    files = [data / name for name in names] + sorted(
        (Path(sklearn.__file__).parent / "datasets" / "images").glob("*.jpg")
    )
    out = []
    for path in files:
        if path.is_file():
            image = decode(path.read_bytes()).image
            image.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
            out.append(Original(path.stem, encode(image, "jpg", 92), "jpg"))
    return out


def scenes(n: int, seed: int, long_side: int = 640) -> list[Original]:
    """Generated scenes, of every kind but memes and charts."""
    names = [name for name, scene in SCENES.items() if scene.kind != "irrelevant"]
    out = []
    for k in range(n):
        image, _ = paint(np.random.default_rng([seed, k]), names[k % len(names)], long_side=long_side)
        out.append(Original(f"scene-{seed}-{k:03d}", encode(image, "jpg", 90), "jpg"))
    return out


def mixture(n: int, seed: int) -> list[Original]:
    """Photographs first, then scenes."""
    real = photographs()
    return (real + scenes(max(0, n - len(real)), seed))[:n]


def add_templates(
    made: Made,
    prefix: str = "",
    backgrounds: int = 25,
    each: int = 16,
    plain: Mapping[str, str] | None = None,
) -> None:
    """Add `each` memes on every background, with different words: no two are duplicates.

    `plain` are the backgrounds that the set has without words, by name. A picture with words written on it is planted as
    a copy elsewhere (the edit "words"), so that here the two are neither right nor wrong.
    """
    rng = np.random.default_rng(11)
    for ground in mixture(backgrounds, 21):
        image, also = ground.image, (plain or {}).get(ground.name, "")
        for k, words in enumerate(captions(rng, each)):
            drawn = encode(write_words(image, words), "jpg", int(rng.integers(78, 93)))
            name = f"{prefix}{ground.name}-{k:02d}"
            made.add(f"{name}.jpg", drawn, name, text=" ".join(words), also=also)


def add_film(made: Made, name: str, frames: int, seed: int, *, lapse: bool) -> None:
    """Add a time-lapse (fixed camera, light and objects change) or a film (the camera moves by some pixels)."""
    rng = np.random.default_rng(seed)
    wide = paint(rng, str(rng.choice(["houses", "lake", "countryside", "tents"])), long_side=900)[0]
    base = np.asarray(wide.convert("RGB"), np.float32)
    high, w = base.shape[:2]
    for k in range(frames):
        turn = k / frames
        if lapse:
            light = 0.35 + 0.65 * np.sin(np.pi * (0.05 + 0.9 * turn))
            shown = Image.fromarray(
                np.clip(base * light * (1, 0.97, 0.9 + 0.15 * light), 0, 255).astype(np.uint8)
            )
            draw = ImageDraw.Draw(shown)
            x = (turn * 5 % 1) * w
            draw.ellipse((x - 14, high * 0.8 - 14, x + 14, high * 0.8 + 14), (170, 40, 30))
        else:
            shift = round(turn * w * 0.3)
            shown = Image.fromarray(base[:, shift : shift + round(w * 0.7)].astype(np.uint8))
        noisy = np.asarray(shown, np.float32) + rng.normal(0, 5, (shown.height, shown.width, 1))
        shown = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        shown.thumbnail((480, 480))
        file = f"{name}-{k:04d}"
        made.add(f"{file}.jpg", encode(shown, "jpg", 85), file, sequence=name)


def add_copies(
    made: Made, originals: Sequence[Original], each: int, seed: int, names: Sequence[str] | None = None
) -> None:
    """Add `each` different edits of every original."""
    names = list(names or EDITS)
    for i, one in enumerate(originals):
        rng = np.random.default_rng([seed, i])
        for k in sorted(rng.permutation(len(names))[:each].tolist()):
            others = [other for other in originals if other is not one]
            data, kind, also = copy_of(one, names[k], np.random.default_rng([seed, i, k]), others)
            made.add(f"{one.name}__{names[k]}.{kind}", data, one.name, names[k], text=one.text, also=also)


def make_many(folder: Path, n: int, first: int = 0) -> Path:
    """Write `n` small pictures, parts of cloth, cells, scenes and photographs: no truth, for measuring speed."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    whole = textile(2000) + cells(2624) + scenes(700, 91, 400) + photographs()
    rng = np.random.default_rng([92, first])
    for k in range(first, first + n):
        path = pictures / f"{k:06d}.jpg"
        image = whole[k % len(whole)].image
        part = _crop(float(rng.uniform(0.3, 0.6)))(image, rng).resize((160, 160), Image.Resampling.BILINEAR)
        path.write_bytes(encode(_colour(part, rng), "jpg", 85))
    return pictures


def make_copies(folder: Path, each: int, seed: int, *, quick: bool = False) -> Path:
    """Write a set of 63 pictures and `each` different edits of every one, or find it there."""
    if not (folder / "truth.csv").exists():
        made = Made(folder)
        add_copies(made, originals_of(made, mixture(16 if quick else 63, 51)), each, seed)
        made.finish()
    return folder


def make_set(name: str, folder: Path, *, quick: bool = False) -> Path:
    """Write the set `name` into a folder, or find it there."""
    if (folder / "truth.csv").exists():
        return folder
    made, part = Made(folder), 4 if quick else 1
    SETS[name](made, part)
    made.finish()
    return folder


def _planted(collect: Callable[[Path, int], list[Original]], count: int) -> Callable[[Made, int], None]:
    def write(made: Made, part: int) -> None:
        plant(made, originals_of(made, collect(made.folder, part)), count // part, 5)

    return write


def _mixed(made: Made, part: int) -> None:
    for prefix, collected in (
        ("feed-", feed(made.folder / "feed", 700 // part)), ("textile-", textile(500 // part)),
        ("cells-", cells(500 // part)), ("mixture-", mixture(80 // part, 31)),
    ):  # fmt: skip
        counts = {"feed-": 280, "textile-": 196, "cells-": 196, "mixture-": 70}
        plant(made, originals_of(made, collected, prefix), counts[prefix] // part, 5, prefix)
    plain = {one.name: f"mixture-{one.name}" for one in mixture(80 // part, 31)}
    add_templates(made, "template-", 25 // part, plain=plain)
    add_film(made, "lapse", 400 // part, 41, lapse=True)
    add_film(made, "film", 200 // part, 42, lapse=False)


def _rich(each: int) -> Callable[[Made, int], None]:
    def write(made: Made, part: int) -> None:
        add_copies(made, originals_of(made, mixture(63 // part, 51)), each, 52)

    return write


def _lapse(made: Made, part: int) -> None:
    add_film(made, "lapse", 500 // part, 61, lapse=True)
    plant(made, originals_of(made, scenes(60 // part, 62)), 56 // part, 63)


def _turned(made: Made, part: int) -> None:
    add_copies(made, originals_of(made, mixture(120 // part, 71)), len(TURNS), 72, list(TURNS))


SETS: dict[str, Callable[[Made, int], None]] = {
    "few": _planted(lambda folder, part: mixture(40, 81), 28),
    "templates": lambda made, part: add_templates(made, backgrounds=25 // part),
    "textile": _planted(lambda folder, part: textile(500 // part), 196),
    "cells": _planted(lambda folder, part: cells(500 // part), 196),
    "feed": _planted(lambda folder, part: feed(folder / "feed", 700 // part), 280),
    "copies-3": _rich(3),
    "copies-12": _rich(12),
    "copies-23": _rich(23),
    "turned": _turned,
    "time-lapse": _lapse,
    "mixed": _mixed,
}


if __name__ == "__main__":
    for name in sys.argv[2:]:
        print(make_set(name, Path(sys.argv[1]) / name))
