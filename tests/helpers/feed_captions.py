"""What a vision-language model that sees everything would say about the sample feed: the captions of its ground truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from icehouse.data.sample_feed import Feed
from icehouse.embed.captions.questions import MAX_SIDE, prepare

__all__ = ["true_answers", "true_items"]


def true_items(feed: Feed) -> dict[str, dict[str, object]]:
    """What is true of each post whose picture can be read, by its id."""
    items = json.loads(feed.truth.read_text(encoding="utf-8"))["items"]
    return {item: facts for item, facts in items.items() if facts["caption"] is not None}


def true_answers(feed: Feed, max_side: int = MAX_SIDE) -> dict[str, str]:
    """sha256 of each readable picture, as `icehouse caption` sends it -> its caption; for `OllamaServer.answers`."""
    answers = {}
    for facts in true_items(feed).values():
        data = (Path(feed.folder) / str(facts["image"])).read_bytes()
        answers[hashlib.sha256(prepare(data, max_side)).hexdigest()] = str(facts["caption"])
    return answers
