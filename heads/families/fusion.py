"""Fusion heads, networks over all inputs: `mlp`, `align`, `cross`, `two-token`, and the attention heads.

`align` and `cross` (Hate-CLIPper, Kumar & Nandakumar 2022) multiply projections of the inputs: a unit fires where they
agree, which is what a linear head on the concatenation can never see. The attention heads read the tokens of all inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ..head import Chosen, Validation
from ..inputs import InputError, Inputs, Tokens
from ..registry import ParameterError
from ..torch_head import Grid, TorchHead

if TYPE_CHECKING:
    from torch import nn


@dataclass(kw_only=True, eq=False, repr=False)
class MLP(TorchHead):
    """Multilayer perceptron: concatenation, layer norm, hidden layers with GELU and dropout, logits.

    An input that a row lacks is at its training mean. Tokens are averaged.

    Parameters
    ----------
    hidden : int, default 256
        Width of a hidden layer.
    layers : int, default 1
        Number of hidden layers.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> MLP(epochs=2).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "mlp"
    minimum: ClassVar[Mapping[str, int]] = {"hidden": 1, "layers": 0}

    hidden: int = 256
    layers: int = 1

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..torch_layers import Perceptron

        return Perceptron(sum(widths.values()), self.hidden, self.layers, classes)


@dataclass(kw_only=True, eq=False, repr=False)
class _ProductFusion(TorchHead):
    """A head whose network multiplies projected inputs with one another."""

    minimum: ClassVar[Mapping[str, int]] = {"width": 1, "hidden": 1}
    takes_one_vector: ClassVar[bool] = False
    #: Name of the network in `torch.layers`.
    network: ClassVar[str]

    width: int = 512
    hidden: int = 256

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network; `InputError` if there is only one input."""
        from .. import torch_layers

        if len(widths) < 2:
            raise InputError(
                f"{self.family} multiplies inputs with one another, and there is only {next(iter(widths))!r}: "
                "add an input, or choose mlp"
            )
        network: nn.Module = getattr(torch_layers, self.network)(widths, self.width, self.hidden, classes)
        return network


@dataclass(kw_only=True, eq=False, repr=False)
class AlignFusion(_ProductFusion):
    """Elementwise product of projected inputs, then a perceptron with dropout.

    With a single input it says that there is nothing to align.

    Parameters
    ----------
    width : int, default 512
        Width of the projections; 1024 as published.
    hidden : int, default 256
        Width of the perceptron after the product.
    **shared
        See `TorchHead`.
    """

    family: ClassVar[str] = "align"
    network: ClassVar[str] = "Align"


# The published outer product multiplies full-width projections, a layer of a million inputs; here each is projected to a
# few units first. A one is appended to each, as in tensor fusion (Zadeh et al. 2017), so that the inputs by themselves
# are in there too.
@dataclass(kw_only=True, eq=False, repr=False)
class CrossFusion(_ProductFusion):
    """Flattened outer product of projected inputs, then a perceptron with dropout.

    With a single input it says that there is nothing to cross.

    Parameters
    ----------
    width : int, default 24
        Width of the projections; the perceptron sees its square for every pair of inputs.
    hidden : int, default 256
        Width of the perceptron after the product.
    **shared
        See `TorchHead`.
    """

    family: ClassVar[str] = "cross"
    network: ClassVar[str] = "Cross"

    width: int = 24


# The form of several crisis models (BLIP or ViT with XLM-R): image and text vectors as two tokens, two pre-norm
# layers of eight heads, a mean over the tokens, a perceptron. It works on token states as well, all in one sequence.
@dataclass(kw_only=True, eq=False, repr=False)
class TwoTokenTransformer(TorchHead):
    """Transformer encoder over the inputs as tokens.

    Each input is projected to one width, and told apart by an embedding of its own. An input that a row lacks is
    not attended to.

    Parameters
    ----------
    width : int, default 128
        Width of the tokens; a multiple of `heads`.
    layers : int, default 2
    heads : int, default 8
    hidden : int, default 128
        Width of the perceptron after the mean.
    **shared
        See `TorchHead`.
    """

    family: ClassVar[str] = "two-token"
    minimum: ClassVar[Mapping[str, int]] = {"width": 1, "layers": 0, "heads": 1, "hidden": 1}

    width: int = 128
    layers: int = 2
    heads: int = 8
    hidden: int = 128
    # The slowest of the heads: a grid of two, so that ten thousand rows stay well under a minute.
    dropout: Grid = 0.2
    epochs: int = 20

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network; `ParameterError` if the width is no multiple of the number of heads."""
        from ..torch_layers import TwoToken

        if self.heads < 1 or self.width % self.heads:
            raise ParameterError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return TwoToken(widths, self.width, self.layers, self.heads, self.hidden, classes)


