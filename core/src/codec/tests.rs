use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use md5::{Digest, Md5};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::stream::aggregator::Aggregate;
use crate::testing::{data_sizes, explicit_hash_keys, ms, partition_keys, pending};

fn record(partition_key: &str, explicit_hash_key: Option<u128>, data: &[u8]) -> AggregatedUserRecord {
    AggregatedUserRecord { partition_key: partition_key.into(), explicit_hash_key, data: Bytes::copy_from_slice(data) }
}

/// Encodes the records with prost: the reference.
fn encode_by_prost(records: &[AggregatedUserRecord]) -> Vec<u8> {
    fn index(table: &mut Vec<String>, key: String) -> u64 {
        let found = table.iter().position(|other| *other == key);
        found.unwrap_or_else(|| {
            table.push(key);
            table.len() - 1
        }) as u64
    }
    let mut message = proto::AggregatedRecord::default();
    for record in records {
        let record = proto::Record {
            partition_key_index: index(&mut message.partition_key_table, record.partition_key.to_string()),
            explicit_hash_key_index: record
                .explicit_hash_key
                .map(|key| index(&mut message.explicit_hash_key_table, key.to_string())),
            data: record.data.clone(),
            tags: vec![],
        };
        message.records.push(record);
    }
    frame(&message.encode_to_vec())
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&MAGIC[..], message, &Md5::digest(message)].concat()
}

fn records() -> impl Strategy<Value = Vec<AggregatedUserRecord>> {
    let record = (partition_keys(), explicit_hash_keys(), data_sizes(), any::<u8>())
        .prop_map(|(key, explicit, size, byte)| record(&key, explicit, &vec![byte; size]));
    proptest::collection::vec(record, 0..20)
}

proptest! {
    #[test]
    fn encode_returns_the_bytes_of_prost(records in records()) {
        prop_assert_eq!(encode(&records), encode_by_prost(&records));
    }

    #[test]
    fn decode_reverses_encode(records in records()) {
        prop_assert_eq!(decode(encode(&records)), Ok(records));
    }

    #[test]
    fn messages_that_decode_have_the_records_of_prost(
        records in records(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut message = encode(&records)[MAGIC.len()..].to_vec();
        message.truncate(message.len() - DIGEST_SIZE);
        for (position, byte) in edits {
            if !message.is_empty() {
                let position = position.index(message.len());
                message[position] = byte;
            }
        }
        let by_prost = proto::AggregatedRecord::decode(&message[..]);
        if let Ok(decoded) = decode(frame(&message)) {
            let by_prost = by_prost.expect("prost decodes every message that decode accepts");
            prop_assert_eq!(decoded.len(), by_prost.records.len());
            for (ours, theirs) in decoded.iter().zip(&by_prost.records) {
                let key = &by_prost.partition_key_table[theirs.partition_key_index as usize];
                prop_assert_eq!(&*ours.partition_key, key.as_str());
                let explicit = theirs.explicit_hash_key_index.map(|i| by_prost.explicit_hash_key_table[i as usize].clone());
                prop_assert_eq!(ours.explicit_hash_key.map(|key| key.to_string()), explicit);
                prop_assert_eq!(&ours.data, &theirs.data);
            }
        }
    }

    #[test]
    fn decode_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(tail.clone());
        let _ = decode(frame(&tail));
    }
}

/// Aggregates that another program encoded.
#[derive(serde::Deserialize)]
struct Vectors {
    cases: Vec<Vector>,
}

/// A Kinesis record: its data, and the keys that it was sent with, if they were captured.
#[derive(serde::Deserialize)]
struct Vector {
    partition_key: Option<String>,
    explicit_hash_key: Option<String>,
    records: Vec<VectorRecord>,
    aggregate_hex: String,
}

#[derive(serde::Deserialize)]
struct VectorRecord {
    partition_key: String,
    explicit_hash_key: Option<String>,
    data_hex: String,
}

impl Vector {
    fn records(&self) -> Vec<AggregatedUserRecord> {
        let explicit = |r: &VectorRecord| r.explicit_hash_key.as_ref().map(|key| key.parse().unwrap());
        self.records.iter().map(|r| record(&r.partition_key, explicit(r), &unhex(&r.data_hex))).collect()
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn assert_encode_and_decode_agree<'a>(aggregates: impl IntoIterator<Item = &'a Vector>) {
    for (n, case) in aggregates.into_iter().enumerate() {
        let (records, aggregate) = (case.records(), unhex(&case.aggregate_hex));
        assert!(encode(&records) == aggregate, "case {n}: encode returns other bytes");
        assert!(decode(aggregate).as_ref() == Ok(&records), "case {n}: decode returns other records");
    }
}

#[test]
fn vectors_of_aws_kinesis_agg_encode_and_decode() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../tests/data/aws-kinesis-agg.json")).unwrap();
    assert!(vectors.cases.len() >= 20);
    assert_encode_and_decode_agree(&vectors.cases);
}

