"""Answers as JSON by schema, brought into typed columns."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from .cleaning import json_part

__all__ = ["COLUMNS", "DAMAGE", "SCHEMA", "SENTIMENT", "parse"]

DAMAGE = ("none", "mild", "severe")
SENTIMENT = ("negative", "neutral", "positive")

#: What the model has to answer in; both Ollama's ``format`` and OpenAI's ``response_format`` take it.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "caption": {"type": "string", "description": "what the image shows, in one or two sentences"},
        "objects": {"type": "array", "items": {"type": "string"}, "description": "what is visible"},
        "damage": {"type": "string", "enum": list(DAMAGE), "description": "damage that is visible"},
        "people": {"type": "integer", "minimum": 0, "description": "number of people that are visible"},
        "visible_text": {"type": "string", "description": "text in the image, word for word"},
        "sentiment": {"type": "string", "enum": list(SENTIMENT), "description": "feeling the image gives"},
    },
    "required": ["caption", "objects", "damage", "people", "visible_text", "sentiment"],
    "additionalProperties": False,
}

#: Columns that a structured answer fills, beside ``caption``; null where the answer was not valid.
COLUMNS = pa.schema(
    [
        pa.field("objects", pa.list_(pa.string())),
        pa.field("damage", pa.string()),
        pa.field("people", pa.int32()),
        pa.field("visible_text", pa.string()),
        pa.field("sentiment", pa.string()),
    ]
)

_MOST_PEOPLE = 1_000_000
_MOST_OBJECTS = 100


def parse(text: str) -> dict[str, Any] | None:
    """Read an answer.

    Parameters
    ----------
    text : str
        JSON, whatever was said before and after it.

    Returns
    -------
    dict or None
        ``caption`` and the values of `COLUMNS`; None where the answer does not keep to the schema. Letter case of the two
        enumerations and white space around strings are forgiven, nothing else.
    """
    try:
        value = json.loads(json_part(text))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or set(value) != set(SCHEMA["required"]):
        return None
    strings = [value[name] for name in ("caption", "damage", "visible_text", "sentiment")]
    if not all(isinstance(string, str) for string in strings):
        return None
    objects, people = value["objects"], value["people"]
    if not isinstance(objects, list) or not all(isinstance(name, str) for name in objects):
        return None
    if isinstance(people, bool) or not isinstance(people, int) or not 0 <= people <= _MOST_PEOPLE:
        return None
    caption, damage, visible_text, sentiment = (string.strip() for string in strings)
    if damage.lower() not in DAMAGE or sentiment.lower() not in SENTIMENT:
        return None
    return {
        "caption": caption,
        "objects": [name.strip() for name in objects[:_MOST_OBJECTS]],
        "damage": damage.lower(),
        "people": people,
        "visible_text": visible_text,
        "sentiment": sentiment.lower(),
    }
