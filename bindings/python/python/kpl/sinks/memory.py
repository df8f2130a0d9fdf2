"""A sink that keeps everything."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from kpl.sinks._types import MetricSnapshot

__all__ = ["InMemorySink"]


class InMemorySink:
    """Keeps every export, for tests and for applications that publish metrics themselves."""

    __slots__ = ("_exports",)

    def __init__(self) -> None:
        self._exports: list[tuple[MetricSnapshot, ...]] = []

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Keep the snapshots."""
        self._exports.append(tuple(snapshots))

    async def __aenter__(self) -> InMemorySink:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None

    @property
    def exports(self) -> tuple[tuple[MetricSnapshot, ...], ...]:
        """All exports, in their order."""
        return tuple(self._exports)

    @property
    def all_snapshots(self) -> tuple[MetricSnapshot, ...]:
        """The snapshots of all exports."""
        return tuple(snapshot for export in self._exports for snapshot in export)

    def by_name(self, name: str) -> tuple[MetricSnapshot, ...]:
        """Return the snapshots of one metric."""
        return tuple(snapshot for snapshot in self.all_snapshots if snapshot.name == name)
