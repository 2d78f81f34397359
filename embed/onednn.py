"""oneDNN linear layers: weights laid out in advance, which makes a CPU fast.

PyTorch's own path re-reads plain weights on every call, and in float32 goes through a BLAS that knows nothing of AMD's
AVX-512. Prepacked oneDNN kernels ran a ViT-B/32 on such a processor 2.2 times as fast in float32, and 3.9 times in
bfloat16 (`benchmarks/embed.py` compares on yours). Only matrix products change precision: norms, sums and the residual
stream stay in float32, which is where the large activations of real CLIP weights would lose bits.

The two operators are those that torch's compiler emits, and no documented interface. So nothing rests on them: `pack`
compares the packed model with the plain one, and puts the plain layers back if they disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from .device import autocast

__all__ = ["pack"]

#: Cosine that a packed model must reach against the plain one, by arithmetic.
_AGREEMENT = {"float32": 0.999999, "bfloat16": 0.998}


class _PackedLinear(nn.Module):
    """y = act(x Wᵀ + b), with W in oneDNN's layout."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, *, gelu: bool = False
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.activation = "gelu" if gelu else "none"
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), None)
        self.bias = None if bias is None else bias.detach().to(dtype)
        # Towers ask a layer's weight for its dtype, to cast their input: float32 keeps the residual stream whole.
        # Code that would compute with it fails on the shape, and `pack` then leaves the model alone.
        self.weight = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype),
            self.packed,
            self.bias,
            self.activation,
            [],
            "none" if self.activation == "gelu" else "",
        )


class _PackedSelfAttention(nn.Module):
    """Stand-in for a self-attending `nn.MultiheadAttention` with batches first."""

    def __init__(self, attention: nn.MultiheadAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.qkv = _PackedLinear(attention.in_proj_weight, attention.in_proj_bias, dtype)
        self.out = _PackedLinear(attention.out_proj.weight, attention.out_proj.bias, dtype)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        if not (query is key is value):
            raise ValueError("packed for self-attention only")
        b, t, _ = query.shape
        q, k, v = self._split(query)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        if mask is not None and mask.ndim == 3:
            mask = mask.view(b, self.heads, t, t)
        return self._joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)), None

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """What the first of the tokens x (b, t, d) gathers from all: (b, 1, d)."""
        q, k, v = self._split(x)
        return self._joined(F.scaled_dot_product_attention(q[:, :, :1], k, v))

    def _split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of x (b, t, d), each (b, heads, t, d / heads)."""
        return self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def _joined(self, attended: torch.Tensor) -> torch.Tensor:
        return self.out(attended.transpose(1, 2).flatten(2))


class _PackedPatches(nn.Module):
    """A convolution whose windows do not overlap: one linear map of each patch."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.patch = conv.kernel_size
        # Rows, columns, channels: the order in which pixels lie in memory (see `prepare_image`).
        weight = conv.weight.detach().permute(0, 2, 3, 1).flatten(1)
        self.linear = _PackedLinear(weight, conv.bias, dtype)
        self.weight = self.linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (height, width), (rows, columns) = self.patch, x.shape[2:]
        h, w = rows // height, columns // width
        x = (
            x[:, :, : h * height, : w * width].unflatten(3, (w, width)).unflatten(2, (h, height))
        )  # n c h i w j
        patches = x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        # Back to float32: this output starts the residual stream, which takes its dtype from it.
        return self.linear(patches).float().transpose(1, 2).unflatten(2, (h, w))


def pack(model: nn.Module, precision: str, run: Callable[[], torch.Tensor]) -> bool:
    """Swap a model's layers for packed ones, in place, if that leaves its result alone.

    False if the model is as it was: this torch lacks the operators, or the model reaches into its layers'
    weights.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    plain = run().float()
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        _swap(model, getattr(torch, precision), swapped)
        with autocast("cpu", precision):
            agreement = F.cosine_similarity(plain, run().float(), dim=-1).min().item()
    except (RuntimeError, AttributeError, TypeError, ValueError):
        agreement = float("nan")
    if agreement >= _AGREEMENT[precision]:
        return True
    for parent, name, child in reversed(swapped):
        setattr(parent, name, child)
    return False


def _swap(parent: nn.Module, dtype: torch.dtype, swapped: list[tuple[nn.Module, str, nn.Module]]) -> None:
    """Swap what can be packed below `parent`, and note what was there."""

    def put(name: str, new: nn.Module) -> None:
        swapped.append((parent, name, getattr(parent, name)))
        setattr(parent, name, new)

    children = dict(parent.named_children())
    for name, child in children.items():
        if isinstance(child, nn.MultiheadAttention):
            if _attends_to_itself(parent, child):
                put(name, _PackedSelfAttention(child, dtype))
        elif type(child) is nn.Linear:
            gelu = _following_gelu(parent, name)
            put(name, _PackedLinear(child.weight, child.bias, dtype, gelu=gelu is not None))
            if gelu is not None:
                put(gelu, nn.Identity())
        elif type(child) is nn.Conv2d and _is_patch_embedding(child):
            put(name, _PackedPatches(child, dtype))
        else:
            _swap(child, dtype, swapped)


def _attends_to_itself(parent: nn.Module, attention: nn.MultiheadAttention) -> bool:
    # A pooler holds queries of its own, and attends from them to the tokens.
    plain = attention.bias_k is None and not attention.add_zero_attn and attention.batch_first
    return bool(plain and attention._qkv_same_embed_dim and not hasattr(parent, "query"))


def _following_gelu(parent: nn.Module, name: str) -> str | None:
    """Name of the exact GELU that a sequence applies straight to the layer `name`."""
    if not isinstance(parent, nn.Sequential):
        return None
    following: Any = dict(zip(parent._modules, list(parent._modules)[1:], strict=False)).get(name)
    layer = parent._modules.get(following) if following is not None else None
    return following if type(layer) is nn.GELU and layer.approximate == "none" else None


def _is_patch_embedding(conv: nn.Conv2d) -> bool:
    windows = conv.kernel_size == conv.stride and conv.padding == (0, 0) and conv.dilation == (1, 1)
    return bool(windows and conv.groups == 1 and conv.kernel_size[0] >= 8)