#: Training as in arXiv 2507.05165 and its code.
PUBLISHED: dict[str, Any] = {
    "lr": 1e-3,
    "weight_decay": 0.0,
    "dropout": 0.5,
    "epochs": 50,
    "patience": 5,
    "batch_size": 64,
    "warmup": 0.0,
    "schedule": "constant",
    "optimizer": "sgd",
    "momentum": 0.0,
    "standardize": False,
    "precision": "float32",
}

# Rows whose attention is computed at a time.
_ROWS = 256


@dataclass(kw_only=True, eq=False, repr=False)
class AttentionHead(TorchHead):
    """A head whose network can say what it attends to."""

    takes_one_vector: ClassVar[bool] = False

    width: int = 64
    heads: int = 4
    epochs: int = 20

    def _refuse(self, X: Inputs) -> None:
        if len(X.names) == 1 and not isinstance(X[X.names[0]], Tokens):
            raise InputError(
                f"{self.family} has nothing to attend to: {X.names[0]!r} is one vector a row; add an input, "
                "or choose its tokens output"
            )

    def attention(self, X: Any) -> dict[str, np.ndarray]:
        """Weight of every token in the vector that the classifier sees, by input: float32, (n, t), t = 1 for a vector.

        Weights are not negative, and zero where there is no token. In `guided-ca` those of each input of a row sum to one
        (each input is pooled by itself); in `diff-attn` and `guided-ca+diff-attn` those of all inputs together do.
        HeadError if the head is not fitted, the inputs do not fit, or it is a published form.
        """
        X, parts = self._read(X)
        found = {name: np.zeros((len(X), _length(X, name)), np.float32) for name in X.names}
        for rows, weights, _ in parts:
            for name, weight in weights.items():
                found[name][rows, : weight.shape[1]] = weight.numpy()
        return found

    def cross_attention(self, X: Any) -> dict[tuple[str, str], np.ndarray]:
        """Attention weights from each token of one input to each of another, (n, t, t'), for a few rows: it is large.

        By the input that looks and the input that is looked at, as a mean over heads; HeadError as for `attention`. In the
        guided heads, a token's weights over all other inputs sum to one. In `diff-attn` they are the differential maps of
        the last block, which also look within an input, and may be negative.
        """
        X, parts = self._read(X)
        found: dict[tuple[str, str], np.ndarray] = {}
        for rows, _, between in parts:
            for (name, other), part in between.items():
                shape = len(X), _length(X, name), _length(X, other)
                whole = found.setdefault((name, other), np.zeros(shape, np.float32))
                whole[rows, : part.shape[1], : part.shape[2]] = part.numpy()
        return found

    def _read(self, X: Any) -> tuple[Inputs, Iterator[tuple[slice, dict[str, Any], dict[Any, Any]]]]:
        """The inputs, checked, and what the network reads in some rows at a time: weights by input, and between inputs."""
        import torch

        from ..torch_training import Rows

        self._require_fitted()
        X = self._conform(Inputs.of(X))
        network: Any = self.network_

        def reading() -> Iterator[tuple[slice, dict[str, Any], dict[Any, Any]]]:
            for start in range(0, len(X), _ROWS):
                rows = slice(start, start + _ROWS)
                with torch.inference_mode():
                    given = network.prepare(*Rows(X[rows]).take(slice(None)))
                    weights, between = network.network.read(*given)
                yield rows, weights, between

        return X, reading()

    def _shape(self, heads: int | None = None) -> dict[str, int]:
        """Width and heads of the network; refused is a width that `heads` cannot share."""
        heads = self.heads if heads is None else heads
        if heads < 1 or self.width < 1 or self.width % heads:
            raise ParameterError(
                f"width must be a multiple of {heads} for heads={self.heads}, not {self.width!r}"
            )
        return {"width": self.width, "heads": self.heads}

    def _differential(self, version: str, depth: int) -> dict[str, Any]:
        """The same of a network with differential blocks, and their version and number."""
        heads = 2 * self.heads if version == "v1" else self.heads
        return {**self._shape(heads), "depth": depth, "version": version}


