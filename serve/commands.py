"""CLI: search, predict, map, serve, mcp, doctor, demo; captions list, show, sample, stats; options of serving."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import (
    DEFAULT_STORE,
    ExcelSafeOption,
    JsonOption,
    MaxPixelsOption,
    StoreOption,
    echo,
    one_line,
    print_json,
    print_table,
    say,
    shorten,
)
from ..errors import IcehouseError, UsageError, count_of

if TYPE_CHECKING:
    from ..embed.captions.stats import CaptionSet, CaptionStats, Shown


StorePath = Annotated[Path | None, typer.Argument(metavar="STORE", help="A store.", show_default="--store")]
RunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        "-r",
        help="Head that answers: id of a run, a part of it, the label it learned, or the folder of a package; "
        "repeatable, the first is the default.",
        show_default="the latest run",
    ),
]
HostOption = Annotated[
    str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one that this machine has.")
]
PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes one that is free.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="ICEHOUSE_TOKEN",
        show_envvar=True,
        show_default=False,
        help="What every request but those for health has to bring: as a bearer token, by the login form, or once as "
        "?token= in the address.",
    ),
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        help="Name by which clients may call the server, beside addresses and this machine's own; repeatable, * is any.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]


app = typer.Typer()


@app.command(rich_help_panel="Ask")
def search(
    store: StoreOption = DEFAULT_STORE,
    text: Annotated[str | None, typer.Option(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="What to look for, as a picture.")] = None,
    item: Annotated[
        str | None, typer.Option(help="What to look for: the id of an item of the store.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Most hits.")] = 10,
    feature: Annotated[
        str | None,
        typer.Option(
            "--feature",
            "-f",
            help="Feature to search.",
            show_default="the images, joint for words, else pooled",
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition over items, such as \"split = 'train'\".")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every vector, even if there is an index.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a contact sheet that works offline.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", "-e", help="Where to find the feature's encoder now; another one is refused."
        ),
    ] = None,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the items nearest to a text, a picture or another item."""
    from ..embed.encoder import load_named
    from .query import search as find

    result = find(
        store,
        text=text,
        image=image,
        item=item,
        feature=feature,
        k=k,
        where=where,
        exact=exact,
        encoder=load_named(encoder, device=device) if encoder and item is None else None,
        device=device,
    )
    if result.remark is not None:
        say(result.remark)
    if html is not None:
        from .sheets import write_sheet

        write_sheet(html, result.hits, query=result.query, feature=result.feature)
        say(f"{count_of(len(result.hits), 'hit')} in {html}")
    if as_json:
        print_json([hit.as_dict() for hit in result.hits])
    elif html is None:
        rows = [[f"{hit.score:.4f}", hit.item_id, hit.path, shorten(hit.text)] for hit in result.hits]
        print_table(["score", "item", "path", "text"], rows)
        engine = "exact search" if result.engine == "exact" else f"by the {result.engine} index"
        say(f"{count_of(len(rows), 'hit')} in {result.feature}, {engine}")


@app.command(rich_help_panel="Learn")
def predict(
    run: Annotated[
        str,
        typer.Argument(
            help='Id of a run, a part of it, "latest", or the folder of a package.', show_default=False
        ),
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders, images, annotation files; by default the items of the store.", show_default=False
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write to FILE: .csv, .json or .parquet."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition over the items of the store.")] = None,
    preset: Annotated[str | None, typer.Option(help="Columns of a known data set.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of image paths.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of texts.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of unique item ids.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that image paths start from.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Character encoding of CSV, TSV and JSONL.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="Where to find the run's encoder now; another one is refused."),
    ] = None,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 1 if a row could not be predicted, not only if none could."),
    ] = False,
    as_json: JsonOption = False,
    excel_safe: ExcelSafeOption = False,
) -> None:
    """Predict raw rows with the run's own encoder, or the items of the store."""
    from ..data.manifest import SourceOptions
    from ..embed.encoder import load_named
    from ..store import sql as results
    from .predict import predict as predict_rows

    options = SourceOptions(
        preset=preset,
        image_column=image_column,
        text_column=text_column,
        id_column=id_column,
        root=root,
        encoding=encoding,
    )
    made = predict_rows(
        store,
        run,
        sources or None,
        options=options,
        where=where,
        encoder=load_named(encoder, device=device) if encoder else None,
        device=device,
    )
    for note in made.notes:
        say(f"note: {note}")
    for failure in made.failures:
        say(f"{failure.item_id}: {failure.stage}: {failure.message}")
    for row in made.rejected.to_pylist() if made.rejected is not None else ():
        say(f"{row['item_id'] or row['path']}: {row['message']}")
    empty = made.table["predicted"].null_count
    if out is not None:
        results.save(made.table, out)
    if as_json:
        print_json(results.json_values(made.table))
    elif out is None:
        print_table(made.table.column_names, results.screen_rows(made.table))
    say(
        f"{len(made.table) - empty} of {count_of(len(made.table), 'row')} predicted"
        + (f" in {out}" if out else "")
    )
    nothing = empty == len(made.table) > 0
    if nothing or (strict and (empty or made.failures or (made.rejected is not None and len(made.rejected)))):
        raise typer.Exit(1)


