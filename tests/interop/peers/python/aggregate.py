"""Reads lists of user records, one per line. Prints the Kinesis record that aws-kinesis-agg creates from each list."""

from aws_kinesis_agg.aggregator import AggRecord

import lines

for batch in lines.read():
    record = AggRecord()
    for user in batch:
        if not record.add_user_record(user["partition_key"], lines.blob(user["data"]), user["explicit_hash_key"]):
            raise SystemExit("the batch is too large for one Kinesis record")
    partition_key, explicit_hash_key, data = record.get_contents()
    lines.write(partition_key=partition_key, explicit_hash_key=explicit_hash_key, data=data)
