//! Where kinesis-mock answers otherwise than Kinesis, and Kinesis counts.
//!
//! Sources: the API reference (also in the comments of the AWS SDK), and the tests of kinesalite, whose authors ran
//! them against the real service.

/// One step of one conversation that kinesis-mock answers differently.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference {
    pub(crate) conversation: &'static str,
    pub(crate) step: &'static str,
    pub(crate) mock: &'static str,
    pub(crate) kinesis: &'static str,
}

const fn row(conversation: &'static str, step: &'static str, mock: &'static str, kinesis: &'static str) -> Difference {
    Difference { conversation, step, mock, kinesis }
}

const INVALID: &str = "InvalidArgumentException";
const VALIDATION: &str = "ValidationException";

/// All of them. A row that no longer tells a difference fails the test, as a difference without a row does.
#[rustfmt::skip]
pub(crate) const KNOWN: &[Difference] = &[
    // kinesis-mock falls over what it cannot parse.
    row("paging", "MaxResults 0", "HTTP 500", VALIDATION),
    row("reading", "an iterator made up", "HTTP 500", INVALID),
    row("reading", "an iterator of base64 made up", "HTTP 500", INVALID),
    row("records", "PutRecord: an empty hash key", "HTTP 500", VALIDATION),
    row("records", "PutRecords: an empty hash key", "HTTP 500", VALIDATION),
    row("records", "PutRecord: hash key 0x7", "HTTP 500", VALIDATION),
    row("records", "PutRecords: hash key 0x7", "HTTP 500", VALIDATION),
    row("records", "PutRecord: hash key with a blank", "HTTP 500", VALIDATION),
    row("records", "PutRecords: hash key with a blank", "HTTP 500", VALIDATION),
    row("bad resharding", "SplitShard: at no number", "HTTP 500", VALIDATION),
    row("bad resharding", "SplitShard: at nothing", "HTTP 500", VALIDATION),

    // What breaks a length or a pattern of the API's model is a ValidationException; kinesis-mock does not know it.
    row("records", "PutRecord: an empty key", INVALID, VALIDATION),
    row("records", "PutRecords: an empty key", INVALID, VALIDATION),
    row("records", "PutRecord: a key of 257", INVALID, VALIDATION),
    row("records", "PutRecords: a key of 257", INVALID, VALIDATION),
    row("records", "PutRecord: a key of 257 letters, 514 bytes", INVALID, VALIDATION),
    row("records", "PutRecords: a key of 257 letters, 514 bytes", INVALID, VALIDATION),
    row("records", "PutRecord: hash key of 40 digits", INVALID, VALIDATION),
    row("records", "PutRecords: hash key of 40 digits", INVALID, VALIDATION),
    row("records", "PutRecord: hash key -1", INVALID, VALIDATION),
    row("records", "PutRecords: hash key -1", INVALID, VALIDATION),
    row("records", "PutRecord: hash key +1", INVALID, VALIDATION),
    row("records", "PutRecords: hash key +1", INVALID, VALIDATION),
    row("records", "PutRecord: hash key 007", INVALID, VALIDATION),
    row("records", "PutRecords: hash key 007", INVALID, VALIDATION),
    row("reading", "Limit 0", INVALID, VALIDATION),
    row("reading", "an iterator of an unknown type", "SerializationException", VALIDATION),
    row("streams", "PutRecord: no ARN", "SerializationException", VALIDATION),
    row("streams", "PutRecord: empty name", INVALID, VALIDATION),
    row("streams", "PutRecord: name with a blank", INVALID, VALIDATION),
    row("streams", "PutRecord: name of 129", INVALID, VALIDATION),
    row("streams", "CreateStream: name with a blank", INVALID, VALIDATION),
    row("streams", "CreateStream: no shards", "LimitExceededException", VALIDATION),
    row("bad resharding", "SplitShard: at 007", INVALID, VALIDATION),
    row("bad resharding", "SplitShard: at -1", INVALID, VALIDATION),
    row("bad resharding", "SplitShard: no shard id", INVALID, VALIDATION),

    // The API's lengths are in Unicode characters (Smithy's length trait); it counts UTF-16 units.
    row("records", "PutRecord: a key of 129 letters beyond the BMP", INVALID, "ok"),
    row("records", "PutRecords: a key of 129 letters beyond the BMP", INVALID, "ok, ok"),

    // Limits that it does not keep.
    row("paging", "MaxResults 10,001", "ok", VALIDATION),
    row("records", "PutRecords: none", "ok", VALIDATION),
    row("records", "PutRecords: 501", "ok", VALIDATION),
    // "the data payload before base64-encoding plus the partition key"
    row("records", "PutRecord: 1 MiB and its key", "ok", INVALID),
    row("records", "PutRecords: 1 MiB and its key", "ok, ok", INVALID),
    // It refuses the record; Kinesis refuses the request.
    row("records", "PutRecords: more than 1 MiB", "ok, InvalidArgumentException", INVALID),
    // Both children need a range of more than one hash key: greater than one plus the start, less than the end.
    row("bad resharding", "SplitShard: at the start", "ok", INVALID),
    row("bad resharding", "SplitShard: one above the start", "ok", INVALID),
    row("bad resharding", "SplitShard: at the end", "ok", INVALID),

    // Its tokens forget the filter: page two of AT_LATEST has closed shards.
    row("resharding", "after a split: second page of AT_LATEST",
        "shardId-000000000001 shardId-000000000002 shardId-000000000003 shardId-000000000004",
        "shardId-000000000002 shardId-000000000003 shardId-000000000004"),
    row("resharding", "after a merge: second page of AT_LATEST",
        "shardId-000000000003 shardId-000000000004 shardId-000000000005",
        "shardId-000000000004 shardId-000000000005"),

    // "all the shards that were open at TRIM_HORIZON": not their children of today.
    row("resharding", "after a split: AT_TRIM_HORIZON",
        "shardId-000000000000 shardId-000000000001 shardId-000000000002 shardId-000000000003 shardId-000000000004",
        "shardId-000000000000 shardId-000000000001 shardId-000000000002"),
    row("resharding", "after a merge: AT_TRIM_HORIZON",
        "shardId-000000000000 shardId-000000000001 shardId-000000000002 shardId-000000000003 shardId-000000000004 \
         shardId-000000000005",
        "shardId-000000000000 shardId-000000000001 shardId-000000000002"),
    row("resharding", "after a second merge: AT_TRIM_HORIZON",
        "shardId-000000000000 shardId-000000000001 shardId-000000000002 shardId-000000000003 shardId-000000000004 \
         shardId-000000000005 shardId-000000000006",
        "shardId-000000000000 shardId-000000000001 shardId-000000000002"),
];
