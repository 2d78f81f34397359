"""The two networks behind `mini`, in plain torch: EfficientNet-lite0 for images, MiniLM for texts.

Both are small enough to write down, which spares the seconds that importing `transformers` takes, and lets a CPU run them
on fused kernels (`packed`). The weights are those of the packages, unchanged; the tests compare with the original code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

__all__ = ["EfficientNetLite0", "MiniLM"]

#: Blocks of lite0 that halve the resolution; all others keep it.
_HALVING_BLOCKS = {1, 3, 5, 11}
_NORM_EPSILON = 1e-3


class _Convolution(nn.Module):
    """Convolution, batch norm and ReLU6 in one.

    A strided convolution in TensorFlow's "same" padding pads one more on the right than on the left. A kernel with a row
    and a column of noughts in front, padded evenly, does the same, and spares a copy of the largest feature maps.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        state: Mapping[str, torch.Tensor],
        conv: str,
        norm: str,
        *,
        stride: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        weight = state[f"{conv}.weight"]
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _NORM_EPSILON)
        self.groups = weight.shape[0] if weight.shape[1] == 1 else 1  # a depthwise kernel sees one channel
        self.padding, self.stride, self.activate = (weight.shape[-1] - 1) // 2, stride, activate
        weight = weight * scale[:, None, None, None]
        if stride == 2:
            weight = F.pad(weight, (1, 0, 1, 0))
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
        self.fused = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fused:
            act, bounds = ("hardtanh", [0.0, 6.0]) if self.activate else ("none", [])
            twice = [self.padding] * 2, [self.stride] * 2, [1, 1]
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *twice, self.groups, act, bounds, ""
            )
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return F.relu6(x) if self.activate else x


class _Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to its input where the shape is the same."""

    def __init__(self, state: Mapping[str, torch.Tensor], prefix: str, *, stride: int) -> None:
        super().__init__()
        widens = f"{prefix}._expand_conv.weight" in state
        self.widen = (
            _Convolution(state, f"{prefix}._expand_conv", f"{prefix}._bn0") if widens else nn.Identity()
        )
        self.filter = _Convolution(state, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride=stride)
        self.narrow = _Convolution(state, f"{prefix}._project_conv", f"{prefix}._bn2", activate=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.narrow(self.filter(self.widen(x)))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 (Tan & Le 2019, in its variant without squeeze-excitation), batch norms folded in."""

    classes: torch.Tensor
    class_bias: torch.Tensor

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.stem = _Convolution(state, "_conv_stem", "_bn0", stride=2)
        count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))
        self.blocks = nn.Sequential(
            *(_Block(state, f"_blocks.{i}", stride=2 if i in _HALVING_BLOCKS else 1) for i in range(count))
        )
        self.head = _Convolution(state, "_conv_head", "_bn1")
        self.register_buffer("classes", state["_fc.weight"])
        self.register_buffer("class_bias", state["_fc.bias"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (n, 3, 224, 224) to feature maps (n, 1280, 7, 7)."""
        return self.head(self.blocks(self.stem(images)))

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Mean features (n, 1280) to probabilities of the 1000 classes of ImageNet."""
        return F.linear(pooled, self.classes, self.class_bias).softmax(-1)

    def fuse(self, sample: torch.Tensor) -> bool:
        """Let oneDNN apply ReLU6 inside the convolution, if this torch can and the result stays; see `packed`."""
        plain = self(sample).flatten(1)
        convolutions = [module for module in self.modules() if isinstance(module, _Convolution)]
        try:
            for convolution in convolutions:
                convolution.fused = True
            agreement = F.cosine_similarity(plain, self(sample).flatten(1), dim=-1).min().item()
        except (RuntimeError, AttributeError, TypeError):
            agreement = float("nan")
        if agreement > 0.999999:
            return True
        for convolution in convolutions:
            convolution.fused = False
        return False


class _Layer(nn.Module):
    """One layer of BERT: attention and a two-layer perceptron, each added to its input and normed after."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.last_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = (
            self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        )  # each n h t c
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.norm(x + self.out(attended.transpose(1, 2).reshape(n, t, d)))
        return self.last_norm(x + self.mlp(x))


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): a BERT of six layers, 384 wide."""

    heads = 12
    positions: torch.Tensor

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        width = state["embeddings.word_embeddings.weight"].shape[1]
        # Every text is of type 0, so its embedding is part of every position's.
        positions = (
            state["embeddings.position_embeddings.weight"]
            + state["embeddings.token_type_embeddings.weight"][0]
        )
        self.words = nn.Embedding.from_pretrained(state["embeddings.word_embeddings.weight"])
        self.register_buffer("positions", positions)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        count = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layer."))
        inner = state["encoder.layer.0.intermediate.dense.weight"].shape[0]
        self.layers = nn.ModuleList(_Layer(width, self.heads, inner) for _ in range(count))
        self._fill(state)

    def _fill(self, state: Mapping[str, torch.Tensor]) -> None:
        renamed = {f"norm.{part}": state[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")}
        for i in range(len(self.layers)):
            old, new = f"encoder.layer.{i}", f"layers.{i}"
            for part in ("weight", "bias"):
                renamed[f"{new}.qkv.{part}"] = torch.cat(
                    [state[f"{old}.attention.self.{which}.{part}"] for which in ("query", "key", "value")]
                )
                renamed[f"{new}.out.{part}"] = state[f"{old}.attention.output.dense.{part}"]
                renamed[f"{new}.norm.{part}"] = state[f"{old}.attention.output.LayerNorm.{part}"]
                renamed[f"{new}.mlp.0.{part}"] = state[f"{old}.intermediate.dense.{part}"]
                renamed[f"{new}.mlp.2.{part}"] = state[f"{old}.output.dense.{part}"]
                renamed[f"{new}.last_norm.{part}"] = state[f"{old}.output.LayerNorm.{part}"]
        done = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name in ("words.weight", "positions")
        }
        self.load_state_dict({**renamed, **done})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids and their mask, both (n, t), to word states (n, t, 384)."""
        x = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        return x

    @staticmethod
    def pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean of the real words' states: (n, t, 384) and (n, t) to (n, 384)."""
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
