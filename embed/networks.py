"""Networks in torch: towers of open_clip's models, EfficientNet-lite0 and MiniLM of `mini`, oneDNN's linear layers.

open_clip's towers end in a projection to the joint space and return only what lies behind it. Here the projection is taken
off and applied by hand, so that joint, pooled and token states come from one forward pass. What a tower calls its pooled
state:

=====================  ==========================================================  =======================================
tower                  pooled                                                      tokens
=====================  ==========================================================  =======================================
ViT, CoCa              class token (or mean) behind the last norm                  patches (CoCa: pooling queries)
ResNet                 what attention pooling gathers, before its last linear map  the 7×7 grid before pooling
timm                   what the head projects; none if nothing is projected        patches or grid of the trunk
text transformer       state of the end-of-text (or last) token                    every word piece, start and end included
Hugging Face text      what the pooler gathers; none if nothing is projected       every word piece
=====================  ==========================================================  =======================================

Where a tower projects nothing (SigLIP's images), its joint vector already is its pooled state, and `pooled` is not offered.

The networks of `mini` are small enough to write down, which spares the seconds that importing `transformers` takes, and lets
a CPU run them on fused kernels. Their weights are those of the packages, unchanged; the tests compare with the original
code. `pack` gives linear layers of any model oneDNN's layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)  # noqa: N812 (torch's own name for it)

from .encoder import autocast


@dataclass(frozen=True)
class States:
    """What one forward pass gives: `joint` (n, d), not yet of unit length; `pooled` (n, p); `tokens` (n, t, w).

    `mask` (n, t) is True where a token is real; None means everywhere.
    """

    joint: torch.Tensor
    pooled: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    mask: torch.Tensor | None = None


class Tower(ABC):
    """One tower of a model: a batch in, `States` out."""

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module  # of a class that only open_clip, timm or transformers can name

    @abstractmethod
    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        """Run the tower on normalised images (n, c, h, w) or token ids (n, t).

        Without `tokens`, a tower may leave out what only they would need.
        """


def open_image_tower(visual: nn.Module, sample: torch.Tensor) -> Tower:
    """Open an image tower; one that does not open without changing its result offers `joint` alone."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    kinds = {VisionTransformer: _Projecting, ModifiedResNet: _ResNet, TimmModel: _Timm}
    return _checked(kinds.get(type(visual), _Closed), visual, sample)


def open_text_tower(text: nn.Module, tokenizer: Any, sample: torch.Tensor) -> Tower:
    """Open a text tower; see `open_image_tower`."""
    from open_clip.hf_model import HFTextEncoder
    from open_clip.transformer import TextTransformer

    def words(module: nn.Module) -> Tower:
        return _Words(module, tokenizer)

    kinds = {TextTransformer: words, HFTextEncoder: _HuggingFaceWords}
    return _checked(kinds.get(type(text), _Closed), text, sample)


def _checked(kind: Any, module: nn.Module, sample: torch.Tensor) -> Tower:
    """Open `module` as `kind` if the joint vectors come out as they did."""
    expected = _first(module(sample)).float()
    tower: Tower = kind(module)
    joints = [tower(sample, tokens=tokens).joint.float() for tokens in (True, False)]
    if all(
        joint.shape == expected.shape and F.cosine_similarity(joint, expected, dim=-1).min().item() > 0.99999
        for joint in joints
    ):
        return tower
    if isinstance(tower, _Timm):  # the one kind that leaves its module whole
        return _Closed(module)
    raise ValueError(f"{type(module).__name__} does not give the same vectors once opened")


def _first(output: Any) -> torch.Tensor:
    """First of what a tower returns: towers that also return tokens return a tuple."""
    return output[0] if isinstance(output, tuple) else output


class _Closed(Tower):
    """A tower of an unknown kind: its joint vectors, nothing else."""

    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        return States(_first(self.module(batch)))


