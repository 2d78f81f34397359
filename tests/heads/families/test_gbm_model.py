"""A LightGBM model that was damaged or made up is refused before LightGBM reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from icehouse.errors import HeadError
from icehouse.heads.families.gbm import check_model

CLASSES = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    X[::7, 1] = np.nan
    settings = {"objective": "multiclass", "num_class": CLASSES, "verbosity": -1, "num_leaves": 4}
    path = tmp_path_factory.mktemp("gbm") / "model.txt"
    lightgbm.train(settings, lightgbm.Dataset(X, rng.integers(0, CLASSES, 200)), 3).save_model(path)
    return path


def test_what_was_saved_is_read_and_predicts_the_same(model: Path) -> None:
    text = model.read_text()
    X = np.random.default_rng(1).normal(size=(20, 4))
    whole = lightgbm.Booster(model_str=text).predict(X)
    trees = check_model(text, features=4, classes=CLASSES)
    np.testing.assert_array_equal(lightgbm.Booster(model_str=trees).predict(X), whole)
    assert "parameters" not in trees


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left_child=", "left_child=-9 "),
        ("max_feature_idx=3", "max_feature_idx=300"),
        ("num_class=3", "num_class=300"),
        ("num_leaves=4", "num_leaves=400000000"),
        ("num_cat=0", "num_cat=1"),
        ("is_linear=0", "is_linear=1"),
        ("shrinkage=1", "shrinkage=1\nnum_leaves=4"),
        ("shrinkage=1", "shrinkage=1\rnum_leaves=9"),
        ("split_feature=", "split_feature=3e0 "),
        ("\nTree=1", "\n\nTree=1"),
    ],
)
def test_each_number_that_is_an_index_is_checked(model: Path, old: str, new: str) -> None:
    text = model.read_text()
    assert old in text
    with pytest.raises(HeadError, match=r"model\.txt"):
        check_model(text.replace(old, new, 1), features=4, classes=CLASSES)


def test_children_that_make_no_tree_are_refused(model: Path) -> None:
    text = model.read_text()
    start = text.index("left_child=") + len("left_child=")
    end = text.index("\n", start)
    first, *others = text[start:end].split()
    for child in ("0", "1", "-1", "7", "-9"):
        if child == first or len(child) != len(first):
            continue  # sizes of trees stay, so that the children themselves are what is wrong
        with pytest.raises(HeadError, match="make no tree"):
            check_model(text[:start] + " ".join([child, *others]) + text[end:], features=4, classes=CLASSES)


FUZZ = """
import random, sys
import lightgbm, numpy as np
from icehouse.errors import HeadError
from icehouse.heads.families.gbm import check_model

text, rng, X = open(sys.argv[1]).read(), random.Random(0), np.zeros((3, 4))
refused = 0
for _ in range(600):
    end = text.index("end of trees")
    at, data = rng.randrange(end), list(text)
    match rng.randrange(4):
        case 0: data[at] = chr(ord(data[at]) ^ 1 << rng.randrange(7))
        case 1: data[at] = rng.choice("0123456789- =\\n")
        case 2: del data[at : at + rng.randrange(1, 40)]
        case 3: data[at:at] = data[rng.randrange(end) :][: rng.randrange(1, 40)]
    try:
        trees = check_model("".join(data), features=4, classes=3)
    except (HeadError, ValueError):
        refused += 1
        continue
    assert lightgbm.Booster(model_str=trees).predict(X).shape == (3, 3)
print(refused)
"""


@pytest.mark.slow
def test_no_mutation_reaches_lightgbm_that_it_cannot_bear(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(model)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < int(done.stdout) < 600  # some change a number that is no index, and are for checksums to find
