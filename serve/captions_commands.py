"""CLI: captions list, show, sample, stats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    echo,
    one_line,
    print_json,
    print_table,
    say,
    shorten,
)
from ..errors import count_of

if TYPE_CHECKING:
    from ..embed.captions.stats import CaptionSet, CaptionStats, Shown

app = typer.Typer(no_args_is_help=True)

NameOption = Annotated[str, typer.Option("--name", help="Name of the captions.")]


@app.command("list")
def list_(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the captions of the store: name, how many, by what model, what was asked."""
    from ..embed.captions.stats import list_captions

    found = list_captions(store)
    if as_json:
        print_json([one.as_dict() for one in found])
        return
    rows = [[one.name, one.rows, one.maker, _asked(one)] for one in found]
    if rows:
        print_table(["name", "captions", "by", "asked"], rows)
    else:
        say(f"no captions in {store}; make some with `icehouse caption`")


@app.command()
def show(
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="ITEM|PATH|SHA...",
            help="Items by id, path, file name, or the beginning of their picture's sha256.",
            show_default=False,
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Name of the captions; repeatable, by default all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was said of items, with flags and provenance."""
    from ..embed.captions.stats import list_captions, show_captions

    shown = show_captions(store, wanted, name or ())
    about = {one.name: one for one in list_captions(store)}
    if as_json:
        print_json([{**one.as_dict(), "by": about[one.name].as_dict()} for one in shown])
        return
    before: object = None
    for one in shown:
        if one.items != before:
            echo(("" if before is None else "\n") + _heading(one))
        before = one.items
        echo(f"  {one.name}{_flags(one)}:")
        _echo_caption(one, "    ")
        if one.problem is None:
            echo(f"    ({one_line(_provenance(one, about[one.name]))})")


@app.command()
def sample(
    store: StoreOption = DEFAULT_STORE,
    name: NameOption = "default",
    n: Annotated[int, typer.Option("-n", min=1, help="Captions at most.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other captions.")] = 0,
    flagged: Annotated[bool, typer.Option("--flagged", help="Only captions that carry a flag.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write a page of pictures with captions that works offline."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw captions at random, to read them; with --out as a page with their pictures."""
    from ..embed.captions.stats import list_captions, sample_captions

    drawn = sample_captions(store, name, n=n, seed=seed, flagged=flagged)
    (about,) = (one for one in list_captions(store) if one.name == name)
    if out is not None:
        from .sheets import write_caption_sheet

        how = f"drawn at random{' from those that are flagged' if flagged else ''} with seed {seed}"
        write_caption_sheet(out, drawn, about, how=how)
        say(f"{count_of(len(drawn), 'caption')} in {out}")
    if as_json:
        print_json([one.as_dict() for one in drawn])
    elif out is None:
        for one in drawn:
            echo(f"{_heading(one)}{_flags(one)}")
            _echo_caption(one, "    ")
        what = "flagged captions" if flagged else "captions"
        say(
            f"{count_of(len(drawn), 'caption')}, drawn from {about.rows:,} {name!r}"
            if drawn
            else f"no {what} {name!r}"
        )


@app.command()
def stats(
    store: StoreOption = DEFAULT_STORE,
    name: NameOption = "default",
    top: Annotated[int, typer.Option(min=0, help="Entries of each list of the commonest.")] = 12,
    as_json: JsonOption = False,
) -> None:
    """Count what captions are like: coverage, length, flags, speed, vocabulary, openings, repetitions."""
    from ..embed.captions.stats import caption_stats

    found = caption_stats(store, name, top=top)
    if as_json:
        print_json(found.as_dict())
        return
    _print_stats(found)


def _print_stats(found: "CaptionStats") -> None:
    coverage, total = found.coverage, max(found.captions, 1)
    echo(f"{count_of(found.captions, 'caption')} {found.name!r}, {found.useful:,} of them of use")
    left = [f"{coverage['left']:,} to ask", f"{coverage['failed']:,} failed"]
    echo(
        f"coverage: {coverage['captioned']:,} of {count_of(coverage['distinct'], 'distinct picture')}"
        f"{_share(coverage['share'])}; {', '.join(left)}"
    )
    if coverage["orphans"]:
        echo(f"captions of pictures that no item has: {coverage['orphans']:,}")
    flags = ", ".join(
        f"{flag} {count:,}{_share(count / total)}"
        for flag, count in found.flags.items()
        if count and flag != "any"
    )
    echo(f"flagged: {found.flags['any']:,}{_share(found.flags['any'] / total)}{': ' if flags else ''}{flags}")
    if found.attempts:
        asked = (f"{count:,} {'once' if n == 1 else f'{n} times'}" for n, count in found.attempts.items())
        echo(f"asked: {', '.join(asked)}")
    spreads = [("words", found.words), ("characters", found.characters)]
    spreads += [("tokens", found.tokens), ("seconds", found.seconds)]
    columns = ["min", "p5", "p25", "median", "p75", "p95", "max", "mean"]
    rows = [[what, *(f"{spread[c]:.4g}" for c in columns)] for what, spread in spreads if spread]
    if rows:
        print_table(["a caption", *columns], rows, title="\nLength")
    if found.tokens_per_second is not None:
        echo(f"{found.tokens_per_second:.1f} tokens/s of one question at a time")
    _print_words(found)
    if found.structured is not None:
        _print_structured(found.structured)


def _print_words(found: "CaptionStats") -> None:
    words, distinct = found.vocabulary, found.distinct
    if words["tokens"]:
        moving = words["moving_ratio"]
        even = "" if moving is None else f", {moving:.3f} in windows of 500"
        echo(
            f"\nvocabulary: {words['types']:,} distinct of {count_of(words['tokens'], 'word')} (ratio "
            f"{words['type_token_ratio']:.3f}{even}), {count_of(words['once'], 'occurs', 'occur')} once"
        )
    if found.common:
        echo(
            "commonest words: "
            + ", ".join(f"{one_line(e['word'])}{_share(e['share'])}" for e in found.common)
        )
    if found.openings:
        print_table(
            ["opening", "captions", "share"],
            [[one_line(e["opening"]), e["captions"], f"{e['share']:.1%}"] for e in found.openings],
            title="\nOpenings",
        )
    if distinct["repeated"]:
        echo(
            f"\nword for word the same as another: {distinct['repeated']:,}{_share(distinct['share'])}; "
            f"{count_of(distinct['times'], 'time')} {shorten(distinct['commonest'])!r}"
        )
    else:
        echo("\nword for word the same as another: none")


def _print_structured(found: dict[str, Any]) -> None:
    echo(
        f"\nstructured: {found['valid']:,} valid, {found['with_people']:,} with people, {found['with_text']:,} with text"
    )
    for column in ("damage", "sentiment"):
        echo(f"{column}: " + ", ".join(f"{count:,} {level}" for level, count in found[column].items()))
    if found["objects"]:
        echo("objects: " + ", ".join(f"{one_line(e['object'])} {e['captions']:,}" for e in found["objects"]))


def _asked(one: "CaptionSet") -> str:
    more = [what for what, is_so in (("with text", one.with_text), ("structured", one.structured)) if is_so]
    return ", ".join([one.asked, *more])


def _heading(one: "Shown") -> str:
    if not one.items:
        return f"{(one.image_sha256 or '')[:12]} (no item has this picture any more)"
    first, others = one.items[0], len(one.items) - 1
    path = next((path for path in one.paths if path != first), None)
    parts = [
        one_line(first),
        *([one_line(path)] if path else []),
        *([f"(and {others} more)"] if others else []),
    ]
    return "  ".join(parts)


def _flags(one: "Shown") -> str:
    return f" [{', '.join(one.flags)}]" if one.flags else ""


def _echo_caption(one: "Shown", indent: str) -> None:
    said = one_line(one.caption or "") or f"({one.problem or 'an empty answer'})"
    echo(indent + said)
    for column, value in one.structured.items():
        if value not in (None, "", []):
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            echo(f"{indent}{column}: {one_line(shown)}")


def _provenance(one: "Shown", about: "CaptionSet") -> str:
    if about.model is None:
        return about.maker
    parts = [about.maker, f"asked: {_asked(about)}"]
    if one.host:
        parts.append(one.host)
    if one.created is not None:
        parts.append(f"{one.created:%Y-%m-%d %H:%M} UTC")
    if one.tokens is not None and one.seconds is not None:
        parts.append(f"{count_of(one.tokens, 'token')} in {one.seconds:.2g} s")
    if one.attempts is not None:
        parts.append(f"{one.attempts} questions, seed {one.seed}" if one.attempts > 1 else f"seed {one.seed}")
    return "; ".join(parts)


def _share(share: float | None) -> str:
    return "" if share is None else f" ({share:.1%})"
