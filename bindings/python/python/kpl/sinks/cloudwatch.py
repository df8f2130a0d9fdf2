"""A sink for Amazon CloudWatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from kpl.sinks._types import MetricSnapshot

__all__ = ["CloudWatchSink"]

# The maximum number of metrics in a PutMetricData request.
_METRICS_MAX = 1_000

_DIMENSIONS = {"stream": "StreamName", "shard": "ShardId", "error_code": "ErrorCode"}


class CloudWatchSink:
    """Sends metrics to CloudWatch, with a client of aiobotocore: ``pip install 'kpl-kinesis[cloudwatch]'``.

    ``client_factory`` returns another client, as an async context manager.
    """

    __slots__ = ("_client", "_context", "_factory", "_namespace", "_settings")

    def __init__(
        self,
        *,
        region: str,
        namespace: str = "aiokpl",
        endpoint_url: str | None = None,
        verify_ssl: bool = True,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        client_factory: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        self._namespace = namespace
        self._settings = {
            "region_name": region,
            "endpoint_url": endpoint_url,
            "verify": verify_ssl,
            "aws_access_key_id": aws_access_key_id,
            "aws_secret_access_key": aws_secret_access_key,
            "aws_session_token": aws_session_token,
        }
        self._factory = client_factory or self._default_factory
        self._client: Any = None
        self._context: AbstractAsyncContextManager[Any] | None = None

    @property
    def namespace(self) -> str:
        """The namespace of the metrics."""
        return self._namespace

    async def __aenter__(self) -> CloudWatchSink:
        self._context = self._factory()
        self._client = await self._context.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        context, self._context, self._client = self._context, None, None
        if context is not None:
            await context.__aexit__(exc_type, exc, tb)

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Send the snapshots."""
        if self._client is None:
            return
        data = [_datum(snapshot) for snapshot in snapshots]
        for start in range(0, len(data), _METRICS_MAX):
            part = data[start : start + _METRICS_MAX]
            await self._client.put_metric_data(Namespace=self._namespace, MetricData=part)

    def _default_factory(self) -> AbstractAsyncContextManager[Any]:
        try:
            from aiobotocore.session import get_session
        except ImportError as error:
            raise ImportError("CloudWatchSink needs aiobotocore: pip install 'kpl-kinesis[cloudwatch]'") from error
        client: AbstractAsyncContextManager[Any] = get_session().create_client("cloudwatch", **self._settings)
        return client


def _datum(snapshot: MetricSnapshot) -> dict[str, Any]:
    return {
        "MetricName": snapshot.name,
        "Dimensions": [{"Name": _DIMENSIONS.get(name, name), "Value": value} for name, value in snapshot.dimensions],
        "StatisticValues": {
            "SampleCount": float(snapshot.count),
            "Sum": snapshot.sum,
            "Minimum": snapshot.min,
            "Maximum": snapshot.max,
        },
    }
