"""A sink for OpenTelemetry: ``pip install 'kpl-kinesis[otel]'``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

try:
    from opentelemetry import metrics as _metrics
except ImportError as error:
    raise ImportError("OpenTelemetrySink needs opentelemetry-api: pip install 'kpl-kinesis[otel]'") from error

from kpl.sinks._types import MetricSnapshot

__all__ = ["OpenTelemetrySink"]

_TIMES = frozenset({"BufferedTime", "RequestTime", "RetriesPerRecord"})
_GAUGES = frozenset({"UserRecordsPending"})


class OpenTelemetrySink:
    """Passes metrics to instruments of a meter: counters, histograms of averages, and an up-down counter for what is
    pending. The exporter is the one of your OpenTelemetry SDK."""

    __slots__ = ("_instruments", "_meter", "_pending", "_prefix")

    def __init__(self, *, meter: Any = None, instrument_prefix: str = "aiokpl.") -> None:
        self._meter = meter
        self._prefix = instrument_prefix
        self._instruments: dict[str, Any] = {}
        self._pending: dict[tuple[tuple[str, str], ...], float] = {}

    async def __aenter__(self) -> OpenTelemetrySink:
        if self._meter is None:
            self._meter = _metrics.get_meter(self._prefix.rstrip("."))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Pass the snapshots on. Each has the observations since the last export."""
        for each in snapshots:
            attributes = dict(each.dimensions)
            if each.name in _TIMES:
                average = each.sum / each.count if each.count else 0.0
                self._instrument(each.name, "create_histogram").record(average, attributes=attributes)
            elif each.name in _GAUGES:
                # An up-down counter takes changes.
                change = each.max - self._pending.get(each.dimensions, 0.0)
                self._pending[each.dimensions] = each.max
                self._instrument(each.name, "create_up_down_counter").add(change, attributes=attributes)
            else:
                self._instrument(each.name, "create_counter").add(each.sum, attributes=attributes)

    def _instrument(self, name: str, create: str) -> Any:
        instrument = self._instruments.get(name)
        if instrument is None:
            instrument = self._instruments[name] = getattr(self._meter, create)(self._prefix + name)
        return instrument
