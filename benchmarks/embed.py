"""`icehouse embed` against the usual loop, in one run: ViT-B/32 on the same JPEGs, and `mini` alone.

    python benchmarks/embed.py [--images 1000] [--rounds 2]

The usual loop is what tutorials show: open_clip's preprocessing in a DataLoader with 2 workers, batches of 32, float32. Both
sides run in processes of their own, in turn; the clock starts when the model is loaded and stops when the vectors are on
disk. Weights are random (the arithmetic is the same), so the cosine compares arithmetic and decoding, not pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine
from pictures import make_jpegs

MODEL = "ViT-B-32"


def save_checkpoint(path: Path) -> None:
    """Save a seeded, randomly initialised model."""
    import open_clip
    import torch

    if not path.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(MODEL, pretrained=None).state_dict(), path)


def usual_loop(pictures: Path, checkpoint: Path, out: Path) -> dict[str, float]:
    """The loop that everybody writes."""
    import open_clip
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    model, _, preprocess = open_clip.create_model_and_transforms(MODEL, pretrained=str(checkpoint))
    model.eval()
    paths = sorted(pictures.iterdir())

    class Pictures(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, i: int) -> torch.Tensor:
            return preprocess(Image.open(paths[i]))

    begun = time.perf_counter()
    vectors = []
    with torch.inference_mode():
        for batch in DataLoader(Pictures(), batch_size=32, num_workers=2):
            vectors.append(torch.nn.functional.normalize(model.encode_image(batch), dim=-1).numpy())
    np.save(out, np.concatenate(vectors))
    return {"seconds": time.perf_counter() - begun}


def icehouse(pictures: Path, encoder_id: str, store: Path, out: Path, exact: bool) -> dict[str, object]:
    """The same through icehouse's own function, joint and pooled both, probe and decoding check included."""
    from icehouse.embed.encoder import load_encoder
    from icehouse.embed.pipeline import embed_sources
    from icehouse.store.store import Store

    encoder = load_encoder(encoder_id, precision="float32" if exact else "auto")
    begun = time.perf_counter()
    report = embed_sources([pictures], store, encoder=encoder, exact=exact)
    seconds = time.perf_counter() - begun
    np.save(out, Store.open(store).features(f"{encoder.name}/image/joint").X)
    return {"seconds": seconds, **report.as_dict()}


def in_process(*arguments: object) -> dict[str, float]:
    """Run one side of this file in a fresh interpreter."""
    command = [sys.executable, __file__, "--side", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def cosines(a: Path, b: Path) -> np.ndarray:
    """Cosine of each row of two arrays; what is stored in float16 is not quite of unit length."""
    X, Y = np.load(a), np.load(b)
    return (X * Y).sum(axis=1) / (np.linalg.norm(X, axis=1) * np.linalg.norm(Y, axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "icehouse-bench")
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, *rest = options.side
        if side == "loop":
            print(json.dumps(usual_loop(*map(Path, rest))))
        else:
            pictures, encoder_id, store, out, exact = rest
            print(json.dumps(icehouse(Path(pictures), encoder_id, Path(store), Path(out), exact == "True")))
        return

    pictures = options.cache / f"jpegs-{options.images}"
    checkpoint = options.cache / f"{MODEL}.pt"
    make_jpegs(pictures, options.images)
    save_checkpoint(checkpoint)
    encoder = f"openclip:{MODEL}/{checkpoint}"
    print(machine("torch", "open_clip_torch", "pillow"))
    print(
        f"{options.images} JPEGs, {sum(p.stat().st_size for p in pictures.iterdir()) / options.images / 1024:.0f} KiB each"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i in range(options.rounds):
            loop = in_process("loop", pictures, checkpoint, folder / "loop.npy")
            ours = in_process("icehouse", pictures, encoder, folder / f"s{i}", folder / "ours.npy", False)
            cosine = cosines(folder / "loop.npy", folder / "ours.npy")
            ratios.append(loop["seconds"] / ours["seconds"])
            print(
                f"round {i + 1}: usual loop {options.images / loop['seconds']:.1f} images/s, "
                f"icehouse {options.images / ours['seconds']:.1f} images/s ({ours['precision']}, {ours['decoding']}), "
                f"ratio {ratios[-1]:.2f}, cosine mean {cosine.mean():.5f} min {cosine.min():.5f}"
            )
            if i == 0:
                for stage in ours["stages"]:  # type: ignore[attr-defined]
                    print(f"    {stage['stage']:13s} could do {stage['per_second']:8.1f}/s")
        exact = in_process("icehouse", pictures, encoder, folder / "exact", folder / "exact.npy", True)
        cosine = cosines(folder / "loop.npy", folder / "exact.npy")
        print(
            f"--exact: {options.images / exact['seconds']:.1f} images/s ({exact['precision']}), "
            f"cosine min {cosine.min():.6f} (vectors stored in float16)"
        )
        mini = in_process("icehouse", pictures, "mini", folder / "mini", folder / "mini.npy", False)
        print(
            f"mini: {options.images / mini['seconds']:.1f} images/s ({mini['precision']}, {mini['decoding']})"
        )
        for stage in mini["stages"]:  # type: ignore[attr-defined]
            print(f"    {stage['stage']:13s} could do {stage['per_second']:8.1f}/s")
    print(f"median ratio {np.median(ratios):.2f} (target 3.5)")


if __name__ == "__main__":
    main()
