"""Bombs: files that cost far more than their pixels are refused, and odd metadata costs nothing."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.data import bombs, images
from icehouse.data.bombs import MAX_SCANS, Memory, exif_orientation, read_column
from icehouse.data.images import decode
from icehouse.data.readers import read_rows
from icehouse.errors import ImageError, SourceError
from image_bytes import chunk, encoded, scene
from PIL import Image


def same(data: bytes, plain: bytes) -> bool:
    return np.array_equal(np.asarray(decode(data).image), np.asarray(decode(plain).image))


def after(data: bytes, place: int, *parts: bytes) -> bytes:
    return data[:place] + b"".join(parts) + data[place:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def exif(orientation: int, tags: int = 0, shared: int = 0) -> bytes:
    """An EXIF block, with further tags that all have the same `shared` bytes as their value."""
    start = 8 + 2 + 12 * (tags + 1) + 4
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += b"".join(struct.pack("<HHII", 0x9000 + k, 7, shared, start) for k in range(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, tags + 1) + entries + bytes(4 + shared)


def with_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(scene(48, 32), "JPEG", progressive=True, quality=60)
    start = data.rindex(b"\xff\xda")
    table = data.rfind(b"\xff\xc4", 0, start)
    last = data[table:-2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted() -> None:
    with pytest.raises(ImageError, match=r"2,000 scans.*bomb"):
        decode(with_scans(2000))
    with pytest.raises(ImageError, match=rf"{MAX_SCANS + 1} scans.*bomb"):
        decode(with_scans(MAX_SCANS + 1))
    plain = encoded(scene(48, 32), "JPEG", progressive=True, quality=60)
    assert same(plain, plain)
    # Rubbish between the segments, which decoders skip, hides nothing.
    for rubbish in (b"xyz", b"\xff\xff\xff", b"\xff\0", b"\0" * 9):
        assert same(after(plain, 20, rubbish), plain)
        with pytest.raises(ImageError, match=r"2,000 scans.*bomb"):
            decode(after(with_scans(2000), 20, rubbish))
    with pytest.raises(ImageError, match=r"2,000 scans.*bomb"):
        decode(after(with_scans(2000), 20, b"\xff\xe1\0\1"))
    # What follows the picture is not of it: the second picture of a phone's file, a short film.
    assert same(plain + b"\xff\xda" * 5000, plain)


def test_scans_of_a_large_picture_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "MAX_SCANNED", 48 * 32 * 30)
    assert decode(with_scans(30)).width == 48
    with pytest.raises(ImageError, match=r"31 scans, at most 30.*bomb"):
        decode(with_scans(31))


def test_metadata_of_a_jpeg_is_left_out() -> None:
    plain = encoded(scene(48, 32), "JPEG")
    more = [segment(0xE1, exif(1, 4000, 16000)[:65000]) for _ in range(300)]
    more += [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 60000), segment(0xFE, b"y" * 60000)]
    more += [segment(0xE2, b"ICC_PROFILE\0\1\1" + b"z" * 60000)]
    assert same(after(plain, 2, *more), plain)


def test_metadata_of_a_png_is_left_out() -> None:
    plain = encoded(scene(48, 32), "PNG")
    bomb = zlib.compress(bytes(50_000_000), 9)
    more = [chunk(b"zTXt", b"Comment\0\0" + bomb), chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)]
    more += [chunk(b"iCCP", b"profile\0\0" + bomb), chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb)]
    assert same(after(plain, 33, *more * 3), plain)


def test_too_many_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "MAX_PARTS", 100)
    with pytest.raises(ImageError, match=r"segments.*bomb"):
        decode(after(encoded(scene(48, 32), "JPEG"), 2, *[segment(0xFE, b"")] * 200))
    with pytest.raises(ImageError, match=r"chunks.*bomb"):
        decode(after(encoded(scene(48, 32), "PNG"), 33, *[chunk(b"tEXt", b"")] * 200))
    tiff = bytearray(encoded(scene(48, 32), "TIFF"))
    directory = struct.unpack_from("<I", tiff, 4)[0]
    for k in range(struct.unpack_from("<H", tiff, directory)[0]):
        at = directory + 2 + 12 * k
        if struct.unpack_from("<H", tiff, at)[0] == 273:
            struct.pack_into("<I", tiff, at + 4, 5000)
    with pytest.raises(ImageError, match=r"strips.*bomb"):
        decode(bytes(tiff))


@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        *((kind, 0) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
        *((kind, 3000) for kind in ("JPEG", "PNG", "WEBP")),
    ],
)
def test_orientation_is_read_whatever_else_the_metadata_hold(kind: str, tags: int) -> None:
    data = encoded(scene(48, 32), kind, exif=exif(6, tags, 20000)[: 65000 if tags else None])
    assert (decode(data).width, decode(data).height) == (32, 48)


def test_orientation_of_other_metadata() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    jpeg, png = encoded(scene(48, 32), "JPEG"), encoded(scene(48, 32), "PNG")
    lines = f"\nexif\n{len(exif(8)):8}\n{exif(8).hex()}\n".encode()
    made = [
        after(jpeg, 2, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)),
        after(png, 33, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
        after(png, 33, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))),
        after(png, 33, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(lines))),
        after(png, 33, chunk(b"tEXt", b"Raw profile type APP1\0" + lines)),
    ]
    assert [(decode(data).width, decode(data).height) for data in made] == [(32, 48)] * 5


def test_damaged_metadata_are_upright() -> None:
    for block in (b"", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", exif(0), exif(9), exif(6)[:14], b"\0" * 50):
        assert exif_orientation(block) == 1
    assert [exif_orientation(exif(k)) for k in range(1, 9)] == list(range(1, 9))
    assert exif_orientation(b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 5, 0)) == 5


def test_frames_are_not_looked_at_for_ever() -> None:
    frames = [Image.new("RGB", (8, 8), (k % 2 * 60, 0, 0)) for k in range(bombs.MAX_FRAMES + 8)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        assert decode(encoded(frames[0], kind, save_all=True, append_images=[*frames, scene(8, 8)])).blank


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_time_for_a_file_is_limited(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(48, 32), kind)
    monkeypatch.setattr(bombs, "MAX_SECONDS", -1.0)
    with pytest.raises(ImageError, match=r"takes more than.*bomb"):
        decode(data)


def test_memory_is_shared_by_all_that_decode() -> None:
    memory, most, at_once, held = Memory(100), [0], [0], threading.Lock()

    def work(needed: int) -> None:
        with memory.hold(needed):
            with held:
                at_once[0] += needed
                most[0] = max(most[0], at_once[0])
            with held:
                at_once[0] -= needed

    threads = [threading.Thread(target=work, args=(40,)) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 100
    work(1000)  # too much for all together, and still done alone
    assert (memory.held, most[0]) == (0, 1000)


def test_decoding_holds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Noted(Memory):
        def hold(self, needed: int) -> AbstractContextManager[None]:
            asked.append(needed)
            return super().hold(needed)

    memory = Noted(10**9)
    monkeypatch.setattr(images, "_memory", lambda: memory)
    for kind in ("PNG", "JPEG"):
        data = encoded(scene(400, 300), kind)
        decode(data)
        assert asked.pop() >= 400 * 300 * 4 + len(data)
        with pytest.raises(ImageError):
            decode(data[: len(data) // 2])
        assert asked.pop() > 0
    assert memory.held == 0


def repeated(value: str | bytes, times: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), pa.array([value]))


@pytest.mark.parametrize(
    "columns",
    [
        {"text": repeated("x" * 200_000, 200)},
        {"image": repeated(encoded(scene(48, 32), "PNG") + bytes(200_000), 200)},
        {"text": pa.ListArray.from_arrays([0, *range(200), 200], repeated("x" * 200_000, 200))},
        {"label": pa.array(np.zeros(4_000_000, np.int64))},
        {"text": pa.array(["y" * 3_000_000])},
        {"labels": pa.array([["a"] * 400_000])},
    ],
    ids=["text", "bytes", "lists of text", "rows", "one cell", "list"],
)
def test_a_parquet_file_that_expands_is_refused(
    columns: dict[str, pa.Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bombs, "MAX_VALUES", 100_000)
    monkeypatch.setattr(bombs, "MAX_UNPACKED", 1_000_000)
    monkeypatch.setattr(bombs, "MAX_EXPANDED", 10_000_000)
    rows = len(next(iter(columns.values())))
    table = pa.table({"id": pa.array(np.zeros(rows, np.int64)), **columns})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 40_000
    (name,) = columns
    with pytest.raises(SourceError, match=r"bomb\.parquet.*refused as a decompression bomb"):
        read_column(tmp_path / "bomb.parquet", name)
    if name != "image":
        with pytest.raises(SourceError, match="refused as a decompression bomb"):
            read_rows(tmp_path / "bomb.parquet", lambda header: header.columns)


def test_an_honest_parquet_file_is_read_as_it_is(tmp_path: Path) -> None:
    words = ["sun", "rain", "a word that comes again and again", None]
    table = pa.table(
        {
            "id": pa.array(np.arange(4000)),
            "text": pa.array([words[k % 4] for k in range(4000)]),
            "labels": pa.array([[words[k % 3], "b"] for k in range(4000)]),
        }
    )
    pq.write_table(table, tmp_path / "posts.parquet", compression="zstd")
    assert read_column(tmp_path / "posts.parquet", "text").to_pylist() == table["text"].to_pylist()
    assert read_column(tmp_path / "posts.parquet", "labels").to_pylist() == table["labels"].to_pylist()
    assert read_column(tmp_path / "posts.parquet", "labels").type == table["labels"].type
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    assert len(read_column(tmp_path / "none.parquet", "text")) == 0


def mutations(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Flipped bits, cut ends, zeroed and repeated stretches, extreme numbers."""
    for k in range(count):
        made = bytearray(data)
        at = int(rng.integers(min(len(made), 400) if k % 2 else len(made)))
        kind = k % 6
        if kind in (0, 1):
            for _ in range(int(rng.integers(1, 6))):
                made[int(rng.integers(len(made)) if kind else at)] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del made[at:]
        elif kind == 3:
            made[at : at + 16] = bytes(min(16, len(made) - at))
        elif kind == 4:
            made[at:at] = made[max(0, at - int(rng.integers(64))) : at]
        else:
            made[at : at + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1"][k % 4]
        yield bytes(made)


def files() -> dict[str, bytes]:
    """A small file of every format, and of those that have several kinds of samples one of each."""
    colour, grey = scene(48, 32), scene(48, 32).convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    cut = colour.convert("RGBA")
    cut.putalpha(grey)
    several = {"save_all": True, "append_images": [colour, colour.rotate(90)]}
    made = {
        "JPEG": encoded(colour, "JPEG", exif=exif(6)),
        "JPEG, progressive": encoded(colour, "JPEG", progressive=True),
        "JPEG, CMYK": encoded(colour.convert("CMYK"), "JPEG"),
        "PNG": encoded(colour, "PNG"),
        "PNG, palette": encoded(colour.quantize(16), "PNG", transparency=3),
        "PNG, 16 bits": encoded(Image.fromarray(deep), "PNG"),
        "PNG, animated": encoded(Image.new("RGB", (48, 32)), "PNG", **several),
        "GIF": encoded(Image.new("RGB", (48, 32)), "GIF", **several),
        "WEBP": encoded(cut, "WEBP"),
        "WEBP, lossless": encoded(cut, "WEBP", lossless=True),
        "WEBP, animated": encoded(Image.new("RGB", (48, 32)), "WEBP", **several),
        "BMP": encoded(colour.quantize(16), "BMP"),
        "PPM": encoded(colour, "PPM"),
        "AVIF": encoded(cut, "AVIF", speed=10),
        "AVIF, animated": encoded(Image.new("RGB", (48, 32)), "AVIF", speed=10, **several),
        "TIFF, floats": encoded(Image.fromarray(np.asarray(grey, np.float32)), "TIFF"),
        "TIFF, integers": encoded(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "TIFF, pages": encoded(Image.new("RGB", (48, 32)), "TIFF", **several),
    }
    for packed in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        source = grey.convert("1") if packed == "group4" else colour
        made[f"TIFF, {packed}"] = encoded(source, "TIFF", compression=packed)
    try:
        import pillow_heif
    except ImportError:
        return made
    pillow_heif.register_heif_opener()
    return made | {"HEIF": encoded(colour, "HEIF"), "HEIF, several": encoded(colour, "HEIF", **several)}


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_picture_or_one_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng([7, *name.encode()])
    reasons: list[str] = []
    for data in mutations(FILES[name], rng, 24):
        try:
            picture = decode(data, shortest=16, hashed=True)
        except ImageError as error:
            reasons.append(str(error))
        else:
            assert picture.image.mode == "RGB"
            assert min(picture.image.size) > 0
            assert picture.phash is not None
    assert reasons
    assert all(0 < len(reason) < 400 and "\n" not in reason for reason in reasons)
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


def test_what_pillow_logs_stays_out_of_the_terminal() -> None:
    """In a process of its own, since pytest has handlers for all that is logged."""
    tiff = tuple(encoded(Image.new("RGB", (4, 4)), "TIFF"))
    code = (
        "import struct; from icehouse.data.images import decode\n"
        f"data = bytearray({tiff}); start = struct.unpack_from('<I', data, 4)[0]\n"
        "for k in range(struct.unpack_from('<H', data, start)[0]):\n"
        "    if struct.unpack_from('<H', data, start + 2 + 12 * k)[0] == 277:\n"
        "        struct.pack_into('<H', data, start + 10 + 12 * k, 771)\n"
        "try:\n    decode(bytes(data))\nexcept Exception as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("damaged TIFF: its header cannot be read")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_an_icon_is_no_image() -> None:
    icon = encoded(scene(48, 32), "ICO")
    with pytest.raises(ImageError, match="icon"):
        decode(icon[:20] + b"\xff" * 4 + icon[24:])


def test_what_follows_the_only_scan_of_a_jpeg_is_not_read() -> None:
    data = encoded(scene(48, 32), "JPEG")
    more = data + data[data.index(b"\xff\xda") :] * 500
    assert decode(more).image.tobytes() == decode(data).image.tobytes()
