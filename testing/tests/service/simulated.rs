//! The service on kpl's simulated runtime, with Kinesis in the same process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kpl_driver::Runtime;
use kpl_testing::simulation::Host;
use kpl_testing::{Comparison, Faults, Kinesis, Simulation, for_seeds};
use tokio::sync::oneshot;

use crate::service::{Bug, Event, STREAM, Service};
use crate::{Report, check_seeds};

/// The service and its host, which change at a restart.
type Place = Arc<Mutex<(Host, Arc<Service<Host>>)>>;

#[derive(Default)]
struct Notes {
    confirmed: Vec<(String, String)>,
    accepted: Vec<(String, String)>,
    unanswered: usize,
}

/// Runs a world with this number of crashes.
fn world(seed: u64, bug: Bug, crashes: usize) -> (Report, Notes, Kinesis) {
    let mut rng = Rng::with_seed(seed);
    let simulation = Simulation::new(seed);
    let kinesis = Kinesis::new(seed).stream(STREAM, 2);
    kinesis.set_faults(Faults {
        throttle_rate: 0.2,
        internal_failure_rate: 0.05,
        http_500_rate: 0.05,
        drop_reply_rate: 0.1,
        latency: Duration::from_millis(5),
        latency_jitter: Duration::from_millis(200),
        ..Faults::default()
    });
    kinesis.after(Duration::from_secs(2), |kinesis| kinesis.reshard(STREAM, 4).unwrap());
    let start_service = {
        let kinesis = kinesis.clone();
        move |host: Host| {
            let producer = kinesis.producer_on(&host, Service::<Host>::config());
            (host, Service::new(producer, bug))
        }
    };
    let place: Place = Arc::new(Mutex::new(start_service(simulation.host())));
    let notes = Arc::<Mutex<Notes>>::default();
    let mut clients = Vec::new();
    for client in 0..3 {
        let (done, end) = oneshot::channel();
        let (host, place, notes, rng) = (simulation.host(), place.clone(), notes.clone(), rng.fork());
        host.clone().spawn(async move {
            run_client(client, &host, &place, &notes, rng).await;
            let _ = done.send(());
        });
        clients.push(end);
    }
    let chaos = simulation.host();
    simulation.run(async move {
        for _ in 0..crashes {
            chaos.sleep(Duration::from_millis(rng.u64(100..4_000))).await;
            let crashed = place.lock().unwrap().0.clone();
            let started = start_service(crashed.restart());
            *place.lock().unwrap() = started;
        }
        for client in clients {
            let _ = client.await;
        }
        let service = place.lock().unwrap().1.clone();
        service.drain().await;
    });
    let notes = std::mem::take(&mut *notes.lock().unwrap());
    let confirmed = kinesis.compare(STREAM, notes.confirmed.clone());
    (Report { confirmed, unanswered: notes.unanswered, crashes }, notes, kinesis)
}

async fn run_client(client: usize, host: &Host, place: &Place, notes: &Mutex<Notes>, mut rng: Rng) {
    for n in 0..30 {
        host.sleep(Duration::from_millis(rng.u64(0..300))).await;
        let event =
            Event { user: format!("user {client}"), body: format!("event {n} of {client}"), confirm: rng.bool() };
        let status = request(place, event.clone()).await;
        let mut notes = notes.lock().unwrap();
        match status {
            Some(200) => notes.confirmed.push((event.user, event.body)),
            Some(202) => notes.accepted.push((event.user, event.body)),
            Some(_) => {}
            None => notes.unanswered += 1,
        }
    }
}

/// Sends a request, as over a network: if the service's host crashes, there is no answer.
async fn request(place: &Place, event: Event) -> Option<u16> {
    let (answer, answered) = oneshot::channel();
    let (host, service) = place.lock().unwrap().clone();
    host.spawn(async move {
        let _ = answer.send(service.handle(event).await);
    });
    answered.await.ok()
}

#[test]
fn what_is_confirmed_is_stored_whatever_crashes() {
    check_seeds("simulated runtime", 100, |seed| world(seed, Bug::None, 2).0.check());
}

#[test]
fn what_is_accepted_is_stored_after_the_drain() {
    for_seeds(0..20, |seed| {
        let (_, notes, kinesis) = world(seed, Bug::None, 0);
        let all: Vec<_> = notes.confirmed.into_iter().chain(notes.accepted).collect();
        assert_eq!(all.len(), 90);
        kinesis.compare(STREAM, all).assert_none_lost();
    });
}

#[test]
fn the_planted_bugs_are_found() {
    let early = |seed| world(seed, Bug::ConfirmsTooEarly, 2).0.confirmed;
    let without_drain = |seed| {
        let (_, notes, kinesis) = world(seed, Bug::DoesNotDrain, 0);
        kinesis.compare(STREAM, notes.accepted)
    };
    for found in [(0..100).map(early).find(is_lost), (0..100).map(without_drain).find(is_lost)] {
        println!("simulated runtime: the planted bug is found: {}", found.expect("a hundred worlds find it"));
    }
}

fn is_lost(comparison: &Comparison) -> bool {
    !comparison.lost.is_empty()
}

#[test]
fn the_same_seed_is_the_same_world() {
    assert_eq!(world(1, Bug::None, 2).0, world(1, Bug::None, 2).0);
    assert_ne!(world(1, Bug::None, 2).0.unanswered, world(2, Bug::None, 2).0.unanswered);
}
