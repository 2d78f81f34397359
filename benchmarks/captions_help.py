"""What captions add to a head, on sample feeds whose ground truth answers for the vision-language model.

    python benchmarks/captions_help.py [--feeds 5] [--posts 400] [--wrong 0.25 0.5 1]

Each feed is embedded with `mini`, captioned through Ollama's protocol by a server that answers with the ground truth,
and the captions are embedded with mini's text tower. logreg learns from each set of inputs by the usual protocol; the test
rows of all feeds are scored together, and differences are taken by a paired bootstrap over them.

The ground truth's captions are what a perfect model would say, so this is the most that captions can add here. The rows
"wrong" give a share of the pictures the caption of another one: with all of them wrong, what is left of the gain is not
owed to what captions say. A caption tells of the picture alone, and a feed's class is what picture and text say together, so
no caption can hold the class; the last lines look whether its words do all the same.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from icehouse.data.manifest import SourceOptions
from icehouse.data.sample_feed import CLASSES, Feed, make_feed
from icehouse.embed.captions.captioner import caption_images
from icehouse.embed.captions.features import embed_captions, modality_of
from icehouse.embed.captions.questions import CaptionSettings
from icehouse.embed.pipeline import embed_sources
from icehouse.heads.compare import Resampling
from icehouse.heads.trainer import train
from icehouse.store.store import Store
from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from feed_captions import true_answers, true_items
from ollama_server import OllamaServer

INPUTS = ("image", "text", "caption", "image,text", "text,caption", "image,caption", "image,text,caption")
BASE = "image,text"
DRAWS = 5000


def exchanged(answers: Mapping[str, str], share: float, seed: int) -> dict[str, str]:
    """The same captions, a share of them moved on among the pictures, so that each of those has another's."""
    rng = np.random.default_rng(seed)
    keys = [key for key in sorted(answers) if rng.random() < share]
    order = rng.permutation(len(keys)).tolist()
    moved = {keys[a]: answers[keys[b]] for a, b in zip(order, [*order[1:], *order[:1]], strict=True)}
    return {**answers, **moved}


