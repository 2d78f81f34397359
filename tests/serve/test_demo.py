"""The demo and the doctor, with the real small model: what a newcomer sees first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from icehouse.cli import app
from icehouse.data.images import decode
from icehouse.errors import SourceError
from icehouse.heads.runs import list_runs
from icehouse.serve.demo import photographs, program
from icehouse.serve.doctor import examine
from icehouse.store.maintain import verify
from icehouse.store.store import Store
from typer.testing import CliRunner

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("skimage")


@pytest.mark.slow
def test_the_demo_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", str(folder), "--posts", "80"])
    assert result.exit_code == 0, result.output
    for command in ("embed", "info", "sql", "search", "train", "runs", "verify"):
        assert f"$ icehouse {command}" in result.stdout
    assert f"$ {program()} serve {folder / 'store'}\n" in result.stdout
    store = Store.open(folder / "store")
    assert verify(store).ok
    assert len(list_runs(store)) == 2
    truth = json.loads((folder / "feed" / "truth.json").read_text())
    failed = set(store.failures.read(["item_id"])["item_id"].to_pylist())
    assert failed == {entry["item"] for entry in truth["corrupt"]}
    assert (folder / "fire.html").read_text().count("data:image/") == 24
    best = json.loads(
        CliRunner()
        .invoke(app, ["search", "--text", "a cat", "-k", "1", "--json", "-s", str(folder / "store")])
        .stdout
    )
    assert best[0]["item_id"].startswith("cat"), "a real pretrained model knows a cat"


def test_commands_to_type_find_this_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / ".venv" / "bin"
    made.mkdir(parents=True)
    for name in ("python", "icehouse"):
        (made / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(made / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == ".venv/bin/icehouse"  # after `make demo`, which activates nothing
    (tmp_path / "icehouse").symlink_to(made / "icehouse")
    assert program() == "icehouse"
    (tmp_path / "icehouse").unlink()
    (tmp_path / "icehouse").touch(mode=0o755)  # another installation
    assert program() == ".venv/bin/icehouse"


def test_the_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = CliRunner().invoke(app, ["demo", str(tmp_path)])
    assert result.exit_code == 2
    assert "thesis" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_the_doctor_tells_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")  # the discard port: nobody answers
    found = examine(tmp_path / "none")
    encoders = {entry["encoder"]: entry for entry in found["encoders"]}
    assert encoders["mini"]["usable"] is True
    assert "image/joint (384)" in encoders["mini"]["detail"]
    assert found["device"]["device"] in ("cpu", "cuda", "mps")
    assert found["ollama"]["answers"] is False
    assert "no store" in found["store"]["detail"]
    assert any("ollama serve" in line for line in found["advice"])
    json.dumps(found)


def test_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = photographs(tmp_path)
    assert {"astronaut", "cat", "coffee", "rocket"} <= {photo.id for photo in found}
    for photo in found:
        assert decode(photo.path.read_bytes()).width > 100
        assert photo.title[0].isupper()
    assert {path.stem for path in tmp_path.iterdir()} == {photo.id for photo in found}
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SourceError, match=r"icehouse\[demo\]"):
        photographs(tmp_path)
