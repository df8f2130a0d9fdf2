use std::sync::Arc;

use kpl_emulator::Kinesis;
use kpl_emulator::api::PutRecordsEntry;
use kpl_emulator::consumer::{OutOfRange, deaggregate};
use rustc_hash::FxHashMap;

use super::{Facts, Kept, Place, Put, State, as_put, broken};
use crate::workload::ticket_of;

const PROMISE: &str = "success means that a consumer by the KCL's rules reads the record where the receipt says; a \
                       failure without an ambiguous attempt, that none ever does; and with every reply had, nothing is \
                       read twice";

/// What consumers read, as the KCL's code reads, not as its comments say.
#[derive(Debug, Default)]
pub(super) struct Consumed {
    /// Where records that are not resolved yet were read, from streams that are gone.
    early: FxHashMap<u64, Vec<Place>>,
}

impl Consumed {
    /// Reads a stream from its beginning to its end.
    pub(super) fn read(&mut self, kinesis: &Kinesis, stream: &str, facts: &Facts, puts: &mut [Put]) -> Kept {
        let mut shard = (String::new(), Arc::<str>::from(""));
        for (shard_id, range, record) in kinesis.records(stream) {
            if shard.0 != shard_id {
                shard = (shard_id.to_owned(), shard_id.into());
            }
            let sequence_number = Arc::<str>::from(&*record.sequence_number);
            let mut kept = Ok(());
            let range = if facts.options.config.any_shard { (0, u128::MAX) } else { range };
            deaggregate(range, &record.partition_key, &record.data, OutOfRange::DropsAggregate, |user| {
                if kept.is_err() {
                    return;
                }
                let Some(ticket) = ticket_of(user.partition_key, user.data) else { return };
                let place = Place {
                    shard_id: shard.1.clone(),
                    sequence_number: sequence_number.clone(),
                    sub_sequence_number: user.sub_sequence_number,
                };
                // A record that went alone was sent with its hash key, whether that was given or not.
                let by_key = || kpl_core::hash_key(user.partition_key);
                let explicit = if user.aggregated {
                    user.explicit_hash_key
                } else {
                    record.explicit_hash_key.filter(|sent| *sent != by_key())
                };
                kept = match puts.get_mut(ticket as usize) {
                    Some(put) => as_put::read(put, ticket, user.partition_key, explicit, user.data)
                        .and_then(|()| self.found(put, ticket, place)),
                    None => broken!("a record is read that nobody put: {ticket}"),
                };
                if user.sub_sequence_number >= facts.options.config.aggregation_max_count as u64 {
                    kept = broken!("an aggregate has more records than allowed: {}", user.sub_sequence_number + 1);
                }
            });
            kept?;
        }
        Ok(())
    }

    fn found(&mut self, put: &mut Put, ticket: u64, place: Place) -> Kept {
        put.reads += 1;
        match &put.state {
            State::Succeeded(told) => {
                put.read_as_told |= *told == place;
                Ok(())
            }
            State::Failed { .. } => Ok(()),
            State::Taken => {
                self.early.entry(ticket).or_default().push(place);
                Ok(())
            }
            state => broken!("record {ticket} is read, and it is {state:?}"),
        }
    }

    /// What was told, against what was read.
    pub(super) fn judge(&mut self, puts: &mut [Put]) -> Kept {
        for (ticket, places) in self.early.drain() {
            let put = &mut puts[ticket as usize];
            if let State::Succeeded(told) = &put.state {
                put.read_as_told |= places.contains(told);
            }
        }
        for (ticket, put) in puts.iter().enumerate() {
            judge_one(put, ticket)?;
        }
        Ok(())
    }
}

fn judge_one(put: &Put, ticket: usize) -> Kept {
    if put.misled {
        return Ok(());
    }
    match &put.state {
        State::Succeeded(told) if !put.read_as_told => {
            broken!("record {ticket} succeeded at {told:?}, and consumers do not find it there")
        }
        State::Failed { ambiguous: false } if put.reads > 0 => {
            broken!("record {ticket} failed for certain, and consumers read it")
        }
        State::Succeeded(_) | State::Failed { .. } if put.reads > 1 && !put.disturbed => {
            broken!("record {ticket} is read {} times, and every reply was had", put.reads)
        }
        _ => Ok(()),
    }
}

/// The tickets of the user records in a request.
pub(super) fn tickets(records: &[PutRecordsEntry]) -> Vec<u64> {
    let mut tickets = Vec::new();
    for record in records {
        deaggregate((0, u128::MAX), &record.partition_key, &record.data, OutOfRange::DropsItself, |user| {
            tickets.extend(ticket_of(user.partition_key, user.data));
        });
    }
    tickets
}
