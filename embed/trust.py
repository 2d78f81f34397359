"""Trusted encoders: which encoder ids found in data may be loaded without being named by the user.

A store, a run or a package says by which encoder it was made, and whoever made it may be a stranger. Built-in encoders are
loaded on its word. Any other id (a checkpoint, a folder, a hub repository, another package's family) makes this machine
read files or download a model of that stranger's choice, so it must have been named by this user once: with ``--encoder``,
or as an argument in Python. What was named is remembered in the user's configuration folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path

from ..errors import EncoderError
from ..store.files import publish
from .encoder import ALIASES, BUILT_IN, Encoder, load_encoder

__all__ = ["is_trusted", "load_named", "require_trusted", "trust", "trusted_file"]


def trusted_file() -> Path:
    """File with the encoder ids that this user has named: JSON, ``{"encoders": [id, ...]}``."""
    if os.name == "nt":
        base = os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "icehouse" / "trusted-encoders.json"


def is_trusted(encoder_id: str) -> bool:
    """Whether an encoder id from data may be loaded: it is built in, or this user has named it before.

    Built in are `mini`, the short names, and the tags of open_clip's own registry.
    """
    encoder_id = ALIASES.get(encoder_id, encoder_id)
    return encoder_id in _named() or _is_built_in(encoder_id)


def require_trusted(encoder_id: str) -> None:
    """Refuse an encoder id from data that `is_trusted` does not vouch for.

    Raises
    ------
    EncoderError
        That names the encoder and says how to trust it.
    """
    if not is_trusted(encoder_id):
        raise EncoderError(
            f"the data name the encoder {encoder_id}, which is not built in and was never used here; if you know where it "
            f"is from, say so once: icehouse doctor --trust {shlex.quote(encoder_id)}"
        )


def trust(encoder_id: str) -> None:
    """Remember that this user has named an encoder; without a writable configuration folder it holds for this process."""
    encoder_id = ALIASES.get(encoder_id, encoder_id)
    if is_trusted(encoder_id):
        return
    _THIS_PROCESS.add(encoder_id)
    file = trusted_file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with publish(file) as temp:
            temp.write_text(json.dumps({"encoders": sorted(_named())}, indent=2) + "\n", encoding="utf-8")


def load_named(encoder_id: str, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load an encoder that the user has named, and remember it as trusted; see `icehouse.embed.encoder.load_encoder`."""
    encoder = load_encoder(encoder_id, device=device, precision=precision)
    trust(encoder.id)
    return encoder


#: Named in this process, whether or not the file could be written.
_THIS_PROCESS: set[str] = set()


def _named() -> set[str]:
    try:
        found = json.loads(trusted_file().read_text(encoding="utf-8"))["encoders"]
    except (OSError, ValueError, KeyError, TypeError):
        found = []
    return {entry for entry in found if isinstance(entry, str)} | _THIS_PROCESS


def _is_built_in(encoder_id: str) -> bool:
    family, _, model = encoder_id.partition(":")
    if family not in BUILT_IN:
        return False
    if family != "openclip" or encoder_id in ALIASES.values():
        return True
    import open_clip

    architecture, _, tag = model.partition("/")
    return bool(architecture in open_clip.list_models() and open_clip.get_pretrained_cfg(architecture, tag))
