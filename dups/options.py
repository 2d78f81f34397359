"""Options that several commands of near-duplicates share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..console import say

if TYPE_CHECKING:
    from .pair_graph import Duplicates

SearchOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        "-n",
        help="Name of a search by `icehouse dups find`.",
        show_default="that by the only encoder's images, else the newest",
    ),
]
FeatureOption = Annotated[
    str | None,
    typer.Option(
        "--feature",
        "-f",
        help="Image or text feature to compare by.",
        show_default="the only encoder's images",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "-t",
        help="Least cosine.",
        show_default="none: the calibration, or what the set looks like, decides",
    ),
]
FalsePairsOption = Annotated[
    float | None,
    typer.Option(
        "--expected-false-pairs",
        help="False pairs to expect, by which the calibration chooses the cosine.",
        show_default="1",
    ),
]
HammingOption = Annotated[
    int | None,
    typer.Option(
        "--hamming",
        help="Bits of 64 in which perceptual hashes may differ.",
        show_default="6, or fewer by the calibration",
    ),
]
PerceptualOption = Annotated[
    bool, typer.Option("--perceptual/--no-perceptual", help="Compare perceptual hashes.")
]
EmbeddingOption = Annotated[bool, typer.Option("--embedding/--no-embedding", help="Compare embeddings.")]
VariantsOption = Annotated[
    Literal["keep", "drop"],
    typer.Option(
        "--variants", help="Pictures that agree while their words do not: keep, or drop as duplicates."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]


def say_which(store: Path, found: "Duplicates", name: str | None) -> None:
    """Say which search was opened, where it was not named and there are several."""
    from ..store.store import Store
    from .pair_graph import HASHES, list_duplicates, search_name

    if name is None and found.name == HASHES and found.feature is not None:
        say(
            f"note: by the search {HASHES!r}, made before searches were named after their feature; `icehouse dups find` "
            f"makes {search_name(found.feature)!r} beside it"
        )
    others = [other for other in list_duplicates(Store.open(store)) if other != found.name]
    if name is None and others:
        say(f"note: by the search {found.name!r}; --name takes another: {', '.join(others)}")