/// `tests/interop/run kpl --capture` writes the vectors. The KPL sends a single user record as it is.
#[test]
fn vectors_of_the_kpl_encode_decode_and_are_sent_with_the_same_keys() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../tests/data/kpl.json")).unwrap();
    let (aggregates, single): (Vec<&Vector>, Vec<&Vector>) = vectors.cases.iter().partition(|v| v.records.len() > 1);
    assert!(aggregates.len() >= 20 && single.len() >= 5);
    assert_encode_and_decode_agree(aggregates);
    for (n, case) in vectors.cases.iter().enumerate() {
        let mut aggregate = Aggregate::new(None);
        for user in case.records() {
            aggregate.push(pending(&user.partition_key, user.explicit_hash_key, user.data), ms(1), ms(2));
        }
        let ours = aggregate.close().expect("the aggregate has user records");
        assert_eq!(Some(ours.partition_key()), case.partition_key.as_deref(), "case {n}");
        assert_eq!(Some(ours.explicit_hash_key().to_string()), case.explicit_hash_key, "case {n}");
        assert!(ours.data() == unhex(&case.aggregate_hex), "case {n} is sent with other bytes");
    }
}

#[test]
fn data_and_keys_are_not_copied() {
    let blob = Bytes::from(encode(&[record("k", None, &[7; 100]), record("k", None, b"x")]));
    let decoded = decode(blob.clone()).unwrap();
    assert!(blob.as_ptr_range().contains(&decoded[0].data.as_ptr()));
    assert!(Arc::ptr_eq(&decoded[0].partition_key, &decoded[1].partition_key));
}

#[test]
fn errors_name_the_byte() {
    let error = |blob: Vec<u8>| decode(blob).unwrap_err().to_string();
    assert_eq!(error(b"plain".to_vec()), "at byte 0: the magic number F3 89 9A C2 of an aggregated record is missing");
    assert_eq!(error(MAGIC.to_vec()), "at byte 4: the blob has 4 bytes, but an aggregated record has at least 20");
    let mut broken = encode(&[record("k", None, b"data")]);
    broken[5] ^= 1;
    assert_eq!(error(broken), "at byte 17: the MD5 at the end does not match the message");

    // A table with one key, then a record that refers to another.
    let message = [&[0x0A, 1, b'k'][..], &[0x1A, 4, 0x08, 3, 0x1A, 0]].concat();
    assert_eq!(
        error(frame(&message)),
        "at byte 9: user record 0 has partition_key_index 3, but the table has 1 entries"
    );
    assert_eq!(error(frame(&[0x1A, 2, 0x08, 0])), "at byte 6: user record 0 has no data");
    assert_eq!(error(frame(&[0x1A, 2, 0x1A, 0])), "at byte 6: user record 0 has no partition_key_index");
    assert_eq!(error(frame(&[0x0A, 9, b'k'])), "at byte 5: the message ends within a field");
    assert_eq!(error(frame(&[0x0A, 2, b'k', 0xFF])), "at byte 7: a string is not UTF-8");
    assert_eq!(error(frame(&[0x08, 1])), "at byte 4: field 1 has the invalid wire type 0");
    assert_eq!(error(frame(&[0x29, 0, 0])), "at byte 7: the message ends within an unknown field");
    assert_eq!(error(frame(&[0x35, 0, 0, 0])), "at byte 8: the message ends within an unknown field");
    let long = |last: u8| [&[0x28][..], &[0xFF; 9], &[last]].concat();
    assert_eq!(error(frame(&long(2))), "at byte 5: a varint has more than 64 bits");
    assert_eq!(error(frame(&long(0x81))), "at byte 5: a varint has more than 64 bits");
    assert_eq!(decode(frame(&long(1))), Ok(vec![]), "a varint of 64 bits is valid");
    assert_eq!(error(frame(&[0x00, 1])), "at byte 4: field number 0 is not from 1 to 536870911");
    let field_2_to_the_29 = [0x80, 0x80, 0x80, 0x80, 0x10, 1];
    assert_eq!(error(frame(&field_2_to_the_29)), "at byte 4: field number 536870912 is not from 1 to 536870911");
    let record_with_tag = [0x1A, 9, 0x08, 0, 0x1A, 0, 0x22, 3, 0x0A, 1, 0xFF];
    assert_eq!(error(frame(&record_with_tag)), "at byte 14: a string is not UTF-8");
    assert_eq!(
        error(frame(&[0x12, 2, b'-', b'1'])),
        "at byte 6: the explicit hash key \"-1\" is not a decimal number below 2^128"
    );
}

#[test]
fn aggregated_records_are_recognized_by_the_magic_number() {
    for plain in [&b""[..], b"plain", &MAGIC[..3]] {
        assert!(!is_aggregated(plain));
        assert!(decode(plain.to_vec()).unwrap_err().kind.is_plain_record());
    }
    let broken = [&MAGIC[..], b"but not an aggregate"].concat();
    assert!(is_aggregated(&broken));
    assert!(!decode(broken).unwrap_err().kind.is_plain_record());
}

#[test]
fn unknown_fields_are_skipped() {
    let message = [
        &[0x20, 1][..],                                       // field 4, a varint
        &[0x29, 0, 0, 0, 0, 0, 0, 0, 0],                      // field 5, eight bytes
        &[0x35, 0, 0, 0, 0],                                  // field 6, four bytes
        &[0x0A, 1, b'k'],                                     // the partition key table
        &[0x1A, 9, 0x08, 0, 0x1A, 1, b'd', 0x22, 2, 0x0A, 0], // a record with a tag
        &[0x35, 0, 0, 0, 0],                                  // field 6 as the last one
    ]
    .concat();
    assert_eq!(decode(frame(&message)), Ok(vec![record("k", None, b"d")]));
}
