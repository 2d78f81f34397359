"""`guided-ca`: each input is gated by what its tokens read in the other inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..neural.attending import PublishableHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["GuidedCA"]


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

    def __init__(self, *, width: int = 64, heads: int = 4, as_published: bool = False, **shared: Any) -> None:
        super().__init__(as_published=as_published, **shared)
        self.width = width
        self.heads = heads

    def build(self, widths: dict[str, int], classes: int) -> nn.Module:
        """The network."""
        from ..neural.guided import GuidedNet

        if self.as_published:
            return self._published(widths, classes, differential=False)
        self._check_shape(self.heads)
        return GuidedNet(widths, classes, width=self.width, heads=self.heads)
