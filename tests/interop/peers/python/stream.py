"""Reads a stream from its beginning to its end, with a client of boto3 or botocore."""


def shards(client, stream):
    """Returns all shards, including closed ones."""
    for page in client.get_paginator("list_shards").paginate(StreamName=stream):
        yield from page["Shards"]


def records(client, stream, shard_id):
    """Returns all records of a shard, in order, as the client returns them."""
    start = client.get_shard_iterator(StreamName=stream, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON")
    iterator = start["ShardIterator"]
    while iterator:
        page = client.get_records(ShardIterator=iterator)
        yield from page["Records"]
        if not page["Records"] and page["MillisBehindLatest"] == 0:
            return
        iterator = page.get("NextShardIterator")
