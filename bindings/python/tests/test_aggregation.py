"""The aggregation format, hash keys, results and outcomes."""

from __future__ import annotations

import asyncio

import pytest

import kpl


def test_records_are_decoded_as_they_were_encoded() -> None:
    records = [
        kpl.UserRecord("a", b"1"),
        kpl.UserRecord("b", b"", "340282366920938463463374607431768211455"),
        kpl.UserRecord("a", b"3", "0"),
    ]
    payload = kpl.encode_aggregated(records)
    assert kpl.is_aggregated(payload) and payload.startswith(kpl.MAGIC)
    decoded = kpl.decode_aggregated(payload)
    assert [(each.partition_key, each.data, each.explicit_hash_key) for each in decoded] == [
        (each.partition_key, each.data, each.explicit_hash_key) for each in records
    ]
    tagged = [*records, kpl.UserRecord("c", b"4", tags=(kpl.Tag("x", "y"), kpl.Tag("z")))]
    assert [each.tags for each in kpl.decode_aggregated(kpl.encode_aggregated(tagged))] == [
        each.tags for each in tagged
    ]
    assert kpl.encode_aggregated(records[:1]) == b"1"


def test_what_is_not_an_aggregate_is_an_error() -> None:
    payload = kpl.encode_aggregated([kpl.UserRecord("a", b"1"), kpl.UserRecord("b", b"2")])
    for damaged in [b"", b"x" * 30, payload[:-1], payload[:-1] + b"x", kpl.MAGIC + b"x" * 20]:
        with pytest.raises(ValueError):
            kpl.decode_aggregated(damaged)
    with pytest.raises(ValueError, match="at least one record"):
        kpl.encode_aggregated([])


def test_hash_keys() -> None:
    assert kpl.md5_hash_key("a") == 0x0CC175B9C0F1B6A831C399E269772661
    assert kpl.parse_explicit_hash_key("42") == 42
    for text in ["", "-1", " 1", "1_0", "340282366920938463463374607431768211456", "１"]:
        with pytest.raises(ValueError, match="explicit hash key is"):
            kpl.parse_explicit_hash_key(text)


def test_results_are_compared_by_their_fields() -> None:
    attempt = kpl.Attempt(1.0, 2.0, True, shard_id="s", sequence_number="1")
    assert attempt == kpl.Attempt(started_at=1.0, ended_at=2.0, success=True, shard_id="s", sequence_number="1")
    assert attempt != kpl.Attempt(1.0, 2.0, False, error_code="x")
    result = kpl.RecordResult(success=True, shard_id="s", sequence_number="1", attempts=(attempt,))
    assert result == kpl.RecordResult(True, "s", "1", (attempt,)) and len({result, result}) == 1
    assert result != kpl.RecordResult(False, None, None, ())
    assert repr(attempt) in repr(result)
    with pytest.raises(AttributeError):
        result.success = False  # type: ignore[misc]


def test_no_repr_has_secrets_or_data() -> None:
    config = kpl.Config(aws_access_key_id="id", aws_secret_access_key="the-secret", aws_session_token="the-token")
    record = kpl.UserRecord("key", b"the-data")
    decoded = kpl.decode_aggregated(kpl.encode_aggregated([record, record]))
    for shown in (repr(config), repr(record), repr(decoded)):
        assert "the-" not in shown
    assert "aws_access_key_id='id'" in repr(config)


def test_an_outcome_is_set_once() -> None:
    async def main() -> None:
        outcome: kpl.Outcome[int] = kpl.Outcome()
        waiting = [asyncio.create_task(outcome.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        outcome.set_value(7)
        assert await asyncio.gather(*waiting) == [7] * 3 and await outcome == 7
        with pytest.raises(RuntimeError, match="already set"):
            outcome.set_value(8)
        failed: kpl.Outcome[int] = kpl.Outcome()
        failed.set_exception(KeyError("x"))
        with pytest.raises(KeyError):
            await failed.wait()

    asyncio.run(main())