class _UnlessPublished:
    """True of the class and of our form; False of a head that is `as_published`."""

    def __get__(self, head: PublishableHead | None, kind: type | None = None) -> bool:
        return head is None or not head.as_published


def _unless_published() -> Any:
    return _UnlessPublished()


@dataclass(kw_only=True, eq=False, repr=False)
class PublishableHead(AttentionHead):
    """An attention head that also comes as it was published.

    Parameters
    ----------
    as_published : bool
        The published network, and `PUBLISHED` as the defaults of training. **A prediction then depends on the
        other rows of its batch.**
    **shared
        See `TorchHead`.
    """

    takes_tokens: ClassVar[bool] = _unless_published()
    handles_missing: ClassVar[bool] = _unless_published()
    batch_independent: ClassVar[bool] = _unless_published()
    batched: ClassVar[bool] = _unless_published()  # batch norm keeps state, which vmap cannot stack

    # Parameters that were given, whose values count even where the published form has others.
    _given = frozenset[str]()

    as_published: bool = False

    def __new__(cls, **params: Any) -> Self:
        """Note which parameters were given."""
        head = super().__new__(cls, **params)
        head._given = frozenset(params)
        return head

    def __post_init__(self) -> None:
        """Take the published defaults."""
        for name in PUBLISHED.keys() - self._given if self.as_published else ():
            setattr(self, name, PUBLISHED[name])

    def _fit(self, X: Inputs, y: np.ndarray, val: Validation | None, weight: np.ndarray | None) -> Chosen:
        if self.as_published:
            if len(X.names) != 2:
                raise InputError(
                    f"{self.family} as published takes two inputs, an image and a text, not {', '.join(X.names)}"
                )
            self.notes_.append(
                f"{self.family} as published attends across the batch: each prediction depends on the rows that are "
                "predicted with it"
            )
        return super()._fit(X, y, val, weight)

    def _read(self, X: Any) -> tuple[Inputs, Iterator[tuple[slice, dict[str, Any], dict[Any, Any]]]]:
        if self.as_published:
            raise InputError(
                f"{self.family} as published has no attention within a row to show; fit it without as_published"
            )
        return super()._read(X)

    def _published(self, widths: dict[str, int], classes: int, *, differential: bool) -> nn.Module:
        from ..torch_layers import PublishedNet

        rows = PUBLISHED["batch_size"] if isinstance(self.batch_size, str) else self.batch_size
        return PublishedNet(widths, classes, differential=differential, rows=rows)


def _length(X: Inputs, name: str) -> int:
    array = X[name]
    return int(array.shape[1]) if isinstance(array, Tokens) else 1


