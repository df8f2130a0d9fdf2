"""The producer for code without an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from kpl import _kpl
from kpl.aggregation import Tag
from kpl.config import Config
from kpl.metrics import MetricsLevel, MetricsManager
from kpl.outcome import BatchOutcome, Outcome
from kpl.producer import check, start
from kpl.result import RecordResult

__all__ = ["SyncOutcome", "SyncOutcomeCancelled", "SyncProducer"]

T = TypeVar("T")

_logger = logging.getLogger("kpl")


class SyncOutcomeCancelled(Exception):
    """Raised by ``SyncOutcome.wait`` after ``SyncOutcome.cancel``."""


class SyncOutcome(Generic[T]):
    """The future result of a record. ``SyncProducer.put_record`` returns it."""

    __slots__ = ("_outcome",)

    def __init__(self, outcome: Outcome[T] | BatchOutcome) -> None:
        self._outcome = outcome

    def wait(self, timeout: float | None = None) -> T:
        """Wait for the result, at most for ``timeout`` seconds. Raises ``TimeoutError``; then call it again."""
        result = self._outcome.wait_blocking(timeout)
        if result is None and not self._outcome.is_set():
            raise TimeoutError(f"SyncOutcome.wait timed out after {timeout}s")
        return cast(T, result)

    def done(self) -> bool:
        """Whether there is a result."""
        return self._outcome.is_set()

    def cancel(self) -> bool:
        """End all calls of ``wait`` with ``SyncOutcomeCancelled``. Returns False if there is a result already.

        The record is sent nevertheless.
        """
        if self._outcome.is_set() or isinstance(self._outcome, BatchOutcome):
            return False
        try:
            self._outcome.set_exception(SyncOutcomeCancelled("SyncOutcome.cancel"))
        except RuntimeError:
            return False
        return True


def _refuse_in_loop() -> None:
    """Raise RuntimeError in a running event loop, which a blocking call would stop."""
    running = asyncio._get_running_loop() is not None
    if not running:
        import sys

        trio = sys.modules.get("trio")
        running = trio is not None and trio.lowlevel.in_trio_run()
    if running:
        raise RuntimeError("a blocking call in an event loop would stop it: use kpl.Producer, or a thread")


class SyncProducer:
    """Puts records into Kinesis Data Streams from any threads, without an event loop.

    ``with SyncProducer(config) as producer:`` starts it, and sends what is left at the end.
    """

    def __init__(self, config: Config | None = None, *, backend: str = "asyncio") -> None:
        if backend not in ("asyncio", "trio"):
            raise ValueError(f"backend is {backend!r}, but must be 'asyncio' or 'trio'; it has no effect")
        self._config = Config() if config is None else config
        self._engine: _kpl.Engine | None = None
        self._entered = False
        self._exporter: threading.Thread | None = None
        self._stop_exporter: Any = None

    def __enter__(self) -> SyncProducer:
        _refuse_in_loop()
        started = start(self._config)
        started.wait()
        self._engine = started.take()
        if self._config.metrics_level is not MetricsLevel.NONE:
            self._start_exporter(cast(_kpl.Engine, self._engine))
        self._entered = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _start_exporter(self, engine: _kpl.Engine) -> None:
        """Start a thread with an event loop for the metrics sink."""
        manager = MetricsManager(level=self._config.metrics_level, sink=self._config.metrics_sink)
        manager.attach(engine)
        started = threading.Event()

        async def export() -> None:
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            self._stop_exporter = lambda: loop.call_soon_threadsafe(stop.set)
            started.set()
            try:
                await manager.sink.__aenter__()
                reports = asyncio.create_task(manager.export_reports())
                await stop.wait()
                reports.cancel()
                await manager.export_rest()
                await manager.sink.__aexit__(None, None, None)
            except Exception:
                _logger.exception("the metrics sink %r failed; it gets no metrics", manager.sink)
                await stop.wait()

        self._exporter = threading.Thread(target=lambda: asyncio.run(export()), name="kpl-metrics", daemon=True)
        self._exporter.start()
        started.wait()

    def _open(self) -> _kpl.Engine:
        if not self._entered or self._engine is None:
            raise RuntimeError("SyncProducer not entered: use `with`; or it is closed")
        return self._engine

    @property
    def outstanding_records(self) -> int:
        """The number of records that are accepted and have no result."""
        return 0 if self._engine is None else self._engine.outstanding_records

    def put_record(
        self,
        *,
        stream: str,
        partition_key: str,
        data: bytes,
        explicit_hash_key: str | None = None,
        tags: tuple[Tag, ...] = (),
    ) -> SyncOutcome[RecordResult]:
        """Put a record. Wait until there is room for it, and return its outcome."""
        engine = self._open()
        check(partition_key, tags)
        outcome = engine.try_put(stream, partition_key, data, explicit_hash_key)
        if outcome is None:
            _refuse_in_loop()
            put = engine.put(stream, partition_key, data, explicit_hash_key)
            put.wait()
            outcome = put.take()
        return SyncOutcome(outcome)

    def put_records(self, stream: str, records: Iterable[Any]) -> SyncOutcome[list[RecordResult]]:
        """Put many records in one call: see ``Producer.put_records``."""
        put = self._open().put_batch(stream, records)
        if not isinstance(put, BatchOutcome):
            _refuse_in_loop()
            put.wait()
            put = put.take()
        return SyncOutcome(put)

    def flush(self, *, timeout: float | None = None) -> None:
        """Send all records put so far, and wait for their results. Raises ``TimeoutError`` after ``timeout`` seconds."""
        engine = self._open()
        _refuse_in_loop()
        if not engine.flush().wait(timeout):
            raise TimeoutError(f"SyncProducer.flush timed out after {timeout}s")

    def close(self, timeout: float | None = None) -> None:
        """Accept no more records, and wait until all have their results. Those left after ``timeout`` seconds fail."""
        if self._engine is None or not self._entered:
            return
        self._entered = False
        _refuse_in_loop()
        self._engine.close(timeout).wait()
        if self._exporter is not None:
            self._stop_exporter()
            self._exporter.join(timeout=15.0)
            self._exporter = None
