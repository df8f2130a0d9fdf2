//! No log event, at any level and of any crate, has a record's data or a secret, and neither has the `Debug` output of any
//! type that a program may log. The subscriber is global, so this test is in a program of its own.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kpl_emulator::Faults;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::driver::{BatchRecord, Config, Producer, UserRecord, block_on};
use crate::rig::{SECRETS, emulator, producer};

const DATA: &str = "the-payload-of-a-record";

/// Keeps every field of every event and span, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines(String);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut lines = self.0.lock().unwrap();
        writeln!(lines.0, "\n{} {}", event.metadata().level(), event.metadata().target()).unwrap();
        event.record(&mut *lines);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        attributes.record(&mut *self.0.lock().unwrap());
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut *self.0.lock().unwrap());
    }
}

impl Visit for Lines {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

/// The forms in which a log could have `text`: as it is, in base64 at each offset, as a list of numbers, and in hexadecimal.
fn forms(text: &str) -> Vec<String> {
    let base64 = (0..3).map(|offset| {
        let encoded = STANDARD.encode([&vec![0; offset], text.as_bytes()].concat());
        encoded[4..20].to_owned() // the first and the last characters depend on the bytes around
    });
    let numbers = format!("{:?}", text.as_bytes());
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    base64.chain([text.to_owned(), numbers[1..40].to_owned(), hex]).collect()
}

/// Puts records, and logs all that a program has in its hands.
async fn put(producer: &Producer, stream: &str) {
    let record = UserRecord::new(stream, "key", DATA);
    tracing::debug!(?record, ?producer);
    let mut outcomes = vec![producer.put_record(record).await.unwrap()];
    for n in 0..9 {
        outcomes.push(producer.put(stream, format!("key-{n}"), DATA).await.unwrap());
    }
    // Too large for an aggregate.
    outcomes.push(producer.put(stream, "large", DATA.repeat(5_000)).await.unwrap());
    tracing::debug!(?outcomes);
    producer.flush().await;
    for outcome in outcomes {
        tracing::debug!(result = ?outcome.await);
    }
    let refused = producer.put(stream, "", DATA).await.unwrap_err();
    let batch = producer.put_batch(stream, [BatchRecord::new("", DATA)]).await.unwrap_err();
    tracing::debug!(?refused, %refused, ?batch, %batch);
}

#[test]
fn no_log_event_has_the_data_of_a_record_or_a_secret() {
    let log = Log::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone())).unwrap();
    block_on(async {
        let (emulator, server) = emulator();
        let producer = producer(&server.url(), Config::builder());
        put(&producer, "events").await;
        put(&producer, "missing").await;
        emulator.set_faults(Faults { internal_failure_rate: 0.5, ..Faults::default() });
        put(&producer, "events").await;
        producer.close().await;
        assert_eq!((producer.stats().user_records_succeeded, producer.stats().user_records_failed), (22, 11));
    });

    let lines = std::mem::take(&mut log.0.lock().unwrap().0);
    for expected in
        ["TRACE aws_", "PutRecords", "ERROR kpl_driver", "ResourceNotFoundException", "UserRecord {", "BatchRecord {"]
    {
        assert!(lines.contains(expected), "{expected} is missing in {} bytes", lines.len());
    }
    for form in [DATA].iter().chain(&SECRETS).flat_map(|text| forms(text)) {
        let at = lines.find(&form);
        assert!(
            at.is_none(),
            "{form} is in the log: {}",
            lines[at.unwrap().saturating_sub(500)..].get(..600).unwrap_or_default()
        );
    }
}
