"""A sink for Datadog: ``pip install 'kpl-kinesis[datadog]'``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

try:
    from datadog_api_client import AsyncApiClient, Configuration
    from datadog_api_client.v1.api.metrics_api import MetricsApi
    from datadog_api_client.v1.model.distribution_point import DistributionPoint
    from datadog_api_client.v1.model.distribution_points_payload import DistributionPointsPayload
    from datadog_api_client.v1.model.distribution_points_series import DistributionPointsSeries
    from datadog_api_client.v1.model.metrics_payload import MetricsPayload
    from datadog_api_client.v1.model.point import Point
    from datadog_api_client.v1.model.series import Series
except ImportError as error:
    raise ImportError("DatadogSink needs datadog-api-client: pip install 'kpl-kinesis[datadog]'") from error

from kpl.sinks._types import MetricSnapshot

__all__ = ["DatadogSink"]

_TIMES = frozenset({"BufferedTime", "RequestTime", "RetriesPerRecord"})
_GAUGES = frozenset({"UserRecordsPending"})


class DatadogSink:
    """Sends metrics to Datadog's HTTP API. The keys default to ``DD_API_KEY`` and ``DD_APP_KEY``."""

    __slots__ = ("_client", "_configuration", "_metrics_api", "_prefix")

    def __init__(
        self,
        *,
        api_key: str | None = None,
        app_key: str | None = None,
        site: str = "datadoghq.com",
        metric_prefix: str = "aiokpl.",
    ) -> None:
        self._configuration = Configuration()
        self._configuration.server_variables["site"] = site
        for name, key in (("apiKeyAuth", api_key or os.environ.get("DD_API_KEY")), ("appKeyAuth", app_key or os.environ.get("DD_APP_KEY"))):
            if key is not None:
                self._configuration.api_key[name] = key
        self._prefix = metric_prefix
        self._client: Any = None
        self._metrics_api: Any = None

    async def __aenter__(self) -> DatadogSink:
        self._client = AsyncApiClient(self._configuration)
        await self._client.__aenter__()
        self._metrics_api = MetricsApi(self._client)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        client, self._client, self._metrics_api = self._client, None, None
        if client is not None:
            await client.__aexit__(exc_type, exc, tb)

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Send the snapshots."""
        if self._metrics_api is None:
            return
        series, distributions = [], []
        for each in snapshots:
            name, tags = self._prefix + each.name, [f"{key}:{value}" for key, value in each.dimensions]
            if each.name in _TIMES:
                average = each.sum / each.count if each.count else 0.0
                point = DistributionPoint([each.window_end, [average]])
                distributions.append(DistributionPointsSeries(metric=name, points=[point], tags=tags))
            else:
                is_gauge = each.name in _GAUGES
                point = Point([each.window_end, each.max if is_gauge else each.sum])
                series.append(Series(metric=name, type="gauge" if is_gauge else "count", points=[point], tags=tags))
        if series:
            await self._metrics_api.submit_metrics(body=MetricsPayload(series=series))
        if distributions:
            await self._metrics_api.submit_distribution_points(body=DistributionPointsPayload(series=distributions))
