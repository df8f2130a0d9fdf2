//! No log event, at any level and of any crate, has a record's data. The subscriber is global, so this test is in a
//! program of its own.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kpl_emulator::Faults;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::driver::{Config, Producer, block_on};
use crate::rig::{emulator, producer};

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

/// The forms in which a log could have the data: text, base64 at each offset, and lists of numbers.
fn forms() -> Vec<String> {
    let base64 = (0..3).map(|offset| {
        let encoded = STANDARD.encode([&vec![0; offset], DATA.as_bytes()].concat());
        encoded[4..24].to_owned() // the first and the last characters depend on the bytes around
    });
    let numbers = format!("{:?}", DATA.as_bytes());
    let hex: String = DATA.bytes().map(|byte| format!("{byte:02x}")).collect();
    base64.chain([DATA.to_owned(), numbers[1..40].to_owned(), hex]).collect()
}

async fn put(producer: &Producer, stream: &str) {
    for n in 0..10 {
        drop(producer.put(stream, format!("key-{n}"), DATA).await.unwrap());
    }
    // Too large for an aggregate.
    drop(producer.put(stream, "large", DATA.repeat(5_000)).await.unwrap());
    producer.flush().await;
}

#[test]
fn no_log_event_has_the_data_of_a_record() {
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
    for expected in ["TRACE aws_", "PutRecords", "ERROR kpl_driver", "ResourceNotFoundException"] {
        assert!(lines.contains(expected), "{expected} is missing in {} bytes", lines.len());
    }
    for form in forms() {
        let at = lines.find(&form);
        assert!(
            at.is_none(),
            "{form} is in the log: {}",
            lines[at.unwrap().saturating_sub(500)..].get(..600).unwrap_or_default()
        );
    }
}
