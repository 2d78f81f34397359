from __future__ import annotations

import json

import pytest
from quick import Make
from shell import call, ran, told

LABELS = ("calm", "flood", "quake")


def test_a_sweep_prints_trials_and_leaderboard(make_store: Make) -> None:
    store = make_store(120)
    out = ran(store, "sweep", "--heads", "logreg", "--inputs", "image+text,image", "--seeds", "2").stdout
    lines = out.splitlines()
    assert "On dev, macro_f1" in lines[0]
    assert sum("logreg" in line for line in lines) == 3
    assert "30 test rows" in out
    assert "leader" in out
    assert "event 0" in ran(store, "compare", "--group-by", "event").stdout
    board = told(store, "compare")
    assert board["rows"] == 30
    assert board["leaderboard"][0]["behind_leader"] is None


def test_json_holds_every_trial(make_store: Make) -> None:
    found = told(make_store(120), "sweep", "--heads", "logreg", "--grid", "logreg:C=0.1,1", "-i", "text")
    assert [trial["params"] for trial in found["trials"]] == [{"C": 0.1}, {"C": 1}]
    assert found["winners"]["logreg"] == found["leaderboard"][0]["runs"]
    assert max(trial["dev_mean"] for trial in found["trials"]) == found["leaderboard"][0]["dev"]


def test_wrong_use_is_one_line(make_store: Make) -> None:
    store = make_store(60)
    for arguments, said in (
        (("sweep", "--heads", "logrge"), "did you mean 'logreg'"),
        (("sweep", "--heads", "logreg", "--budget", "soon"), "90s, 5m or 1h"),
        (("sweep", "--heads", "logreg", "--inputs", "sound"), "no feature fits"),
        (("shots", "--heads", "logreg", "--shots", "few"), "1,2,4,8,16"),
        (("compare",), "no runs in"),
        (("compare", "--sweep", "none"), "no sweep 'none'"),
    ):
        result = call(store, *arguments)
        assert result.exit_code in (1, 2)
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_what_decides_ranks_too_whatever_the_metric(make_store: Make) -> None:
    store = make_store(120)
    arguments = ("sweep", "--heads", "logreg,svm", "-i", "text", "--metric", "auroc")
    out = ran(store, *arguments).stdout
    assert "Ordered by AUROC on dev" in out
    assert "ranked by chance: 50.0" in out
    found = told(store, *arguments)
    assert (found["metric"], found["board"]["metric"]) == ("auroc", "auroc")
    first = found["leaderboard"][0]
    assert first["dev"] == max(entry["dev"] for entry in found["leaderboard"])
    assert first["test"]["low"] < first["test"]["value"] <= first["test"]["high"]
    # The leaderboard of a sweep is by the sweep's metric, unless another is asked for.
    assert told(store, "compare")["metric"] == "auroc"
    for metric in ("macro_f1", "weighted_f1", "average_precision", "log_loss"):
        assert "Ordered by" in ran(store, "compare", "-m", metric, "-g", "event").stdout
    wrong = call(store, "compare", "-m", "area")
    assert (wrong.exit_code, "macro_f1" in wrong.stderr) == (2, True)


def test_a_sweep_says_what_some_heads_could_not_take(make_store: Make) -> None:
    store = make_store(120)
    said = " ".join(ran(store, "sweep", "--heads", "tip-adapter,zero-shot", "-i", "image").stderr.split())
    assert "note: zero-shot on image: class prompts cannot be compared with toy/image/pooled" in said
    assert "note: tip-adapter compares with no class prompts" in said
    vectors = {"image": {label: [float(i == j) for j in range(8)] for i, label in enumerate(LABELS)}}
    grid = f"zero-shot:class_vectors=[{json.dumps(vectors)}]"
    weighed = ("--heads", "logreg,zero-shot", "-i", "image", "--class-weight", "balanced", "--grid", grid)
    said = ran(store, "sweep", *weighed, "--name", "weighed").stderr
    assert "note: --class-weight balanced means nothing to zero-shot, which has no such parameter" in said
    assert "nothing to logreg" not in said
