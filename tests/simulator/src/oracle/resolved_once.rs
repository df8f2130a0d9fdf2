use kpl_core::{Instant, RecordResult};

use super::{Broken, Check, Facts, Place, Put, State, broken};
use crate::subject::Counts;

const PROMISE: &str = "every accepted record is resolved exactly once, and the producer is empty after the close";

pub(super) fn unknown(ticket: u64) -> Broken {
    Broken { promise: PROMISE, how: format!("ticket {ticket} was never put") }
}

/// Sets the state of an offered record to accepted, refused or timed out.
pub(super) fn decided(put: &mut Put, ticket: u64, state: State) -> Check {
    if put.state != State::Offered {
        return broken!("the state of record {ticket} changes from {:?} to {state:?}", put.state);
    }
    put.state = state;
    Ok(())
}

pub(super) fn resolved(put: &mut Put, ticket: u64, result: &RecordResult) -> Check {
    if put.state != State::Accepted {
        return broken!("record {ticket} is resolved, but its state is {:?}", put.state);
    }
    put.state = match result {
        Ok(receipt) => State::Succeeded(Place {
            shard_id: receipt.shard_id().into(),
            sequence_number: receipt.sequence_number().into(),
            sub_sequence_number: receipt.sub_sequence_number().unwrap_or(0),
        }),
        Err(failure) => State::Failed { ambiguous: failure.is_ambiguous() },
    };
    Ok(())
}

/// Checks the producer's counts, and that nothing is outstanding after the deadline of a close.
pub(super) fn step(facts: &Facts, now: Instant, counts: &Counts) -> Check {
    let (records, bytes) = (facts.outstanding_records, facts.outstanding_bytes);
    if (counts.records, counts.bytes) != (records, bytes) {
        return broken!(
            "{records} records and {bytes} bytes are outstanding, but the producer counts {} and {}",
            counts.records,
            counts.bytes
        );
    }
    if let Some(in_flight) = counts.in_flight
        && in_flight != facts.in_flight
    {
        return broken!("{} requests are in flight, but the producer counts {in_flight}", facts.in_flight);
    }
    if counts.oldest.is_some() != (records > 0) || counts.oldest.is_some_and(|oldest| oldest > now) {
        return broken!("{records} records are outstanding, and the time of the oldest is {:?}", counts.oldest);
    }
    if now >= facts.close_deadline + facts.late && records > 0 {
        return broken!("{records} records are outstanding after the deadline of the close");
    }
    Ok(())
}

pub(super) fn judge(facts: &Facts, puts: &[Put], closed: bool) -> Check {
    if let Some(ticket) = puts.iter().position(|put| matches!(put.state, State::Accepted | State::Offered)) {
        return broken!("at the end of the run, the state of record {ticket} is {:?}", puts[ticket].state);
    }
    if facts.in_flight > 0 {
        return broken!("at the end of the run, {} requests are in flight", facts.in_flight);
    }
    if !closed {
        return broken!("at the end of the run, the close is not complete");
    }
    Ok(())
}

/// Checks the producer's totals. `expected` is the numbers of records that were accepted, succeeded and failed.
pub(super) fn totals(counts: &Counts, expected: [u64; 3]) -> Check {
    let stats = &counts.stats;
    let counted = [stats.user_records_put, stats.user_records_succeeded, stats.user_records_failed];
    if counted != expected {
        return broken!("{expected:?} records were put, succeeded and failed, but the producer counts {counted:?}");
    }
    Ok(())
}
