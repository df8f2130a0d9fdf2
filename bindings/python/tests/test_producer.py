"""The producer on asyncio and on trio."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import trio

import kpl

LOOPS = pytest.mark.parametrize("run", [asyncio.run, lambda task: trio.run(lambda: task)], ids=["asyncio", "trio"])


async def put_all(config: kpl.Config, stream: str, count: int) -> list[kpl.RecordResult]:
    async with kpl.Producer(config) as producer:
        outcomes = [
            await producer.put_record(stream=stream, partition_key=f"key-{n % 7}", data=b"data-%d" % n)
            for n in range(count)
        ]
        return [await outcome.wait() for outcome in outcomes]


@LOOPS
def test_every_record_is_stored_and_read_as_it_was_put(run: Any, config: Any, kinesis: Any, stream: str) -> None:
    results = run(put_all(config(), stream, 1_000))
    assert all(result.success and result.shard_id and result.sequence_number for result in results)
    assert [result.attempts[-1].success for result in results] == [True] * 1_000
    assert sorted(kinesis.read(stream)) == sorted((f"key-{n % 7}", b"data-%d" % n) for n in range(1_000))


@LOOPS
def test_put_records(run: Any, config: Any, kinesis: Any, stream: str) -> None:
    async def main() -> None:
        async with kpl.Producer(config()) as producer:
            outcome = await producer.put_records(stream, [("a", b"1"), ("b", b"2", "5"), ("c", bytearray(b"3"))])
            assert len(outcome) == 3
            results = await outcome
            assert [result.success for result in results] == [True] * 3
            assert await outcome.wait() == results
            with pytest.raises(ValueError, match="record 1 of the batch: partition_key is empty"):
                await producer.put_records(stream, [("a", b"4"), ("", b"5")])
            with pytest.raises(TypeError, match="data is str"):
                await producer.put_records(stream, [("a", "text")])

    run(main())
    assert sorted(kinesis.read(stream)) == [("a", b"1"), ("b", b"2"), ("c", b"3")]


@LOOPS
def test_puts_wait_for_room(run: Any, config: Any, kinesis: Any, stream: str) -> None:
    async def main() -> int:
        async with kpl.Producer(config(max_outstanding_records=10)) as producer:
            for n in range(200):
                await producer.put_record(stream=stream, partition_key="k", data=b"%d" % n)
                assert producer.outstanding_records <= 10
            batch = await producer.put_records(stream, [("k", b"%d" % n) for n in range(200, 300)])
            return sum(result.success for result in await batch)

    assert run(main()) == 100
    assert len(kinesis.read(stream)) == 300


@LOOPS
def test_many_tasks_wait_for_one_outcome(run: Any, config: Any, stream: str) -> None:
    async def main() -> None:
        async with kpl.Producer(config()) as producer:
            outcome = await producer.put_record(stream=stream, partition_key="k", data=b"x")
            assert not outcome.is_set()
            found: list[bool] = []

            async def wait() -> None:
                found.append((await outcome.wait()).success)

            if run is asyncio.run:
                await asyncio.gather(*(wait() for _ in range(10)), asyncio.create_task(outcome.wait()))
            else:
                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(wait)
                    nursery.start_soon(outcome.wait)
            assert found == [True] * 10 and outcome.is_set()
            assert (await outcome).success, "an outcome is awaitable itself"

    run(main())


def test_a_wait_that_is_cancelled_loses_nothing(config: Any, stream: str) -> None:
    async def main() -> None:
        async with kpl.Producer(config()) as producer:
            outcome = await producer.put_record(stream=stream, partition_key="k", data=b"x")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(outcome.wait(), 0.001)
            assert (await outcome.wait()).success

    asyncio.run(main())


def test_errors_name_what_is_wrong(config: Any, stream: str) -> None:
    async def main() -> None:
        producer = kpl.Producer(config())
        with pytest.raises(RuntimeError, match="not entered"):
            await producer.put_record(stream=stream, partition_key="k", data=b"x")
        async with producer:
            with pytest.raises(ValueError, match="partition_key must be non-empty"):
                await producer.put_record(stream=stream, partition_key="", data=b"x")
            with pytest.raises(ValueError, match="stream is \"a b\""):
                await producer.put_record(stream="a b", partition_key="k", data=b"x")
            with pytest.raises(ValueError, match="explicit_hash_key is \"-1\""):
                await producer.put_record(stream=stream, partition_key="k", data=b"x", explicit_hash_key="-1")
            with pytest.raises(ValueError, match="tags must be empty"):
                await producer.put_record(stream=stream, partition_key="k", data=b"x", tags=(kpl.Tag("a"),))
            with pytest.raises(TypeError, match="data is str, but must be bytes"):
                await producer.put_record(stream=stream, partition_key="k", data="x")  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="Producer is closed"):
            await producer.put_record(stream=stream, partition_key="k", data=b"x")

    asyncio.run(main())
    with pytest.raises(ValueError, match="record_ttl"):
        asyncio.run(put_all(config(record_ttl_ms=50.0), stream, 1))
    with pytest.raises(ValueError, match="ordering is \"x\", but must be \"none\" or \"per-key\""):
        asyncio.run(put_all(config(ordering="x"), stream, 1))


def test_failures_have_the_record_and_the_attempts(config: Any) -> None:
    async def main() -> kpl.RecordResult:
        async with kpl.Producer(config()) as producer:
            outcome = await producer.put_record(stream="no-such-stream", partition_key="k", data=b"x")
            return await outcome.wait()

    result = asyncio.run(main())
    assert (result.success, result.shard_id, result.sequence_number) == (False, None, None)
    assert result.error_code == "ResourceNotFoundException" == result.attempts[-1].error_code
    assert result.record == {
        "stream": "no-such-stream",
        "partition_key": "k",
        "data": b"x",
        "explicit_hash_key": None,
    }
    assert not result.ambiguous and not result.attempts[-1].ambiguous


def test_records_left_after_a_timeout_of_close_fail(config: Any) -> None:
    async def main() -> kpl.RecordResult:
        producer = kpl.Producer(config(endpoint_url="http://127.0.0.1:1"))
        async with producer:
            outcome = await producer.put_record(stream="s", partition_key="k", data=b"x")
            await producer.close(timeout=0.2)
            return await outcome.wait()

    result = asyncio.run(main())
    assert not result.success and result.error_code == "Closed"


def test_flush_waits_for_the_results(config: Any, stream: str) -> None:
    async def main() -> None:
        async with kpl.Producer(config(record_max_buffered_time_ms=10_000.0)) as producer:
            outcome = await producer.put_record(stream=stream, partition_key="k", data=b"x")
            await producer.flush()
            assert outcome.is_set() and producer.outstanding_records == 0

    asyncio.run(main())


def test_order_per_key(config: Any, kinesis: Any, stream: str) -> None:
    results = asyncio.run(put_all(config(ordering="per-key"), stream, 2_000))
    assert all(result.success for result in results)
    by_key: dict[str, list[int]] = {}
    for key, data in kinesis.read(stream):
        by_key.setdefault(key, []).append(int(data.removeprefix(b"data-")))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


ENGINE = """
    import asyncio, os, sys, threading, time
    import kpl
    config = kpl.Config(region="us-east-1", endpoint_url=sys.argv[1], aws_access_key_id="a", aws_secret_access_key="b")
