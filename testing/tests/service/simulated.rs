//! The service on kpl's simulated runtime, with Kinesis in the same process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kpl_driver::Runtime;
use kpl_testing::simulation::Host;
use kpl_testing::{Faults, Kinesis, Simulation};
use tokio::sync::oneshot;

use crate::service::{Bug, Event, STREAM, Service};
use crate::{Report, check_seeds, find_bug};

/// The place of the service: its host, which changes after a crash.
type Place = Arc<Mutex<(Host, Arc<Service<Host>>)>>;

#[derive(Default)]
struct Notes {
    confirmed: Vec<(String, String)>,
    accepted: Vec<(String, String)>,
    unanswered: usize,
}

fn world(seed: u64, bug: Bug, has_crashes: bool) -> (Report, Notes) {
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
            let producer = kinesis.producer_on(&host, Service::<Host>::config(seed));
            (host, Service::new(producer, bug))
        }
    };
    let place: Place = Arc::new(Mutex::new(start_service(simulation.host())));
    let notes = Arc::<Mutex<Notes>>::default();
    let clients: Vec<_> = (0..3)
        .map(|client| {
            let (done, end) = oneshot::channel();
            let (host, place, notes, seed) = (simulation.host(), place.clone(), notes.clone(), rng.u64(..));
            host.clone().spawn(async move {
                run_client(client, &host, &place, &notes, Rng::with_seed(seed)).await;
                let _ = done.send(());
            });
            end
        })
        .collect();
    let crashes: Vec<Duration> =
        (0..if has_crashes { 2 } else { 0 }).map(|_| Duration::from_millis(rng.u64(100..4_000))).collect();
    let number_of_crashes = crashes.len();
    let chaos = simulation.host();
    let (hosts, place_to_drain) = ([simulation.host(), simulation.host()], place.clone());
    simulation.run(async move {
        for (crash, next) in crashes.into_iter().zip(hosts) {
            chaos.sleep(crash).await;
            let crashed = place.lock().unwrap().0.clone();
            crashed.crash();
            *place.lock().unwrap() = start_service(next);
        }
        for client in clients {
            let _ = client.await;
        }
        let service = place_to_drain.lock().unwrap().1.clone();
        service.drain().await;
    });
    let notes = std::mem::take(&mut *notes.lock().unwrap());
    let confirmed = kinesis.compare(STREAM, notes.confirmed.clone());
    (Report { confirmed, unanswered: notes.unanswered, crashes: number_of_crashes }, notes)
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
    check_seeds("simulated runtime", 100, |seed| world(seed, Bug::None, true).0);
}

#[test]
fn what_is_accepted_is_stored_after_the_drain() {
    for seed in 0..20 {
        let (report, notes) = world(seed, Bug::None, false);
        assert_eq!(report.confirmed.put, notes.confirmed.len());
        let all: Vec<_> = notes.confirmed.iter().chain(&notes.accepted).cloned().collect();
        assert!(all.len() > 80, "{} of 90 were accepted", all.len());
    }
}

#[test]
fn the_planted_bug_is_found() {
    find_bug("simulated runtime", 100, |seed| world(seed, Bug::ConfirmsTooEarly, true).0);
}

#[test]
fn the_same_seed_is_the_same_world() {
    assert_eq!(world(1, Bug::None, true).0, world(1, Bug::None, true).0);
    assert_ne!(world(1, Bug::None, true).0, world(2, Bug::None, true).0);
}
