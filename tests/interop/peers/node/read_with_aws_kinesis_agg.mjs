// Reads a stream with the AWS SDK, deaggregates it with aws-kinesis-agg, and prints the user records.

import kinesis from "@aws-sdk/client-kinesis";
import agg from "aws-kinesis-agg";

import * as lines from "./lines.mjs";

const client = new kinesis.KinesisClient();
const stream = process.argv[2];
for await (const shardId of shards()) {
  for await (const record of records(shardId)) {
    agg.deaggregateSync(record, true, (error, users) => {
      if (error) {
        throw error;
      }
      for (const user of users) {
        lines.write({
          shard_id: shardId,
          sequence_number: user.SequenceNumber,
          // A record that is not an aggregate does not have one.
          sub_sequence_number: user.SubSequenceNumber ?? 0,
          partition_key: user.PartitionKey,
          // Not reliable: if only some records of an aggregate have one, the others get the first of these.
          explicit_hash_key: null,
          data: user.Data,
        });
      }
    });
  }
}
// Open connections would keep the process alive.
client.destroy();

async function* shards() {
  let next = { StreamName: stream };
  while (next) {
    const page = await client.send(new kinesis.ListShardsCommand(next));
    yield* page.Shards.map((shard) => shard.ShardId);
    next = page.NextToken && { NextToken: page.NextToken };
  }
}

async function* records(shardId) {
  const start = { StreamName: stream, ShardId: shardId, ShardIteratorType: "TRIM_HORIZON" };
  let { ShardIterator: iterator } = await client.send(new kinesis.GetShardIteratorCommand(start));
  while (iterator) {
    const page = await client.send(new kinesis.GetRecordsCommand({ ShardIterator: iterator }));
    yield* page.Records;
    if (page.Records.length === 0 && page.MillisBehindLatest === 0) {
      return;
    }
    iterator = page.NextShardIterator;
  }
}
