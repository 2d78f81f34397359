"""Captioning of a store's pictures: one run, its progress and its report.

`plan` finds the pictures, the `Scheduler` has them asked, this module makes rows of the answers, guards the table (model,
digest, prompt, options) and sees that nothing is asked twice: an answer is in the `Journal` before the next question, and in
the table some seconds later, once its host was found to be still the same model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from ...console import one_line, say
from ...errors import CaptionError, LockedError, SpaceError, count_of
from ...store.store import Store
from .apis import Identity, MissingModelError, ServerError, SetupError, UnreachableError
from .caption_table import (
    DEFAULT_NAME,
    Job,
    Journal,
    Plan,
    Row,
    captions_of,
    ensure_captions,
    forget_failures,
    make_spec,
    names_of,
    note_server,
    plan,
    record_failures,
)
from .questions import CaptionSettings, better, join_flags, judge, load, plain_picture, split_flags
from .scheduler import AdaptiveConcurrency, Scheduler, ServerState, may_pass, run_async, wait_with_backoff

# A run reports two things through one callback: pictures done, with a `PaceLine`, and the bytes of a model that a server is
# fetching, with the server's own words. What a server says is shown, never obeyed.


Progress: TypeAlias = Callable[[int, int, str], None]
Say: TypeAlias = Callable[[str], None]

#: Least seconds between two lines of a log.
EVERY_S = 30.0


@contextmanager
def progress() -> Iterator[tuple[Progress, Say]]:
    """Progress and remark callbacks of a run; both write to stderr.

    On a terminal a bar with count, rate and time left: of the bytes while a model is fetched, then of the pictures.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        log = Log(lambda line: say(one_line(line)))
        yield log.progress, log.write
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[pace]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]
    with Bar(*columns, console=console, transient=True, speed_estimate_period=300) as bar:
        task = bar.add_task("captioning", total=None, count="", pace="")

        def update(done: int, total: int, what: str) -> None:
            asking = isinstance(what, PaceLine)
            work = "captioning" if asking else "pulling"
            if bar.tasks[0].description != work:
                bar.reset(task, description=work)
            count = f"{done}/{total}" if asking else _bytes(done, total)
            bar.update(task, completed=done, total=total or None, count=count, pace=one_line(what))

        def remark(text: str) -> None:
            bar.console.print(one_line(text), highlight=False, markup=False)

        yield update, remark


