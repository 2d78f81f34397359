"""Learning from labels that come with a stream: an `online` head, its versions as runs.

A label comes with its post, or later under the post's id, as long as the post is among the latest. Each is predicted before
the head learns from it (prequential evaluation: Dawid 1984; Gama et al. 2013, "On evaluating stream learning algorithms"),
so the share of right predictions is that on posts the head has not seen.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, deque
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...data.labels import normalised
from ...errors import UsageError, count_of
from ...heads.runs import Prediction, Run, prediction_table, write_run
from ...store.store import Store
from ..predict import Contents, Feature, Model, feature_of, inputs_of

#: Posts whose features are kept for labels that come later, and labels that the learning curve is over.
REMEMBERED, RECENT = 10_000, 500

#: Rows that the head learns from at a time.
BATCH = 16

#: Classes, at most: labels come from outside, and each new one is a class.
MAX_CLASSES = 100


class Learner:
    """Teaches the head of a run what comes, and keeps a version of it as a run of the store after every `every` labels.

    The model is of family `online`; from now on its `head` is the one that learns.
    """

    def __init__(self, store: Store, model: Model, *, every: int = 100) -> None:
        if model.run.family != "online":
            raise UsageError(
                f"--learn {model.name}: run {model.run.run_id} is a {model.run.family} head, which learns once and for all; "
                "train one with `icehouse train online`"
            )
        self.store, self.model, self.every = store, model, every
        self.parent: Run = model.run
        # A copy: what a run's head is stays what is on disk.
        self.head: Any = copy.deepcopy(model.run.head)
        model.head = self.head
        self._features = {feature_of(spec) for spec in model.run.specs.values()}
        self._seen: OrderedDict[str, dict[Feature, Any]] = OrderedDict()
        self._waiting: list[tuple[str, Contents, str]] = []
        self._right: deque[bool] = deque(maxlen=RECENT)
        self._curve: list[dict[str, Any]] = []
        self._rows: list[tuple[str, str, np.ndarray, list[str]]] = []  # of the version to come
        self.labels, self._kept_at = 0, 0
        self.versions: list[str] = []

    def remember(self, post_id: str, contents: Contents) -> None:
        """Keep a post's features for a label that may come."""
        features = {key: contents.features[key] for key in self._features if key in contents.features}
        if features:
            self._seen[post_id] = {key: _small(value) for key, value in features.items()}
            self._seen.move_to_end(post_id)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)

    def learn(self, post_id: str, contents: Contents, label: str) -> dict[str, Any]:
        """Take a label, and say what the head had thought; `error` says why it could not be used."""
        known = normalised(label)
        if known is None:
            return {"error": f"the label {label[:40]!r} means no value"}
        label = known
        if not any(key in contents.features for key in self._features):
            features = self._seen.get(post_id)
            if features is None:
                return {"error": f"a label for a post that is not among the latest {REMEMBERED:,}"}
            contents = Contents(features={key: _whole(value) for key, value in features.items()})
        inputs, _ = inputs_of(self.model.run, [contents.features])
        if inputs is None:
            return {"error": f"the post lacks an input of {self.model.name}"}
        classes = [str(name) for name in self.head.classes_.tolist()]
        if label not in classes and len(classes) >= MAX_CLASSES:
            return {"error": f"{self.model.name} knows {len(classes)} classes, and takes no further one"}
        proba = self.head.predict_proba(inputs)[0]
        predicted = classes[int(proba.argmax())]
        self._right.append(predicted == label)
        self._rows.append((post_id, label, proba, classes))
        self._waiting.append((post_id, contents, label))
        self.labels += 1
        if len(self._waiting) >= BATCH:
            self._teach()
        if self.labels - self._kept_at >= self.every:
            self.keep()
        return {"label": label, "predicted": predicted, "labels": self.labels}

    def _teach(self) -> None:
        """Train the head on the labels that have come together."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        inputs, _ = inputs_of(self.model.run, [contents.features for _, contents, _ in waiting])
        assert inputs is not None
        self.head.partial_fit(inputs, np.array([label for _, _, label in waiting]))
        self._curve.append({"labels": self.labels, "accuracy": self._accuracy()})

    def _accuracy(self) -> float | None:
        return round(float(np.mean(self._right)), 4) if self._right else None

    def keep(self) -> Run | None:
        """Write what the head has learned since the last version as a run of the store; None where that is nothing."""
        self._teach()
        if self.labels == self._kept_at:
            return None
        run = write_run(
            self.store, self.head, self._record(), self._metrics(), self._predictions(), self._training()
        )
        self.versions.append(run.run_id)
        self.parent = self.model.run = run
        self._rows, self._kept_at = [], self.labels
        return run

    def _record(self) -> dict[str, Any]:
        """Record of a version, made from its parent's."""
        dropped = ("format", "created_at", "started_at", "created_by", "number", "looks", "sweep", "seconds")
        record = {key: value for key, value in self.parent.record.items() if key not in dropped}
        record["classes"] = [str(label) for label in self.head.classes_.tolist()]
        record["head"] = {**record["head"], "family": self.head.family}
        record["learned"] = {
            "parent": self.parent.run_id,
            "labels": len(self._rows),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return record

    def _metrics(self) -> dict[str, Any]:
        """No score on rows held out: what there is was measured along the way."""
        before = self.parent.metrics["protocol"]
        right = [label == names[int(proba.argmax())] for _, label, proba, names in self._rows]
        note = (
            f"learned from {count_of(len(self._rows), 'label')} of a stream since run {self.parent.run_id}; "
            f"{np.mean(right):.1%} of them predicted right before they were learned"
        )
        return {
            "chosen": self.head.chosen_,
            "curve": self._curve[-200:],
            "protocol": {**before, "notes": [note], "rows": {"train": len(self._rows), "dev": 0, "test": 0}},
            "stream": {
                "labels": len(self._rows),
                "accuracy": float(np.mean(right)),
                "by_label": dict(Counter(label for _, label, _, _ in self._rows)),
            },
        }

    def _predictions(self) -> Any:
        """Predictions for each post made before its label was learned."""
        classes = np.array([str(label) for label in self.head.classes_.tolist()])
        proba = np.zeros((len(self._rows), len(classes)))
        for row, (_, _, values, names) in enumerate(self._rows):
            for name, value in zip(names, values, strict=True):
                proba[row, np.flatnonzero(classes == name)[0]] = value
        ids, labels = [row[0] for row in self._rows], [row[1] for row in self._rows]
        return prediction_table(ids, Prediction(classes, proba), split=["stream"] * len(ids), y=labels)

    def _training(self) -> Any:
        """The parent's rows, and those of the stream."""
        import pyarrow as pa

        roles = self.parent.training_items()
        rows = [(item, role) for role in ("train", "dev", "test") for item in sorted(roles.get(role, ()))]
        known = {item for item, _ in rows}
        rows += [(item, "train") for item in dict.fromkeys(row[0] for row in self._rows) if item not in known]
        return pa.table(
            {
                "item_id": pa.array([item for item, _ in rows], pa.string()),
                "role": pa.array([role for _, role in rows], pa.string()),
            }
        )

    def figures(self) -> dict[str, Any]:
        """Figures of the learning so far, as JSON values."""
        return {
            "run": self.parent.run_id,
            "labels": self.labels,
            "judged": len(self._right),
            "accuracy": self._accuracy(),
            "versions": len(self.versions),
        }

    def close(self) -> None:
        """Keep what is not yet kept."""
        self.keep()


def _small(value: Any) -> Any:
    """A vector as it is kept: half the bytes; token states as they are."""
    return value.astype(np.float16) if isinstance(value, np.ndarray) else value


def _whole(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) else value
