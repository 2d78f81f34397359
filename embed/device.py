"""Device selection: where a model runs, in what precision, in batches of what size.

float32 is always right. A lower precision is chosen only where the hardware computes in it, since emulating one is
slower than float32.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..errors import EncoderError, UsageError

__all__ = [
    "PRECISIONS",
    "StreamPool",
    "autocast",
    "batch_size",
    "choose_device",
    "choose_precision",
    "describe",
    "streams",
]

#: What `choose_precision` understands, besides "auto".
PRECISIONS = ("float32", "bfloat16", "float16")


def choose_device(wanted: str = "auto") -> str:
    """Device to compute on. A torch device."""
    # Huge pages for activations: a tenth faster on a CPU, more for convolutions. Torch asks once, at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError as error:
        raise UsageError(f"no device {wanted!r}; there are auto, cuda, mps, cpu") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise EncoderError(f"this machine has no {kind} device that torch can use; use --device auto")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """Arithmetic of the forward pass on `device`. One of `PRECISIONS`."""
    if wanted not in ("auto", *PRECISIONS):
        raise UsageError(f"no precision {wanted!r}; there are auto, {', '.join(PRECISIONS)}")
    kind = device.partition(":")[0]
    if wanted != "auto":
        if kind == "cpu" and wanted == "float16":
            raise EncoderError(
                "the CPU computes in float32 or bfloat16, not in float16; use --precision auto"
            )
        return wanted
    if kind == "cuda":
        return _cuda_precision(device)
    # MPS: half precision gains little there, and float32 is what can be trusted without a probe of the machine.
    return "bfloat16" if kind == "cpu" and _cpu_has_bfloat16() else "float32"


def _cuda_precision(device: str) -> str:
    import torch

    major, _minor = torch.cuda.get_device_capability(device)
    if major >= 8 and torch.cuda.is_bf16_supported():
        return "bfloat16"
    return "float16" if major >= 7 else "float32"


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 (AVX-512 BF16 or AMX tiles), by torch's own detection."""
    import torch

    # Underscored in torch: a version without them is answered as a processor without the instructions.
    return any(
        getattr(torch.cpu, name, lambda: False)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Context in which matrix products run in `precision` and sums, norms and residuals stay in float32."""
    if precision == "float32":
        return nullcontext()
    import torch

    return torch.autocast(device.partition(":")[0], dtype=getattr(torch, precision))


def batch_size(device: str, parameters: int) -> int:
    """Rows a batch that fill the device without straining its memory."""
    kind = device.partition(":")[0]
    small, medium, large = {"cuda": (256, 128, 64), "mps": (64, 32, 16)}.get(kind, (32, 16, 8))
    if parameters < 250_000_000:  # up to ViT-B
        return small
    return medium if parameters < 700_000_000 else large  # up to ViT-L, and beyond


class StreamPool(ThreadPoolExecutor):
    """Threads that encode a batch each, on one core each.

    Cores that share a batch wait for each other after every layer, and all of them wait for one that a decoding thread
    has taken. A batch a core does without: a quarter more images a second on two cores.
    """

    def __init__(self, streams: int) -> None:
        import torch

        # Torch keeps the number for threads that are yet to come, so it is put back afterwards.
        self._before = torch.get_num_threads()
        threads = 1 if streams > 1 else self._before
        super().__init__(
            streams,
            thread_name_prefix="icehouse-encode",
            initializer=torch.set_num_threads,
            initargs=(threads,),
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        import torch

        super().shutdown(wait, cancel_futures=cancel_futures)
        torch.set_num_threads(self._before)


def streams(device: str) -> int:
    """Batches to encode at once: one for each thread that torch would use on a CPU, one on any other device."""
    import torch

    return torch.get_num_threads() if device.partition(":")[0] == "cpu" else 1


def describe(device: str) -> str:
    """One line for people: the device's name and, on a CPU, whether it multiplies in bfloat16."""
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind == "mps":
        return "Apple GPU (MPS)"
    return f"CPU, {torch.get_num_threads()} threads, {'with' if _cpu_has_bfloat16() else 'without'} bfloat16"
