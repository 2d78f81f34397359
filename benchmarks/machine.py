"""The line that every benchmark prints first: what it ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine(*packages: str) -> str:
    """One line: processor, cores, vector instructions, memory, versions of Python and `packages`."""
    model, flags, memory = platform.processor() or platform.machine(), set(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    features = ", ".join(name for name in _FEATURES if name in flags)
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{model}, {os.cpu_count()} cores ({features}){memory}; Python {platform.python_version()}, {versions}"
