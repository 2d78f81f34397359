"""How a run ends."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest
from icehouse.embed.captions.api import Answer, Api, Identity, Question
from icehouse.embed.captions.climber import Climber
from icehouse.embed.captions.dispatch import Dispatcher
from icehouse.embed.captions.hosts import Host
from icehouse.embed.captions.plan import Job


class Silent(Api):
    """A host that is there; its questions are answered by the dispatcher's `work`."""

    url, model = "http://host:1", "llava:7b"

    async def identify(self) -> Identity:
        return Identity("llava:7b", None, "test")

    async def ask(self, question: Question) -> Answer:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("ticks", range(12))
def test_a_run_that_ends_at_any_moment_leaves_no_coroutine_behind(ticks: int) -> None:
    # The first question fails after some turns of the loop, whatever the others are about to do just then.
    jobs = [Job(f"{n:064x}", f"{n:064x}", None, None, f"{n}", None, None) for n in range(12)]

    async def work(job: Job, picture: bytes, host: Host) -> None:
        if job is jobs[0]:
            for _ in range(ticks):
                await asyncio.sleep(0)
            raise ZeroDivisionError
        await asyncio.sleep(0)

    async def main() -> None:
        hosts = [Host(Silent(), Climber(level)) for level in (2, 3)]
        dispatcher = Dispatcher(
            hosts,
            prepare=lambda job: b"",
            work=work,
            check=lambda identity: None,
            done=lambda job, result: None,
            failed=lambda job, error: None,
            say=lambda remark: None,
            patience=1.0,
        )

        async def beside() -> None:
            await asyncio.sleep(60)

        await dispatcher.run(jobs, beside)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(20):
            with pytest.raises(ZeroDivisionError):
                asyncio.run(main())
        gc.collect()
    assert not [str(it.message) for it in seen]
