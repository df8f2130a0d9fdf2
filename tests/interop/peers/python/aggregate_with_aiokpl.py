"""Each line is a list of user records; prints, for each, the data of the Kinesis record that aiokpl makes of it."""

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
