"""Class prompts: texts that describe the classes, encoded into the space of a stored feature.

Heads load no model, so the encoder that made the feature is loaded from its spec and checked (fingerprint and probe), and
the vectors become a head's parameter `class_vectors`, saved with it. Several prompts of a class are averaged at unit length
(Radford et al. 2021, "Learning transferable visual models from natural language supervision").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..errors import UsageError
from .arithmetic import directions
from .checks import did_you_mean

if TYPE_CHECKING:
    from ..embed.encoder import Encoder
    from ..store.store import Store
    from .head import Head

#: What a class's name becomes, by the modality that it is compared with.
TEMPLATES = {"image": ("a photo of {class}",), "text": ("a post about {class}",)}

#: Input to class to vector, as JSON values.
ClassVectors: TypeAlias = dict[str, dict[str, list[float]]]


def readable_label(label: str) -> str:
    """A label as a person would write it: "utility damage" for ``utility_damage``, "so what" for ``soWhat``."""
    words = " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\-./]+", " ", label)).split())
    return words.lower() if words and words != label else label


def texts_of(
    labels: Sequence[str],
    *,
    prompts: Mapping[str, str | Sequence[str]] | None = None,
    template: str | Sequence[str] | None = None,
    modality: str = "image",
) -> dict[str, list[str]]:
    """The texts of each class: its prompts, or its readable name in a `template` with ``{class}``.

    With a template, `prompts` are the words that take the place of ``{class}``; without, they are taken as they are.

    >>> texts_of(["rescue_effort", "calm"], prompts={"calm": ["a quiet street", "nothing of note"]})
    {'rescue_effort': ['a photo of rescue effort'], 'calm': ['a quiet street', 'nothing of note']}
    """
    given = {
        str(label): [text] if isinstance(text, str) else list(text) for label, text in (prompts or {}).items()
    }
    for label, texts in given.items():
        if label not in labels:
            raise UsageError(
                f"prompts name a class {label!r} that no item has;{did_you_mean(label, labels)} "
                f"there are: {', '.join(labels)}"
            )
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UsageError(f"prompts of class {label!r} must be one text or several, not {texts!r}")
    templates = [template] if isinstance(template, str) else list(template or ())
    for pattern in templates:
        if "{class}" not in pattern:
            raise UsageError(f"template {pattern!r} has no {{class}} to put the class in")
    found: dict[str, list[str]] = {}
    for label in labels:
        words = given.get(label, [readable_label(label)])
        patterns = templates or (["{class}"] if label in given else list(TEMPLATES[modality]))
        found[label] = [pattern.replace("{class}", word) for pattern in patterns for word in words]
    return found


def read_prompts(path: str | Path) -> dict[str, list[str]]:
    """Prompts from a JSON file: an object of class to text or list of texts; UsageError if it is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(
            f'{path} must hold an object such as {{"flood": ["a flooded street", "high water"]}}'
        )
    return {label: [texts] if isinstance(texts, str) else texts for label, texts in value.items()}


def text_comparable(spec: Mapping[str, Any]) -> bool:
    """Whether a text can be compared with the vectors of a feature: its space is joint, or of texts."""
    return spec["output"] == "joint" or (spec["modality"] == "text" and spec["output"] != "tokens")


def class_vectors(
    store: Store,
    specs: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    *,
    prompts: Mapping[str, str | Sequence[str]] | None = None,
    template: str | Sequence[str] | None = None,
    encoder: Encoder | None = None,
) -> ClassVectors:
    """Encode the classes into the space of each input: input to class to a vector of unit length.

    `specs` are those of the inputs' features, whose texts' cleaning is applied to the prompts; see `texts_of` for the
    others. An `encoder` that is loaded already is held against the features like any other. UsageError if a feature
    is in no space that texts share, SpaceError if the encoder is no longer the one that a feature was made with.
    """
    from ..data.text import clean
    from ..embed.tables import cleaning_beside, load_checked

    found: ClassVectors = {}
    for name, spec in specs.items():
        feature = f"{spec['name']}/{spec['modality']}/{spec['output']}"
        if not text_comparable(spec):
            raise UsageError(
                f"class prompts cannot be compared with {feature}: choose a joint space, such as "
                f"--inputs {spec['modality']}/joint"
            )
        texts = texts_of(labels, prompts=prompts, template=template, modality=spec["modality"])
        model = (
            load_checked(spec, encoder, texts_only=True)
            if encoder is not None
            else _loaded(spec["encoder"], json.dumps(spec))
        )
        cleaning = cleaning_beside(store, spec)
        flat = [clean(text, cleaning) for label in labels for text in texts[label]]
        encoded = model.encode_texts(flat, [spec["output"]])[spec["output"]]
        if not isinstance(encoded, np.ndarray):
            raise UsageError(f"class prompts cannot be compared with {feature}: it is tokens")
        rows = directions(encoded.astype(np.float64))
        counts = [len(texts[label]) for label in labels]
        means = [part.mean(axis=0) for part in np.split(rows, np.cumsum(counts)[:-1])]
        # Seven digits are what the encoder's float32 has.
        found[name] = {
            label: [float(f"{number:.7g}") for number in vector]
            for label, vector in zip(labels, directions(np.stack(means)).tolist(), strict=True)
        }
    return found


@lru_cache(maxsize=1)
def _loaded(encoder_id: str, spec: str) -> Encoder:
    """The encoder of a spec, checked; a sweep asks for the same one again and again."""
    from ..embed.tables import load_checked

    return load_checked(json.loads(spec), texts_only=True)


def prompt_notes(
    kind: type[Head], params: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Note where a head that can do without class prompts gets none for an input."""
    if kind.takes_prompts != "optional" or params.get("class_vectors") or params.get("prompts") is False:
        return []
    bare = [name for name, spec in specs.items() if not text_comparable(spec)]
    if not bare:
        return []
    what = (
        "no class prompts, only labelled rows"
        if len(bare) == len(specs)
        else "class prompts for the others alone"
    )
    named = ", ".join(f"{specs[n]['name']}/{specs[n]['modality']}/{specs[n]['output']}" for n in bare)
    remedy = " or ".join(dict.fromkeys(f"{specs[n]['modality']}/joint" for n in bare))
    note = (
        f"{kind.family} compares with {what}: texts share no space with {named}; an encoder with a joint space has "
        f"--inputs {remedy} (-p prompts=false: none are wanted)"
    )
    return [note]


def with_prompts(
    head: Head, store: Store, specs: Mapping[str, Mapping[str, Any]], labels: Sequence[str]
) -> Head:
    """An unfitted head like `head`; with class vectors, where it takes prompts, has none, and texts can be compared."""
    if head.takes_prompts == "never":
        return head
    params = head.get_params()
    if params["class_vectors"] is not None or params["prompts"] is False:
        return head
    wanted = dict(specs)
    if head.takes_prompts == "optional":
        asked = params["prompts"] is not None or params["template"] is not None
        wanted = {name: spec for name, spec in specs.items() if text_comparable(spec)}
        if not wanted and not asked:
            return head
        wanted = wanted or dict(specs)
    vectors = class_vectors(store, wanted, labels, prompts=params["prompts"], template=params["template"])
    return head.unfitted(class_vectors=vectors)
