"""Judging a stream: which pictures, or texts, are new, and which have we just had.

Each item is compared with the most recent contents (`icehouse.dups.window`) by bytes, by perceptual hash and by
embedding, and then joins them. Verdicts come in the order of the items. A state on disk lets a stream go on after a restart
as if there had been none.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from PIL import Image

from ..data.text import DEFAULT_CLEANING
from ..embed.encoder import Encoder, Modality, fingerprint, load_named
from ..embed.tables import feature_provenance, load_checked
from ..errors import UsageError
from ..store.store import Store
from .calibration import Calibration, in_words
from .find import DEFAULT_COSINE, DEFAULT_HAMMING, default_feature
from .intake import Content, Item, Pipeline, Reader, Trial, item_of
from .pairs import Rule
from .window import BATCH, DEFAULT_WINDOW, Arrival, Match, Recent, Verdict
from .window_state import check_place, load_window, save_window

__all__ = ["DuplicateStream", "Match", "Verdict"]


class DuplicateStream:
    """Judges images, or texts, against the most recent ones.

    Parameters
    ----------
    encoder : Encoder, str or None
        An encoder, or its id ("mini"); None to compare bytes and perceptual hashes only. `from_store` takes a store's.
    modality : {"image", "text"}, default "image"
        What of an item is judged.
    output : str, default "pooled"
        Output of the encoder to compare.
    rule : Rule or float, optional
        Least cosine, or with it the mean of a calibration; 0.95 unless given, which is a guess.
    hamming : int, "auto" or None, default "auto"
        Bits of 64 in which perceptual hashes may differ: 6, or what a store's calibration leaves of it; None leaves the
        stage out.
    window : int, default 100,000
        Contents remembered.
    state : str or Path, optional
        File to go on from, if it is there, and to `save` to.
    save_every : float, optional
        Seconds after which `judge_many` saves by itself; by default only `save` and leaving a ``with`` block do.
    shrink : bool, default True
        Decode large pictures smaller where a trial on the first ones leaves the vectors alone, as `icehouse embed` does.
    cleaning : str
        Of texts; see `icehouse.data.text`.
    device : str, default "auto"
    workers, batch_size : int, optional
        Threads that read and decode; images encoded at once.

    Attributes
    ----------
    window : Recent
    rule : Rule
    counts : Counter of str
        Verdicts by kind, since the stream began, restarts included.

    Raises
    ------
    SpaceError
        If the state was made with another encoder.
    CorruptError
        If the state is damaged.
    StoreError
        If it cannot be read, or there is no writing where it shall be.

    Examples
    --------
    >>> with DuplicateStream("mini", state="window.state") as stream:   # doctest: +SKIP
    ...     for verdict in stream.judge_many(Path("inbox").glob("*.jpg")):
    ...         print(verdict.id, verdict.kind, verdict.match and verdict.match.id)
    """

    def __init__(
        self,
        encoder: Encoder | str | None,
        *,
        modality: Modality = "image",
        output: str = "pooled",
        rule: Rule | float | None = None,
        hamming: int | Literal["auto"] | None = "auto",
        window: int = DEFAULT_WINDOW,
        state: str | Path | None = None,
        save_every: float | None = None,
        shrink: bool = True,
        cleaning: str = DEFAULT_CLEANING,
        device: str = "auto",
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if encoder is None and (modality == "text" or rule is not None):
            raise UsageError("without an encoder there are no vectors: texts and cosines need one")
        if output == "tokens":
            raise UsageError("tokens are not one vector an image; compare by pooled or joint")
        loaded = load_named(encoder, device=device) if isinstance(encoder, str) else encoder
        self.modality, self.encoder = modality, loaded
        self.rule = _rule(rule, hamming if modality == "image" else None, loaded)
        self.state = None if state is None else Path(state)
        self.save_every = save_every
        self.workers = workers or os.cpu_count() or 1
        self.batch_size = batch_size or (loaded.batch_size if loaded else BATCH)
        self._space: dict[str, Any] = {"fingerprint": None}
        dim = None
        if loaded is not None:
            dim = loaded.output(modality, output).dim
            known = feature_provenance(loaded, modality, output, cleaning)
            self._space = {"fingerprint": fingerprint(known), "vectors": f"{loaded.id}/{modality}/{output}"}
        notes: dict[str, Any] = {}
        if self.state is not None:
            check_place(self.state)
        if self.state is not None and self.state.exists():
            self.window, notes = load_window(self.state, rule=self.rule, capacity=window, space=self._space)
        else:
            self.window = Recent(window, rule=self.rule, dim=dim)
        self.counts: Counter[str] = Counter(notes.get("counts", {}))
        self._pending: Counter[str] = Counter()
        self._reader = Reader(loaded, modality, output, cleaning, str(self.window.dtype), self.window.knows)
        self._trial = Trial.of(notes)
        self._shrinks = shrink and loaded is not None and modality == "image"
        self._saved_at = time.monotonic()
        self._running: Pipeline | None = None
        self._stopped = False
        #: Where the rule is from.
        self.remarks: list[str] = []

    @classmethod
    def from_store(
        cls,
        store: Store | str | Path,
        *,
        feature: str | None = None,
        encoder: Encoder | None = None,
        rule: Rule | float | None = None,
        expected_false_pairs: float | None = None,
        window: int = DEFAULT_WINDOW,
        device: str = "auto",
        **options: Any,
    ) -> Self:
        """Judge with the encoder of a store's feature, by default the one `icehouse dups find` would compare by.

        Unless a rule is given, the feature's calibration makes it, if there is one of the same fingerprint.

        Parameters
        ----------
        store : Store, str or Path
        feature : str, optional
        encoder : Encoder, optional
            One that is loaded already, held against the feature like any other.
        rule : Rule or float, optional
        expected_false_pairs : float, optional
            False pairs that a calibration's threshold may let one expect among all pairs of a window's contents; 1 unless
            given. While as many contents come as a window holds, each is compared with all others, so that these are twice
            as many false matches.
        window : int, default 100,000
        device : str, default "auto"
        **options
            As the class takes them.

        Raises
        ------
        UsageError
            If the store has no feature, or several encoders'; or no calibration, where false pairs are given.
        SpaceError
            If the encoder is no longer the one the feature was made with.
        """
        store = Store.of(store)
        feature = feature or default_feature(store)
        if feature is None:
            raise UsageError(
                f"{store.path} has no features; make some with `icehouse embed`, or name an encoder"
            )
        spec = store.feature_table(feature).snapshot().spec
        remarks: list[str] = []
        if rule is not None and expected_false_pairs is not None:
            raise UsageError("give a cosine, or the number of false pairs to choose it by, not both")
        if rule is None:
            rule, remarks = _calibrated(store, feature, spec.get("fingerprint"), window, expected_false_pairs)
        loaded = load_checked(spec, encoder, device=device)
        cleaning = spec["provenance"].get("cleaning", DEFAULT_CLEANING)
        made = cls(
            loaded,
            modality=spec["modality"],
            output=spec["output"],
            cleaning=cleaning,
            rule=rule,
            window=window,
            device=device,
            **options,
        )
        made.remarks = remarks
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()

    def judge(self, item: str | Path | bytes | Image.Image | dict[str, Any] | Item) -> Verdict:
        """Judge one item, and remember it.

        Parameters
        ----------
        item : str, Path, bytes, PIL.Image.Image or dict
            A path; a file's bytes; a picture; or a mapping with ``path``, ``bytes``, ``image`` or ``text``, and perhaps
            ``id``. Where texts are judged, a str is a text.

        Returns
        -------
        Verdict
            Of kind "error" if it cannot be read; the window is then as it was.
        """
        content = self._reader.read(next(self._prepared([item])))
        if self._admit(content):
            self._reader.encode([content])
        return next(self._verdicts([content]))

    def judge_many(self, items: Iterable[Any], *, latency: float | None = None) -> Iterator[Verdict]:
        """Judge items as they come, reading, decoding and encoding several at once.

        Parameters
        ----------
        items : iterable
            Of what `judge` takes. It is read ahead, in a thread of its own.
        latency : float, optional
            Seconds that an item may wait for a batch to fill while no other is on its way. By default batches are always
            full, so that they do not depend on how fast items come.

        Yields
        ------
        Verdict
            In the order of the items. Whatever was not yet yielded when the caller stops is not remembered either.
        """
        encoder = self.encoder
        pipeline = Pipeline(
            self._prepared(items),
            read=self._reader.read,
            admit=self._admit,
            encode=self._reader.encode,
            encoders=encoder.stream_pool() if encoder else ThreadPoolExecutor(1),
            streams=encoder.streams if encoder else 1,
            batch_size=self.batch_size,
            workers=self.workers,
            latency=latency,
        )
        self._running = pipeline
        self._pending.clear()
        try:
            if self._stopped:
                return
            for contents in pipeline:
                for verdict in self._verdicts(contents):
                    yield verdict
                    if self._stopped:
                        return
                self._save_sometimes()
        finally:
            self._running = None

    @property
    def notes(self) -> list[str]:
        """What is worth knowing before relying on the verdicts."""
        notes = list(self.remarks)
        if self.rule.source == "default":
            notes.append(
                f"cosine {self.rule.cosine} is a guess: no threshold suits every encoder and every set; calibrate a store "
                "of such images (`icehouse dups calibrate`) and give it with --store, or give another with --threshold"
            )
        if self.window.seen:
            notes.append(f"going on after {self.window.seen:,}, with {len(self.window):,} in the window")
        return notes

    def stop(self) -> None:
        """End `judge_many` after the verdict in hand, for good; may be called from a signal handler or another thread."""
        self._stopped = True
        if self._running is not None:
            self._running.stop()

    def save(self) -> Path | None:
        """Write the state, if there is a file for it; what it holds is exactly what has been judged."""
        if self.state is None:
            return None
        notes = {
            "counts": dict(self.counts),
            **self._trial.as_notes(),
        }
        save_window(self.window, self.state, space=self._space, notes=notes)
        self._saved_at = time.monotonic()
        return self.state

    def _save_sometimes(self) -> None:
        due = self.save_every is not None and time.monotonic() - self._saved_at >= self.save_every
        if due and self.state is not None:
            self.save()

    def _prepared(self, items: Iterable[Any]) -> Iterator[Item]:
        trial, encoder = self._trial, self.encoder
        for number, thing in enumerate(items, self.counts.total()):
            item = item_of(thing, f"#{number}", texts=self.modality == "text")
            if self._shrinks and encoder is not None:
                if item.path is not None and not trial.settled:
                    trial = trial.after(item.path, encoder, self._reader.output)
                item = replace(item, trial=trial)
            yield item

    def _admit(self, content: Content) -> bool:
        """Whether a content has to be encoded; it has not where a copy of it is in the window, or on its way there."""
        if content.error is not None:
            return False
        known = self.window.knows(content.key) or self._pending[content.key] > 0
        self._pending[content.key] += 1
        return not known and self.encoder is not None and content.prepared is not None

    def _verdicts(self, contents: list[Content]) -> Iterator[Verdict]:
        for start in range(0, len(contents), BATCH):
            batch = contents[start : start + BATCH]
            self._complete(batch)
            sound = [content for content in batch if content.error is None]
            judged = self.window.judge(
                [Arrival(c.item.id, c.key, c.phash, c.vector) for c in sound],
            )
            for content in batch:
                if content.key:
                    self._pending[content.key] -= 1
                    if self._pending[content.key] <= 0:
                        del self._pending[content.key]
                if content.error is None:
                    verdict = next(judged)
                else:
                    verdict = Verdict(content.item.id, None, error=content.error)
                self.counts[verdict.kind] += 1
                self._trial = content.item.trial or self._trial
                yield verdict

    def _complete(self, batch: list[Content]) -> None:
        """Encode what was thought to be known, and has been forgotten since, or could not be encoded then."""
        here: set[str] = set()
        for content in batch:
            if content.error is not None:
                continue
            lacking = content.vector is None and self.encoder is not None and not content.blank
            unread = self.modality == "image" and content.phash is None
            if (lacking or unread) and content.key not in here and not self.window.knows(content.key):
                whole = self._reader.read(content.item, whole=True)
                self._reader.encode([whole] if whole.prepared is not None else [])
                content.error, content.phash, content.vector = whole.error, whole.phash, whole.vector
                if whole.error is None and whole.key != content.key:
                    content.error = "the file was changed while it was being read"
            if content.error is None:
                here.add(content.key)


def _calibrated(
    store: Store, feature: str, now: str | None, window: int, expected: float | None
) -> tuple[Rule | None, list[str]]:
    """The rule that a feature's calibration makes for a window; None if there is none that holds."""
    if not Calibration.folder(store, feature).exists():
        why = f"{feature} has no calibration"
    else:
        made = Calibration.open(store, feature)
        why = f"the calibration of {feature} is of fingerprint {made.fingerprint}, not {now}"
        if made.fingerprint == now:
            wanted = 1.0 if expected is None else expected
            cosine = made.threshold(window, wanted)
            bits = made.hashes(window, DEFAULT_HAMMING, wanted, viewed=False).whole
            source = f"calibration {feature} {made.fingerprint}, {in_words(wanted)}"
            hashes = "" if feature.split("/")[-2] == "text" else f" and hashes within {bits} bits"
            note = f"cosine {cosine:.4f}{hashes} by the calibration of {feature}, at {in_words(wanted)} among"
            return Rule(bits, cosine, made.mean, source, made.matrix), [f"{note} {window:,} contents"]
    if expected is not None:
        raise UsageError(f"{why}; calibrate first: icehouse dups calibrate --feature {feature}")
    return None, [why]


def _rule(rule: Rule | float | None, hamming: int | Literal["auto"] | None, encoder: Encoder | None) -> Rule:
    if hamming == "auto":
        known = rule.hamming if isinstance(rule, Rule) else None
        hamming = DEFAULT_HAMMING if known is None else known
    if encoder is None:
        return Rule(hamming)
    if isinstance(rule, Rule):
        return replace(rule, hamming=hamming)
    if rule is None:
        return Rule(hamming, DEFAULT_COSINE, source="default")
    return Rule(hamming, rule)
