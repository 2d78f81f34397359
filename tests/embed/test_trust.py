"""What a stranger's model folder, store or package may make this machine do: never run code, load nothing unasked."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from icehouse.cli import app
from icehouse.embed import encoder as trust
from icehouse.embed.encoder import available, load_encoder
from icehouse.embed.pipeline import embed_sources
from icehouse.errors import EncoderError
from icehouse.heads.package import package
from icehouse.heads.trainer import train
from icehouse.store.schema import Snapshot
from icehouse.store.store import Store
from PIL import Image
from toys import ToyEncoder
from typer.testing import CliRunner

WORDS = ["ice", "house", "a", "photo", "of", "cat", "red", "green"]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """File that a stranger's code would make if it ran."""
    return tmp_path / "code-has-run"


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Function after which nothing that was used here before is known."""

    def forget() -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another-user"))
        monkeypatch.setenv("APPDATA", str(tmp_path / "another-user"))
        monkeypatch.setattr(trust, "_THIS_PROCESS", set())

    return forget


def model_folder(
    folder: Path, *, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None
) -> Path:
    """A sound model with a Hugging Face text tower, as `local-dir:` takes it."""
    checkpoints.save_text_model(folder, WORDS)
    towers = {
        "embed_dim": 24,
        "vision_cfg": checkpoints.VIT,
        "text_cfg": {
            "hf_model_name": str(folder),
            "hf_tokenizer_name": str(folder),
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "mlp",
            "context_length": 32,
        },
    }
    config = folder / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": towers, "preprocess_cfg": {"size": 64}}))
    torch.manual_seed(0)
    import open_clip  # which takes seconds, where it is needed

    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    checkpoints.save(model, folder / "open_clip_model.safetensors")
    changed = {
        **towers,
        "text_cfg": towers["text_cfg"] | (text or {}),
        "vision_cfg": checkpoints.VIT | (vision or {}),
    }
    config.write_text(json.dumps({"model_cfg": changed, "preprocess_cfg": {"size": 64}}))
    return folder


def add_code(folder: Path, mark: Path) -> None:
    """Lay Python beside a model, and name it wherever transformers looks for names of code."""
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import BertConfig, BertModel, PreTrainedTokenizerFast\n"
        "class Words(PreTrainedTokenizerFast): pass\n"
        "class Config(BertConfig): model_type = 'evil'\n"
        "class Model(BertModel): config_class = Config\n"
    )
    for name, entries in {
        "tokenizer_config.json": {"AutoTokenizer": ["evil.Words", "evil.Words"]},
        "config.json": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    }.items():
        known = json.loads((folder / name).read_text())
        known |= {"auto_map": entries} | (
            {"tokenizer_class": "Words"} if "token" in name else {"model_type": "evil"}
        )
        (folder / name).write_text(json.dumps(known))


@pytest.mark.parametrize(
    "kwargs", [{"trust_remote_code": True}, {"trust_remote_code": True, "use_fast": True}, {}]
)
def test_a_models_folder_cannot_have_its_code_run(
    kwargs: dict[str, Any], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "model", text={"tokenizer_kwargs": kwargs})
    if not kwargs:  # as long as no code is named, it is an ordinary model
        encoded = load_encoder(f"openclip:local-dir:{folder}").encode_texts(["a"], ["joint"])
        assert encoded["joint"].shape == (1, 24)
    add_code(folder, mark)
    # transformers would ask at the terminal whether to run it.
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(EncoderError, match=r"trust_remote_code|code") as caught:
        load_encoder(f"openclip:local-dir:{folder}")
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert "evil" not in sys.modules


def test_a_hub_repository_cannot_either(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "model", text={"tokenizer_kwargs": {"trust_remote_code": True}})
    add_code(folder, mark)
    hub, commit = tmp_path / "hub", "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    for repo in ("someone/evil",):
        home = hub / f"models--{repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        shutil.copytree(folder, home / "snapshots" / commit)
    with pytest.raises(EncoderError):
        load_encoder("openclip:hf-hub:someone/evil")
    assert not mark.exists()


def test_the_text_tower_of_a_folder_cannot_bring_code(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tokenizer is a built-in one, and only the tower's own config names code."""
    folder = model_folder(tmp_path / "model")
    other = shutil.copytree(folder, tmp_path / "tower")
    add_code(other, mark)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(other)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(EncoderError, match="code"):
        load_encoder(f"openclip:local-dir:{folder}")
    assert not mark.exists()


