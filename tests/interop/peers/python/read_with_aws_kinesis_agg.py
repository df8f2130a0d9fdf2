"""Reads a stream with boto3, deaggregates it with aws-kinesis-agg, and prints the user records."""

import sys

import boto3
from aws_kinesis_agg.deaggregator import iter_deaggregate_records

import lines
import stream

client = boto3.client("kinesis")
for shard in stream.shards(client, sys.argv[1]):
    for record in stream.records(client, sys.argv[1], shard["ShardId"]):
        for user in iter_deaggregate_records(record, data_format="Boto3"):
            # A record that is not an aggregate is returned unchanged, with its data as bytes.
            kinesis = user["kinesis"]
            data = lines.blob(kinesis["data"]) if kinesis.get("aggregated") else record["Data"]
            lines.write(
                shard_id=shard["ShardId"],
                sequence_number=kinesis["sequenceNumber"],
                sub_sequence_number=kinesis.get("subSequenceNumber", 0),
                partition_key=kinesis["partitionKey"],
                # Not reliable: if only some records of an aggregate have one, the others get the first of these.
                explicit_hash_key=None,
                data=data,
            )
