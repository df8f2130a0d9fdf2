//! The code of docs/testing.md. The last test checks that the page shows it as it is here.

use std::time::Duration;

use kpl_testing::driver::{Producer, Runtime};
use kpl_testing::{Answer, Faults, Kinesis, Script, Simulation, for_seeds};
use kpl_tokio::Config;

/// The code under test: it stores an event, or returns what to tell the user.
async fn save<R: Runtime>(producer: &Producer<R>, user: &str, event: &str) -> Result<(), String> {
    let outcome = producer.put("events", user, event.to_owned()).await.map_err(|error| error.to_string())?;
    match outcome.await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_ambiguous() => Err("it may be stored".into()),
        Err(failure) => Err(format!("not stored: {}", failure.error.code)),
    }
}

#[tokio::test(start_paused = true)]
async fn the_user_learns_why_an_event_is_not_stored() {
    let script = Script::new([Answer::Stored, Answer::failed("AccessDeniedException")]);
    let producer = script.producer(Config::default());
    assert_eq!(save(&producer, "ann", "login").await, Ok(()));
    assert_eq!(save(&producer, "bob", "login").await, Err("not stored: AccessDeniedException".into()));
    assert_eq!(script.sent()[1].partition_key, "bob");
}

#[test]
fn blocking_code_is_tested_in_the_same_way() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let script = Script::new([Answer::failed("AccessDeniedException")]);
    let producer = kpl_tokio::blocking::Producer::from(script.producer(Config::default()));
    let mut outcome = producer.put("events", "ann", "login").unwrap();
    let error = outcome.wait(Duration::from_secs(10)).unwrap_err();
    assert!(error.to_string().contains("AccessDeniedException"));
}

#[tokio::test(start_paused = true)]
async fn events_of_an_hour_of_throttling_are_stored() {
    let kinesis = Kinesis::new(1).stream("events", 2);
    kinesis.set_faults(Faults { throttle_rate: 0.9, latency: Duration::from_millis(30), ..Faults::default() });
    kinesis.after(Duration::from_secs(60), |kinesis| kinesis.reshard("events", 4).unwrap());
    kinesis.after(Duration::from_secs(3_600), |kinesis| kinesis.set_faults(Faults::default()));
    let producer = kinesis.producer(Config::builder().record_ttl(Duration::from_secs(7_200)).build().unwrap());
    let events: Vec<(&str, String)> = (0..720).map(|n| ("ann", format!("click {n}"))).collect();
    for (user, event) in &events {
        drop(producer.put("events", *user, event.clone()).await.unwrap());
        tokio::time::sleep(Duration::from_secs(5)).await; // an hour in all, and no real time
    }
    producer.close().await;
    kinesis.compare("events", events).assert_exactly_once();
}

#[test]
fn no_saved_event_is_lost_whenever_the_service_crashes() {
    let mut saved = 0;
    for_seeds(0..100, |seed| {
        let simulation = Simulation::new(seed);
        let kinesis = Kinesis::new(seed).stream("events", 2);
        kinesis.set_faults(Faults {
            drop_reply_rate: 0.2,
            latency_jitter: Duration::from_millis(100),
            ..Faults::default()
        });
        let (service, client) = (simulation.host(), simulation.host());
        let producer = kinesis.producer_on(&service, Config::default());
        let (answer, answers) = std::sync::mpsc::channel();
        for n in 0..20 {
            let (producer, answer) = (producer.clone(), answer.clone());
            service.spawn(async move {
                let event = format!("click {n}");
                if save(&producer, "ann", &event).await.is_ok() {
                    answer.send(("ann", event)).unwrap();
                }
            });
        }
        simulation.run(async move {
            client.sleep(Duration::from_millis(seed * 5)).await;
            service.crash(); // earlier or later in each world
        });
        let comparison = kinesis.compare("events", answers.try_iter());
        comparison.assert_none_lost();
        saved += comparison.put;
    });
    assert!(saved > 0);
}

#[test]
fn the_page_shows_this_code() {
    let (page, code) = (include_str!("../../docs/testing.md"), include_str!("guide.rs"));
    let blocks: Vec<&str> = page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 6);
    for block in blocks {
        assert!(code.contains(block), "docs/testing.md has code that is not in this file:\n{block}");
    }
}
