"""Embed a folder with the toy encoder in a process of its own: ``embed_toy.py SOURCE STORE``."""

from __future__ import annotations

import json
import sys

from icehouse.embed import pipeline as commit
from icehouse.embed.pipeline import embed_sources
from toys import ToyEncoder

# Many small commits, so that two writers really meet.
commit.ROWS = 16

if __name__ == "__main__":
    report = embed_sources([sys.argv[1]], sys.argv[2], encoder=ToyEncoder(batch_size=4))
    print(json.dumps(report.as_dict()))
