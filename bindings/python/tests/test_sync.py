"""The producer without an event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import kpl


def test_records_are_put_from_threads(config: Any, kinesis: Any, stream: str) -> None:
    with kpl.SyncProducer(config()) as producer:

        def put(thread: int) -> None:
            outcomes = [
                producer.put_record(stream=stream, partition_key=f"k{n}", data=b"%d-%d" % (thread, n))
                for n in range(250)
            ]
            assert all(outcome.wait(timeout=20.0).success for outcome in outcomes)

        threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert producer.outstanding_records == 0
    assert len(set(kinesis.read(stream))) == 2_000


def test_wait_has_a_timeout_and_can_be_repeated(config: Any, stream: str) -> None:
    with kpl.SyncProducer(config(record_max_buffered_time_ms=500.0)) as producer:
        outcome = producer.put_record(stream=stream, partition_key="k", data=b"x")
        with pytest.raises(TimeoutError, match="timed out after 0.01s"):
            outcome.wait(timeout=0.01)
        assert not outcome.done()
        assert outcome.wait(timeout=20.0).success
        assert outcome.done() and not outcome.cancel()


def test_cancel_ends_the_wait_and_not_the_record(config: Any, kinesis: Any, stream: str) -> None:
    with kpl.SyncProducer(config()) as producer:
        outcome = producer.put_record(stream=stream, partition_key="k", data=b"x")
        assert outcome.cancel() and not outcome.cancel()
        with pytest.raises(kpl.SyncOutcomeCancelled):
            outcome.wait()
    assert kinesis.read(stream) == [("k", b"x")]


def test_flush_and_close(config: Any, stream: str) -> None:
    producer = kpl.SyncProducer(config(record_max_buffered_time_ms=20_000.0))
    with pytest.raises(RuntimeError, match="not entered"):
        producer.put_record(stream=stream, partition_key="k", data=b"x")
    with producer:
        outcome = producer.put_record(stream=stream, partition_key="k", data=b"x")
        producer.flush(timeout=20.0)
        assert outcome.done()
        batch = producer.put_records(stream, [("k", b"1"), ("k", b"2")])
    assert [result.success for result in batch.wait()] == [True, True]
    with pytest.raises(RuntimeError, match="not entered"):
        producer.put_record(stream=stream, partition_key="k", data=b"x")


def test_a_blocking_call_in_a_loop_is_an_error(config: Any) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="would stop it"), kpl.SyncProducer(config()):
            pass

    asyncio.run(main())


def test_a_sink_gets_the_metrics(config: Any, stream: str) -> None:
    sink = kpl.InMemorySink()
    with kpl.SyncProducer(config(metrics_level=kpl.MetricsLevel.SUMMARY, metrics_sink=sink)) as producer:
        outcomes = [producer.put_record(stream=stream, partition_key="k", data=b"x") for _ in range(100)]
        assert all(outcome.wait().success for outcome in outcomes)
    assert sum(snapshot.sum for snapshot in sink.by_name("UserRecordsPut")) == 100
    assert {snapshot.dimensions for snapshot in sink.by_name("UserRecordsPut")} == {(("stream", stream),)}


def test_a_sink_that_cannot_start_harms_nothing(config: Any, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(kpl.NullSink):
        async def __aenter__(self) -> Any:
            raise OSError("this exception is part of the test")

    with kpl.SyncProducer(config(metrics_level=kpl.MetricsLevel.SUMMARY, metrics_sink=Broken())) as producer:
        assert producer.put_record(stream=stream, partition_key="k", data=b"x").wait(20.0).success
    assert "the metrics sink" in caplog.text


def test_threads_and_tasks_wait_for_the_same_outcome(config: Any, stream: str) -> None:
    async def main() -> None:
        async with kpl.Producer(config(record_max_buffered_time_ms=1_000.0)) as producer:
            outcome = await producer.put_record(stream=stream, partition_key="k", data=b"x")
            batch = await producer.put_records(stream, [("k", b"y")])
            tasks = [asyncio.create_task(outcome.wait()), asyncio.create_task(batch.wait())]
            await asyncio.sleep(0.05)
            waiting = [asyncio.to_thread(each.wait_blocking, 20.0) for each in (outcome, batch, outcome, batch)]
            found = await asyncio.wait_for(asyncio.gather(*tasks, *waiting), 20.0)
            assert [each[0].success if isinstance(each, list) else each.success for each in found] == [True] * 6

    asyncio.run(main())
