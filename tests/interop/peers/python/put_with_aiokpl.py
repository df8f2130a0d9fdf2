"""Each line is a list of user records, which aiokpl's producer puts and flushes; prints where each was stored."""

import os
import sys

import aiokpl
import anyio

import lines


async def main():
    config = aiokpl.Config(
        region=os.environ["AWS_REGION"],
        # At full speed; a record of 1 MiB would else never go.
        rate_limit_bytes_per_sec_per_shard=2.0**30,
        rate_limit_records_per_sec_per_shard=1e6,
        # Each list is what is flushed together.
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
                    # It tells none.
                    sub_sequence_number=0,
                    partition_key=user["partition_key"],
                    explicit_hash_key=user["explicit_hash_key"],
                    data=lines.blob(user["data"]),
                )


anyio.run(main)
