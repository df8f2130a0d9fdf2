"""The settings of a producer."""

from __future__ import annotations

from dataclasses import dataclass, field

from kpl.metrics import MetricsLevel
from kpl.sinks import MetricsSink

__all__ = ["Config"]


@dataclass(slots=True, frozen=True)
class Config:
    """The settings of a producer: the names and defaults of aiokpl, then those that only kpl has.

    Times are in milliseconds; ``float("inf")`` means no limit. A value outside its range raises ``ValueError`` when
    the producer is created; the error names the setting, the value and the range.
    """

    region: str | None = None
    """The AWS region; None: that of the environment or the profile."""

    aggregation_enabled: bool = True
    aggregation_max_count: int = 4_294_967_295
    aggregation_max_size: int = 51_200

    record_max_buffered_time_ms: float = 100.0
    record_ttl_ms: float = 30_000.0

    collection_max_count: int = 500
    collection_max_size: int = 5 * 1024 * 1024

    rate_limit_records_per_sec_per_shard: float = 1_000.0
    rate_limit_bytes_per_sec_per_shard: float = 1_048_576.0
    drain_interval_ms: float = 25.0
    """Has no effect: records are sent as soon as the rate limit allows it."""

    fail_if_throttled: bool = False
    retry_deadline_ms: float = 50.0
    """Has no effect: a throttled record is sent again as soon as its shard's rate allows it."""

    max_outstanding_records: int = 100_000

    endpoint_url: str | None = None
    verify_ssl: bool = True
    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)

    metrics_level: MetricsLevel = MetricsLevel.NONE
    metrics_sink: MetricsSink | None = None
    metrics_upload_interval_ms: float = 60_000.0

    max_outstanding_bytes: int = 128 * 1024 * 1024
    """The maximum of accepted and unresolved bytes, data and partition keys. Above it, puts wait."""

    max_in_flight_requests: int = 24
    request_timeout_ms: float = 6_000.0

    ordering: str = "none"
    """``"per-key"``: consumers read the records of each key in the order of their puts."""

    consumers: str = "kcl"
    """``"any-shard"``: all consumers read an aggregate on any shard; see docs/configuration.md."""

    start_timeout_ms: float = 5_000.0
    """The maximum time that a stream's first records wait for its shard list; at most half of ``record_ttl_ms``."""

    max_shard_backlog_ms: float | None = None
    """The maximum backlog of a shard, as the time to send it at half its rate. Above it, puts for this shard wait.
    None: half of ``record_ttl_ms``, and 15 s if records never expire."""

    max_record_size: int | None = None
    """The maximum of data and key of a record, in bytes. None: the stream's limit, 1 MiB if its description is refused."""

    record_distribution: str = "detect"
    """``"auto"``: the stream ignores keys; ``"by-key"``: it does not; ``"detect"``: as its description says."""

    retry_if_denied: bool = False
    """Whether records are sent again while access is denied to a stream in which records were stored before."""

    profile: str | None = None
    """The AWS profile; None: that of ``AWS_PROFILE``, or ``default``."""
