// Reads lists of user records, one per line. Prints the Kinesis record that aws-kinesis-agg creates from each list.

import agg from "aws-kinesis-agg";

import * as lines from "./lines.mjs";

for await (const batch of lines.read()) {
  const record = new agg.RecordAggregator();
  for (const user of batch) {
    record.addUserRecord({
      partitionKey: user.partition_key,
      explicitHashKey: user.explicit_hash_key ?? undefined,
      data: lines.blob(user.data),
    });
  }
  const { partitionKey, ExplicitHashKey, data } = record.build();
  lines.write({ partition_key: partitionKey, explicit_hash_key: ExplicitHashKey ?? null, data });
}