class _LastBlock(nn.Module):
    """Last block of a transformer whose class token alone is pooled: the others' answers are computed only if wanted."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block
        self.whole = True

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        block = self.block
        if self.whole:
            return block(x, attn_mask=attn_mask)
        normed = block.ln_1(x)
        if isinstance(block.attn, nn.MultiheadAttention):
            attended = block.attn(normed[:, :1], normed, normed, need_weights=False)[0]
        else:
            attended = block.attn.first(normed)
        x = x[:, :1] + block.ls_1(attended)
        return x + block.ls_2(block.mlp(block.ln_2(x)))


class _Projecting(Tower):
    """open_clip's vision transformer: with its projection taken off it returns pooled state and tokens."""

    def __init__(self, module: Any) -> None:
        from open_clip.transformer import ResidualAttentionBlock

        super().__init__(module)
        self.projection = module.proj
        module.proj, module.output_tokens = None, True
        blocks = module.transformer.resblocks
        self.last: _LastBlock | None = None
        if (
            module.pool_type == "tok"
            and module.attn_pool is None
            and type(blocks[-1]) is ResidualAttentionBlock
        ):
            self.last = blocks[-1] = _LastBlock(blocks[-1])

    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        if self.last is not None:
            self.last.whole = tokens
        pooled, states = self.module(batch)
        if self.projection is None:
            return States(pooled, None, states)
        return States(_project(pooled, self.projection), pooled, states)


class _ResNet(Tower):
    """CLIP's ResNets: attention pooling by hand, for its fused form shows nothing before the last linear map."""

    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        net = self.module
        grid = (
            net.layer4(net.layer3(net.layer2(net.layer1(net.stem(batch))))).flatten(2).transpose(1, 2)
        )  # n t c
        pool = net.attnpool
        x = torch.cat([grid.mean(1, keepdim=True), grid], dim=1)
        x = x + pool.positional_embedding.to(x.dtype)
        n, _, c = x.shape
        # Only the mean token asks: the others' answers would be thrown away.
        q, k, v = (
            y.view(n, -1, pool.num_heads, c // pool.num_heads).transpose(1, 2)
            for y in (pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x))
        )
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, c)
        return States(pool.c_proj(pooled), pooled, grid)


class _Timm(Tower):
    """A timm trunk, pooled and projected by open_clip's head, by its own classifier, or not at all."""

    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        trunk, head = self.module.trunk, self.module.head
        states = trunk.forward_features(batch)
        classifier = trunk.get_classifier() if hasattr(trunk, "get_classifier") else nn.Identity()
        if len(head):
            pooled = trunk.forward_head(states)
            joint = head(pooled)
            if "pool" in dict(head.named_children()):  # this pooling ends in a projection of its own
                pooled = None
        elif isinstance(classifier, nn.Identity):
            joint, pooled = trunk.forward_head(states), None
        else:
            pooled = trunk.forward_head(states, pre_logits=True)
            joint = classifier(pooled)
        return States(joint, pooled, self._tokens(states))

    def _tokens(self, states: torch.Tensor) -> torch.Tensor:
        trunk = self.module.trunk
        if states.ndim == 4:
            return (
                states.flatten(1, 2)
                if getattr(trunk, "output_fmt", "NCHW") == "NHWC"
                else states.flatten(2).mT
            )
        return states[:, getattr(trunk, "num_prefix_tokens", 0) :]


