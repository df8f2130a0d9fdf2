"""The KPL's aggregation format: several user records in one Kinesis record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from kpl import _kpl
from kpl.hashing import parse_explicit_hash_key

__all__ = ["MAGIC", "DecodedRecord", "Tag", "UserRecord", "decode_aggregated", "encode_aggregated", "is_aggregated"]

MAGIC: bytes = b"\xf3\x89\x9a\xc2"


@dataclass(slots=True, frozen=True)
class Tag:
    """A tag of a record, which the format has and no consumer reads. Producers do not write tags."""

    key: str
    value: str | None = None


@dataclass(slots=True, frozen=True)
class UserRecord:
    """A record to be aggregated."""

    partition_key: str
    data: bytes = field(repr=False)
    explicit_hash_key: str | None = None
    tags: tuple[Tag, ...] = ()


@dataclass(slots=True, frozen=True)
class DecodedRecord:
    """A record of an aggregate."""

    partition_key: str
    explicit_hash_key: str | None
    data: bytes = field(repr=False)
    tags: tuple[Tag, ...]


def encode_aggregated(records: Sequence[UserRecord]) -> bytes:
    """Return an aggregate of the records, byte for byte as the KPL; the data of a single record as it is.

    Raises ``ValueError`` without records, and for an invalid explicit hash key.
    """
    if not records:
        raise ValueError("encode_aggregated requires at least one record")
    if len(records) == 1:
        return records[0].data

    def number(text: str | None) -> int | None:
        return None if text is None else parse_explicit_hash_key(text)

    plain = [(record.partition_key, record.data, number(record.explicit_hash_key)) for record in records]
    if not any(record.tags for record in records):
        return _kpl.encode_aggregated(plain)
    tags = [[(tag.key, tag.value) for tag in record.tags] for record in records]
    message = _kpl.encode_message(list(zip(plain, tags, strict=True)))
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def is_aggregated(payload: bytes) -> bool:
    """Whether a payload begins as an aggregate and is long enough for one."""
    return _kpl.is_aggregated(payload)


def decode_aggregated(payload: bytes) -> list[DecodedRecord]:
    """Return the records of an aggregate. Raises ``ValueError`` if the payload is none, or is damaged."""
    if not is_aggregated(payload):
        reason = "bad magic number" if len(payload) >= len(MAGIC) + 16 else "payload too short to be an aggregated record"
        raise ValueError(reason)
    records = _kpl.decode_aggregated(payload)
    tags = _kpl.decode_tags(payload) or [[]] * len(records)
    return [
        DecodedRecord(
            partition_key,
            None if hash_key is None else str(hash_key),
            data,
            tuple(Tag(name, value) for name, value in pairs),
        )
        for (partition_key, data, hash_key), pairs in zip(records, tags, strict=True)
    ]
