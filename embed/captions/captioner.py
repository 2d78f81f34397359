"""The main job: every distinct picture of a store that has no caption gets one.

`plan` finds the pictures, `Dispatcher` has them asked, this module makes rows of the answers, guards the table (model,
digest, prompt, options) and sees that nothing is asked twice: an answer is in the `Journal` before the next question, and
in the table some seconds later, once its host was found to be still the same model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...errors import CaptionError, SpaceError
from ...store.store import Store
from ...store.table import Table
from . import ledger, loop, pictures
from .answers import better, flags_of, join_flags
from .api import Answer, DeniedError, FaultError, GoneError, Identity, Question
from .asking import Asking
from .climber import Climber
from .dispatch import Dispatcher
from .hosts import Host
from .journal import Journal
from .plan import Job, plan
from .report import CaptionReport, Pace
from .structured import COLUMNS, SCHEMA, parse
from .table import DEFAULT_NAME, admit, make_spec, note_server

__all__ = ["COMMIT_S", "caption_images"]

#: Answers become a part of the table after so many seconds, in a long run up to twelve times as many; until then they are
#: in the journal.
COMMIT_S = 10.0

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
        return todo.jobs

    find()  # what cannot be planned is said before anybody is asked
    begun = time.monotonic()
    try:
        loop.run(run.main(find))
    except (CaptionError, SpaceError) as error:
        raise type(error)(f"{error}{run.kept()}") from None
    run.report.seconds = round(time.monotonic() - begun, 3)
    return run.report


@dataclass
class _Verdict:
    """An answer and what is wrong with it."""

    answer: Answer
    flags: tuple[str, ...]
    fields: dict[str, Any]
    seconds: float
    seed: int
    host: str


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
        self._first: dict[str, _Verdict] = {}
        self._provenance: dict[str, Any] = {}
        self._journal: Journal | None = None
        self._dispatcher: Dispatcher | None = None
        self._committing = asyncio.Lock()

    def kept(self) -> str:
        """End of an error's message: what is safe."""
        if not self.report.captioned:
            return ""
        return f"; {self.report.captioned} captions of this run are kept, run the same command again to go on"

    async def main(self, find_jobs: Callable[[], list[Job]]) -> None:
        """Connect, admit, ask, commit."""
        self.hosts = [Host(api, Climber(self.asking.concurrency)) for api in self.asking.connect()]
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
                await self._work(table, find_jobs())
        finally:
            for host in self.hosts:
                self.report.hosts[host.url] = host.answered
                self.report.concurrency[host.url] = host.climber.level
                await host.api.close()

    async def _meet(self) -> Identity:
        """Identify the hosts; those that do not answer are left out for now.

        Raises
        ------
        CaptionError
            If none can be used.
        SpaceError
            If two of them have different models under one name.
        """
        met = await asyncio.gather(*(self._identify(host) for host in self.hosts))
        found = [(host, it) for host, it in zip(self.hosts, met, strict=True) if isinstance(it, Identity)]
        faults = [who for who in met if isinstance(who, FaultError)]
        if not found:
            ollama_is_off = self.asking.api == "ollama" and all(isinstance(f, GoneError) for f in faults)
            start = ": start it with `ollama serve`, or name another with --host" if ollama_is_off else ""
            raise CaptionError("; ".join(dict.fromkeys(str(fault) for fault in faults)) + start)
        first, identity = found[0]
        for host, other in found[1:]:
            if (other.model, other.digest) != (identity.model, identity.digest):
                raise SpaceError(
                    f"{first.url} and {host.url} have different models as {identity.model}: digest "
                    f"{_short(identity.digest)} and {_short(other.digest)}; run `ollama pull {identity.model}` on both"
                )
        for host, who in zip(self.hosts, met, strict=True):
            if isinstance(who, DeniedError):
                host.expelled = CaptionError(str(who))
            elif isinstance(who, FaultError):
                host.down_since, host.why = time.monotonic(), str(who)
            else:
                host.trusted = True
                continue
            self.report.notes.append(f"{host.url} is left out: {who}")
            self.say(self.report.notes[-1])
        return identity

    async def _identify(self, host: Host) -> Identity | FaultError:
        try:
            try:
                return await host.api.identify()
            except DeniedError as fault:
                if not (self.asking.pull and "--pull" in str(fault)):
                    return fault
                await host.api.pull(self._pulling)
                return await host.api.identify()
        except FaultError as fault:
            return fault

    def _pulling(self, status: str, completed: int, total: int) -> None:
        if self.progress:
            self.progress(completed, total, status)

    def _check(self, identity: Identity) -> None:
        """Refuse a host whose model is not the one that these captions are by."""
        now = self.asking.provenance(identity)
        if now != self._provenance:
            raise SpaceError(
                f"the model {identity.model} has changed: the captions {self.name!r} are by digest "
                f"{_short(self._provenance['digest'])}, the server now has digest {_short(identity.digest)}; "
                "bring back the first, or caption with the second under another --name"
            )

    async def _work(self, table: Table, jobs: list[Job]) -> None:
        self.pace = Pace(len(jobs))
        self._tell()
        dispatcher = self._dispatcher = Dispatcher(
            [host for host in self.hosts if host.expelled is None],
            prepare=lambda job: pictures.load(job.files, job.image_sha256, self.asking.max_side),
            work=self._caption,
            check=self._check,
            done=self._done,
            failed=self._failed,
            say=self.say,
            patience=self.asking.patience,
        )
        try:
            await dispatcher.run(jobs, beside=self._commit_now_and_then)
        finally:
            await self._commit()
        self._tell()

    async def _commit_now_and_then(self) -> None:
        begun = time.monotonic()
        while True:
            # A long run would else leave thousands of small parts; the journal is what keeps its answers safe.
            await asyncio.sleep(min(max(COMMIT_S, (time.monotonic() - begun) / 50), 12 * COMMIT_S))
            # A commit that has begun is brought to its end, whatever becomes of the run.
            await asyncio.shield(self._commit())

    async def _commit(self) -> None:
        """Bring the answers so far into the table, without those of a model that changed under us."""
        assert self._journal is not None
        async with self._committing:
            if not self._journal.rows:
                return
            number, rows = self._journal.take()
            changed = {host.url for host in self.hosts if not await self._same(host, rows)}
            kept = [row for row in rows if row["host"] not in changed]
            self.report.discarded += len(rows) - len(kept)
            self.report.captioned -= len(rows) - len(kept)
            await asyncio.to_thread(self._journal.commit, number, kept)

    async def _same(self, host: Host, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a host that gave some of these answers still is the model it was before them."""
        if not any(row["host"] == host.url for row in rows):
            return True
        if isinstance(host.expelled, SpaceError):
            return False
        try:
            self._check(await host.api.identify())
        except FaultError:
            return True  # nobody to ask: it was the right one when last seen
        except SpaceError:
            if self._dispatcher is not None:
                self._dispatcher.distrust(host)
            return False
        return True

    # One picture

    async def _caption(self, job: Job, picture: bytes, host: Host) -> dict[str, Any]:
        """Ask, and once more where the answer is flagged; the better one is kept."""
        first = self._first.get(job.key)
        if first is None:
            first = await self._ask(job, picture, host, 0)
            if first.flags:
                # Should the second question meet a fault, the first answer is not asked for again.
                self._first[job.key] = first
        if not first.flags:
            return self._row(job, first, 1)
        second = await self._ask(job, picture, host, 1)
        self._first.pop(job.key, None)
        self.report.retried += 1
        chosen = second if better(first.flags, second.flags) else first
        return self._row(job, chosen, 2)

    async def _ask(self, job: Job, picture: bytes, host: Host, attempt: int) -> _Verdict:
        sampling = self.asking.sampling(attempt)
        schema = SCHEMA if self.asking.prompt.structured else None
        question = Question(self.asking.prompt.fill(job.text), picture, sampling, schema)
        begun = time.monotonic()
        answer = await host.api.ask(question)
        seconds = time.monotonic() - begun - answer.load_s
        self.report.questions += 1
        self.report.tokens += answer.tokens or 0
        self.pace.tokens += answer.tokens or 0
        return self._judge(answer, seconds, int(sampling["seed"]), host.url)

    def _judge(self, answer: Answer, seconds: float, seed: int, host: str) -> _Verdict:
        if not self.asking.prompt.structured:
            flags = flags_of(answer.text, cut=answer.cut)
            return _Verdict(answer, flags, {"caption": answer.text}, seconds, seed, host)
        fields = parse(answer.text)
        if fields is None:
            empty = dict.fromkeys(COLUMNS.names)
            flags = ("empty",) if not answer.text else ("invalid",)
            flags += ("cut",) if answer.cut else ()
            return _Verdict(answer, flags, {"caption": answer.text, **empty}, seconds, seed, host)
        flags = flags_of(fields["caption"], cut=answer.cut)
        return _Verdict(answer, flags, fields, seconds, seed, host)

    def _row(self, job: Job, verdict: _Verdict, attempts: int) -> dict[str, Any]:
        return {
            "caption_key": job.key,
            "image_sha256": job.image_sha256,
            "text_sha256": job.text_sha256,
            **verdict.fields,
            "flags": join_flags(verdict.flags),
            "tokens": verdict.answer.tokens,
            "seconds": round(max(verdict.seconds, 0.0), 3),
            "attempts": attempts,
            "seed": verdict.seed,
            "model": self.asking.model,
            "host": verdict.host,
            "created": datetime.now(UTC),
            "_load_s": verdict.answer.load_s,
        }

    def _done(self, job: Job, row: dict[str, Any]) -> None:
        assert self._journal is not None
        load_s = row.pop("_load_s")
        self._journal.add(row)
        self.report.captioned += 1
        for flag in filter(None, row["flags"].split(",")):
            self.report.flagged[flag] = self.report.flagged.get(flag, 0) + 1
        ledger.settle(self.store, self.name, job)
        estimate = self.pace.answered(None, load_s)
        if estimate:
            self.say(estimate)
        self._tell()

    def _failed(self, job: Job, error: Exception) -> None:
        first = self._first.pop(job.key, None)
        if first is not None:
            # The second question got no answer, but the first one did.
            self._done(job, self._row(job, first, 1))
            return
        self.report.failed += 1
        ledger.record(self.store, self.name, job, error)
        self.pace.answered(None)
        self._tell()

    def _tell(self) -> None:
        if self.progress:
            level = sum(host.climber.level for host in self.hosts if host.trusted)
            self.progress(self.pace.done, self.pace.total, self.pace.line(level))


def _short(digest: str | None) -> str:
    return str(digest)[:12] if digest else "unknown"