def test_weights_are_tensors_and_nothing_else(tmp_path: Path, mark: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(mark), "w"))

    folder = model_folder(tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    with (folder / "open_clip_pytorch_model.bin").open("wb") as file:
        pickle.dump({"state_dict": Evil()}, file)
    with pytest.raises(EncoderError, match="cannot load"):
        load_encoder(f"openclip:local-dir:{folder}")
    torch.save({"a": Evil()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(EncoderError, match="cannot load"):
        load_encoder(f"openclip:local-dir:{folder}")
    assert not mark.exists()


@pytest.mark.parametrize("trunk", ["hf-hub:someone/evil", "local-dir:/tmp/evil", "../evil", 7])
def test_a_trunk_is_one_of_timms_own(trunk: Any, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vision={"timm_model_name": trunk})
    with pytest.raises(EncoderError, match="no model of timm's own"):
        load_encoder(f"openclip:local-dir:{folder}")


def test_built_in_encoders_need_no_trust_and_cannot_be_replaced() -> None:
    assert trust.is_trusted("mini")
    assert trust.is_trusted("clip-b32")
    assert trust.is_trusted("openclip:ViT-L-14/openai")
    for encoder_id in (
        "openclip:ViT-B-32//tmp/weights.pt",
        "openclip:ViT-B-32/nonsense",
        "openclip:hf-hub:someone/model",
        "openclip:local-dir:/tmp/model",
        "colours",
    ):
        assert not trust.is_trusted(encoder_id), encoder_id
    assert {name: available()[name].value for name in ("mini", "openclip")} == {
        "mini": "icehouse.embed.mini:Mini",
        "openclip": "icehouse.embed.openclip:OpenClip",
    }


@pytest.mark.slow
def test_what_only_data_name_is_loaded_once_the_user_has_named_it(
    tmp_path: Path, stranger: Callable[[], None]
) -> None:
    folder = model_folder(tmp_path / "model")
    encoder_id = f"openclip:local-dir:{folder.resolve()}"
    rows = ["id,image,text,label,split"]
    (tmp_path / "d").mkdir()
    for i in range(24):
        colours = np.array([[i * 9, 200 if i % 2 else 20, 90], [30, i * 7, 210]], np.uint8)
        Image.fromarray(colours[None]).resize((64, 64)).save(tmp_path / "d" / f"{i}.png")
        rows.append(f"i{i},{i}.png,{'red' if i % 2 else 'green'} {i},{i % 2},{('train', 'dev')[i // 12]}")
    (tmp_path / "d" / "posts.csv").write_text("\n".join(rows))
    store = tmp_path / "store"
    embed_sources([tmp_path / "d" / "posts.csv"], store, encoder=encoder_id)
    run = train(Store.open(store), "logreg", inputs="image/joint", label="label")
    package(Store.open(store), run, tmp_path / "pack")
    picture = str(tmp_path / "d" / "1.png")
    asks = [
        ["search", "-s", str(store), "--image", picture],
        ["search", "-s", str(store), "--text", "red"],
        ["predict", str(tmp_path / "pack"), picture],
        ["predict", "latest", picture, "-s", str(store)],
        ["embed", str(tmp_path / "d" / "posts.csv"), "-s", str(store)],
        ["dups", "calibrate", "-s", str(store)],
        ["dups", "stream", "-s", str(store)],
    ]
    assert CliRunner().invoke(app, asks[0]).exit_code == 0  # who made it has named it
    stranger()
    for ask in asks:
        refused = CliRunner().invoke(app, ask, input=picture)
        assert refused.exit_code == 1, (ask, refused.output)
        assert f"icehouse doctor --trust {encoder_id}" in refused.output.replace("\n", "")
    given = CliRunner().invoke(app, [*asks[2], "--encoder", encoder_id])
    assert given.exit_code == 0, given.output
    assert json.loads(trust.trusted_file().read_text()) == {"encoders": [encoder_id]}
    for ask in asks[:4]:
        assert CliRunner().invoke(app, ask).exit_code == 0


def test_doctor_trusts_by_name(tmp_path: Path, stranger: Callable[[], None]) -> None:
    stranger()
    folder = model_folder(tmp_path / "model")
    told = CliRunner().invoke(app, ["doctor", "--no-load", "--trust", f"openclip:local-dir:{folder}"])
    assert told.exit_code == 0, told.output
    assert trust.is_trusted(f"openclip:local-dir:{folder.resolve()}")
    wrong = CliRunner().invoke(app, ["doctor", "--no-load", "--trust", "openclip:local-dir:/nowhere"])
    assert wrong.exit_code == 1
    assert not trust.is_trusted("openclip:local-dir:/nowhere")


@pytest.mark.parametrize(
    "given",
    ["openclip:local-dir:/evil", "OPENCLIP:ViT-B-32/openai", "no:a; id", None, 3, ["mini"], {"a": 1}, ""],
)
def test_encoder_ids_of_a_store_or_a_package_are_one_line(
    given: Any, tmp_path: Path, stranger: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for images beside a sound encoder of texts."""
    (tmp_path / "p.csv").write_text("text\na cat\na dog\n")
    embed_sources([tmp_path / "p.csv"], tmp_path / "store", encoder=ToyEncoder())
    store = Store.open(tmp_path / "store")
    table = store.feature_table("toy-a/text/joint")
    spec = {**table.spec, "encoder": given, "modality": "image", "name": "x"}
    store.ensure_table("features/x/image/joint", table.snapshot().schema, spec)
    stranger()
    loaded: list[str] = []
    monkeypatch.setattr("icehouse.embed.encoder.available", lambda: loaded.append("asked") or {})
    for arguments in (
        ["embed", "p.csv"],
        ["search", "--text", "cat"],
        ["search", "--text", "cat", "--feature", "x/image/joint"],
    ):
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, [*arguments, "-s", "store"])
        assert result.exit_code == 1, result.output
        assert "unexpected" not in result.stderr
        assert len(result.stderr.splitlines()) == 1
        if given == "no:a; id":
            assert result.stderr.endswith("--trust 'no:a; id'\n")
    assert loaded == []


@pytest.mark.slow
def test_specs_that_are_none_are_one_line(tmp_path: Path, stranger: Callable[[], None]) -> None:
    (tmp_path / "p.csv").write_text("text,label\na cat,x\na dog,y\n")
    embed_sources([tmp_path / "p.csv"], tmp_path / "store", encoder=ToyEncoder())
    store = Store.open(tmp_path / "store")
    folder = store.feature_table("toy-a/text/joint").path
    sound = Snapshot.load(folder)
    changes: list[dict[str, Any]] = [
        {name: value}
        for name in ("encoder", "name", "modality", "output", "key", "dim", "dtype", "provenance", "probe")
        for value in (3.5, [1], True)
    ]
    changes += [{"key": "nope"}, {"encoder": None}, {"provenance": {"cleaning": 3}}, {"provenance": None}]
    for change in changes:
        replace(sound, spec={**sound.spec, **change}).write()
        for arguments in (
            ["search", "--text", "cat"],
            ["embed", str(tmp_path / "p.csv")],
            ["index", "build"],
        ):
            result = CliRunner().invoke(app, [*arguments, "-s", str(store.path)])
            assert "unexpected" not in result.stderr, (change, arguments, result.stderr)
            assert result.exit_code in (0, 1, 2)
    replace(sound, spec={**sound.spec, "dim": "x"}).write()
    result = CliRunner().invoke(app, ["search", "--text", "cat", "-s", str(store.path)])
    assert "the entry 'dim' of its spec is x, no number" in result.stderr
