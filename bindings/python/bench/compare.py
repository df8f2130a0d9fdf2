"""CPU time of a record with kpl and with aiokpl, each in a process of its own, on one emulator.

Usage: python bench/compare.py [--records N] [--aiokpl-records N] URL

The emulator: kpl emulator --port 4567 --no-limits --stream bench:4
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from typing import Any

STREAM = "bench"
OUTSTANDING = 20_000
KEYS = 10_000
DATA = bytes(range(100))


def config(module: Any, url: str) -> Any:
    return module.Config(
        region="us-east-1",
        endpoint_url=url,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        rate_limit_records_per_sec_per_shard=1_000_000.0,
        rate_limit_bytes_per_sec_per_shard=float(1 << 30),
    )


async def single(producer: Any, count: int) -> int:
    """Put records one by one, and wait for each outcome."""
    stored, outcomes = 0, []
    for n in range(count):
        outcomes.append(
            await producer.put_record(stream=STREAM, partition_key=f"key-{n % KEYS}", data=DATA)
        )
        if len(outcomes) == OUTSTANDING:
            for outcome in outcomes[: OUTSTANDING // 2]:
                stored += (await outcome.wait()).success
            del outcomes[: OUTSTANDING // 2]
    for outcome in outcomes:
        stored += (await outcome.wait()).success
    return stored


async def batches(producer: Any, count: int) -> int:
    """Put records in batches of 500."""
    stored, outcomes = 0, []
    for start in range(0, count, 500):
        records = [(f"key-{n % KEYS}", DATA) for n in range(start, min(start + 500, count))]
        outcomes.append(await producer.put_records(STREAM, records))
        if len(outcomes) == OUTSTANDING // 500:
            stored += sum(result.success for result in await outcomes.pop(0))
    for outcome in outcomes:
        stored += sum(result.success for result in await outcome)
    return stored


async def measure(name: str, url: str, count: int) -> None:
    if name == "aiokpl":
        import aiokpl as module
    else:
        import kpl as module
    put = batches if name == "kpl put_records" else single
    async with module.Producer(config(module, url)) as producer:
        await put(producer, 1)
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        stored = await put(producer, count)
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    assert stored == count, f"{stored} of {count} records were stored"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu_us": cpu / count * 1e6, "records_per_s": count / (ended - started), "rss_mib": after.ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--aiokpl-records", type=int, default=20_000)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        asyncio.run(measure(arguments.only, arguments.url, arguments.records))
        return
    names = {"aiokpl": arguments.aiokpl_records, "kpl": arguments.records, "kpl put_records": arguments.records}
    found: dict[str, dict[str, float]] = {}
    for name, count in names.items():
        if not count:
            continue
        command = [sys.executable, __file__, arguments.url, "--only", name, "--records", str(count)]
        found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        line = (
            f"{name:16} {found[name]['cpu_us']:8.2f} us of CPU a record, {found[name]['records_per_s']:9.0f} records/s, "
            f"{found[name]['rss_mib']:5.0f} MiB"
        )
        if "aiokpl" in found:
            line += f", 1/{found['aiokpl']['cpu_us'] / found[name]['cpu_us']:.0f} of aiokpl"
        print(line)


if __name__ == "__main__":
    main()
