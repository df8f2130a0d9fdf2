"""Where metrics go. A sink is an async context manager with ``export``; any object with these methods works."""

from kpl.sinks._types import EventfulMetricsSink, MetricEvent, MetricSnapshot, MetricsSink
from kpl.sinks.cloudwatch import CloudWatchSink
from kpl.sinks.memory import InMemorySink
from kpl.sinks.null import NullSink

__all__ = [
    "CloudWatchSink",
    "EventfulMetricsSink",
    "InMemorySink",
    "MetricEvent",
    "MetricSnapshot",
    "MetricsSink",
    "NullSink",
]
