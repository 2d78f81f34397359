from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from icehouse.cli import app
from icehouse.store.store import Store
from typer.testing import CliRunner

Make = Callable[..., Store]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_a_sweep_prints_trials_and_leaderboard(make_store: Make) -> None:
    store = str(make_store(120).path)
    code, out, err = run(
        "sweep", "-s", store, "--heads", "logreg", "--inputs", "image+text,image", "--seeds", "2"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert "On dev, macro_f1" in lines[0]
    assert sum("logreg" in line for line in lines) == 3
    assert "30 test rows" in out
    assert "leader" in out
    code, out, err = run("compare", "-s", store, "--group-by", "event")
    assert code == 0, err
    assert "event 0" in out
    code, out, _ = run("compare", "-s", store, "--json")
    board = json.loads(out)
    assert board["rows"] == 30
    assert board["leaderboard"][0]["behind_leader"] is None


def test_json_holds_every_trial(make_store: Make) -> None:
    store = str(make_store(120).path)
    arguments = (
        "sweep",
        "-s",
        store,
        "--heads",
        "logreg",
        "--grid",
        "logreg:C=0.1,1",
        "-i",
        "text",
        "--json",
    )
    code, out, err = run(*arguments)
    assert code == 0, err
    told = json.loads(out)
    assert [trial["params"] for trial in told["trials"]] == [{"C": 0.1}, {"C": 1}]
    assert told["winners"]["logreg"] == told["leaderboard"][0]["runs"]
    assert max(trial["dev_mean"] for trial in told["trials"]) == told["leaderboard"][0]["dev"]


def test_wrong_use_is_one_line(make_store: Make) -> None:
    store = str(make_store(60).path)
    for arguments, said in (
        (("sweep", "--heads", "logrge"), "did you mean 'logreg'"),
        (("sweep", "--heads", "logreg", "--budget", "soon"), "90s, 5m or 1h"),
        (("sweep", "--heads", "logreg", "--inputs", "sound"), "no feature fits"),
        (("compare",), "no runs in"),
        (("compare", "--sweep", "none"), "no sweep 'none'"),
    ):
        code, _, err = run(*arguments, "-s", store)
        assert code in (1, 2)
        assert said in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_what_decides_ranks_too_whatever_the_metric(make_store: Make) -> None:
    store = str(make_store(120).path)
    arguments = ("sweep", "-s", store, "--heads", "logreg,svm", "-i", "text", "--metric", "auroc")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "Ordered by AUROC on dev" in out
    assert "ranked by chance: 50.0" in out
    told = json.loads(run(*arguments, "--json")[1])
    assert (told["metric"], told["board"]["metric"]) == ("auroc", "auroc")
    first = told["leaderboard"][0]
    assert first["dev"] == max(entry["dev"] for entry in told["leaderboard"])
    assert first["test"]["low"] < first["test"]["value"] <= first["test"]["high"]
    # The leaderboard of a sweep is by the sweep's metric, unless another is asked for.
    assert json.loads(run("compare", "-s", store, "--json")[1])["metric"] == "auroc"
    for metric in ("macro_f1", "weighted_f1", "average_precision", "log_loss"):
        code, out, err = run("compare", "-s", store, "-m", metric, "-g", "event")
        assert code == 0, err
        assert "Ordered by" in out
    code, _, err = run("compare", "-s", store, "-m", "area")
    assert (code, "macro_f1" in err) == (2, True)


def test_a_sweep_says_what_some_heads_could_not_take(make_store: Make) -> None:
    store = str(make_store(120).path)
    heads = "logreg,tip-adapter,zero-shot,late-fusion"
    code, _, err = run("sweep", "-s", store, "--heads", heads, "-i", "image", "--class-weight", "balanced")
    assert code == 0, err
    said = " ".join(err.split())
    assert "note: zero-shot on image: class prompts cannot be compared with toy/image/pooled" in said
    assert "note: tip-adapter compares with no class prompts" in said


def test_class_weights_are_for_heads_that_have_them(make_store: Make) -> None:
    from icehouse.heads.sweeps.commands import _notes
    from icehouse.heads.sweeps.record import Trial

    store = make_store(12)
    tried = [
        Trial(head, {"text": "toy/text/pooled"}, {}, (0,)) for head in ("zero-shot", "late-fusion", "logreg")
    ]
    (note,) = _notes(store, tried, "balanced")
    assert note == "--class-weight balanced means nothing to zero-shot, which has no such parameter"
    assert not _notes(store, tried, None)
