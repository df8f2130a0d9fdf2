"""Waits in an event loop, asyncio's or trio's, for what Rust code resolves.

One signal per loop: a byte in its socket wakes the loop for any number of results, and an idle producer sends none.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol

from kpl._kpl import Signal


class Watchable(Protocol):
    """Something that sends a token to a signal when it has a result."""

    def watch(self, signal: Signal, token: int, /) -> bool: ...


class _Asyncio:
    """The signal of an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._signal = Signal()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._tokens = itertools.count()
        loop.add_reader(self._signal.fileno(), self._wake)

    def _wake(self) -> None:
        for token in self._signal.take():
            future = self._waiting.pop(token, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def wait(self, watchable: Watchable) -> None:
        token = next(self._tokens)
        future = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            if watchable.watch(self._signal, token):
                await future
        finally:
            self._waiting.pop(token, None)


class _Trio:
    """The signal of a trio run."""

    def __init__(self) -> None:
        import trio

        self._signal = Signal()
        self._waiting: dict[int, trio.Event] = {}
        self._tokens = itertools.count()
        trio.lowlevel.spawn_system_task(self._run, name="kpl")

    async def _run(self) -> None:
        import trio

        while True:
            await trio.lowlevel.wait_readable(self._signal.fileno())
            for token in self._signal.take():
                event = self._waiting.pop(token, None)
                if event is not None:
                    event.set()

    async def wait(self, watchable: Watchable) -> None:
        import trio

        token = next(self._tokens)
        event = trio.Event()
        self._waiting[token] = event
        try:
            if watchable.watch(self._signal, token):
                await event.wait()
        finally:
            self._waiting.pop(token, None)


_loops: weakref.WeakKeyDictionary[Any, _Asyncio] = weakref.WeakKeyDictionary()
_trio_run: Any = None


def _current() -> _Asyncio | _Trio:
    """Return the signal of the running loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _current_trio()
    signal = _loops.get(loop)
    if signal is None:
        signal = _loops[loop] = _Asyncio(loop)
    return signal


def _current_trio() -> _Trio:
    global _trio_run
    import trio

    if _trio_run is None:
        _trio_run = trio.lowlevel.RunVar("kpl")
    try:
        signal: _Trio = _trio_run.get()
    except LookupError:
        signal = _Trio()
        _trio_run.set(signal)
    return signal


async def wait(outcome: Any) -> Any:
    """Wait for the result of an outcome."""
    while True:
        await _current().wait(outcome)
        result = outcome.poll()
        if result is not None or outcome.is_set():
            return result


async def finish(operation: Any) -> Any:
    """Wait for the end of an operation, and return its value."""
    await _current().wait(operation)
    return operation.take()


class _Reports:
    """Makes the reports of an engine watchable."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def watch(self, signal: Signal, token: int, /) -> bool:
        watched: bool = self._engine.watch_reports(signal, token)
        return watched


async def wait_reports(engine: Any) -> None:
    """Wait until an engine has a metrics report."""
    await _current().wait(_Reports(engine))


class Task:
    """A task in the background of the running loop."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._task: asyncio.Task[None] | None = None
        self._done: Any = None
        self._scope: Any = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            import trio

            self._done = trio.Event()
            self._scope = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._run, work, name="kpl")
        else:
            self._task = loop.create_task(work)

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            with self._scope:
                await work
        finally:
            self._done.set()

    async def stop(self) -> None:
        """Cancel the task and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        else:
            self._scope.cancel()
            await self._done.wait()
