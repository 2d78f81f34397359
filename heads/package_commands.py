"""The commands `icehouse package` and `icehouse export-onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import DEFAULT_STORE, JsonOption, StoreOption, echo, print_json, say

if TYPE_CHECKING:
    from .export_onnx import Exported

__all__ = ["export_onnx", "package"]

RunArgument = Annotated[
    str, typer.Argument(help='Id of a run, a part of it, or "latest".', show_default=False)
]


def package(
    run: RunArgument,
    out: Annotated[
        Path, typer.Argument(help="Folder to write; a package that is there is replaced.", show_default=False)
    ],
    store: StoreOption = DEFAULT_STORE,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx, for other runtimes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run as one folder that predicts without its store."""
    from ..store.store import Store
    from .package import package as write_package

    made, exported = write_package(Store.open(store), run, out, onnx=onnx)
    size = sum(path.stat().st_size for path in made.path.rglob("*") if path.is_file())
    if as_json:
        print_json({**made.about, "path": str(made.path), "bytes": size, "onnx": _as_json(exported)})
        return
    inputs = ", ".join(f"{name} ({feature})" for name, feature in made.features.items())
    echo(f"{made.run_id}: {made.family} on {inputs}, {len(made.classes)} classes, {size / 1e6:.2f} MB")
    for name, encoder in made.encoders.items():
        probe = "probe kept" if encoder["probe"] else "no probe: guarded by its fingerprint alone"
        echo(f"{name}: {encoder['encoder']} (fingerprint {encoder['fingerprint']}), {probe}")
    if exported is not None:
        _tell(exported)
    say(f"left in {made.path}; use it with `icehouse predict {out} FILES`")


def export_onnx(
    run: Annotated[
        str,
        typer.Argument(
            help='Id of a run, a part of it, "latest", or a package\'s folder.', show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write: .onnx.", show_default=False)],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Write the head of a run as ONNX, checked against the head itself."""
    from .export_onnx import export_onnx as write
    from .package import Package, is_package, stored_rows
    from .runs import Run

    if is_package(run):
        exported = write(Package.load(run), out)
    else:
        from ..store.store import Store

        opened = Store.open(store)
        found = Run.load(opened, run)
        exported = write(found, out, rows=stored_rows(opened, found))
    if as_json:
        print_json(_as_json(exported))
        return
    _tell(exported)
    say(f"left in {exported.path}")


def _tell(exported: Exported) -> None:
    given = ", ".join(
        f"{name} [{', '.join(str(size) for size in shape)}]" for name, shape in exported.inputs.items()
    )
    echo(f"ONNX, opset {exported.opset}: {given} to probabilities [rows, {len(exported.classes)}]")
    echo(
        f"compared on {exported.rows} rows: probabilities differ by {exported.difference:.1e} at most from the head's"
    )


def _as_json(exported: Exported | None) -> dict[str, object] | None:
    if exported is None:
        return None
    return {
        "path": str(exported.path),
        "opset": exported.opset,
        "inputs": exported.inputs,
        "classes": exported.classes,
        "difference": exported.difference,
        "rows": exported.rows,
    }
