"""The producer for asyncio and trio."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, cast

from kpl import _kpl, _loop
from kpl.aggregation import Tag
from kpl.config import Config
from kpl.metrics import MetricsLevel, MetricsManager
from kpl.outcome import BatchOutcome, Outcome
from kpl.result import RecordResult

__all__ = ["Producer"]

_logger = logging.getLogger("kpl")
_logs_process: int | None = None
_logs_lock = threading.Lock()


def _pass_logs(signal: _kpl.Signal) -> None:
    while True:
        select.select([signal.fileno()], [], [])
        signal.take()
        for level, message in _kpl.take_logs():
            _logger.log(level, "%s", message)
        _kpl.start_logs(signal, 0)


def _start_logs() -> None:
    """Start the thread that passes the operator's events to ``logging``. It sleeps while there are none."""
    global _logs_process
    with _logs_lock:
        if _logs_process == os.getpid():
            return
        _logs_process = os.getpid()
        signal = _kpl.Signal()
        _kpl.start_logs(signal, 0)
        threading.Thread(target=_pass_logs, args=(signal,), name="kpl-logs", daemon=True).start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kpl.after_fork)


def check(partition_key: str, tags: tuple[Tag, ...]) -> None:
    """Raise ValueError for what aiokpl refuses, and what kpl does not have."""
    if not partition_key:
        raise ValueError("partition_key must be non-empty: it must have 1 to 256 characters")
    if tags:
        raise ValueError("tags must be empty: no consumer reads them")


def start(config: Config) -> _kpl.Operation:
    """Start the engine of a producer, which the operation returns."""
    _start_logs()
    return _kpl.Engine.start(config, config.metrics_level.value)


class Producer:
    """Puts records into Kinesis Data Streams.

    ``async with Producer(config) as producer:`` starts it, and sends what is left at the end. One producer serves any
    number of streams and tasks, on asyncio and on trio.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = Config() if config is None else config
        self._engine: _kpl.Engine | None = None
        self._closed = False
        self._metrics = MetricsManager(
            level=self._config.metrics_level,
            sink=self._config.metrics_sink,
            upload_interval_ms=self._config.metrics_upload_interval_ms,
        )
        self._export: _loop.Task | None = None

    async def __aenter__(self) -> Producer:
        self._engine = cast(_kpl.Engine, await _loop.finish(start(self._config)))
        self._metrics.attach(self._engine)
        if self._config.metrics_level is not MetricsLevel.NONE:
            await self._metrics.sink.__aenter__()
            self._export = _loop.Task(self._metrics.export_reports())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        finally:
            export, self._export = self._export, None
            if export is not None:
                await export.stop()
                await self._metrics.export_rest()
                await self._metrics.sink.__aexit__(exc_type, exc, tb)

    @property
    def outstanding_records(self) -> int:
        """The number of records that are accepted and have no result."""
        return 0 if self._engine is None else self._engine.outstanding_records

    @property
    def outstanding_bytes(self) -> int:
        """The number of bytes that are accepted and have no result."""
        return 0 if self._engine is None else self._engine.outstanding_bytes

    @property
    def metrics(self) -> MetricsManager:
        """The metrics of the producer."""
        return self._metrics

    def _open(self) -> _kpl.Engine:
        if self._closed or self._engine is None:
            raise RuntimeError("Producer is closed" if self._closed else "Producer is not entered: use `async with`")
        return self._engine

    async def put_record(
        self,
        *,
        stream: str,
        partition_key: str,
        data: bytes,
        explicit_hash_key: str | None = None,
        tags: tuple[Tag, ...] = (),
    ) -> Outcome[RecordResult]:
        """Put a record. Wait until there is room for it, and return its outcome.

        Raises ``ValueError`` for an invalid record, and ``RuntimeError`` when the producer is closed.
        """
        if self._closed or self._engine is None or tags or not partition_key:
            self._open()
            check(partition_key, tags)
        engine = cast(_kpl.Engine, self._engine)
        outcome = engine.try_put(stream, partition_key, data, explicit_hash_key)
        if outcome is None:
            outcome = await _loop.finish(engine.put(stream, partition_key, data, explicit_hash_key))
        return outcome

    def try_put_record(
        self,
        *,
        stream: str,
        partition_key: str,
        data: bytes,
        explicit_hash_key: str | None = None,
    ) -> Outcome[RecordResult] | None:
        """Put a record if there is room for it; otherwise return None."""
        check(partition_key, ())
        return self._open().try_put(stream, partition_key, data, explicit_hash_key)

    async def put_records(self, stream: str, records: Iterable[Any]) -> BatchOutcome:
        """Put many records in one call. Wait until there is room for all, and return one outcome for them.

        Each record is a pair of partition key and data, or a triple with an explicit hash key. If one is invalid,
        this raises ``ValueError``, and none is put.
        """
        put = self._open().put_batch(stream, records)
        if isinstance(put, BatchOutcome):
            return put
        return cast(BatchOutcome, await _loop.finish(put))

    async def flush(self) -> None:
        """Send all records put so far without waiting for more, and wait for their results."""
        if self._engine is None:
            raise RuntimeError("Producer is not entered: use `async with`")
        await _loop.finish(self._engine.flush())

    async def close(self, timeout: float | None = None) -> None:
        """Accept no more records, and wait until all have their results. Those left after ``timeout`` seconds fail."""
        self._closed = True
        if self._engine is not None:
            await _loop.finish(self._engine.close(timeout))
