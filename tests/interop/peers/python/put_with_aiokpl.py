"""Reads lists of user records, one per line. Puts each list with aiokpl, flushes, and prints where it was stored."""

import os
import sys

import aiokpl
import anyio

import lines


async def main():
    config = aiokpl.Config(
        region=os.environ["AWS_REGION"],
        # High limits, because aiokpl never sends a record that exceeds them, such as one of 1 MiB.
        rate_limit_bytes_per_sec_per_shard=2.0**30,
        rate_limit_records_per_sec_per_shard=1e6,
        # Long, so that only the flush after each list sends records.
        record_max_buffered_time_ms=10_000.0,
    )
    async with aiokpl.Producer(config) as producer:
        for batch in lines.read():
            outcomes = [
                await producer.put_record(
                    stream=sys.argv[1],
                    partition_key=user["partition_key"],
                    explicit_hash_key=user["explicit_hash_key"],
                    data=lines.blob(user["data"]),
                )
                for user in batch
            ]
            await producer.flush()
            for user, outcome in zip(batch, outcomes):
                result = await outcome.wait()
                if not result.success:
                    raise SystemExit(f"a record failed: {result.attempts}")
                lines.write(
                    shard_id=result.shard_id,
                    sequence_number=result.sequence_number,
                    # aiokpl does not report it.
                    sub_sequence_number=0,
                    partition_key=user["partition_key"],
                    explicit_hash_key=user["explicit_hash_key"],
                    data=lines.blob(user["data"]),
                )


anyio.run(main)
