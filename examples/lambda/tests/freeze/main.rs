//! The functions in an execution environment that is frozen (SIGSTOP) after each invocation and thawed (SIGCONT) for the
//! next one. Kinesis is an emulator in the test's process.

mod lambda;
mod path;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use kpl_emulator::consumer::read_stream;
use kpl_emulator::{Emulator, Faults, Options, Server};
use serde_json::{Value, json};
use tokio::time::sleep;

use self::lambda::Environment;
use self::path::{Cut, Path};

/// The function with a flush, of `src/main.rs`.
const FUNCTION: &str = env!("CARGO_BIN_EXE_kpl-example-lambda");

/// The function that responds when its records are accepted.
const WITHOUT_FLUSH: &str = env!("CARGO_BIN_EXE_without-flush");

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

const FREEZE: Duration = Duration::from_millis(500);

/// Kinesis, and the path to it.
struct World {
    emulator: Emulator,
    path: Path,
    _server: Server,
}

impl World {
    async fn new() -> Self {
        let emulator = Emulator::new(Options::default()).with_stream("events", 2);
        let server = Server::start(&emulator).await.unwrap();
        let path = Path::to(server.addr()).await;
        Self { emulator, path, _server: server }
    }

    /// Returns the data of all records that a consumer reads, and the number of duplicates.
    fn stored(&self) -> (HashSet<String>, usize) {
        let records = self.emulator.with(|kinesis, _now| read_stream(kinesis, "events").records);
        let count = records.len();
        let data: HashSet<_> =
            records.into_iter().map(|record| String::from_utf8(record.data.to_vec()).unwrap()).collect();
        let duplicates = count - data.len();
        (data, duplicates)
    }
}

/// Returns an event with 100 records, whose data names the invocation.
fn event(invocation: usize) -> Value {
    let record = |n| json!({ "key": format!("user-{n}"), "data": data(invocation, n) });
    json!({ "records": (0..100).map(record).collect::<Vec<_>>() })
}

fn data(invocation: usize, n: usize) -> String {
    format!("invocation {invocation}, record {n}")
}

/// Returns the data of all records of these invocations.
fn all_of(invocations: impl IntoIterator<Item = usize>) -> HashSet<String> {
    invocations.into_iter().flat_map(|invocation| (0..100).map(move |n| data(invocation, n))).collect()
}

#[tokio::test]
async fn all_records_are_stored_when_the_function_is_frozen() {
    let world = World::new().await;
    let mut environment = Environment::start(FUNCTION, world.path.address).await;
    for invocation in 0..3 {
        let answer = environment.invoke(event(invocation), TIMEOUT).await;
        assert_eq!(answer, Ok(json!({ "stored": 100 })));
        assert_eq!(world.stored(), (all_of(0..=invocation), 0));
        sleep(FREEZE).await;
    }
    assert_eq!(environment.shut_down().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_flush_records_are_missing_while_the_function_is_frozen_and_expire() {
    let world = World::new().await;
    let mut environment = Environment::start(WITHOUT_FLUSH, world.path.address).await;
    for invocation in 0..2 {
        let answer = environment.invoke(event(invocation), TIMEOUT).await;
        assert_eq!(answer, Ok(json!({ "accepted": 100 })));
        // Longer than the function's `record_ttl`.
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.stored(), (HashSet::new(), 0), "after invocation {invocation}");
    }
    environment.shut_down().await;
    assert_eq!(world.stored(), (HashSet::new(), 0));
}

#[tokio::test]
async fn connections_that_were_closed_while_the_function_was_frozen_cost_no_record() {
    let (_, duplicates) = invocations_with_cuts(Cut::Closed).await;
    assert_eq!(duplicates, 0);
}

#[tokio::test]
async fn connections_that_died_silently_while_the_function_was_frozen_cost_one_timeout() {
    let (longest, _) = invocations_with_cuts(Cut::Forgotten).await;
    println!("longest invocation: {longest:?}");
    let request_timeout = Duration::from_secs(2);
    assert!((request_timeout..request_timeout * 2).contains(&longest), "{longest:?}");
}

/// Invokes the function three times, and cuts its connections after each. Checks that all records are stored. Returns the
/// time of the longest invocation, and the number of duplicates.
async fn invocations_with_cuts(cut: Cut) -> (Duration, usize) {
    let world = World::new().await;
    let mut environment = Environment::start(FUNCTION, world.path.address).await;
    let mut longest = Duration::ZERO;
    for invocation in 0..3 {
        let start = Instant::now();
        let answer = environment.invoke(event(invocation), TIMEOUT).await;
        longest = longest.max(start.elapsed());
        assert_eq!(answer, Ok(json!({ "stored": 100 })));
        assert!(world.path.cut(cut) > 0, "there is a connection to cut");
        sleep(FREEZE).await;
    }
    let (stored, duplicates) = world.stored();
    assert_eq!(stored, all_of(0..3));
    (longest, duplicates)
}

#[tokio::test]
async fn a_flush_does_not_wait_for_other_records() {
    let world = World::new().await;
    let mut environment = Environment::start(FUNCTION, world.path.address).await;
    let mut shortest = Duration::MAX;
    for invocation in 0..10 {
        let start = Instant::now();
        environment.invoke(event(invocation), TIMEOUT).await.unwrap();
        shortest = shortest.min(start.elapsed());
    }
    println!("shortest invocation: {shortest:?}");
    assert!(shortest < Duration::from_millis(100), "{shortest:?}");
}

#[tokio::test]
async fn the_function_answers_before_its_deadline_and_what_is_left_is_sent_at_shutdown() {
    let world = World::new().await;
    let mut environment = Environment::start(FUNCTION, world.path.address).await;
    world.emulator.set_faults(Faults { http_500_rate: 1.0, ..Faults::default() });
    let function_timeout = Duration::from_secs(2);
    let start = Instant::now();
    let error = environment.invoke(event(0), function_timeout).await.unwrap_err();
    assert!(start.elapsed() < function_timeout, "{:?}", start.elapsed());
    assert_eq!(error["errorMessage"], "100 records are not stored yet");
    assert_eq!(world.stored(), (HashSet::new(), 0));

    // A process that ends at once does not get the reply, and its records are not stored.
    world.emulator.set_faults(Faults { latency: Duration::from_millis(50), ..Faults::default() });
    sleep(FREEZE).await;
    assert_eq!(environment.shut_down().await.code(), Some(0));
    assert_eq!(world.stored(), (all_of([0]), 0));
}

#[tokio::test]
async fn an_event_of_six_megabytes_fits_into_the_smallest_function() {
    let world = World::new().await;
    let mut environment = Environment::start(FUNCTION, world.path.address).await;
    let at_start = environment.memory_max();
    let records: Vec<_> = (0..6_000).map(|n| json!({ "key": n.to_string(), "data": "x".repeat(950) })).collect();
    let answer = environment.invoke(json!({ "records": records }), TIMEOUT).await;
    assert_eq!(answer, Ok(json!({ "stored": 6_000 })));
    println!("resident memory: {} MiB at the start, {} MiB at most", at_start >> 20, environment.memory_max() >> 20);
    assert!(environment.memory_max() < 128_000_000);
}
