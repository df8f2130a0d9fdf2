"""Reads a stream with botocore, decodes aggregates with aiokpl, and prints the user records."""

import sys

import aiokpl
import botocore.session

import lines
import stream

client = botocore.session.get_session().create_client("kinesis")
for shard in stream.shards(client, sys.argv[1]):
    for record in stream.records(client, sys.argv[1], shard["ShardId"]):
        data = record["Data"]
        if aiokpl.is_aggregated(data):
            users = aiokpl.decode_aggregated(data)
        else:
            users = [aiokpl.UserRecord(partition_key=record["PartitionKey"], data=data)]
        for number, user in enumerate(users):
            lines.write(
                shard_id=shard["ShardId"],
                sequence_number=record["SequenceNumber"],
                sub_sequence_number=number,
                partition_key=user.partition_key,
                explicit_hash_key=user.explicit_hash_key,
                data=user.data,
            )
