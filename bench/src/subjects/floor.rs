//! The floor: the least work that the wire format and the protocol require.

use std::io::{Read, Write};

use anyhow::{Context, ensure};
use base64_simd::STANDARD;
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::setup::Measured;
use crate::usage::Start;
use crate::work::{KEY_SIZE, Work};

/// Does the least work in one thread: the key's MD5, one copy into an aggregate of 50 KiB and its MD5 (not for a record
/// too large to be aggregated), base64, the body's SHA-256 for the signature, and a request and its reply. Computes MD5
/// in SIMD lanes, as kpl does, or one message at a time.
pub(super) fn run(url: &str, work: &Work, lanes: bool) -> anyhow::Result<Measured> {
    const AGGREGATE: usize = 51_200;
    const AGGREGATES: usize = 24;
    const KEYS: usize = 16;
    // The bytes of the protobuf fields of a key and of a record.
    const FIELDS: usize = 11;
    let address = url.strip_prefix("http://").context("the URL does not begin with http://")?;
    let mut connection = std::net::TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    let source = work.source();
    let record_size = work.record_size() as usize + FIELDS;
    let is_unaggregated = 2 * record_size > AGGREGATE;
    let new = || {
        let mut aggregate = Vec::with_capacity(AGGREGATE + 16);
        aggregate.extend_from_slice(b"\xF3\x89\x9A\xC2");
        aggregate
    };

    let start = Start::now();
    let (mut aggregates, mut body, mut stored) = (vec![new()], String::new(), 0_u64);
    let mut in_body = 0;
    let mut keys = Vec::with_capacity(KEYS);
    let mut checked = 0_u8;
    for n in 0..work.records {
        let (key, data) = (work.key(n), work.data(&source, n));
        in_body += 1;
        if is_unaggregated {
            append_record(&mut body, &data);
        } else if let Some(aggregate) = aggregates.last_mut() {
            aggregate.extend_from_slice(&[10, KEY_SIZE as u8]);
            aggregate.extend_from_slice(key.as_bytes());
            aggregate.extend_from_slice(&[26, 0, 0, 8, 0, 0, 26, 0, 0]);
            aggregate.extend_from_slice(&data);
        }
        let last = n + 1 == work.records;
        keys.push(key);
        if last || keys.len() == KEYS {
            let mut digests = [[0; 16]; KEYS];
            md5(lanes, keys.iter().map(String::as_bytes).zip(&mut digests));
            checked ^= digests[0][0];
            keys.clear();
        }
        let is_full = match aggregates.last() {
            _ if is_unaggregated => body.len() + record_size * 4 / 3 > AGGREGATES * AGGREGATE * 4 / 3,
            Some(aggregate) if aggregate.len() + record_size + 16 > AGGREGATE => {
                let is_full = aggregates.len() == AGGREGATES;
                if !is_full && !last {
                    aggregates.push(new());
                }
                is_full
            }
            _ => false,
        };
        if last || is_full {
            if !is_unaggregated {
                let mut digests = [[0; 16]; AGGREGATES];
                md5(lanes, aggregates.iter().map(|aggregate| &aggregate[4..]).zip(&mut digests));
                for (mut aggregate, digest) in aggregates.drain(..).zip(digests) {
                    aggregate.extend_from_slice(&digest);
                    append_record(&mut body, &aggregate);
                }
                aggregates.push(new());
            }
            body.push_str("}],\"StreamName\":\"bench\"}");
            checked ^= Sha256::digest(&body)[0];
            request(&mut connection, address, &body)?;
            stored += in_body;
            in_body = 0;
            body.clear();
        }
    }
    std::hint::black_box(checked);
    Ok(Measured { usage: start.usage(), stored, ..Measured::default() })
}

fn md5<'a>(lanes: bool, messages: impl Iterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
    if lanes {
        kpl_md5::digest_each(messages);
    } else {
        messages.for_each(|(message, digest)| *digest = Md5::digest(message).into());
    }
}

/// Appends a Kinesis record to a request's body.
fn append_record(body: &mut String, data: &[u8]) {
    body.push_str(if body.is_empty() { "{\"Records\":[{\"Data\":\"" } else { "},{\"Data\":\"" });
    STANDARD.encode_append(data, body);
    body.push_str("\",\"PartitionKey\":\"a\",\"ExplicitHashKey\":\"170141183460469231731687303715884105728\"");
}

/// Sends a request, and reads the reply.
fn request(connection: &mut std::net::TcpStream, host: &str, body: &str) -> anyhow::Result<()> {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nx-amz-target: Kinesis_20131202.PutRecords\r\n\
         content-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())?;
    let mut reply = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let size = connection.read(&mut buffer)?;
        ensure!(size > 0, "the emulator has closed the connection");
        reply.extend_from_slice(&buffer[..size]);
        let Some(end) = reply.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(&reply));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no content-length")?;
        if reply.len() == end + 4 + length.trim().parse::<usize>()? {
            return Ok(());
        }
    }
}
