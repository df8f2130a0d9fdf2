//! Log events. Every test of this program needs a subscriber, because a test without one would disable events for the
//! others.

#[path = "../producer/rig.rs"]
mod rig;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{Config, Delivery, RequestError, UserRecord};
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use rig::{Behavior, MetadataRequest, Service, ms};

/// Counts events by level and message.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<(Level, String), usize>>>);

impl Counts {
    fn start() -> (Self, DefaultGuard) {
        let counts = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(counts.clone()));
        (counts, guard)
    }

    fn of(&self, level: Level, message: &str) -> usize {
        self.0.lock().unwrap().get(&(level, message.to_owned())).copied().unwrap_or_default()
    }

    fn total(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }
}

impl<S: Subscriber> Layer<S> for Counts {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("kpl") {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        *self.0.lock().unwrap().entry((*event.metadata().level(), message.0)).or_default() += 1;
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_throttled_replies_in_a_second_cause_one_warning() {
    let (counts, _guard) = Counts::start();
    // Each of the first 1,000 requests has one record, each for a different shard.
    let service = Service::new(|request| if request < 1_000 { Behavior::Throttle } else { Behavior::Store(ms(5)) })
        .with_shards(1_000);
    let config = Config::builder().collection_max_count(1).aggregation_enabled(false);
    let producer = service.producer(config);
    let start = Instant::now();
    let outcomes: Vec<_> = (0..1_000)
        .map(|shard| {
            let record = UserRecord::new("events", "k", "x").explicit_hash_key(service.start_of(shard).to_string());
            producer.try_put_record(record).unwrap()
        })
        .collect();
    while service.requests() < 1_000 {
        sleep(ms(1)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for outcome in outcomes {
        assert_eq!(outcome.await.unwrap().attempts().len(), 2);
    }
    assert_eq!(counts.of(Level::WARN, "throttled: the rate of the shards is reduced"), 1);
    assert_eq!(counts.of(Level::INFO, "shard map refreshed"), 1);
    assert_eq!(counts.of(Level::INFO, "stream described"), 1);
    assert_eq!(counts.total(), 3, "{:?}", counts.0);
}

#[tokio::test(start_paused = true)]
async fn a_refreshed_shard_map_is_one_event_and_records_are_none() {
    let (counts, _guard) = Counts::start();
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder());
    for n in 0..1_000 {
        drop(producer.put("events", format!("{n}"), "x").await.unwrap());
    }
    producer.close().await;
    assert_eq!((service.metadata_requests(MetadataRequest::ListShards), service.user_records()), (1, 1_000));
    assert_eq!(counts.of(Level::INFO, "shard map refreshed"), 1);
    assert_eq!(counts.total(), 2, "the second event is the described stream: {:?}", counts.0);
}

#[tokio::test(start_paused = true)]
async fn refused_records_are_an_error_although_their_outcomes_are_dropped() {
    let (counts, _guard) = Counts::start();
    let refused = || RequestError::new(Delivery::Refused, "AccessDeniedException", "no");
    let service = Service::new(move |_| Behavior::Fail(refused()));
    let producer = service.producer(Config::builder());
    for n in 0..10_000 {
        drop(producer.put("events", format!("key-{n}"), "x").await.unwrap());
    }
    producer.flush().await;
    assert_eq!(producer.stats().user_records_failed, 10_000);
    assert_eq!(counts.of(Level::ERROR, "records failed"), 1);
}