def one_feed(
    folder: Path, feed: Feed, seed: int, wrong: list[float]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Predicted class of each test post by inputs, and the true classes."""
    store = Store.create(folder / "store")
    embed_sources([feed.posts], store, encoder="mini", options=SourceOptions(label_columns=["label"]))
    answers = true_answers(feed)
    trials = list(INPUTS)
    for share in (0.0, *wrong):
        name = "default" if share == 0 else f"wrong-{share * 100:.0f}"
        with OllamaServer(answers=exchanged(answers, share, seed)) as server:
            report = caption_images(store, CaptionSettings("llava:7b", hosts=[server.url]), name=name)
        assert report.failed == 0
        embed_captions(store, name, encoder="mini")
        if share:
            trials.append(f"{BASE},{modality_of(name)}")
    predicted, truth = {}, {}
    for inputs in trials:
        # The rows that every trial has: those with all three inputs.
        rows = train(store, "logreg", inputs=inputs, where=_whole(store), dups=None, draws=10).predictions()
        test = [row for row in rows.to_pylist() if row["split"] == "test"]
        predicted[inputs] = {f"{seed}/{row['item_id']}": row["predicted"] for row in test}
        truth |= {f"{seed}/{row['item_id']}": row["y"] for row in test}
    return predicted, truth


def macro_f1(truth: Mapping[str, str], predicted: Mapping[str, str]) -> float:
    """Of one feed."""
    ids = sorted(truth)
    guess = np.array([predicted[item] for item in ids])
    return Resampling([truth[item] for item in ids], "macro_f1", draws=1).value([guess])


def _whole(store: Store) -> str:
    have = store.query("select image_sha256 from captions_default")["image_sha256"].to_pylist()
    listed = ", ".join(f"'{sha}'" for sha in have)
    return f"image_sha256 in ({listed})"


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def leaks(feeds: list[Feed]) -> None:
    """Print whether captions name a class, and what their words tell of the text's half of it."""
    facts = [f for feed in feeds for f in true_items(feed).values() if f["repost_of"] is None]
    named = [
        f
        for f in facts
        if any(label in str(f["caption"]).lower().replace(" ", "_") for label in CLASSES.values())
    ]
    print(f"\ncaptions of {len(facts)} posts (reposts aside); naming a class: {len(named)}")
    calls: dict[str, Counter[str]] = defaultdict(Counter)
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for f in facts:
        for word in words(str(f["caption"])):
            calls[word][str(f["text_kind"])] += 1
            labels[word][str(f["label"])] += 1
    parts = sorted({part for label in CLASSES.values() for part in label.split("_")})
    print("| word of a class's name | captions | their classes |")
    print("|---|---|---|")
    for part in parts:
        spread = ", ".join(f"{count} {label}" for label, count in labels[part].most_common())
        print(f"| {part} | {labels[part].total()} | {spread or '-'} |")
    often = [word for word in calls if calls[word].total() >= 20]
    share = sum(f["text_kind"] == "call" for f in facts) / len(facts)
    far = [
        abs(calls[w]["call"] - share * calls[w].total()) / (share * (1 - share) * calls[w].total()) ** 0.5
        for w in often
    ]
    beyond = sum(z > 1.96 for z in far)
    print(
        f"words in 20 captions or more: {len(often)}; posts that call for help: {share:.1%} of all, and among those with "
        f"a word it differs at 5% for {beyond} words ({0.05 * len(often):.0f} expected by chance), most z = {max(far):.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--feeds", type=int, default=5)
    parser.add_argument("--posts", type=int, default=400)
    parser.add_argument("--wrong", type=float, nargs="*", default=[0.25, 0.5, 1.0])
    args = parser.parse_args()
    print(machine("scikit-learn", "torch"))
    folder = Path(tempfile.mkdtemp(prefix="icehouse-captions-help-"))
    try:
        predicted: dict[str, dict[str, str]] = {}
        truth: dict[str, str] = {}
        feeds = [
            make_feed(folder / str(seed) / "feed", n=args.posts, seed=seed) for seed in range(args.feeds)
        ]
        rises = []
        for seed, feed in enumerate(feeds):
            made, true = one_feed(folder / str(seed), feed, seed, args.wrong)
            rises.append(tuple(macro_f1(true, made[inputs]) for inputs in (BASE, f"{BASE},caption")))
            print(f"feed {seed}: {rises[-1][0]:.3f} to {rises[-1][1]:.3f}", file=sys.stderr, flush=True)
            for inputs, rows in made.items():
                predicted.setdefault(inputs, {}).update(rows)
            truth |= true
        ids = sorted(truth)
        y = [truth[item] for item in ids]
        resampled = Resampling(y, "macro_f1", draws=DRAWS)
        given = {inputs: [np.array([rows[item] for item in ids])] for inputs, rows in predicted.items()}
        print(
            f"\nlogreg on mini, {args.feeds} feeds of {args.posts} posts, {len(ids)} test posts, {DRAWS} draws"
        )
        print(f"| inputs | macro-F1 (95%) | more than {BASE.replace(',', '+')} (95%) | p |")
        print("|---|---|---|---|")
        for inputs, guess in given.items():
            low, high = resampled.interval(resampled.sample(guess))
            line = f"| {inputs.replace(',', '+')} | {resampled.value(guess):.3f} ({low:.3f} to {high:.3f}) |"
            if inputs == BASE:
                print(f"{line} | |")
                continue
            more = resampled.difference(guess, given[BASE])
            p = f"{more.p:.4f}" if more.p > 2 / DRAWS else f"< {2 / DRAWS:.4f}"
            print(f"{line} {more.value:+.3f} ({more.low:+.3f} to {more.high:+.3f}) | {p} |")
        print("\nmacro-F1 of each feed, without caption and with it: ", end="")
        print(", ".join(f"{without:.3f} to {with_it:.3f}" for without, with_it in rises))
        leaks(feeds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