"""


def test_a_loop_that_has_ended_and_an_interpreter_that_ends_do_not_hang(kinesis: Any, stream: str) -> None:
    script = ENGINE + """
    async def main():
        producer = kpl.Producer(config)
        await producer.__aenter__()
        return producer, await producer.put_record(stream=sys.argv[2], partition_key="k", data=b"x")
    producer, outcome = asyncio.run(main())     # not closed
    print(outcome.wait_blocking(10).success)
    """
    ended = run_script(script, kinesis.url, stream)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


# Before, during and after the first request.
@pytest.mark.parametrize("delay", ["0", "0.001", "0.005", "0.5"])
def test_a_fork_has_a_clear_error_and_its_own_producer(kinesis: Any, stream: str, delay: str) -> None:
    script = ENGINE + """
    with kpl.SyncProducer(config) as parent:
        outcome = parent.put_record(stream=sys.argv[2], partition_key="k", data=b"parent")
        time.sleep(float(sys.argv[3]))
        child = os.fork()
        if child == 0:
            try:
                parent.put_record(stream=sys.argv[2], partition_key="k", data=b"x")
            except RuntimeError as error:
                print(error, flush=True)
            with kpl.SyncProducer(config) as own:
                print(own.put_record(stream=sys.argv[2], partition_key="k", data=b"child").wait(10).success, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(outcome.wait(10).success)
    """
    ended = run_script(script, kinesis.url, stream, delay)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "before a fork" in lines[0] and lines[1:] == ["True", "True"]
    assert sorted(data for _, data in kinesis.read(stream)) == [b"child", b"parent"]


def test_the_log_has_the_events_of_the_program_only(kinesis: Any, stream: str) -> None:
    script = ENGINE + """
    import logging
    logging.basicConfig(level=logging.INFO)
    with kpl.SyncProducer(config) as producer:
        producer.put_record(stream=sys.argv[2], partition_key="k", data=b"x").wait(10)
        time.sleep(0.5)
    """
    ended = run_script(script, kinesis.url, stream)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "kpl" in line]
    assert lines and all(f"stream={stream} " in line for line in lines)


def test_ctrl_c_in_with_ends_the_program(kinesis: Any) -> None:
    script = ENGINE + """
    with kpl.SyncProducer(kpl.Config(region="us-east-1", endpoint_url="http://127.0.0.1:1", record_ttl_ms=500.0,
                                     aws_access_key_id="a", aws_secret_access_key="b")) as producer:
        outcome = producer.put_record(stream="s", partition_key="k", data=b"x")
        print("waiting", flush=True)
        outcome.wait()
        outcome = kpl.Outcome()
        outcome.wait_blocking()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), kinesis.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    import time

    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors and process.returncode in (1, 130, -signal.SIGINT)


