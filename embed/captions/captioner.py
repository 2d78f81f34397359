"""The main job: every distinct picture of a store that has no caption gets one.

`plan` finds the pictures, `Dispatcher` has them asked, this module makes rows of the answers, guards the table (model,
digest, prompt, options) and sees that nothing is asked twice: an answer is in the `Journal` before the next question, and
in the table some seconds later, once its host was found to be still the same model.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...errors import CaptionError, LockedError, SpaceError
from ...store.store import Store
from . import ledger, loop, pictures
from .answers import better, flags_of, join_flags
from .api import Answer, DeniedError, FaultError, GoneError, Identity, MissingError, Question
from .asking import Asking
from .backoff import wait_s
from .cleaning import MAX_CHARS, clean_answer
from .climber import Climber
from .dispatch import Dispatcher
from .hosts import Host
from .journal import Batch, Journal
from .plan import Job, plan
from .probe import plain_picture
from .report import CaptionReport, Pace
from .rows import Row
from .structured import COLUMNS, SCHEMA, parse
from .table import DEFAULT_NAME, admit, captions_of, make_spec, names_of, note_server

__all__ = ["COMMIT_S", "caption_images"]

#: Answers become a part of the table after so many seconds, in a long run up to twelve times as many; until then they are
#: in the journal.
COMMIT_S = 10.0

_INSIST = 3

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]


def caption_images(
    store: Store | str | Path,
    asking: Asking,
    *,
    name: str = DEFAULT_NAME,
    where: str | None = None,
    limit: int | None = None,
    retry_failures: bool = False,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> CaptionReport:
    """Caption whatever the store has no caption of under `name`.

    Parameters
    ----------
    store : Store, str or Path
    asking : Asking
        Model, prompt, hosts.
    name : str, default "default"
        Captions go to ``tables/captions/<name>``.
    where : str, optional
        SQL condition over the items.
    limit : int, optional
        Ask about so many pictures at most.
    retry_failures : bool, default False
        Ask again about pictures that got no answer before, though their file is as it was.
    progress : callable, optional
        Called with (pictures done, pictures in all, rate and such).
    say : callable, optional
        Called with remarks: hosts that come and go, the estimate for the whole set.

    Returns
    -------
    CaptionReport

    Raises
    ------
    CaptionError
        If no server answers, the model is not there, or picture after picture gets no answer. What was answered is kept.
    SpaceError
        If the captions of that name are by another model, digest, prompt or options.
    LockedError
        If another run is captioning under that name.
    KeyboardInterrupt
        If interrupted; answers under way were waited for, what was answered is kept.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    run = _Run(store, asking, name, progress, say)

    def find() -> list[Job]:
        todo = plan(
            store,
            name,
            with_text=asking.prompt.with_text,
            where=where,
            limit=limit,
            retry_failures=retry_failures,
        )
        run.report.take(todo)
        run.stale = todo.stale
        return todo.jobs

    find()  # what cannot be planned is said before anybody is asked
    begun = time.monotonic()
    try:
        loop.run(run.main(find))
    except (CaptionError, SpaceError) as error:
        raise type(error)(f"{error}{run.kept()}") from None
    run.report.seconds = round(time.monotonic() - begun, 3)
    return run.report


