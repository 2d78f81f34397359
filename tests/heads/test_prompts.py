from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import SpaceError, UsageError
from icehouse.heads.families import zero_shot
from icehouse.heads.families.zero_shot import (
    class_vectors,
    prompt_notes,
    read_prompts,
    readable_label,
    texts_of,
    with_prompts,
)
from icehouse.heads.head import Head
from icehouse.heads.registry import create, head_class
from icehouse.heads.runs import list_runs
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from shell import ran, refused
from toys import ToyEncoder, make_pictures


class Point:
    """The entry point of the toy encoder."""

    loaded: ClassVar[int] = 0

    @classmethod
    def load(cls) -> type[ToyEncoder]:
        cls.loaded += 1
        return ToyEncoder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Pictures with texts, labels and splits, embedded by the toy encoder."""
    return toy_store(tmp_path, monkeypatch, ("train", "train", "dev", "test"))


def toy_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: Sequence[str]) -> Store:
    make_pictures(tmp_path / "pictures", 24)
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    lines = ["image,text,label,split"]
    for i, name in enumerate(names):
        lines.append(
            f"{name},word{i} of a post,{('big_flood', 'notCalm')[i % 2]},{splits[i // 2 % len(splits)]}"
        )
    (tmp_path / "pictures" / "posts.csv").write_text("\n".join(lines) + "\n")
    embed_sources([tmp_path / "pictures" / "posts.csv"], tmp_path / "store", encoder=ToyEncoder())
    monkeypatch.setattr("icehouse.embed.encoder.available", lambda: {"toy": Point})
    return Store.open(tmp_path / "store")


def specs(store: Store, *features: str) -> dict[str, dict[str, Any]]:
    return {name.split("/")[1]: store.feature_table(name).snapshot().spec for name in features}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("infrastructure_and_utility_damage", "infrastructure and utility damage"),
        ("notHumanitarian", "not humanitarian"),
        ("New York", "New York"),
        ("rescue-effort", "rescue effort"),
        ("7", "7"),
        ("_", "_"),
    ],
)
def test_labels_are_made_readable(label: str, words: str) -> None:
    assert readable_label(label) == words


def test_texts_of_classes() -> None:
    assert texts_of(["a_b", "c"]) == {"a_b": ["a photo of a b"], "c": ["a photo of c"]}
    assert texts_of(["c"], modality="text") == {"c": ["a post about c"]}
    assert texts_of(["c"], template=["{class}!", "no {class}"]) == {"c": ["c!", "no c"]}
    assert texts_of(["c", "d"], prompts={"c": "one"}) == {"c": ["one"], "d": ["a photo of d"]}
    assert texts_of(["c"], prompts={"c": ["one", "two"]}, template="see {class}") == {
        "c": ["see one", "see two"]
    }
    with pytest.raises(UsageError, match=r"'flod' that no item has; did you mean 'flood'\?"):
        texts_of(["flood"], prompts={"flod": "water"})
    with pytest.raises(UsageError, match=r"no \{class\}"):
        texts_of(["flood"], template="a photo")
    with pytest.raises(UsageError, match="one text or several"):
        texts_of(["flood"], prompts={"flood": []})


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('{"a": "one", "b": ["two", "three"]}')
    assert read_prompts(path) == {"a": ["one"], "b": ["two", "three"]}
    path.write_text('["a"]')
    with pytest.raises(UsageError, match="must hold an object"):
        read_prompts(path)
    path.write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        read_prompts(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "nothing.json")


def test_prompts_are_averaged_in_the_space_of_the_feature(store: Store) -> None:
    found = class_vectors(
        store, specs(store, "toy-a/image/joint"), ["a", "b"], prompts={"a": ["one", "two"], "b": "three"}
    )
    one, two, three = ToyEncoder().encode_texts(["one", "two", "three"], ["joint"])["joint"]
    mean = one / np.linalg.norm(one) + two / np.linalg.norm(two)
    np.testing.assert_allclose(found["image"]["a"], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(found["image"]["b"], three / np.linalg.norm(three), atol=1e-6)
    json.dumps(found)


def test_a_space_without_texts_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match=r"cannot be compared with toy-a/image/pooled.*--inputs image/joint"):
        class_vectors(store, specs(store, "toy-a/image/pooled"), ["a", "b"])


def test_an_encoder_that_has_changed_is_refused(store: Store) -> None:
    spec = specs(store, "toy-a/image/joint")
    with pytest.raises(SpaceError):
        class_vectors(store, {"image": {**spec["image"], "fingerprint": "0" * 16}}, ["a", "b"])


def test_heads_get_the_vectors_they_can_use(store: Store) -> None:
    both = specs(store, "toy-a/image/pooled", "toy-a/text/joint")
    logreg = create("logreg")
    assert with_prompts(logreg, store, both, ["a", "b"]) is logreg
    tip = with_prompts(create("tip-adapter"), store, both, ["a", "b"])
    assert tip.get_params()["class_vectors"].keys() == {"text"}
    alone = create("tip-adapter")
    assert with_prompts(alone, store, {"image": both["image"]}, ["a", "b"]) is alone
    without = create("tip-adapter", prompts=False)
    assert with_prompts(without, store, both, ["a", "b"]) is without
    with pytest.raises(UsageError, match="cannot be compared"):
        with_prompts(create("tip-adapter", template="a {class}"), store, {"image": both["image"]}, ["a", "b"])
    given = create("zero-shot", class_vectors={"image": {"a": [1.0], "b": [0.0]}})
    assert with_prompts(given, store, both, ["a", "b"]) is given


def test_a_run_without_the_zero_shot_half_says_so(store: Store) -> None:
    both = specs(store, "toy-a/image/pooled", "toy-a/text/joint")
    image, kind = {"image": both["image"]}, head_class("tip-adapter")
    (note,) = prompt_notes(kind, {}, image)
    assert "no class prompts, only labelled rows" in note
    assert "toy-a/image/pooled" in note
    assert "--inputs image/joint" in note
    assert "for the others alone" in prompt_notes(kind, {}, both)[0]
    assert prompt_notes(kind, {}, {"text": both["text"]}) == []
    assert prompt_notes(kind, {"prompts": False}, image) == []
    assert prompt_notes(kind, {"class_vectors": {"image": {}}}, image) == []
    assert prompt_notes(head_class("logreg"), {}, image) == []
    assert note in train(store, "tip-adapter", inputs="image").notes
    assert note not in train(store, "tip-adapter", inputs="image", params={"prompts": False}).notes
    assert note not in train(store, "tip-adapter", inputs="image/joint").notes
    for command in (
        ("train", "tip-adapter", "-i", "image"),
        ("shots", "--heads", "tip-adapter", "-i", "image", "--shots", "1", "--draws", "1"),
    ):
        assert note in " ".join(ran(store, *command).output.split())


def test_zero_shot_from_the_command_line(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('{"big_flood": ["water", "a flooded street"]}')
    given = ("--prompts", str(path))
    ran(store, "train", "zero-shot", "-i", "image/joint", *given, "-p", "template=no {class}")
    run = list_runs(store)[0]
    assert run.record["head"]["params"]["prompts"] == {"big_flood": ["water", "a flooded street"]}
    assert "vectors" not in json.dumps(run.record["head"]["params"]).replace('"class_vectors": null', "")
    again = Head.load(run.path / "head")
    assert again.get_params()["class_vectors"]["image"].keys() == {"big_flood", "notCalm"}
    assert "parameters.json" in {path.name for path in (run.path / "head").iterdir()}
    assert "'prompts'" in refused(store, "train", "logreg", *given)


@pytest.mark.parametrize(
    ("splits", "n_dev", "n_test"), [(("dev", "test"), 12, 12), (("test",), 0, 24), (("",), 0, 24)]
)
def test_no_training_rows_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: tuple[str, ...], n_dev: int, n_test: int
) -> None:
    store = toy_store(tmp_path, monkeypatch, splits)
    run = train(store, "zero-shot", inputs="image/joint")
    assert run.metrics["test"]["n"] == n_test
    assert run.metrics["protocol"]["rows"] == {"train": 0, "dev": n_dev, "test": n_test}
    assert run.classes == ["big_flood", "notCalm"]
    assert any("no train split" in note for note in run.metrics["protocol"]["notes"])
    if n_dev == 0:
        assert run.metrics["chosen"]["factor"] == 100.0


def test_the_encoder_is_loaded_once_for_a_sweep(store: Store) -> None:
    zero_shot._loaded.cache_clear()
    Point.loaded = 0
    for template in ("a {class}", "the {class}"):
        train(store, "zero-shot", params={"template": template}, inputs="image/joint")
    assert Point.loaded == 1
