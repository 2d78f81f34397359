"""Calibration as one file: written from one store, taken over by another one of the same encoder.

The file is a ZIP archive of what a store keeps of a calibration, with the checksums. A calibration says nothing of
vectors of another fingerprint, so that one is refused; what a store has already is replaced only once the file has been
read whole.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from ..errors import CorruptError, IcehouseError, SourceError, SpaceError, StoreError, UsageError
from ..store.files import SUMS, publish
from ..store.store import Store
from .calibration import Calibration
from .pair_graph import default_feature

#: Files of a calibration that are not needed to use it are left where it was made.
_NEEDED = frozenset({"calibration.json", "mean.npy", "matrix.npy", "local.npz", SUMS})
#: A matrix of 8,192 dimensions in float32 has as many bytes.
_MAX_BYTES = 2**28


def export_calibration(store: Store | str | Path, file: str | Path, *, feature: str | None = None) -> Path:
    """Write the calibration of a feature to one file, in the place of an earlier one.

    Parameters
    ----------
    store : Store, str or Path
    file : str or Path
    feature : str, optional
        By default that by which `find_duplicates` compares.

    Raises
    ------
    StoreError
        If the feature has no calibration, or one of other vectors than the feature now has.
    UsageError
        If the file cannot be written, or is there and is something else.
    """
    store, file = Store.of(store), Path(file)
    feature = _feature(store, feature)
    made, why = Calibration.current(store, feature)
    if made is None:
        raise StoreError(f"{why}; make one with `icehouse dups calibrate`")
    if file.exists() and not _is_calibration(file):
        raise UsageError(f"{file} is there and is no calibration; give another name")
    folder = Calibration.folder(store, feature)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(_NEEDED):
            if (folder / name).exists():
                # Equal calibrations give equal files: without the time of writing.
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
    try:
        with publish(file) as temp:
            temp.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from error
    return file


def import_calibration(
    store: Store | str | Path, file: str | Path, *, feature: str | None = None
) -> Calibration:
    """Take a calibration from a file by `export_calibration`, in the place of the store's own one.

    Parameters
    ----------
    store : Store, str or Path
    file : str or Path
    feature : str, optional
        By default the one that has the fingerprint of the file.

    Raises
    ------
    SourceError
        If there is no such file, or it is no calibration.
    CorruptError
        If it is damaged.
    SpaceError
        If the feature is of another encoder or preprocessing.
    """
    store, file = Store.of(store), Path(file)
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch)
        _unpack(file, unpacked)
        try:
            made = Calibration.read(unpacked)
        except CorruptError as error:
            raise CorruptError(
                f"{file} is damaged; export it again from the store where it was made"
            ) from error
    prints = {name: store.feature_table(name).spec.get("fingerprint") for name in store.feature_names()}
    fitting = [name for name, of in prints.items() if of == made.fingerprint]
    if feature is not None and feature not in fitting:
        now = prints[feature] if feature in prints else store.feature_table(feature).spec.get("fingerprint")
        raise SpaceError(
            f"{file} is of {made.feature}, fingerprint {made.fingerprint}, and {feature} has {now}: a calibration holds for "
            "the encoder and preprocessing that it was made with; make one with `icehouse dups calibrate`"
        )
    if not fitting:
        raise SpaceError(
            f"{file} is of {made.feature}, fingerprint {made.fingerprint}, and no feature of {store.path} has that: "
            f"there is {', '.join(f'{name} ({of})' for name, of in sorted(prints.items())) or 'none'}"
        )
    chosen = feature or (made.feature if made.feature in fitting else fitting[0])
    made = replace(made, feature=chosen, report=made.report | {"imported_from": file.name})
    made.save(store)
    return made


def _feature(store: Store, feature: str | None) -> str:
    feature = feature or default_feature(store)
    if feature is None:
        raise UsageError(f"{store.path} has no feature with a calibration")
    return feature


def _is_calibration(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return "calibration.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _unpack(file: Path, folder: Path) -> None:
    """Write the members of the archive into a folder, those that a calibration has and no other."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if (
                {"calibration.json", SUMS} - set(names)
                or set(names) - _NEEDED
                or len(set(names)) < len(names)
            ):
                raise SourceError(
                    f"{file} is no calibration; write one with `icehouse dups calibrate --export`"
                )
            if sum(member.file_size for member in members) > _MAX_BYTES:
                raise SourceError(f"{file} is larger than any calibration")
            for member in members:
                (folder / member.filename).write_bytes(archive.read(member))
    except IcehouseError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{file} does not exist") from None
    except zipfile.BadZipFile as error:
        raise SourceError(f"{file} is no calibration, or is damaged: {error}") from error
    except (OSError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise SourceError(f"{file} cannot be read: {error}") from error
