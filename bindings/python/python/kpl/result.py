"""The results of records."""

from kpl._kpl import Attempt, RecordResult

__all__ = ["Attempt", "RecordResult"]