class _Run:
    """One run: its table, its hosts, its report."""

    def __init__(self, store: Store, asking: Asking, name: str, progress: Progress | None, say: Say) -> None:
        self.store = store
        self.asking = asking
        self.name = name
        self.progress = progress
        self.say = say
        self.report = CaptionReport(str(store.path), name, asking.model)
        self.hosts: list[Host] = []
        self.pace = Pace(0)
        self.stale: list[Job] = []
        self._provenance: dict[str, Any] = {}
        self._journal: Journal | None = None
        self._dispatcher: Dispatcher | None = None
        self._jobs: dict[str, Job] = {}
        self._failures: list[tuple[Job, Exception]] = []
        self._failed_some = asyncio.Event()
        self._committing = asyncio.Lock()

    def kept(self) -> str:
        """End of an error's message: what is safe."""
        if not self.report.captioned:
            return ""
        return f"; {self.report.captioned} captions of this run are kept, run the same command again to go on"

    async def main(self, find_jobs: Callable[[], list[Job]]) -> None:
        """Connect, admit, ask, commit."""
        self.hosts = [Host(api, Climber(self.asking.concurrency)) for api in self.asking.connect()]
        self.report.hosts = {host.url: 0 for host in self.hosts}
        try:
            identity = await self._meet()
            self._provenance = self.asking.provenance(identity)
            spec = make_spec(
                self.name,
                self._provenance,
                preset=self.asking.prompt.preset,
                servers=[identity.server],
                versions={library: version(library) for library in ("icehouse", "pillow", "ollama")},
            )
            table = admit(self.store, spec)
            note_server(table, identity.server)
            with Journal.open(table) as journal:
                self._journal = journal
                for remark in journal.remarks:
                    self._note(remark)
                jobs = find_jobs()
                # A run that died before it could: their answers have just come from its journal.
                ledger.settle(self.store, self.name, self.stale)
                await self._work(jobs)
        finally:
            for host in self.hosts:
                self.report.concurrency[host.url] = host.climber.level
                await host.api.close()

    def _note(self, remark: str) -> None:
        self.report.notes.append(remark)
        self.say(remark)

    # Who answers

    async def _meet(self) -> Identity:
        """Identify the hosts; those that do not answer are left out for now.

        Raises
        ------
        CaptionError
            If none can be used.
        SpaceError
            If two of them have different models under one name, or one has another than the table.
        """
        met = await self._try_to_meet()
        found = [(host, it) for host, it in zip(self.hosts, met, strict=True) if isinstance(it, Identity)]
        faults = [who for who in met if isinstance(who, FaultError)]
        if not found:
            ollama_is_off = self.asking.api == "ollama" and all(isinstance(f, GoneError) for f in faults)
            start = ": start it with `ollama serve`, or name another with --host" if ollama_is_off else ""
            raise CaptionError("; ".join(dict.fromkeys(str(fault) for fault in faults)) + start)
        self._compare(found)
        for host, who in zip(self.hosts, met, strict=True):
            if isinstance(who, Identity):
                host.trusted = True
                continue
            if isinstance(who, DeniedError):
                host.expelled = CaptionError(str(who))
            else:
                host.down_since, host.why = time.monotonic(), str(who)
            self._note(f"{host.url} is left out: {who}")
        return found[0][1]

    async def _try_to_meet(self) -> list[Identity | FaultError]:
        """Who answers; one that is there and in trouble gets the run's patience, one that is not there gets none."""
        begun, attempt, rng = time.monotonic(), 0, random.Random(0)
        while True:
            met = await asyncio.gather(*(self._identify_or_fault(host) for host in self.hosts))
            used = any(isinstance(who, Identity) for who in met)
            hopeless = all(isinstance(who, (GoneError, DeniedError)) for who in met)
            if used or hopeless or time.monotonic() - begun >= self.asking.patience:
                return met
            if attempt == 0:
                self.say("; ".join(str(who) for who in met) + "; trying again")
            await asyncio.sleep(wait_s(attempt, rng, most=min(10.0, self.asking.patience / 4)))
            attempt += 1

    async def _identify_or_fault(self, host: Host) -> Identity | FaultError:
        try:
            return await self._identify(host)
        except FaultError as fault:
            return fault

    async def _identify(self, host: Host) -> Identity:
        """Find out who answers; where the model is missing and may be fetched, have it fetched."""
        try:
            return await host.api.identify()
        except MissingError as fault:
            if not self.asking.pull:
                raise
            self.say(f"{fault}; it is being pulled")
            host.down_since = None  # it is there, and at work for us
            await host.api.pull(self._pulling)
            return await host.api.identify()

    def _pulling(self, status: str, completed: int, total: int) -> None:
        # Amid a run the bar tells of captions, not of one host's download.
        if self.progress and self._dispatcher is None:
            self.progress(completed, total, status)

    def _compare(self, found: Sequence[tuple[Host, Identity]]) -> None:
        """Refuse hosts that do not have one model, by name: the table's where there is one."""
        first, identity = found[0]
        wanted, whose = identity.digest, first.url
        model = identity.model
        if self.name in names_of(self.store):
            table = captions_of(self.store, self.name)
            made_by = table.spec.get("provenance") or {}
            if (made_by.get("model"), made_by.get("api")) == (model, self.asking.api):
                wanted, whose = made_by.get("digest"), f"the captions {self.name!r}"
                changed = {host.url for host, other in found if other.digest != wanted}
                if changed:
                    # What these answered in a run that was killed cannot be told from the new model's answers.
                    with suppress(LockedError), Journal.open(table, changed=changed) as journal:
                        for remark in journal.remarks:
                            self._note(remark)
                if len(changed) == len(found):
                    return  # the table's own refusal says the rest
        for host, other in found:
            if other.digest != wanted:
                raise SpaceError(
                    f"{whose} and {host.url} have different models as {model}: digest {_short(wanted)} and "
                    f"{_short(other.digest)}; bring them to one, with `ollama pull {model}`, or leave {host.url} out"
                )

    def _check(self, host: Host, identity: Identity) -> None:
        """Refuse a host whose model is not the one that these captions are by."""
        now = self.asking.provenance(identity)
        if now != self._provenance:
            raise SpaceError(
                f"the model {identity.model} has changed: the captions {self.name!r} are by digest "
                f"{_short(self._provenance['digest'])}, {host.url} now has digest {_short(identity.digest)}; "
                "bring back the first, or caption with the second under another --name"
            )

    async def _work(self, jobs: list[Job]) -> None:
        self.pace = Pace(len(jobs))
        self._jobs = {job.key: job for job in jobs if job.failed_before}
        self._tell()
        dispatcher = self._dispatcher = Dispatcher(
            [host for host in self.hosts if host.expelled is None],
            prepare=self._prepare,
            work=self._caption,
            identify=self._identify,
            check=self._check,
            probe=self._probe,
            done=self._done,
            failed=self._failed,
            say=self.say,
            patience=self.asking.patience,
        )
        try:
            await dispatcher.run(jobs, beside=self._keep_books)
        finally:
            try:
                await self._record()
            finally:
                await self._commit(last=True)
        self._tell()

    # Books

    async def _keep_books(self) -> None:
        await asyncio.gather(self._commit_now_and_then(), self._record_failures())

    async def _commit_now_and_then(self) -> None:
        begun = time.monotonic()
        while True:
            # A long run would else leave thousands of small parts; the journal is what keeps its answers safe.
            await asyncio.sleep(min(max(COMMIT_S, (time.monotonic() - begun) / 50), 12 * COMMIT_S))
            # A commit that has begun is brought to its end, whatever becomes of the run.
            await asyncio.shield(self._commit())

    async def _record_failures(self) -> None:
        while True:
            await self._failed_some.wait()
            await asyncio.shield(self._record())

    async def _record(self) -> None:
        """Put failures into the ledger; in a thread, since another writer may make it wait."""
        async with self._committing:
            self._failed_some.clear()
            failures, self._failures = self._failures, []
            if failures:
                await asyncio.to_thread(ledger.record, self.store, self.name, failures)

    async def _commit(self, last: bool = False) -> None:
        """Bring the answers so far into the table, if their hosts still have the model that they had."""
        journal = self._journal
        assert journal is not None
        async with self._committing:
            if not journal.rows:
                return
            batch = journal.take()
            names = {row["host"] for row in batch.rows}
            standing = {host.url: await self._same(host, last) for host in self.hosts if host.url in names}
            kept = [row for row in batch.rows if standing.get(row["host"], True)]
            unknown = [row for row in batch.rows if standing.get(row["host"], True) is None]
            self._discard([row for row in batch.rows if standing.get(row["host"], True) is False])
            for url in (url for url, same in standing.items() if same is False):
                journal.void(url)
            if unknown:
                journal.put_back(batch, unknown)
                if last:
                    hosts = ", ".join(sorted({row["host"] for row in unknown}))
                    self._note(
                        f"{len(unknown)} answers wait in the journal, since {hosts} cannot be asked whether its model is "
                        "still the same; the next run brings them into the table"
                    )
            await asyncio.to_thread(self._bring_in, batch, kept)

    def _bring_in(self, batch: Batch, rows: Sequence[Row]) -> None:
        """Settle and commit; in that order, since the journal keeps the answers if this process dies in between."""
        assert self._journal is not None
        settled = [self._jobs[row["caption_key"]] for row in rows if row["caption_key"] in self._jobs]
        ledger.settle(self.store, self.name, settled)
        self._journal.commit(batch, rows)

    def _discard(self, rows: Collection[Row]) -> None:
        """Count answers of another model out again."""
        self.report.discarded += len(rows)
        self.report.captioned -= len(rows)
        for row in rows:
            for flag in _flags(row):
                self.report.flagged[flag] -= 1
                if not self.report.flagged[flag]:
                    del self.report.flagged[flag]

    async def _same(self, host: Host, insist: bool) -> bool | None:
        """Whether a host still is the model it was before its latest answers; None where it cannot be asked now."""
        if isinstance(host.expelled, SpaceError):
            return False
        for attempt in range(_INSIST if insist else 1):
            try:
                self._check(host, await host.api.identify())
            except (GoneError, DeniedError):
                return None
            except FaultError:
                await asyncio.sleep(0.2 * attempt)
            except SpaceError:
                if self._dispatcher is not None:
                    self._dispatcher.distrust(host)
                return False
            else:
                return True
        return None

    # One picture

    async def _caption(self, job: Job, picture: bytes, host: Host) -> tuple[Row, float]:
        """Ask, and once more where the answer is flagged; the better one is kept. Returns it, and the seconds of loading."""
        assert self._journal is not None
        # Should the second question meet a fault or a kill, the first answer is not asked for again.
        first = self._journal.firsts.get(job.key)
        load_s = 0.0
        if first is None:
            first, load_s = await self._ask(job, picture, host, 0)
            if not _flags(first):
                return first, load_s
            first = self._journal.add(first, first=True)
        second, more_s = await self._ask(job, picture, host, 1)
        self.report.retried += 1
        chosen = second if better(_flags(first), _flags(second)) else first
        return {**chosen, "attempts": 2}, max(load_s, more_s)

    async def _ask(self, job: Job, picture: bytes, host: Host, attempt: int) -> tuple[Row, float]:
        """One question; returns the row that its answer makes, and the seconds of loading."""
        sampling = self.asking.sampling(attempt)
        begun = time.monotonic()
        answer = await host.api.ask(self._question(picture, job.text, attempt))
        seconds = time.monotonic() - begun - answer.load_s
        self.report.questions += 1
        self.report.tokens += answer.tokens or 0
        self.pace.tokens += answer.tokens or 0
        flags, fields = self._judge(answer)
        row = {
            "caption_key": job.key,
            "image_sha256": job.image_sha256,
            "text_sha256": job.text_sha256,
            **fields,
            "flags": join_flags(flags),
            "tokens": answer.tokens,
            "seconds": round(max(seconds, 0.0), 3),
            "attempts": 1,
            "seed": int(sampling["seed"]),
            "model": self.asking.model,
            "host": host.url,
            "created": datetime.now(UTC),
        }
        return row, answer.load_s

    def _question(self, picture: bytes, text: str | None, attempt: int) -> Question:
        schema = SCHEMA if self.asking.prompt.structured else None
        return Question(self.asking.prompt.fill(text), picture, self.asking.sampling(attempt), schema)

    def _prepare(self, job: Job) -> bytes:
        picture = pictures.load(job.files, job.image_sha256, self.asking.max_side)
        job.sent_as = picture.changed
        return picture

    async def _probe(self, host: Host) -> None:
        """Ask about a picture that nothing is wrong with; whatever is answered will do."""
        await host.api.ask(self._question(plain_picture(), None, 0))

    def _judge(self, answer: Answer) -> tuple[tuple[str, ...], dict[str, Any]]:
        """What is wrong with an answer, and the columns it fills."""
        text, unclosed = clean_answer(answer.text)
        cut = answer.cut or len(text) > MAX_CHARS
        text = text[:MAX_CHARS]
        as_it_came = f"<think>{answer.reasoning}</think>\n{answer.text}" if answer.reasoning else answer.text
        raw = as_it_came[:MAX_CHARS] if as_it_came != text else None
        amid = ("reasoning",) if unclosed or (answer.reasoning and not text) else ()
        if not self.asking.prompt.structured:
            return (*flags_of(text, cut=cut), *amid), {"caption": text, "raw": raw}
        fields = parse(text)
        if fields is None:
            wrong = "invalid" if text else "empty"
            flags = (wrong, *amid, "cut") if cut else (wrong, *amid)
            return flags, {"caption": text, "raw": raw, **dict.fromkeys(COLUMNS.names)}
        return (*flags_of(fields["caption"], cut=cut), *amid), {**fields, "raw": raw}

    def _done(self, job: Job, answer: tuple[Row, float]) -> None:
        assert self._journal is not None
        row, load_s = answer
        self._journal.add(row)
        self.report.captioned += 1
        # A first answer may be of an earlier run, and its host none of this one's.
        if row["host"] in self.report.hosts:
            self.report.hosts[row["host"]] += 1
        if job.sent_as:
            self.report.sent_as[job.sent_as] = self.report.sent_as.get(job.sent_as, 0) + 1
        for flag in _flags(row):
            self.report.flagged[flag] = self.report.flagged.get(flag, 0) + 1
        estimate = self.pace.answered(None, load_s)
        if estimate:
            self.say(estimate)
        self._tell()

    def _failed(self, job: Job, error: Exception) -> None:
        assert self._journal is not None
        first = self._journal.firsts.get(job.key)
        if first is not None:
            # The second question got no answer, but the first one did.
            self.report.retried += 1
            self._done(job, (first, 0.0))
            return
        self.report.failed += 1
        # The pace is that of answers: a picture that cannot be read took no time.
        self.pace.total -= 1
        self._failures.append((job, error))
        self._failed_some.set()
        self._tell()

    def _tell(self) -> None:
        if self.progress:
            level = sum(host.climber.level for host in self.hosts if host.trusted)
            failed = self.report.failed
            self.progress(self.pace.done + failed, self.pace.total + failed, self.pace.line(level))


def _flags(row: Row) -> list[str]:
    return [flag for flag in row["flags"].split(",") if flag]


def _short(digest: str | None) -> str:
    return str(digest)[:12] if digest else "unknown"