@app.command("map", rich_help_panel="Serve")
def make_map(
    path: StorePath = None,
    store: StoreOption = DEFAULT_STORE,
    feature: Annotated[
        str | None,
        typer.Option("--feature", "-f", help="Feature to draw.", show_default="the images, pooled"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="pca or umap.", show_default="as before, else umap where umap-learn is installed"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32 - 1, help="Seed of UMAP and of the clusters.", show_default="as before, else 0"
        ),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1000,
            help="Clusters to look for by k-means; 0 for none.",
            show_default="as before, else 8",
        ),
    ] = None,
    cluster_by: Annotated[
        str | None,
        typer.Option(
            help="kmeans, or hdbscan on the drawn points, which finds how many clusters there are.",
            show_default="as before, else kmeans",
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Compute the map even if it is up to date.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="Write the map for embedding-atlas.")
    ] = None,
    neighbors: Annotated[
        int, typer.Option(min=0, max=1000, help="Neighbours of each item in the export; 0 for none.")
    ] = 15,
    vectors: Annotated[
        bool, typer.Option("--vectors/--no-vectors", help="Whether the export has the vectors.")
    ] = True,
    where: Annotated[str | None, typer.Option(help="SQL condition over the items of the export.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute where every item lies on a map, once, for the application's page Map and for embedding-atlas."""
    from .projection import export_map
    from .projection import make_map as compute

    named = path or store
    if export is not None and export.suffix.lower() != ".parquet":
        raise UsageError(f"--export {export}: the file's name has to end in .parquet")
    made = compute(
        named,
        feature,
        method=method,  # type: ignore[arg-type]
        seed=seed,
        clusters=clusters,
        cluster_by=cluster_by,  # type: ignore[arg-type]
        again=again,
        say=say,
    )
    for note in made.notes:
        say(f"note: {note}")
    drawn = made.map
    rows = None
    if export is not None:
        rows = export_map(named, drawn.feature, export, neighbours=neighbors, vectors=vectors, where=where)
    if as_json:
        print_json({**drawn.spec, "points": len(drawn.xy), "computed": made.computed, "exported": rows})
        return
    state = "computed" if made.computed else "is up to date"
    say(f"map of {drawn.feature} {state}: {count_of(len(drawn.xy), 'content')} by {drawn.spec['method']}")
    if export is not None:
        flags = "--text text --x x --y y"
        flags += " --neighbors neighbors" if neighbors and rows and rows > 1 else ""
        say(
            f"{count_of(rows or 0, 'item')} in {export}; open it: embedding-atlas {shlex.quote(str(export))} {flags}"
        )
    else:
        say(f"see it: icehouse serve {shlex.quote(str(named))}, page Map")


@app.command(rich_help_panel="Serve")
def serve(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="STORE",
            help="A store, or a folder that `icehouse package` made.",
            show_default="--store",
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    run: RunsOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Serve a store over HTTP: an application in the browser and a JSON API."""
    from .app.server import serve as run_server

    named = str(path or store)
    run_server(
        path or store,
        run or (),
        host=host,
        port=port,
        ready=lambda url: say(f"{named} is served at {url} (Ctrl-C stops)"),
        token=token,
        hosts=tuple(allow_host or ()),
        device=device,
    )


@app.command(rich_help_panel="Serve")
def mcp(
    path: StorePath = None,
    store: StoreOption = DEFAULT_STORE,
    run: RunsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Offer agents read-only tools over a store: the Model Context Protocol on standard input and output."""
    try:
        from .agents import serve_agents
    except ImportError as error:
        raise IcehouseError(
            f'icehouse mcp needs {error.name or "more packages"}: pip install "icehouse[mcp]"'
        ) from None
    serve_agents(path or store, run or (), device=device)


@app.command(rich_help_panel="Help")
def doctor(
    store: StoreOption = DEFAULT_STORE,
    load: Annotated[
        bool, typer.Option("--load/--no-load", help="Really load each encoder, which takes seconds.")
    ] = True,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENCODER",
            help="Load this encoder, and from now on also where only a store or a package names it; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what works on this machine: device, encoders, Ollama, FAISS, the store."""
    from .doctor import examine

    if trust:
        from ..embed.encoder import load_named, trusted_file

        for encoder_id in trust:
            say(f"trusted from now on: {load_named(encoder_id).id} (listed in {trusted_file()})")
    found = examine(store, load=load)
    if as_json:
        print_json(found)
        return
    system, device = found["system"], found["device"]
    echo(f"Python {system['python']} on {system['platform']}, {count_of(system['cores'], 'core')}")
    if device["device"]:
        echo(f"device: {device['device']} in {device['precision']} ({device['detail']})")
    else:
        echo(f"device: none ({device['detail']})")
    print_table(["package", "version"], [[k, v or "-"] for k, v in found["packages"].items()])
    print_table(
        ["encoder", "usable", "detail"],
        [[e["encoder"], _yes(e["usable"]), e["detail"]] for e in found["encoders"]],
        title="\nEncoders",
    )
    ollama = found["ollama"]
    echo(
        f"\nOllama at {ollama['host']}: {'answers, ' if ollama['answers'] else 'no answer, '}{ollama['detail']}"
    )
    if ollama["models"]:
        echo(f"    {', '.join(ollama['models'])}")
    about = found["store"]
    detail = (
        about.get("detail")
        or f"{count_of(about['items'], 'item')}, features: {', '.join(about['features']) or 'none'}"
    )
    echo(f"store {about['path']}: {detail}")
    for line in found["advice"]:
        echo(f"advice: {line}")


@app.command(rich_help_panel="Help")
def demo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where to work; a new folder.")] = Path("demo-out"),
    posts: Annotated[int, typer.Option(min=40, help="Posts of the sample feed.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another feed.")] = 0,
) -> None:
    """Make a sample feed and go through the main job on it."""
    import shlex

    from .demo import prepare, program, steps

    echo(f"making a sample feed of {count_of(posts, 'post')} in {folder}")
    made = prepare(folder, posts=posts, seed=seed)
    root: Any = ctx.find_root().command
    for step in steps(made):
        echo(f"\n# {step.why}", fg="green")
        echo(f"$ {step.line}", bold=True)
        status = root.main(step.arguments, prog_name="icehouse", standalone_mode=False)
        if isinstance(status, int) and status:
            raise typer.Exit(status)
    echo("\n# What is left", fg="green")
    left: list[tuple[Any, str]] = [
        (made.sheet, 'the hits for "a fire with flames and smoke", a page to open in a browser'),
        (made.store, "the store: Parquet tables, and the trained heads under runs/"),
        (made.feed.posts, "the feed"),
        (made.feed.truth, "its ground truth"),
    ]
    for path, what in left:
        echo(f"{path}    {what}")
    typed = program()
    echo("\n# The application on it, at http://127.0.0.1:8000/", fg="green")
    echo(f"$ {typed} serve {shlex.quote(str(made.store))}")
    echo("\n# Your own data", fg="green")
    echo(f"$ {typed} embed your-photos/")
    echo(f'$ {typed} search --text "a cat"')
    echo(f"$ {typed} embed your-posts.csv --label-column label && {typed} train logreg --label label")


def _yes(usable: bool | None) -> str:
    return "?" if usable is None else "yes" if usable else "no"


captions = typer.Typer(no_args_is_help=True)

NameOption = Annotated[str, typer.Option("--name", help="Name of the captions.")]


@captions.command("list")
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


@captions.command()
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


@captions.command()
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


@captions.command()
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
