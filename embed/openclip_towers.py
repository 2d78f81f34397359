"""Towers of an open_clip model: joint, pooled and token states from one forward pass.

open_clip's towers end in a projection to the joint space and return only what lies behind it. Here the projection is taken
off and applied by hand, so that `pooled`, the state before it, comes for free. What a tower calls its pooled state:

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
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)


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
