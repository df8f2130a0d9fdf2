"""A producer for Amazon Kinesis Data Streams: aggregation, rate limits, retries, and a result for each record."""

from kpl.aggregation import (
    MAGIC,
    DecodedRecord,
    Tag,
    UserRecord,
    decode_aggregated,
    encode_aggregated,
    is_aggregated,
)
from kpl.config import Config
from kpl.hashing import md5_hash_key, parse_explicit_hash_key
from kpl.metrics import MetricKey, MetricsLevel, MetricsManager
from kpl.outcome import BatchOutcome, Outcome
from kpl.producer import Producer
from kpl.result import Attempt, RecordResult
from kpl.sinks import (
    CloudWatchSink,
    EventfulMetricsSink,
    InMemorySink,
    MetricEvent,
    MetricSnapshot,
    MetricsSink,
    NullSink,
)
from kpl.sync import SyncOutcome, SyncOutcomeCancelled, SyncProducer

__all__ = [
    "MAGIC",
    "Attempt",
    "BatchOutcome",
    "CloudWatchSink",
    "Config",
    "DecodedRecord",
    "EventfulMetricsSink",
    "InMemorySink",
    "MetricEvent",
    "MetricKey",
    "MetricSnapshot",
    "MetricsLevel",
    "MetricsManager",
    "MetricsSink",
    "NullSink",
    "Outcome",
    "Producer",
    "RecordResult",
    "SyncOutcome",
    "SyncOutcomeCancelled",
    "SyncProducer",
    "Tag",
    "UserRecord",
    "decode_aggregated",
    "encode_aggregated",
    "is_aggregated",
    "md5_hash_key",
    "parse_explicit_hash_key",
]
__version__ = "0.1.0"
