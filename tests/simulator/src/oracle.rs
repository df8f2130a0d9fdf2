//! What a user was promised, against what a user was told and what a consumer reads.

use std::collections::BTreeMap;
use std::time::Duration;

use kpl_core::{Instant, RecordResult};
use kpl_emulator::Kinesis;
use kpl_emulator::consumer::{self, OutOfRange};

/// A record that the producer took.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) at: Instant,
    pub(crate) result: Option<RecordResult>,
}

/// Where consumers find a record: shard, sequence number, sub-sequence number.
type Place = (String, String, u64);

/// All records of a run, by ticket. A record's ticket stands in its partition key or data.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) puts: Vec<Put>,
    pub(crate) resolved: u64,
    pub(crate) succeeded: u64,
}

impl Oracle {
    /// A record was taken.
    pub(crate) fn taken(&mut self, at: Instant) {
        self.puts.push(Put { at, result: None });
    }

    /// *Every accepted record is resolved exactly once, in time.*
    pub(crate) fn resolve(
        &mut self,
        now: Instant,
        ticket: u64,
        result: RecordResult,
        longest: Duration,
    ) -> Result<(), String> {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| format!("ticket {ticket} was never given"))?;
        if put.result.is_some() {
            return Err(format!("record {ticket} is resolved twice"));
        }
        let took = now.saturating_since(put.at);
        if took > longest {
            return Err(format!(
                "record {ticket} took {took:?}, more than its time-to-live and a time-out: {longest:?}"
            ));
        }
        self.resolved += 1;
        self.succeeded += u64::from(result.is_ok());
        put.result = Some(result);
        Ok(())
    }

    /// What was told, against what is in the streams.
    pub(crate) fn judge(&self, kinesis: &Kinesis, streams: &[String]) -> Result<(), String> {
        let mut read: BTreeMap<u64, Vec<Place>> = BTreeMap::new();
        for stream in streams {
            // As the KCL's code reads, not as its comments say.
            for record in consumer::read_stream_with(kinesis, stream, OutOfRange::DropsAggregate).records {
                let ticket = ticket_of(&record.partition_key, &record.data);
                let Some(ticket) = ticket else { continue };
                read.entry(ticket).or_default().push((
                    record.shard_id,
                    record.sequence_number,
                    record.sub_sequence_number,
                ));
            }
        }
        let nowhere = Vec::new();
        for (ticket, put) in self.puts.iter().enumerate() {
            let places = read.get(&(ticket as u64)).unwrap_or(&nowhere);
            let Some(result) = &put.result else { return Err(format!("record {ticket} is never resolved")) };
            judge_one(places, result)
                .map_err(|error| format!("record {ticket} {error}: read at {places:?}, told {result:?}"))?;
        }
        Ok(())
    }
}

fn judge_one(places: &[Place], result: &RecordResult) -> Result<(), &'static str> {
    let ambiguous = match result {
        Ok(receipt) => {
            // *Success means that a consumer reads it where the receipt says.*
            let told = (&*receipt.shard_id, &*receipt.sequence_number, receipt.sub_sequence_number.unwrap_or(0));
            if !places.iter().any(|(shard, number, sub)| (shard.as_str(), number.as_str(), *sub) == told) {
                return Err("succeeded, and consumers do not find it where the receipt says");
            }
            receipt.attempts.iter().any(kpl_core::Attempt::is_ambiguous)
        }
        Err(failure) => failure.is_ambiguous(),
    };
    // *A failure without an ambiguous attempt means that no consumer ever sees it; without one, nothing is read twice.*
    match (ambiguous, result.is_ok(), places.len()) {
        (false, false, 1..) => Err("failed for certain, and consumers read it"),
        (false, true, 2..) => Err("is read twice, though no attempt was ambiguous"),
        _ => Ok(()),
    }
}

/// The partition key of what other producers put.
pub(crate) const OTHERS: &str = "others";

fn ticket_of(partition_key: &str, data: &[u8]) -> Option<u64> {
    if partition_key == OTHERS {
        return None;
    }
    partition_key
        .strip_prefix('#')
        .and_then(|ticket| ticket.parse().ok())
        .or_else(|| Some(u64::from_le_bytes(data.get(..8)?.try_into().ok()?)))
}
