"""Maps: coordinates against scikit-learn, repeatable, kept until stale, with provenance; the export for embedding-atlas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from icehouse.cli import app
from icehouse.errors import CorruptError, StoreError, UsageError
from icehouse.serve import projection
from icehouse.serve.projection import export_map, list_maps, make_map, read_map
from icehouse.store.schema import features_schema
from icehouse.store.store import Store
from icehouse.store.vectors import vectors_to_arrow
from typer.testing import CliRunner

FEATURE = "toy/image/pooled"
SPEC = {
    "encoder": "toy", "name": "toy", "modality": "image", "output": "pooled", "key": "image_sha256", "dim": 16,
    "dtype": "float32", "provenance": {"model": "toy"}, "fingerprint": "0" * 16,
}  # fmt: skip


def key_of(i: int) -> str:
    return f"{i * 7919 % 10007:064x}"


def vectors_of(n: int) -> np.ndarray:
    """Vectors of three clouds of unlike sizes."""
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 6 // 3 + (np.arange(n) % 6 == 5)
    return (rng.normal(size=(3, 16))[kind] * 3 + rng.normal(size=(n, 16))).astype(np.float32)


def add(store: Store, numbers: list[int], X: np.ndarray, copies: int = 0) -> None:
    """Items ``p<i>`` with the vectors of their numbers, in the order given; the first `copies` come twice."""
    schema = features_schema("image", "pooled", 16, "float32")
    table = store.ensure_feature_table(FEATURE, SPEC, schema)
    table.append(
        pa.table([[key_of(i) for i in numbers], vectors_to_arrow(X[numbers], "float32")], schema=schema)
    )
    ids = [f"p{i}" for i in numbers] + [f"copy{i}" for i in numbers[:copies]]
    keys = [key_of(i) for i in [*numbers, *numbers[:copies]]]
    rows = {
        "item_id": ids,
        "image_sha256": keys,
        "path": [f"{i}.png" for i in ids],
        "root": ["/pictures"] * len(ids),
    }
    store.items.append(pa.table({**rows, "x": pa.array(["label"] * len(ids))}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store")
    add(made, list(range(90)), vectors_of(120), copies=2)
    return made


def test_pca_is_that_of_scikit_learn(store: Store) -> None:
    from sklearn.decomposition import PCA

    made = make_map(store, method="pca")
    X = vectors_of(120)[:90].astype(np.float64)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = dict(zip(map(key_of, range(90)), PCA(2).fit_transform(units), strict=True))
    drawn = made.map
    assert (made.computed, drawn.feature, drawn.xy.dtype) == (True, FEATURE, np.float32)
    assert drawn.keys.to_pylist() == sorted(expected)
    np.testing.assert_allclose(drawn.xy, [expected[key] for key in drawn.keys.to_pylist()], atol=1e-6)


def test_clusters_are_the_clouds_the_largest_first(store: Store) -> None:
    drawn = make_map(store, method="pca", clusters=3).map
    cloud = {key_of(i): i % 6 // 3 + (i % 6 == 5) for i in range(90)}
    pairs = set(zip(drawn.cluster.tolist(), [cloud[key] for key in drawn.keys.to_pylist()], strict=True))
    assert pairs == {(0, 0), (1, 1), (2, 2)}
    assert np.bincount(drawn.cluster).tolist() == [45, 30, 15]
    none = make_map(store, clusters=0).map
    assert set(none.cluster.tolist()) == {-1}
    assert store.table(f"maps/{FEATURE}").read(["cluster"])["cluster"].null_count == 90


def test_density_finds_the_clouds_by_itself(store: Store) -> None:
    made = make_map(store, method="pca", cluster_by="hdbscan")
    plain = make_map(store, method="pca", cluster_by="kmeans", clusters=3)
    assert plain.computed
    assert "cluster_by" not in plain.map.spec  # as maps of before have it, which stay fresh
    assert (made.map.spec["cluster_by"], made.map.spec["min_cluster_size"]) == ("hdbscan", 5)
    kind = {key_of(i): i % 6 // 3 + (i % 6 == 5) for i in range(90)}
    truth = np.array([kind[key] for key in made.map.keys.to_pylist()])
    for number in range(made.map.cluster.max() + 1):
        assert len({*truth[made.map.cluster == number].tolist()}) == 1, "no cluster holds two clouds"
    assert made.map.cluster.max() >= 2
    sizes = np.bincount(made.map.cluster[made.map.cluster >= 0])
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    again = make_map(store, method="pca", cluster_by="hdbscan")
    assert again.notes == ("made anew: another cluster_by",)
    assert make_map(store).computed is False  # what is not given stays as it was
    assert make_map(store, clusters=0).map.cluster.tolist() == [-1] * 90
    with pytest.raises(UsageError, match="no clusters by 'dbscan'"):
        make_map(store, cluster_by="dbscan")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_the_same_contents_in_any_order_make_the_same_map(store: Store, tmp_path: Path, method: str) -> None:
    if method == "umap":
        pytest.importorskip("umap")
    other = Store.create(tmp_path / "other")
    order = np.random.default_rng(5).permutation(90).tolist()
    add(other, order[:40], vectors_of(120))
    add(other, order[40:], vectors_of(120))
    first, second = (make_map(each, method=method, seed=3).map for each in (store, other))  # type: ignore[arg-type]
    assert first.keys.equals(second.keys)
    assert first.xy.tobytes() == second.xy.tobytes()
    assert first.cluster.tolist() == second.cluster.tolist()
    assert first.spec["contents"] == second.spec["contents"]
    if method == "umap":
        assert make_map(store, seed=4).map.xy.tobytes() != first.xy.tobytes()
        assert first.spec["libraries"]["umap-learn"]
        X = {key_of(i): i % 6 // 3 + (i % 6 == 5) for i in range(90)}
        kinds = np.array([X[key] for key in first.keys.to_pylist()])
        middles = np.array([first.xy[kinds == kind].mean(axis=0) for kind in range(3)])
        nearest = np.linalg.norm(first.xy[:, None] - middles, axis=2).argmin(axis=1)
        assert (nearest == kinds).mean() > 0.95


def test_a_map_is_kept_until_it_is_stale(store: Store) -> None:
    first = make_map(store, method="pca")
    assert first.map.spec | {"made": "", "libraries": {}} == {
        "kind": "map", "key": "image_sha256", "feature": FEATURE, "feature_fingerprint": "0" * 16, "method": "pca",
        "seed": 0, "clusters": 8, "components": 50, "fingerprint": first.map.spec["fingerprint"],
        "contents": first.map.spec["contents"], "made": "", "libraries": {},
    }  # fmt: skip
    assert set(first.map.spec["libraries"]) == {"numpy", "scikit-learn"}
    again = make_map(store)  # the method is that of the map that is there
    assert (again.computed, again.map.version) == (False, first.map.version)
    assert make_map(store, again=True).computed
    add(store, list(range(90, 120)), vectors_of(120))
    grown = make_map(store)
    assert grown.computed
    assert grown.notes == ("made anew: 30 contents came since, 0 went",)
    assert len(grown.map.xy) == 120
    assert make_map(store, seed=1).notes == ("made anew: another seed",)
    assert not make_map(store).computed
    assert store.table(f"maps/{FEATURE}").snapshot().spec["seed"] == 1
    assert list_maps(store) == [FEATURE]
    assert store.query(f'select count(*) as n from "maps_{FEATURE.replace("/", "_")}"')["n"].to_pylist() == [
        120
    ]


def test_a_feature_that_no_item_has_is_no_point(store: Store) -> None:
    schema = features_schema("image", "pooled", 16, "float32")
    extra = pa.table([["f" * 64], vectors_to_arrow(np.ones((1, 16), np.float32), "float32")], schema=schema)
    store.feature_table(FEATURE).append(extra)
    assert len(make_map(store, method="pca").map.xy) == 90


def test_vectors_without_a_direction_are_told(store: Store) -> None:
    X = vectors_of(120)
    X[90] = 0
    add(store, [90], X)
    made = make_map(store, method="pca")
    assert key_of(90) not in made.map.keys.to_pylist()
    assert len(made.map.xy) == 90
    assert (
        "1 content with a vector that has no direction (zero or not finite): no point on the map"
        in made.notes
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_contents_are_drawn(tmp_path: Path, n: int) -> None:
    store = Store.create(tmp_path / "store")
    add(store, list(range(n)), vectors_of(6))
    made = make_map(store, method="umap" if projection._installed() else "pca")
    assert made.map.xy.shape == (n, 2)
    assert np.isfinite(made.map.xy).all()
    assert export_map(store, FEATURE, tmp_path / "few.parquet") == n


def test_what_cannot_be_drawn_is_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no method 'tsne'"):
        make_map(store, method="tsne")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no feature"):
        make_map(store, "toy/image/other")
    with pytest.raises(StoreError, match="icehouse map -f"):
        read_map(store, FEATURE)
    with pytest.raises(UsageError, match="icehouse embed"):
        make_map(Store.create(tmp_path / "empty"))
    monkeypatch.setattr(projection, "_installed", lambda: False)
    with pytest.raises(UsageError, match="pip install"):
        make_map(store, method="umap")
    assert make_map(store).map.spec["method"] == "pca"


def test_coordinates_that_are_no_numbers_are_refused_and_made_anew(store: Store) -> None:
    make_map(store, method="pca")
    table = store.table(f"maps/{FEATURE}")
    rows = table.read()
    bad = rows.set_column(1, rows.schema.field("x"), pa.array(np.full(len(rows), np.nan, np.float32)))
    table.replace(bad, table.spec)
    with pytest.raises(CorruptError, match="not finite"):
        read_map(store, FEATURE)
    assert np.isfinite(make_map(store, method="pca").map.xy).all()


def test_the_export_is_what_embedding_atlas_opens(store: Store, tmp_path: Path) -> None:
    drawn = make_map(store, method="pca").map
    out = tmp_path / "map.parquet"
    assert export_map(store, FEATURE, out, neighbours=5) == 92
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert table.column_names == [
        "item_id", "text", "image", "split", "label_x", "cluster", "x", "y", "neighbors", "vector",
    ]  # fmt: skip
    place = dict(zip(drawn.keys.to_pylist(), drawn.xy.tolist(), strict=True))
    X = vectors_of(120)
    numbers = [int(row["item_id"].lstrip("copy")) for row in rows]
    units = X[numbers] / np.linalg.norm(X[numbers], axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    for i, row in enumerate(rows):
        assert [row["x"], row["y"]] == place[key_of(numbers[i])]
        assert row["image"] == f"/pictures/{row['item_id']}.png"
        assert i not in row["neighbors"]["ids"]
        np.testing.assert_allclose(
            row["neighbors"]["distances"], 1 - np.sort(cosines[i])[::-1][:5], atol=1e-5
        )
        np.testing.assert_allclose(
            cosines[i][row["neighbors"]["ids"]], 1 - np.array(row["neighbors"]["distances"]), atol=1e-5
        )
        np.testing.assert_allclose(row["vector"], units[i], atol=1e-6)
    assert rows[90]["neighbors"]["ids"][0] == 0  # the copy's nearest is its original
    assert export_map(store, FEATURE, out, neighbours=0, vectors=False, where="item_id like 'copy%'") == 2
    assert pq.read_table(out).column_names == [
        "item_id",
        "text",
        "image",
        "split",
        "label_x",
        "cluster",
        "x",
        "y",
    ]
    for wrong in (tmp_path / "map.csv", tmp_path / "none" / "map.parquet"):
        with pytest.raises(UsageError):
            export_map(store, FEATURE, wrong)
    with pytest.raises(UsageError, match="no item"):
        export_map(store, FEATURE, out, where="false")


def test_the_command(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "map.parquet"
    made = CliRunner().invoke(app, ["map", str(store.path), "--method", "pca", "--export", str(out)])
    assert made.exit_code == 0, made.output
    assert f"embedding-atlas {out} --text text --x x --y y --neighbors neighbors" in made.output
    assert pq.read_table(out).num_rows == 92
    again = CliRunner().invoke(app, ["map", "-s", str(store.path), "--json"])
    assert '"computed": false' in again.output
    assert CliRunner().invoke(app, ["map", str(store.path), "--export", "map.csv"]).exit_code != 0
