use std::sync::Arc;

use kpl_emulator::Kinesis;
use kpl_emulator::api::PutRecordsEntry;
use kpl_emulator::consumer::{OutOfRange, deaggregate};
use rustc_hash::FxHashMap;

use super::{Check, Facts, Place, Put, State, as_put, broken, order};
use crate::workload::ticket_of;

const PROMISE: &str = "a consumer with the KCL's rules reads a successful record where its receipt says, never reads a \
                       record that failed without an ambiguous attempt, and reads no record twice if every reply \
                       arrived";

/// The records that consumers read. They follow the KCL's code, which differs from its comments.
#[derive(Debug, Default)]
pub(super) struct Consumed {
    /// The places of unresolved records in deleted streams.
    unresolved: FxHashMap<u64, Vec<Place>>,
}

impl Consumed {
    /// Reads a stream from its beginning to its end.
    pub(super) fn read(
        &mut self,
        kinesis: &Kinesis,
        stream: &str,
        facts: &Facts,
        puts: &mut [Put],
        order: &mut order::Order,
    ) -> Check {
        let mut shard = (String::new(), Arc::<str>::from(""));
        for (shard_id, range, record) in kinesis.records(stream) {
            if shard.0 != shard_id {
                shard = (shard_id.to_owned(), shard_id.into());
            }
            let sequence_number = Arc::<str>::from(&*record.sequence_number);
            let mut check = Ok(());
            let range = if facts.options.config.any_shard { (0, u128::MAX) } else { range };
            deaggregate(range, &record.partition_key, &record.data, OutOfRange::DropsAggregate, |user| {
                if check.is_err() {
                    return;
                }
                let Some(ticket) = ticket_of(user.partition_key, user.data) else { return };
                let place = Place {
                    shard_id: shard.1.clone(),
                    sequence_number: sequence_number.clone(),
                    sub_sequence_number: user.sub_sequence_number,
                };
                // A record that is not aggregated is always sent with its hash key, given or computed.
                let by_key = || kpl_core::hash_key(user.partition_key);
                let explicit = if user.aggregated {
                    user.explicit_hash_key
                } else {
                    record.explicit_hash_key.filter(|sent| *sent != by_key())
                };
                check = match puts.get_mut(ticket as usize) {
                    Some(put) => {
                        order.read(facts, put, ticket);
                        as_put::read(put, ticket, user.partition_key, explicit, user.data)
                            .and_then(|()| self.found(put, ticket, place))
                    }
                    None => broken!("record {ticket} is read but was never put"),
                };
                if user.sub_sequence_number >= facts.options.config.aggregation_max_count as u64 {
                    check = broken!("an aggregate has {} records, more than allowed", user.sub_sequence_number + 1);
                }
            });
            check?;
        }
        Ok(())
    }

    fn found(&mut self, put: &mut Put, ticket: u64, place: Place) -> Check {
        put.reads += 1;
        match &put.state {
            State::Succeeded(receipt) => {
                put.read_at_receipt |= *receipt == place;
                Ok(())
            }
            State::Failed { .. } => Ok(()),
            State::Accepted => {
                self.unresolved.entry(ticket).or_default().push(place);
                Ok(())
            }
            state => broken!("record {ticket} is read, but its state is {state:?}"),
        }
    }

    /// Compares the results of all records with what consumers read.
    pub(super) fn judge(&mut self, puts: &mut [Put]) -> Check {
        for (ticket, places) in self.unresolved.drain() {
            let put = &mut puts[ticket as usize];
            if let State::Succeeded(receipt) = &put.state {
                put.read_at_receipt |= places.contains(receipt);
            }
        }
        for (ticket, put) in puts.iter().enumerate() {
            judge_one(put, ticket)?;
        }
        Ok(())
    }
}

fn judge_one(put: &Put, ticket: usize) -> Check {
    if put.spans_recreation {
        return Ok(());
    }
    match &put.state {
        State::Succeeded(receipt) if !put.read_at_receipt && !put.has_unnamed_shard => {
            broken!("record {ticket} succeeded at {receipt:?}, but consumers do not read it there")
        }
        State::Failed { ambiguous: false } if put.reads > 0 => {
            broken!("record {ticket} failed without an ambiguous attempt, but consumers read it")
        }
        State::Succeeded(_) | State::Failed { .. } if put.reads > 1 && !put.unanswered => {
            broken!("record {ticket} is read {} times although every reply arrived", put.reads)
        }
        _ => Ok(()),
    }
}

/// Returns the tickets of the user records in a request.
pub(super) fn tickets(records: &[PutRecordsEntry]) -> Vec<u64> {
    let mut tickets = Vec::new();
    for record in records {
        deaggregate((0, u128::MAX), &record.partition_key, &record.data, OutOfRange::DropsItself, |user| {
            tickets.extend(ticket_of(user.partition_key, user.data));
        });
    }
    tickets
}
