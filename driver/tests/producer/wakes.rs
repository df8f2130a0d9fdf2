//! The drive loop sleeps while it has nothing to do.

use std::time::Duration;

use kpl_core::Config;
use tokio::time::sleep;

use crate::rig::{Rig, Service, ms};

#[tokio::test(start_paused = true)]
async fn an_idle_producer_never_wakes() {
    let (rig, service) = (Rig::new(), Service::replying_after(ms(5)));
    let producer = service.producer_on(rig.clone(), Config::default());
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!((rig.sleeps(), rig.polls()), (0, 1), "the only poll is the first");

    producer.put("events", "k", "x").await.unwrap().await.unwrap();
    sleep(Duration::from_secs(3_600)).await;
    let before = (rig.sleeps(), rig.polls());
    sleep(Duration::from_secs(24 * 3_600)).await;
    assert_eq!((rig.sleeps(), rig.polls()), before);
}

#[tokio::test(start_paused = true)]
async fn most_puts_do_not_wake_the_drive_loop() {
    let (rig, service) = (Rig::new(), Service::replying_after(ms(5)));
    let producer = service.producer_on(rig.clone(), Config::default());
    producer.put("events", "k", "x").await.unwrap().await.unwrap(); // the shards are known after this
    sleep(Duration::from_secs(60)).await;
    let before = rig.sleeps();
    for n in 0..400 {
        drop(producer.put("events", format!("{n}"), "x").await.unwrap());
        tokio::task::yield_now().await; // let woken tasks run
    }
    assert!(rig.sleeps() - before <= 2, "{} sleeps for 400 puts in one buffer time", rig.sleeps() - before);
    producer.flush().await;
}

#[tokio::test(start_paused = true)]
async fn puts_into_an_open_aggregate_do_not_poll_the_drive_loop() {
    let (rig, service) = (Rig::new(), Service::replying_after(ms(5)));
    let config = Config::builder().record_max_buffered_time(Duration::from_secs(20));
    let producer = service.producer_on(rig.clone(), config.build().unwrap());
    drop(producer.put("events", "k", "x").await.unwrap());
    sleep(Duration::from_secs(1)).await; // the shards are known, and the aggregate is open
    let before = (rig.sleeps(), rig.polls());
    for n in 0..1_000 {
        drop(producer.put("events", format!("{}", n % 10), "x").await.unwrap());
        tokio::task::yield_now().await; // let woken tasks run
    }
    sleep(ms(500)).await;
    assert_eq!((rig.sleeps(), rig.polls()), before);
    producer.flush().await;
    assert_eq!((service.requests(), service.user_records()), (1, 1_001));
}