def test_an_idle_producer_uses_no_cpu(config: Any, stream: str) -> None:
    async def main() -> float:
        async with kpl.Producer(config()) as producer:
            await (await producer.put_record(stream=stream, partition_key="k", data=b"x")).wait()
            await asyncio.sleep(0.5)
            before = os.times()
            await asyncio.sleep(2.0)
            after = os.times()
            return after.user + after.system - before.user - before.system

    assert asyncio.run(main()) < 0.05


def test_exceptions_of_a_sink_are_logged_and_harm_no_record(
    config: Any, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(kpl.NullSink):
        async def export(self, snapshots: Any) -> None:
            raise OSError("this exception is part of the test")

    settings = {"metrics_level": kpl.MetricsLevel.SUMMARY, "metrics_sink": Broken()}
    results = asyncio.run(put_all(config(**settings), stream, 10))
    assert all(result.success for result in results)
    assert "the metrics sink" in caplog.text


@LOOPS
def test_a_sink_gets_the_last_metrics(run: Any, config: Any, stream: str) -> None:
    sink = kpl.InMemorySink()
    run(put_all(config(metrics_level=kpl.MetricsLevel.DETAILED, metrics_sink=sink), stream, 500))
    put = sink.by_name("UserRecordsPut")
    assert sum(snapshot.sum for snapshot in put) == 500
    assert {dict(snapshot.dimensions)["stream"] for snapshot in put} == {stream}
    assert all("shard" in dict(snapshot.dimensions) for snapshot in put)
    received = sink.by_name("UserRecordsReceived")
    assert sum(snapshot.count for snapshot in received) == 500


def test_metrics_have_the_names_of_the_module(config: Any) -> None:
    """Those of aiokpl, which sinks and dashboards look for."""
    sink = kpl.InMemorySink()
    settings = {"metrics_level": kpl.MetricsLevel.DETAILED, "metrics_sink": sink, "record_ttl_ms": 500.0}

    async def main() -> None:
        async with kpl.Producer(config(**settings)) as producer:
            stored = await producer.put_record(stream="s39", partition_key="k", data=b"x")
            assert (await stored.wait()).success
        async with kpl.Producer(config(**settings, endpoint_url="http://127.0.0.1:1")) as producer:
            expired = await producer.put_record(stream="s39", partition_key="k", data=b"x")
            assert (await expired.wait()).error_code == "Expired"

    asyncio.run(main())
    names = {snapshot.name for snapshot in sink.all_snapshots}
    assert {value for name, value in vars(kpl.metrics).items() if name.startswith("NAME_")} <= names


def test_the_operator_s_events_are_logged(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kpl.Producer(config()) as producer:
            outcome = await producer.put_record(stream="another-missing-stream", partition_key="k", data=b"x")
            assert not (await outcome.wait()).success
        for _ in range(100):
            if "another-missing-stream" in caplog.text:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("no event is logged")

    asyncio.run(main())
    assert {record.name for record in caplog.records if "another-missing" in record.getMessage()} == {"kpl"}
