//! The drive loop sleeps unless there is something to do.

use std::time::Duration;

use kpl_core::Config;
use tokio::time::sleep;

use crate::rig::{Rig, Service, ms};

#[tokio::test(start_paused = true)]
async fn an_idle_producer_wakes_never() {
    let (rig, service) = (Rig::new(), Service::answering_after(ms(5)));
    let producer = service.producer_on(rig.clone(), Config::default());
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(rig.sleeps(), 0);

    producer.put("events", "k", "x").await.unwrap().await.unwrap();
    sleep(Duration::from_secs(3_600)).await;
    let settled = rig.sleeps();
    sleep(Duration::from_secs(24 * 3_600)).await;
    assert_eq!(rig.sleeps(), settled);
}

#[tokio::test(start_paused = true)]
async fn most_puts_wake_nobody() {
    let (rig, service) = (Rig::new(), Service::answering_after(ms(5)));
    let producer = service.producer_on(rig.clone(), Config::default());
    producer.put("events", "k", "x").await.unwrap().await.unwrap(); // now the shards are known
    sleep(Duration::from_secs(60)).await;
    let before = rig.sleeps();
    for n in 0..400 {
        drop(producer.put("events", format!("{n}"), "x").await.unwrap());
        tokio::task::yield_now().await; // whoever was woken runs
    }
    assert!(rig.sleeps() - before <= 2, "{} sleeps for 400 puts in one buffer time", rig.sleeps() - before);
    producer.flush().await;
}