class _Words(Tower):
    """open_clip's text transformer.

    Under a causal mask no state depends on what follows it, and the state that is pooled stands where the text ends. So a
    batch is cut to its longest text instead of running to 77 tokens of padding: the same vectors for a third of the work.
    """

    def __init__(self, module: Any, tokenizer: Any) -> None:
        super().__init__(module)
        self.projection = module.text_projection
        module.text_projection, module.output_tokens = None, True
        inner = getattr(tokenizer, "tokenizer", None)
        self.padding = getattr(inner, "pad_token_id", None) or 0
        self.end = getattr(inner, "eos_token_id", None)
        self.by_end = module.pool_type in ("argmax", "eos")
        self.causal = self.by_end and module.attn_mask is not None and module.cls_emb is None
        if self.causal:
            module.transformer.register_forward_pre_hook(_fit_mask, with_kwargs=True)

    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        ends = self._ends(batch)
        if self.causal:
            batch = batch[:, : int(ends.max()) + 1]
        pooled, states = self.module(batch)
        if self.by_end:
            mask = torch.arange(batch.shape[1], device=batch.device) <= ends[:, None]
        else:
            mask = batch.ne(self.padding)
            if self.end == self.padding:  # SigLIP ends a text with one token of padding, and that one is real
                mask = mask | F.pad(mask, (1, -1), value=True)
        if self.projection is None:
            return States(pooled, None, states, mask)
        return States(_project(pooled, self.projection), pooled, states, mask)

    def _ends(self, ids: torch.Tensor) -> torch.Tensor:
        """Place that the tower pools, found as the tower finds it."""
        marked = ids.eq(self.module.eos_id) if self.module.pool_type == "eos" else ids
        return marked.int().argmax(dim=-1)


def _fit_mask(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Cut a square mask to the length of the sequence it is used on."""
    mask, length = kwargs.get("attn_mask"), args[0].shape[1]
    if mask is not None and mask.ndim == 2:
        kwargs = {**kwargs, "attn_mask": mask[:length, :length]}
    return args, kwargs


class _HuggingFaceWords(Tower):
    """A Hugging Face text model, whose attention leaves padding out: columns that are all padding need not be computed."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.projection = module.proj
        module.proj, module.output_tokens = nn.Identity(), True

    def __call__(self, batch: torch.Tensor, *, tokens: bool = True) -> States:
        mask = batch.ne(self.module.config.pad_token_id)
        used = int(mask.any(0).nonzero().max()) + 1 if bool(mask.any()) else 1
        batch, mask = batch[:, :used], mask[:, :used]
        pooled, states = self.module(batch)
        mask = mask[
            :, mask.shape[1] - states.shape[1] :
        ]  # a pooler that takes the first token keeps it from the others
        if isinstance(self.projection, nn.Identity):
            return States(pooled, None, states, mask)
        return States(self.projection(pooled), pooled, states, mask)


def _project(pooled: torch.Tensor, projection: Any) -> torch.Tensor:
    if isinstance(projection, nn.Module):
        return projection(pooled)
    # In float32 whatever the tower ran in: it costs nothing, and the joint vector is what searches compare.
    with torch.autocast(pooled.device.type, enabled=False):
        return pooled.float() @ projection.float()


#: Blocks of lite0 that halve the resolution; all others keep it.
_HALVING_BLOCKS = {1, 3, 5, 11}
_NORM_EPSILON = 1e-3
#: Images that pass a CPU's layers together; 48 take a third longer each.
_AT_ONCE = 8


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
        if not self.stem.fused:
            return self.head(self.blocks(self.stem(images)))
        # Feature maps stay in oneDNN's own layout from the first convolution to the last, and few images in the caches.
        parts = [
            self.head(self.blocks(self.stem(few.to_mkldnn()))).to_dense() for few in images.split(_AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Mean features (n, 1280) to probabilities of the 1000 classes of ImageNet."""
        return F.linear(pooled, self.classes, self.class_bias).softmax(-1)

    def fuse(self, sample: torch.Tensor) -> bool:
        """Fuse ReLU6 into the convolution by oneDNN, if this torch can and the result is unchanged; see `pack`."""
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


# PyTorch's own path re-reads plain weights on every call, and in float32 goes through a BLAS that knows nothing of AMD's
# AVX-512. Prepacked oneDNN kernels ran a ViT-B/32 on such a processor 2.2 times as fast in float32, and 3.9 times in
# bfloat16 (`benchmarks/embed.py` compares on yours). Only matrix products change precision: norms, sums and the residual
# stream stay in float32, which is where the large activations of real CLIP weights would lose bits.
#
# The two operators are those that torch's compiler emits, and no documented interface. So nothing rests on them: `pack`
# compares the packed model with the plain one, and puts the plain layers back if they disagree.


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
        """Attention output for the first of the tokens x (b, t, d): (b, 1, d)."""
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