@dataclass(kw_only=True, eq=False, repr=False)
class DiffAttn(PublishableHead):
    """Differential transformer (Ye et al. 2024; version 2, January 2026) over the tokens of all inputs together.

    Each input is embedded into tokens of its own kind (one for a vector), with positions where it has several;
    `depth` pre-norm blocks of differential attention and SwiGLU run over all of them; attention pools them into
    one vector, which is classified. Versions: see `icehouse.heads.torch_layers.DifferentialV1` and
    `DifferentialV2`. A single input of one vector is refused: over one token, attention is a linear map.

    Parameters
    ----------
    version : {"v1", "v2"}, default "v2"
    depth : int, default 1
        Number of blocks. Over one vector an input, a second doubles the time of training and gains nothing that
        was seen; over tokens it is worth a try.
    width : int, default 64
        Of the model; a multiple of `heads`, in version 1 of twice `heads`.
    heads : int, default 4
    as_published : bool, default False
        The form of arXiv 2507.05165: the gates of `guided-ca` as published, then version 1 over z as one token
        (where queries and keys have no effect), 4 heads, batch norm, SGD with lr 1e-3, 50 epochs, patience 5,
        dropout 0.5; the four parameters above have no effect. It exists to reproduce published results. **Its
        predictions depend on the other rows of the batch**, whose size is `batch_size`, and a note (`notes_`) says so.
        It takes two inputs of one vector each.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> DiffAttn(epochs=2).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "diff-attn"
    minimum: ClassVar[Mapping[str, int]] = {"depth": 1}

    version: Literal["v1", "v2"] = "v2"
    depth: int = 1

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..torch_layers import DiffNet

        if self.as_published:
            return self._published(widths, classes, differential=True)
        return DiffNet(widths, classes, **self._differential(self.version, self.depth))


@dataclass(kw_only=True, eq=False, repr=False)
class GuidedCA(PublishableHead):
    """Guided cross-attention (CrisisKAN, Gupta et al. 2024, after Abavisani et al. 2020), within a row.

    With f the image and e the text: f̃ = ReLU(norm(W_v f)), ẽ alike; the gate of the image comes from attending the
    text, α_v = σ(W'_t CA(f, e)), and that of the text from attending the image, α_e = σ(W'_v CA(e, f));
    z = [α_v ∘ f̃ ; α_e ∘ ẽ]; then FC, norm, ReLU, dropout, linear. CA(f, e) is cross-attention from the tokens of f
    to those of e: of `tokens` inputs, each patch reads the words and each word the patches, and gated tokens
    are pooled by attention, one vector an input. Of one vector an input, CA(f, e) is V·LN(W e + b), a linear
    map of the normed projection, which the gates read where the published ones read e. Of three inputs, each reads the
    other two. A single `tokens` input reads itself; a single vector is refused.

    Parameters
    ----------
    width : int, default 64
        Of the model; a multiple of `heads`.
    heads : int, default 4
        Of the attention between inputs.
    as_published : bool, default False
        The form of arXiv 2507.05165: attention across the batch, batch norm, 128-d, SGD with lr 1e-3, 50 epochs,
        patience 5, dropout 0.5 (all but the first three change with the parameters below, `width` and `heads`
        have no effect). It exists to reproduce published results. **Its predictions depend on the other rows of the
        batch**, whose size is `batch_size`, and a note (`notes_`) says so. It takes two inputs of one vector each.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> head = GuidedCA(epochs=2).fit(X, ["cat", "cat", "dog", "dog"])
    >>> head.predict_proba(X).shape, head.attention(X)["image"].shape
    ((4, 2), (4, 1))
    """

    family: ClassVar[str] = "guided-ca"

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..torch_layers import GuidedNet

        if self.as_published:
            return self._published(widths, classes, differential=False)
        return GuidedNet(widths, classes, **self._shape())


@dataclass(kw_only=True, eq=False, repr=False)
class GuidedDiff(AttentionHead):
    """The gates of `guided-ca`, then the differential blocks of `diff-attn` over the gated tokens α ∘ f̃.

    What arXiv 2507.05165 puts one after the other, with several tokens for the second to attend to; its own form
    is `DiffAttn(as_published=True)`.

    Parameters
    ----------
    version : {"v1", "v2"}, default "v2"
    depth : int, default 1
        Number of differential blocks.
    width : int, default 64
        Of the model; a multiple of `heads`, in version 1 of twice `heads`.
    heads : int, default 4
        Of the attention between inputs, and of the blocks.
    **shared
        See `TorchHead`.

    Examples
    --------
    >>> import numpy as np
    >>> X = {"image": np.eye(4, 3), "text": np.eye(4, 2)}
    >>> GuidedDiff(epochs=2).fit(X, ["cat", "cat", "dog", "dog"]).predict_proba(X).shape
    (4, 2)
    """

    family: ClassVar[str] = "guided-ca+diff-attn"
    minimum: ClassVar[Mapping[str, int]] = {"depth": 1}

    version: Literal["v1", "v2"] = "v2"
    depth: int = 1

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..torch_layers import GuidedDiffNet

        return GuidedDiffNet(widths, classes, **self._differential(self.version, self.depth))
