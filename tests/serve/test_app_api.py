"""The JSON API: predictions as on the command line, search, duplicates, items, batches, hostile inputs, true examples."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from icehouse.heads.package import package
from icehouse.heads.runs import Run
from icehouse.heads.trainer import train
from icehouse.serve.predict import predict
from icehouse.serve.query import search
from icehouse.store.store import Store
from PIL import Image
from served import client, make_store
from toys import ToyEncoder


@pytest.fixture(scope="module")
def api(work: Path) -> Iterator[Any]:
    with client(work / "store") as made:
        assert made.problem is None
        yield made


def upload(work: Path, number: int = 0, **text: str) -> dict[str, Any]:
    data = (work / "images" / f"{number:02d}.png").read_bytes()
    return {"files": {"image": ("photo.png", data, "image/png")}, "data": text}


def rounded(answer: Any) -> Any:
    """An answer without the digits in which a product depends on what it is calculated with."""
    return json.loads(json.dumps(answer), parse_float=lambda digits: round(float(digits), 9))


def base64_of(work: Path, number: int) -> str:
    return base64.b64encode((work / "images" / f"{number:02d}.png").read_bytes()).decode()


def test_a_prediction_is_that_of_the_command_line(work: Path, api: Any) -> None:
    rows = {
        row["item_id"]: row
        for row in predict(
            work / "store", "latest", [work / "posts.csv"], encoder=ToyEncoder()
        ).table.to_pylist()
    }
    for number, text in ((3, "night number3"), (8, "sun number8")):
        answer = api.post("/predict", **upload(work, number, text=text))
        assert answer.status_code == 200, answer.text
        said, row = answer.json(), rows[f"i{number}"]
        assert said["prediction"] == row["predicted"]
        assert said["probabilities"]["day"] == pytest.approx(row["p_day"], abs=1e-6)
        assert said["probability"] == max(said["probabilities"].values())
        assert list(said["probabilities"].values()) == sorted(said["probabilities"].values(), reverse=True)
        assert said["threshold"] == 0.5
        assert said["neighbours"][0]["item_id"] == f"i{number}"
        assert said["neighbours"][0]["score"] == pytest.approx(1.0)
        assert len(said["neighbours"]) == 5


def test_json_and_forms_say_the_same(work: Path, api: Any) -> None:
    data = (work / "images" / "05.png").read_bytes()
    form = api.post("/predict", files={"image": data}, data={"text": "night"}).json()
    body = {"image": base64.b64encode(data).decode(), "text": "night"}
    assert rounded(api.post("/predict", json=body).json()) == rounded(form)
    both = api.post("/predict/batch?k=5", json={"items": [body, body]}).json()["results"]
    assert rounded(both) == rounded([form, form])


def test_copies_and_near_copies_in_the_store_are_told(work: Path, api: Any) -> None:
    told = api.post("/duplicates", **upload(work, 0)).json()
    # No search has been made of this store, so near certainty decides.
    assert "after `icehouse dups find` neighbourhoods decide" in told["note"]
    found = told["duplicates"]
    assert [(one["item_id"], one["kind"]) for one in found[:2]] == [("i0", "exact"), ("i58", "exact")]
    with Image.open(work / "images" / "00.png") as picture:
        other = io.BytesIO()
        picture.save(other, "BMP")
    found = api.post("/duplicates", files={"image": other.getvalue()}).json()["duplicates"]
    assert {one["item_id"] for one in found if one["hamming"] == 0} == {"i0", "i58"}
    assert all(one["kind"] == "perceptual" for one in found[:2])
    words = api.post("/duplicates", data={"text": "night number7"}).json()
    assert words["duplicates"][0]["item_id"] == "i7"
    assert words["duplicates"][0]["kind"] == "exact"


def test_search_is_that_of_the_library(work: Path, api: Any) -> None:
    for text in ("sun number4", "night"):
        want = search(work / "store", text=text, k=7, encoder=ToyEncoder()).hits
        hits = api.get("/search", params={"text": text, "k": 7}).json()["hits"]
        assert [(hit["item_id"], hit["score"]) for hit in hits] == [(hit.item_id, hit.score) for hit in want]
    want = search(work / "store", image=work / "images" / "09.png", k=60, encoder=ToyEncoder()).hits
    hits = api.post("/search?k=60", **upload(work, 9)).json()["hits"]
    assert [hit["item_id"] for hit in hits] == [hit.item_id for hit in want]
    some = api.get(
        "/search", params={"text": "sun", "where": "label = 'dark' and split = 'test'", "k": 50}
    ).json()
    assert {hit["labels"]["label"] for hit in some["hits"]} == {"dark"}
    assert len(some["hits"]) == sum(i % 2 == 1 and i // 2 % 4 == 3 for i in range(60))


def test_heads_share_one_embedding(work: Path) -> None:
    folder = work / "two"
    made = make_store(folder)
    first = Run.load(made, "latest")
    second = train(made, "logreg", inputs="image/joint", label="label")
    runs, encoder = [first.run_id, second.run_id], ToyEncoder()
    with client(made.path, *runs, encoder=encoder) as both:
        encoder.batches.clear()
        said = both.post("/predict", **upload(folder, 2, text="sun")).json()
        assert encoder.batches == [1, 1], "one image and one text, whatever number of heads"
        assert [head["run"] for head in said["heads"]] == runs[1:]
        alone = both.post(f"/predict?run={runs[1]}", **upload(folder, 2)).json()
        assert alone["run"] == runs[1]
        assert alone["heads"] == []
        assert alone["probabilities"] == said["heads"][0]["probabilities"]
        lacking = both.post("/predict", **upload(folder, 2))
        assert lacking.status_code == 422
        assert "needs an image and a text" in lacking.json()["detail"]


def test_requests_that_come_together_are_encoded_together(work: Path) -> None:
    with client(work / "store") as many, ThreadPoolExecutor(16) as pool:
        images = [base64_of(work, i % 50) for i in range(96)]
        asked = [{"text": f"sun number{i}", "image": image} for i, image in enumerate(images)]
        answers = list(pool.map(lambda body: many.post("/predict?k=0", json=body), asked))
        assert [answer.status_code for answer in answers] == [200] * len(asked)
        alone = [many.post("/predict?k=0", json=body).json() for body in asked[:8]]
        for one, other in zip(answers, alone, strict=False):
            assert one.json()["prediction"] == other["prediction"]
            assert one.json()["probability"] == pytest.approx(other["probability"], abs=1e-6)
        text = many.get("/metrics").text
    sizes = {}
    for line in text.splitlines():
        if line.startswith(("icehouse_batch_size_sum", "icehouse_batch_size_count")):
            name, _, value = line.rpartition(" ")
            sizes[name] = float(value)
    assert sizes['icehouse_batch_size_sum{modality="image"}'] == 104
    assert sizes['icehouse_batch_size_count{modality="image"}'] < 104
    assert 'icehouse_requests_total{method="POST",route="/predict",status="200"} 104.0' in text
    assert (
        sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("icehouse_answers_total")
        )
        == 104
    )
    assert "icehouse_queue 0.0" in text


def test_neighbours_of_many_are_those_of_each(api: Any) -> None:
    feature = api.app.state.served.catalog.feature("toy-a/image/pooled")
    vectors = np.stack([feature.vector(row) for row in (3, 17, 30)]).astype(np.float32)
    assert feature.nearest_each(vectors, 4) == [feature.nearest(vector, 4) for vector in vectors]
    assert [near[0].row for near in feature.nearest_each(vectors, 4)] == [3, 17, 30]


def test_a_full_queue_answers_503_and_recovers(work: Path) -> None:
    with client(work / "store", queue=3) as busy:
        body = {"items": [{"text": "sun"}] * 4}
        answer = busy.post("/predict/batch", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert busy.post("/predict", **upload(work, 1, text="night")).status_code == 200
        assert "icehouse_overloaded_total 1.0" in busy.get("/metrics").text


def test_one_bad_input_of_a_batch_costs_only_itself(work: Path, api: Any) -> None:
    good = {"image": base64_of(work, 1), "text": "night"}
    bad = [{"image": "bm90aGluZw==", "text": "x"}, {"image": "&&&"}, {}]
    body = json.dumps({"items": [good, *bad, good]}).encode()
    results = api.post("/predict/batch", content=body, headers={"content-type": "application/json"}).json()[
        "results"
    ]
    assert rounded(results[0]) == rounded(results[-1])
    assert results[0]["prediction"] == "dark"
    assert all(set(one) == {"error"} for one in results[1:-1])
    assert "no base64" in results[2]["error"]
    assert "neither" in results[3]["error"]


def test_a_package_answers_without_its_store(work: Path, api: Any) -> None:
    package(Store.open(work / "store"), "latest", work / "packaged")
    with client(work / "packaged") as made:
        assert made.problem is None
        said = made.post("/predict", **upload(work, 4, text="sun")).json()
        want = api.post("/predict", **upload(work, 4, text="sun")).json()
        assert said["probabilities"] == want["probabilities"]
        assert said["neighbours"] == said["duplicates"] == []
        for path in ("/browse", "/items/i0", "/search?text=sun"):
            assert made.get(path).status_code in (404, 422), path


@pytest.mark.parametrize(
    "item_id", ["i0", "a/b/../c", "übung 🙂", "<b>x</b>", "100%", "?x=1&y", "..", "a//b"]
)
def test_items_by_any_id(tmp_path: Path, item_id: str) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    (tmp_path / "posts.jsonl").write_text(json.dumps({"id": item_id, "image": "red.png", "text": "x"}) + "\n")
    from urllib.parse import quote

    from icehouse.embed.pipeline import embed_sources

    embed_sources([tmp_path / "posts.jsonl"], tmp_path / "store", encoder=ToyEncoder())
    with client(tmp_path / "store") as made:
        if item_id not in ("..", "a/b/../c"):  # clients take such a path apart before they send it
            found = made.get(f"/items/{quote(item_id, safe='')}")
            assert found.status_code == 200, found.text
            assert found.json()["item_id"] == item_id
        shown = made.get("/picture", params={"id": item_id})
        assert shown.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(shown.content)).size == (20, 10)
        assert made.get("/picture", params={"id": item_id + "x"}).status_code == 404


def test_what_is_embedded_while_it_is_served_is_there(tmp_path: Path) -> None:
    make_store(tmp_path)
    with client(tmp_path / "store") as made:
        assert made.get("/items/new.png").status_code == 404
        pixels = np.random.default_rng(9).integers(0, 256, (24, 24, 3)).astype(np.uint8)
        (tmp_path / "more").mkdir()
        Image.fromarray(pixels).save(tmp_path / "more" / "new.png")
        from icehouse.embed.pipeline import embed_sources

        embed_sources([tmp_path / "more"], tmp_path / "store", encoder=ToyEncoder(), dtype="float32")
        assert made.get("/items/new.png").status_code == 200
        found = made.post("/duplicates", files={"image": (tmp_path / "more" / "new.png").read_bytes()}).json()
        assert found["duplicates"][0]["item_id"] == "new.png"


def test_contributions_add_up(work: Path, api: Any) -> None:
    said = api.post("/predict?explain=true", **upload(work, 6, text="sun number6")).json()
    parts = said["contributions"]
    total = parts["base"]["probability"] + sum(part["probability"] for part in parts["inputs"].values())
    assert total == pytest.approx(said["probability"], abs=1e-6)
    assert set(parts["inputs"]) == {"image", "text"}


HOSTILE = [
    (b"", "multipart/form-data; boundary=x"),
    (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n', "multipart/form-data; boundary=x"),
    (b"{", "application/json"),
    (b"[]", "application/json"),
    (b"null", "application/json"),
    (b'{"text": NaN}', "application/json"),
    (b'{"text": 1}', "application/json"),
    (b'{"image": "' + b"A" * 50 + b'"}', "application/json"),
    (b'{"text": "\\ud800"}', "application/json"),
    (b'{"text": "x", "path": "/etc/passwd"}', "application/json"),
    (b"[" * 100_000, "application/json"),
    (b"\xff\xfe", "application/json"),
    (b"text=x", "text/plain"),
    (b"text=" + b"x" * 2_000_000, "application/x-www-form-urlencoded"),
    (b"x", ""),
]


@pytest.mark.parametrize("path", ["/predict", "/search", "/duplicates", "/predict/batch"])
@pytest.mark.parametrize(("body", "kind"), HOSTILE)
def test_bad_bodies_are_refused_in_one_line(api: Any, path: str, body: bytes, kind: str) -> None:
    answer = api.post(path, content=body, headers={"content-type": kind})
    assert 400 <= answer.status_code < 500, answer.text
    assert "\n" not in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 400


@pytest.mark.parametrize(
    "text", ["a\x00b", "<script>alert(1)</script>", "‮", "x" * 100_000, "\n" * 1000, "🙂" * 9999]
)
def test_odd_texts_are_texts(work: Path, api: Any, text: str) -> None:
    answer = api.post(
        "/predict",
        json={"text": text, "image": base64_of(work, 1)},
    )
    assert answer.status_code == 200
    assert api.post("/search", json={"text": text}).status_code == (200 if text.strip() else 422)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "1",
        "label = ",
        "true) union select 1 --",
        "exists(select * from read_text('/etc/passwd'))",
        "\x00",
        "label = 'x'; drop table items",
    ],
)
def test_a_condition_sees_the_items_and_nothing_else(api: Any, where: str) -> None:
    answer = api.get("/search", params={"text": "sun", "where": where})
    assert answer.status_code in (200, 422)
    assert "root:" not in answer.text
    if "passwd" in where:
        assert answer.status_code == 422


def test_a_picture_bomb_is_refused(api: Any) -> None:
    bomb = io.BytesIO()
    Image.new("1", (17_000, 17_000)).save(bomb, "PNG", compress_level=1)
    answer = api.post("/predict", files={"image": bomb.getvalue()}, data={"text": "x"})
    assert answer.status_code == 422
    assert "decompression bomb" in answer.json()["detail"]


def test_the_examples_of_the_description_are_true(work: Path, api: Any) -> None:
    described = api.get("/openapi.json").json()
    sent = 0
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {})
            schema = (
                operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
            )
            schema = {**schema, "components": described["components"]}
            for kind, content in body.items():
                example = content.get("example")
                if example is None:
                    example = _example(described, content["schema"])
                if path == "/predict" and kind == "multipart/form-data":
                    answer = api.post(
                        path, files={"image": (work / "images" / "01.png").read_bytes()}, data=example
                    )
                elif kind == "multipart/form-data":
                    answer = api.request(method, path, files={k: (None, v) for k, v in example.items()})
                else:
                    answer = api.request(method, path, json=example)
                assert answer.status_code == 200, (path, kind, answer.text)
                jsonschema.validate(answer.json(), schema)
                sent += 1
    assert sent == 7
    for path in ("/items/i0", "/search?text=sun"):
        assert api.get(path).status_code == 200


def _example(described: dict[str, Any], schema: dict[str, Any]) -> Any:
    """The example that a schema gives by its fields' examples."""
    if "$ref" in schema:
        return _example(described, described["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if schema.get("type") == "array":
        return [_example(described, schema["items"])]
    if "properties" in schema:
        return {name: _example(described, part) for name, part in schema["properties"].items()}
    return schema["examples"][0]
