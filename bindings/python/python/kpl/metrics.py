"""The metrics of a producer, under the names of the KPL."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kpl.sinks import EventfulMetricsSink, MetricEvent, MetricSnapshot, MetricsSink, NullSink

if TYPE_CHECKING:
    from kpl import _kpl

__all__ = [
    "NAME_ALL_ERRORS",
    "NAME_BUFFERED_TIME",
    "NAME_ERRORS_BY_CODE",
    "NAME_EXPIRED_RECORDS",
    "NAME_KINESIS_RECORDS_DATA_PUT",
    "NAME_KINESIS_RECORDS_PUT",
    "NAME_REQUEST_TIME",
    "NAME_RETRIES_PER_RECORD",
    "NAME_USER_RECORDS_DATA_PUT",
    "NAME_USER_RECORDS_PENDING",
    "NAME_USER_RECORDS_PUT",
    "NAME_USER_RECORDS_RECEIVED",
    "MetricKey",
    "MetricsLevel",
    "MetricsManager",
]

_logger = logging.getLogger("kpl")


class MetricsLevel(enum.Enum):
    """How much is measured: nothing, the metrics of streams, or also those of shards and error codes."""

    NONE = "none"
    SUMMARY = "summary"
    DETAILED = "detailed"


NAME_USER_RECORDS_RECEIVED = "UserRecordsReceived"
NAME_USER_RECORDS_PUT = "UserRecordsPut"
NAME_USER_RECORDS_DATA_PUT = "UserRecordsDataPut"
NAME_USER_RECORDS_PENDING = "UserRecordsPending"
NAME_KINESIS_RECORDS_PUT = "KinesisRecordsPut"
NAME_KINESIS_RECORDS_DATA_PUT = "KinesisRecordsDataPut"
NAME_ALL_ERRORS = "AllErrors"
NAME_ERRORS_BY_CODE = "ErrorsByCode"
NAME_RETRIES_PER_RECORD = "RetriesPerRecord"
NAME_BUFFERED_TIME = "BufferedTime"
NAME_REQUEST_TIME = "RequestTime"
NAME_EXPIRED_RECORDS = "ExpiredRecords"


@dataclass(slots=True, frozen=True)
class MetricKey:
    """The name of a metric and its dimensions."""

    name: str
    stream: str | None = None
    shard_id: str | None = None
    error_code: str | None = None

    def dimensions(self) -> tuple[tuple[str, str], ...]:
        """Return the dimensions as pairs of name and value."""
        pairs = (("stream", self.stream), ("shard", self.shard_id), ("error_code", self.error_code))
        return tuple((name, value) for name, value in pairs if value is not None)


def _snapshot(row: _kpl._Snapshot) -> MetricSnapshot:
    name, count, total, minimum, maximum, dimensions, start, end = row
    return MetricSnapshot(name, count, total, minimum, maximum, tuple(dimensions), start, end)


class MetricsManager:
    """Reads the metrics of a producer, and exports them to its sink. The producer creates it."""

    def __init__(
        self,
        *,
        level: MetricsLevel = MetricsLevel.NONE,
        sink: MetricsSink | None = None,
        upload_interval_ms: float = 60_000.0,
    ) -> None:
        self._level = level
        self._sink: MetricsSink = NullSink() if sink is None else sink
        self._upload_interval_ms = upload_interval_ms
        self._engine: _kpl.Engine | None = None

    @property
    def level(self) -> MetricsLevel:
        """How much is measured."""
        return self._level

    @property
    def sink(self) -> MetricsSink:
        """Where reports go."""
        return self._sink

    def attach(self, engine: _kpl.Engine) -> None:
        """Set the engine. The producer calls this."""
        self._engine = engine

    def snapshots(self) -> tuple[MetricSnapshot, ...]:
        """Return the metrics of the last 60 s. Empty with ``MetricsLevel.NONE``."""
        if self._engine is None or self._level is MetricsLevel.NONE:
            return ()
        return tuple(_snapshot(row) for row in self._engine.metrics())

    def snapshot(self) -> dict[MetricKey, tuple[int, float, float, float]]:
        """Return count, sum, minimum and maximum of the last 60 s by metric."""
        found = {}
        for each in self.snapshots():
            dimensions = dict(each.dimensions)
            key = MetricKey(each.name, dimensions.get("stream"), dimensions.get("shard"), dimensions.get("error_code"))
            found[key] = (each.count, each.sum, each.min, each.max)
        return found

    async def flush(self) -> None:
        """Export the reports that are there. The last one comes when the producer is closed."""
        if self._engine is not None:
            await self.export_rest()

    async def export_reports(self) -> None:
        """Export each report of the engine, until this is cancelled. The producer calls this."""
        from kpl import _loop

        engine = self._engine
        assert engine is not None
        while True:
            await _loop.wait_reports(engine)
            await self.export_rest()

    async def export_rest(self) -> None:
        """Export the reports that are there. An exception of the sink is logged, and its report is lost."""
        engine = self._engine
        assert engine is not None
        for rows in engine.take_reports():
            snapshots = tuple(_snapshot(row) for row in rows)
            try:
                if isinstance(self._sink, EventfulMetricsSink):
                    for each in snapshots:
                        self._sink.record(
                            MetricEvent(each.name, each.sum, each.window_end, each.dimensions)
                        )
                if snapshots:
                    await self._sink.export(snapshots)
            except Exception:
                _logger.exception("the metrics sink %r failed; a report is lost", self._sink)
