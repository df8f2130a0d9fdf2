"""The future results of records."""

from kpl._kpl import BatchOutcome, Outcome

__all__ = ["BatchOutcome", "Outcome"]
