"""A served store that the tests of a module share."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import make_store


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, posts and a store of them."""
    folder = tmp_path_factory.mktemp("served")
    make_store(folder)
    return folder
