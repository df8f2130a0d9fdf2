"""A sink that drops everything."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from kpl.sinks._types import MetricSnapshot

__all__ = ["NullSink"]


class NullSink:
    """Drops everything."""

    __slots__ = ()

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Drop the snapshots."""

    async def __aenter__(self) -> NullSink:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None
