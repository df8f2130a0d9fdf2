//! The steps in which kinesis-mock's answer differs from that of Kinesis. The emulator has to answer as Kinesis does.
//!
//! Sources: the API reference (also in the comments of the AWS SDK), and the tests of kinesalite, whose authors ran
//! them against the real service.

/// One step of one conversation, with kinesis-mock's answer and that of Kinesis.
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

/// All known differences. An outdated row fails the test, and so does a difference without a row.
#[rustfmt::skip]
pub(crate) const KNOWN: &[Difference] = &[
    // kinesis-mock fails internally on what it cannot parse.
    row("paging", "MaxResults 0", "HTTP 500", VALIDATION),
    row("reading", "a made-up iterator", "HTTP 500", INVALID),
    row("reading", "a made-up iterator in base64", "HTTP 500", INVALID),
    row("records", "PutRecord: an empty hash key", "HTTP 500", VALIDATION),
    row("records", "PutRecords: an empty hash key", "HTTP 500", VALIDATION),
    row("records", "PutRecord: hash key 0x7", "HTTP 500", VALIDATION),
    row("records", "PutRecords: hash key 0x7", "HTTP 500", VALIDATION),
    row("records", "PutRecord: hash key with a space", "HTTP 500", VALIDATION),
    row("records", "PutRecords: hash key with a space", "HTTP 500", VALIDATION),
    row("invalid resharding", "SplitShard: at a non-number", "HTTP 500", VALIDATION),
    row("invalid resharding", "SplitShard: at an empty hash key", "HTTP 500", VALIDATION),

    // A violation of a length or a pattern in the API's model is a ValidationException, which kinesis-mock does not
    // have.
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
    row("streams", "PutRecord: not an ARN", "SerializationException", VALIDATION),
    row("streams", "PutRecord: empty name", INVALID, VALIDATION),
    row("streams", "PutRecord: name with a space", INVALID, VALIDATION),
    row("streams", "PutRecord: name of 129", INVALID, VALIDATION),
    row("streams", "CreateStream: name with a space", INVALID, VALIDATION),
    row("streams", "CreateStream: no shards", "LimitExceededException", VALIDATION),
    row("invalid resharding", "SplitShard: at 007", INVALID, VALIDATION),
    row("invalid resharding", "SplitShard: at -1", INVALID, VALIDATION),
    row("invalid resharding", "SplitShard: not a shard id", INVALID, VALIDATION),

    // The API's lengths are in Unicode characters (Smithy's length trait). kinesis-mock counts UTF-16 units.
    row("records", "PutRecord: a key of 129 letters beyond the BMP", INVALID, "ok"),
    row("records", "PutRecords: a key of 129 letters beyond the BMP", INVALID, "ok, ok"),

    // Limits that kinesis-mock does not enforce.
    row("paging", "MaxResults 10,001", "ok", VALIDATION),
    row("records", "PutRecords: no records", "ok", VALIDATION),
    row("records", "PutRecords: 501", "ok", VALIDATION),
    // "the data payload before base64-encoding plus the partition key"
    row("records", "PutRecord: 1 MiB without its key", "ok", INVALID),
    row("records", "PutRecords: 1 MiB without its key", "ok, ok", INVALID),
    // kinesis-mock refuses the record. Kinesis refuses the request.
    row("records", "PutRecords: more than 1 MiB", "ok, InvalidArgumentException", INVALID),
    // Both children need a range of more than one hash key: greater than one plus the start, less than the end.
    row("invalid resharding", "SplitShard: at the start", "ok", INVALID),
    row("invalid resharding", "SplitShard: one above the start", "ok", INVALID),
    row("invalid resharding", "SplitShard: at the end", "ok", INVALID),

    // kinesis-mock's tokens do not contain the filter: the second page of AT_LATEST has closed shards.
    row("resharding", "after a split: second page of AT_LATEST",
        "shardId-000000000001 shardId-000000000002 shardId-000000000003 shardId-000000000004",
        "shardId-000000000002 shardId-000000000003 shardId-000000000004"),
    row("resharding", "after a merge: second page of AT_LATEST",
        "shardId-000000000003 shardId-000000000004 shardId-000000000005",
        "shardId-000000000004 shardId-000000000005"),

    // "all the shards that were open at TRIM_HORIZON": not their children.
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
