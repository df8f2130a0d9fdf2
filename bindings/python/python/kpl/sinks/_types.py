"""What a sink receives, and what it must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable


@dataclass(slots=True, frozen=True)
class MetricEvent:
    """A value of a metric at a time, in seconds since 1970. kpl sends one per metric and report: its sum."""

    name: str
    value: float
    timestamp: float
    dimensions: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, frozen=True)
class MetricSnapshot:
    """The observations of a metric in a period. Its start and end are in seconds since 1970."""

    name: str
    count: int
    sum: float
    min: float
    max: float
    dimensions: tuple[tuple[str, str], ...] = ()
    window_start: float = 0.0
    window_end: float = 0.0


@runtime_checkable
class MetricsSink(Protocol):
    """Receives the observations of each ``metrics_upload_interval_ms``."""

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class EventfulMetricsSink(Protocol):
    """A sink that also receives events."""

    def record(self, event: MetricEvent) -> None: ...
