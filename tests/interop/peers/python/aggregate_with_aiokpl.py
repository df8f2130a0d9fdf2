"""Reads lists of user records, one per line. Prints the Kinesis record's data that aiokpl creates from each list."""

import aiokpl

import lines

for batch in lines.read():
    users = [
        aiokpl.UserRecord(
            partition_key=user["partition_key"],
            explicit_hash_key=user["explicit_hash_key"],
            data=lines.blob(user["data"]),
        )
        for user in batch
    ]
    lines.write(data=aiokpl.encode_aggregated(users))