class Log:
    """Progress as lines, for a file or another program: at most one every `EVERY_S` seconds, and each news once."""

    def __init__(self, write: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.write = write
        self._clock = clock
        self._last = clock()
        self._pulled: set[str] = set()

    def progress(self, done: int, total: int, what: str) -> None:
        """Write how far it is, if it is time to."""
        if isinstance(what, PaceLine):
            if self._due():
                left = "" if what.left_s is None else f", about {duration(what.left_s)} left"
                self.write(f"{done:,} of {total:,}: {what}{left}")
        elif what not in self._pulled or self._due():
            # Several hosts may be pulling at once: what one of them has said before is not news.
            self._pulled.add(what)
            self.write(f"pulling: {what}{_bytes(done, total, ', ')}")

    def _due(self) -> bool:
        now = self._clock()
        if now - self._last < EVERY_S:
            return False
        self._last = now
        return True


def _bytes(done: int, total: int, before: str = "") -> str:
    """Bytes received of a download, "0.8 of 4,733.4 MB"; empty if the server does not tell the size."""
    return f"{before}{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total else ""


# The report

#: Answers after which the time for the whole set is estimated.
ESTIMATE_AFTER = 5


@dataclass
class CaptionReport:
    """Outcome of one `caption_images` call.

    Of the items chosen, `distinct` pictures (with texts: pairs of picture and text); those that had a caption (`known`),
    were to be asked about (`asked`), got a caption now (`captioned`), got none (`failed`), or had failed in an earlier
    run and were left alone (`known_failures`); items without a readable picture (`without_image`). Of this run's
    captions: counts by flag (`flagged`), by how the picture had to be changed (`sent_as`), by host (`hosts`); those asked
    for a second time (`retried`), or thrown away since the model had changed (`discarded`). `questions` got an answer, of
    `tokens` in all; `concurrency` is each host's questions at once at the end.
    """

    store: str
    name: str
    model: str
    distinct: int = 0
    known: int = 0
    asked: int = 0
    captioned: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    failed: int = 0
    known_failures: int = 0
    discarded: int = 0
    without_image: int = 0
    questions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    sent_as: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    concurrency: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


class PaceLine(str):
    """Text beside the progress bar, with the estimated seconds left; None if unknown."""

    left_s: float | None

    def __new__(cls, text: str, left_s: float | None = None) -> PaceLine:
        """Make a string that carries `left_s`."""
        line = super().__new__(cls, text)
        line.left_s = left_s
        return line


class Pace:
    """Rate, tokens a second, and the time that is left, of `total` pictures."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.tokens = 0
        self._clock = clock
        self._begun = clock()
        self._loading = 0.0

    def answered(self, tokens: int | None, load_s: float = 0.0) -> str | None:
        """Note a picture; returns the estimate for the whole set once, when it can first be made.

        Loading the model happens once, so it does not count.
        """
        self.done += 1
        self.tokens += tokens or 0
        self._loading = max(self._loading, load_s)
        if self.done != ESTIMATE_AFTER or self.total <= ESTIMATE_AFTER:
            return None
        each = 1 / self.rate
        return (
            f"the first {ESTIMATE_AFTER} took {each:.2g} s each: all {self.total:,} will take about "
            f"{duration(each * self.total)} at this rate"
        )

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, without loading."""
        return max(self._clock() - self._begun - self._loading, 1e-9)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return max(self.done, 1e-9) / self.elapsed

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers a second, all hosts together."""
        return self.tokens / self.elapsed

    def line(self, level: int) -> PaceLine:
        """Text beside the progress bar: rate, tokens a second, questions at once."""
        if not self.done:
            return PaceLine("waiting for the first answer")
        rate = f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        left = max(self.total - self.done, 0) / self.rate
        return PaceLine(f"{rate}, {self.tokens_per_second:.0f} tokens/s, {level} at once", left or None)


def duration(seconds: float) -> str:
    """A time span as people say it: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


#: Answers become a part of the table after so many seconds, in a long run up to twelve times as many; until then they are
#: in the journal.
COMMIT_S = 10.0

_IDENTIFY_TRIES = 3


def caption_images(
    store: Store | str | Path,
    settings: CaptionSettings,
    *,
    name: str = DEFAULT_NAME,
    where: str | None = None,
    limit: int | None = None,
    retry_failures: bool = False,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> CaptionReport:
    """Caption whatever the store has no caption of under `name`; captions go to ``tables/captions/<name>``.

    `where`: SQL condition over the items; `limit`: most pictures to ask about; `retry_failures`: ask again about pictures
    that got no answer before, though their file is as it was. `progress` is called with (pictures done, pictures in all,
    rate and such), `say` with remarks: hosts that come and go, the estimate for the whole set.

    Raises `CaptionError` if no server answers, the model is not there, or picture after picture gets no answer,
    `SpaceError` if the captions of that name are by another model, digest, prompt or options, `LockedError` if another run
    is captioning under that name, KeyboardInterrupt once answers under way were waited for. What was answered is kept.
    """
    store = Store.of(store)
    with_text = settings.prompt.with_text
    find = partial(
        plan, store, name, with_text=with_text, where=where, limit=limit, retry_failures=retry_failures
    )
    find()  # what cannot be planned is said before anybody is asked
    run = _Run(store, settings, name, find, progress, say)
    begun = time.monotonic()
    try:
        run_async(run.main())
    except (CaptionError, SpaceError) as error:
        kept = run.report.captioned
        told = (
            f"; {count_of(kept, 'caption of this run is', 'captions of this run are')} kept, "
            "run the same command again to go on"
            if kept
            else ""
        )
        raise type(error)(f"{error}{told}") from None
    run.report.seconds = round(time.monotonic() - begun, 3)
    return run.report


@dataclass
class _Run:
    """One run with its table, servers and report; the `Worker` of its scheduler."""

    store: Store
    settings: CaptionSettings
    name: str
    find: partial[Plan]
    progress: Progress | None
    say: Say

    def __post_init__(self) -> None:
        self.report = CaptionReport(str(self.store.path), self.name, self.settings.model)
        self.servers: list[ServerState] = []
        self.pace = Pace(0)
        self._provenance: dict[str, Any] = {}
        self._journal: Journal
        self._scheduler: Scheduler | None = None
        self._failed_before: dict[str, Job] = {}
        self._failures: list[tuple[Job, Exception]] = []
        self._failed_some = asyncio.Event()
        self._writing = asyncio.Lock()

    async def main(self) -> None:
        """Connect, open the table, ask, commit."""
        concurrency = self.settings.concurrency
        self.servers = [ServerState(api, AdaptiveConcurrency(concurrency)) for api in self.settings.connect()]
        self.report.hosts = {server.url: 0 for server in self.servers}
        try:
            identity = await self._meet()
            self._provenance = self.settings.provenance(identity)
            spec = make_spec(
                self.name,
                self._provenance,
                preset=self.settings.prompt.preset,
                servers=[identity.server],
                versions={library: version(library) for library in ("icehouse", "pillow", "httpx")},
            )
            table = ensure_captions(self.store, spec)
            note_server(table, identity.server)
            with Journal.open(table) as self._journal:
                self._note(*self._journal.remarks)
                todo = self.find()
                self.report.distinct, self.report.known = todo.distinct, todo.done
                self.report.known_failures, self.report.asked = todo.failed, len(todo.jobs)
                self.report.without_image = todo.without_image
                # A run that died before it could: their answers have just come from its journal.
                forget_failures(self.store, self.name, todo.stale)
                await self._work(todo.jobs)
        finally:
            for server in self.servers:
                self.report.concurrency[server.url] = server.concurrency.level
                await server.api.close()

    async def _work(self, jobs: list[Job]) -> None:
        self.pace = Pace(len(jobs))
        self._failed_before = {job.key: job for job in jobs if job.failed_before}
        self._tell()
        servers = [server for server in self.servers if server.excluded is None]
        self._scheduler = Scheduler(servers, self, patience=self.settings.patience, say=self.say)
        try:
            await self._scheduler.run(jobs, self._commit_regularly, self._record_as_they_come)
        finally:
            try:
                await self._record()
            finally:
                await self._commit(last=True)
        self._tell()

    def _note(self, *remarks: str) -> None:
        for remark in remarks:
            self.report.notes.append(remark)
            self.say(remark)

    def _tell(self) -> None:
        if self.progress:
            level = sum(server.concurrency.level for server in self.servers if server.verified)
            failed = self.report.failed
            self.progress(self.pace.done + failed, self.pace.total + failed, self.pace.line(level))

    # Who answers

    async def _meet(self) -> Identity:
        """Identify the servers; those that do not answer are left out for now.

        Raises `CaptionError` if none can be used, `SpaceError` if two of them have different models under one name, or one
        has another than the table.
        """
        met = await self._identify_all()
        found = [(s, who) for s, who in zip(self.servers, met, strict=True) if isinstance(who, Identity)]
        errors = [who for who in met if isinstance(who, ServerError)]
        if not found:
            nobody = all(isinstance(error, UnreachableError) for error in errors)
            start = ": start it with `ollama serve`, or name another with --host"
            start = start if nobody and self.settings.api == "ollama" else ""
            raise CaptionError("; ".join(dict.fromkeys(map(str, errors))) + start)
        self._compare(found)
        for server, who in zip(self.servers, met, strict=True):
            if isinstance(who, Identity):
                server.verified = True
                continue
            if isinstance(who, SetupError):
                server.excluded = CaptionError(str(who))
            else:
                server.down_since, server.reason = time.monotonic(), str(who)
            self._note(f"{server.url} is left out: {who}")
        return found[0][1]

    async def _identify_all(self) -> list[Identity | ServerError]:
        """Identities or errors of all servers; failing ones are retried as long as `patience`, unreachable ones are not."""

        async def attempt() -> list[Identity | ServerError]:
            met = await asyncio.gather(*map(self._identify, self.servers), return_exceptions=True)
            for who in met:
                if not isinstance(who, (Identity, ServerError)):
                    raise who
            return met  # type: ignore[return-value]  # narrowed above

        def troubled(met: list[Identity | ServerError]) -> bool:
            usable = any(isinstance(who, Identity) for who in met)
            return not usable and not all(isinstance(who, (UnreachableError, SetupError)) for who in met)

        def tell(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome:
                self.say("; ".join(map(str, state.outcome.result())) + "; trying again")

        patience = self.settings.patience
        return await AsyncRetrying(
            retry=retry_if_result(troubled),
            wait=partial(wait_with_backoff, longest=min(10.0, patience / 4)),
            stop=stop_after_delay(patience),
            before_sleep=tell,
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )(attempt)

    async def _identify(self, server: ServerState) -> Identity:
        """Find out who answers; where the model is missing and may be fetched, have it fetched."""
        try:
            return await server.api.identify()
        except MissingModelError as error:
            if not self.settings.pull:
                raise
            self.say(f"{error}; it is being pulled")
            server.down_since = None  # it is there, and at work for us
            await server.api.pull(self._pulling)
            return await server.api.identify()

    def _pulling(self, status: str, completed: int, total: int) -> None:
        # Amid a run the bar tells of captions, not of one host's download.
        if self.progress and self._scheduler is None:
            self.progress(completed, total, status)

    def _compare(self, found: Sequence[tuple[ServerState, Identity]]) -> None:
        """Refuse servers that do not have one model, by name: the table's where there is one."""
        first, identity = found[0]
        wanted, whose = identity.digest, first.url
        model = identity.model
        if self.name in names_of(self.store):
            table = captions_of(self.store, self.name)
            made_by = table.spec.get("provenance") or {}
            if (made_by.get("model"), made_by.get("api")) == (model, self.settings.api):
                wanted, whose = made_by.get("digest"), f"the captions {self.name!r}"
                changed = {server.url for server, other in found if other.digest != wanted}
                if changed:
                    # What these answered in a run that was killed cannot be told from the new model's answers.
                    with suppress(LockedError), Journal.open(table, changed=changed) as journal:
                        self._note(*journal.remarks)
                if len(changed) == len(found):
                    return  # the table's own refusal says the rest
        for server, other in found:
            if other.digest != wanted:
                raise SpaceError(
                    f"{whose} and {server.url} have different models as {model}: digest {_short(wanted)} and "
                    f"{_short(other.digest)}; bring them to one, with `ollama pull {model}`, or leave {server.url} out"
                )

    def _check(self, server: ServerState, identity: Identity) -> None:
        """Refuse a server whose model is not the one that these captions are by."""
        if self.settings.provenance(identity) != self._provenance:
            raise SpaceError(
                f"the model {identity.model} has changed: the captions {self.name!r} are by digest "
                f"{_short(self._provenance['digest'])}, {server.url} now has digest {_short(identity.digest)}; "
                "bring back the first, or caption with the second under another --name"
            )

    # The scheduler's worker

    def prepare(self, job: Job) -> bytes:
        """Make the picture to send."""
        picture = load(job.files, job.image_sha256, self.settings.max_side)
        job.sent_as = picture.changed
        return picture

    async def verify(self, server: ServerState) -> None:
        """Check that a server still has the model of these captions."""
        self._check(server, await self._identify(server))

    async def probe(self, server: ServerState) -> None:
        """Ask about a picture that nothing is wrong with; whatever is answered will do."""
        await server.api.ask(self.settings.question(plain_picture(), None, 0))

    async def ask(self, job: Job, picture: bytes, server: ServerState) -> tuple[Row, float]:
        """Ask, and once more where the answer is flagged; returns the better one, and the seconds of loading the model."""
        # Should the second question meet a failure or a kill, the first answer is not asked for again.
        first = self._journal.firsts.get(job.key)
        load_s = 0.0
        if first is None:
            first, load_s = await self._ask_once(job, picture, server, 0)
            if not first["flags"]:
                return first, load_s
            first = self._journal.add(first, first=True)
        second, more_s = await self._ask_once(job, picture, server, 1)
        self.report.retried += 1
        chosen = second if better(split_flags(first["flags"]), split_flags(second["flags"])) else first
        return {**chosen, "attempts": 2}, max(load_s, more_s)

    async def _ask_once(
        self, job: Job, picture: bytes, server: ServerState, attempt: int
    ) -> tuple[Row, float]:
        """One question; returns the row that its answer makes, and the seconds of loading the model."""
        question = self.settings.question(picture, job.text, attempt)
        begun = time.monotonic()
        answer = await server.api.ask(question)
        seconds = time.monotonic() - begun - answer.load_s
        self.report.questions += 1
        self.report.tokens += answer.tokens or 0
        self.pace.tokens += answer.tokens or 0
        structured = self.settings.prompt.structured
        flags, columns = judge(answer.text, structured=structured, cut=answer.cut, reasoning=answer.reasoning)
        row = {
            "caption_key": job.key,
            "image_sha256": job.image_sha256,
            "text_sha256": job.text_sha256,
            **columns,
            "flags": join_flags(flags),
            "tokens": answer.tokens,
            "seconds": round(max(seconds, 0.0), 3),
            "attempts": 1,
            "seed": int(question.options["seed"]),
            "model": self.settings.model,
            "host": server.url,
            "created": datetime.now(UTC),
        }
        return row, answer.load_s

    def done(self, job: Job, result: tuple[Row, float]) -> None:
        """Put an answer into the journal and the report."""
        row, load_s = result
        self._journal.add(row)
        self.report.captioned += 1
        # A first answer may be of an earlier run, and its host none of this one's.
        if row["host"] in self.report.hosts:
            self.report.hosts[row["host"]] += 1
        if job.sent_as:
            self.report.sent_as[job.sent_as] = self.report.sent_as.get(job.sent_as, 0) + 1
        for flag in split_flags(row["flags"]):
            self.report.flagged[flag] = self.report.flagged.get(flag, 0) + 1
        estimate = self.pace.answered(None, load_s)
        if estimate:
            self.say(estimate)
        self._tell()

    def failed(self, job: Job, error: Exception) -> None:
        """Take note of a picture that got no answer."""
        first = self._journal.firsts.get(job.key)
        if first is not None:
            # The second question got no answer, but the first one did.
            self.report.retried += 1
            self.done(job, (first, 0.0))
            return
        self.report.failed += 1
        # The pace is that of answers: a picture that cannot be read took no time.
        self.pace.total -= 1
        self._failures.append((job, error))
        self._failed_some.set()
        self._tell()

    # Writing

    async def _commit_regularly(self) -> None:
        begun = time.monotonic()
        while True:
            # A long run would else leave thousands of small parts; the journal is what keeps its answers safe.
            await asyncio.sleep(min(max(COMMIT_S, (time.monotonic() - begun) / 50), 12 * COMMIT_S))
            # A commit that has begun is brought to its end, whatever becomes of the run.
            await asyncio.shield(self._commit())

    async def _record_as_they_come(self) -> None:
        while True:
            await self._failed_some.wait()
            await asyncio.shield(self._record())

    async def _record(self) -> None:
        """Put failures into the log; in a thread, since another writer may make it wait."""
        async with self._writing:
            self._failed_some.clear()
            failures, self._failures = self._failures, []
            if failures:
                await asyncio.to_thread(record_failures, self.store, self.name, failures)

    async def _commit(self, last: bool = False) -> None:
        """Bring the answers so far into the table, if their hosts still have the model that they had."""
        async with self._writing:
            if not self._journal.rows:
                return
            rows, self._journal.rows = self._journal.rows, []
            names = {row["host"] for row in rows}
            same = {s.url: await self._is_same(s, last) for s in self.servers if s.url in names}
            kept, unknown, changed = (
                [row for row in rows if same.get(row["host"], True) is answer]
                for answer in (True, None, False)
            )
            self._discard(changed)
            for url in (url for url, is_same in same.items() if is_same is False):
                self._journal.void(url)
            if unknown:
                self._journal.rows = [*unknown, *self._journal.rows]
                if last:
                    hosts = ", ".join(sorted({row["host"] for row in unknown}))
                    self._note(
                        f"{len(unknown)} answers wait in the journal, since {hosts} cannot be asked whether its model is "
                        "still the same; the next run brings them into the table"
                    )
            await asyncio.to_thread(self._bring_in, kept)

    def _bring_in(self, rows: Sequence[Row]) -> None:
        """Forget earlier failures and commit; in that order, since the journal keeps the answers if this process dies."""
        keys = [row["caption_key"] for row in rows]
        answered = [self._failed_before[key] for key in keys if key in self._failed_before]
        forget_failures(self.store, self.name, answered)
        self._journal.commit(rows)

    def _discard(self, rows: Collection[Row]) -> None:
        """Count answers of another model out again."""
        self.report.discarded += len(rows)
        self.report.captioned -= len(rows)
        for row in rows:
            for flag in split_flags(row["flags"]):
                self.report.flagged[flag] -= 1
                if not self.report.flagged[flag]:
                    del self.report.flagged[flag]

    async def _is_same(self, server: ServerState, insist: bool) -> bool | None:
        """Whether a server still is the model it was before its latest answers; None where it cannot be asked now."""
        if isinstance(server.excluded, SpaceError):
            return False
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda e: may_pass(e) and not isinstance(e, UnreachableError)),
            stop=stop_after_attempt(_IDENTIFY_TRIES if insist else 1),
            wait=wait_fixed(0.2),
            reraise=True,
        )
        try:
            self._check(server, await retrying(server.api.identify))
        except ServerError:
            return None
        except SpaceError:
            if self._scheduler is not None:
                self._scheduler.reverify(server)
            return False
        return True


def _short(digest: str | None) -> str:
    return str(digest)[:12] if digest else "unknown"
