//! A service or a runtime that does not do its part: no record is lost by it, and no outcome stays pending.

use std::time::Duration;

use kpl_core::{Config, code};
use kpl_driver::{Outcome, PutError};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Answer, Fate, Producer, Question, Rig, Service, Spawn, ms};

/// Longer than any time-to-live here.
const PATIENCE: Duration = Duration::from_secs(600);

fn put(producer: &Producer, count: usize) -> Vec<Outcome> {
    (0..count).map(|n| producer.try_put("events", format!("k{n}"), n.to_string()).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn records_wait_for_the_shard_list_until_the_start_timeout_and_for_the_description_until_their_deadline() {
    for (silent, wait) in [(Question::Shards, ms(5_000)), (Question::Summary, ms(100))] {
        let hang = move |question, _| if question == silent { Answer::Hang } else { Answer::Give };
        let service = Service::answering_after(ms(5)).answering(hang);
        let producer = service.producer(Config::builder());
        let start = Instant::now();
        for outcome in put(&producer, 20) {
            let receipt = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap();
            assert_eq!(
                (receipt.sub_sequence_number().is_none(), receipt.attempts().len()),
                (silent == Question::Shards, 1)
            );
        }
        assert!(start.elapsed() >= wait && start.elapsed() < wait + ms(50), "{silent:?}: {:?}", start.elapsed());
        assert_eq!(service.user_records(), 20);
        // Nor does it hold up the end, which drops the question.
        assert_eq!(service.under_way(), 1);
        timeout(ms(100), producer.close()).await.expect("nothing is outstanding");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_question_costs_no_record_and_the_question_is_asked_again() {
    for broken in [Question::Shards, Question::Summary] {
        let panic =
            move |question, before| if (question, before) == (broken, 0) { Answer::Panic } else { Answer::Give };
        let service = Service::answering_after(ms(5)).answering(panic);
        let producer = service.producer(Config::builder());
        for outcome in put(&producer, 20) {
            let receipt = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap();
            assert_eq!(receipt.attempts().len(), 1, "{broken:?}");
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(service.asked(broken), 2, "{broken:?}");
        for outcome in put(&producer, 20) {
            let receipt = outcome.await.unwrap();
            assert!(receipt.sub_sequence_number().is_some(), "what was asked again is known now: {broken:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_question_panicking_for_ever_costs_no_record() {
    let service = Service::answering_after(ms(5)).answering(|_, _| Answer::Panic);
    let producer = service.producer(Config::builder());
    for outcome in put(&producer, 20) {
        timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap();
    }
    assert_eq!(service.stored().len(), 20, "singly, as nothing is known");
}

#[tokio::test(start_paused = true)]
async fn requests_that_panic_for_ever_end_with_the_time_to_live() {
    let service = Service::new(|_| Fate::Panic);
    let producer = service.producer(Config::builder().record_ttl(Duration::from_secs(3)));
    for (n, outcome) in put(&producer, 10).into_iter().enumerate() {
        let failure = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!((&*failure.error.code, &failure.record.data[..]), (code::EXPIRED, n.to_string().as_bytes()));
        assert!(failure.is_ambiguous() && failure.attempts.len() > 1, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_with_a_deadline_drops_questions_too() {
    let service = Service::new(|_| Fate::Hang).answering(|_, _| Answer::Hang);
    let producer = service.producer(Config::builder().record_ttl(Duration::MAX).start_timeout(Duration::ZERO));
    let outcomes = put(&producer, 10);
    sleep(ms(200)).await;
    assert_eq!(service.under_way(), 3);
    timeout(PATIENCE, producer.close_or_fail(ms(100))).await.expect("no close hangs");
    for mut outcome in outcomes {
        assert_eq!(&*outcome.try_result().expect("resolved before close ends").unwrap_err().error.code, code::CLOSED);
    }
    sleep(ms(1)).await;
    assert_eq!((service.under_way(), service.is_in_use()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_runtime_drops_is_retried() {
    let rig = Rig::spawning(|number| if number == 3 { Spawn::Drop } else { Spawn::Run });
    let service = Service::answering_after(ms(5));
    let producer = service.producer_on(rig, Config::default());
    for outcome in put(&producer, 10) {
        let receipt = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap();
        assert_eq!(receipt.attempts().len(), 2);
        assert_eq!(&*receipt.attempts().iter().next().unwrap().error.as_ref().unwrap().code, "Task Ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_drops_whatever_is_beside_the_drive_loop_loses_no_outcome() {
    let rig = Rig::spawning(|number| if number == 0 { Spawn::Run } else { Spawn::Drop });
    let service = Service::answering_after(ms(5));
    let config = Config::builder().record_ttl(Duration::from_secs(3)).build().unwrap();
    let producer = service.producer_on(rig, config);
    for outcome in put(&producer, 10) {
        let failure = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::EXPIRED);
    }
    assert_eq!(service.requests(), 0);
    timeout(PATIENCE, producer.close()).await.expect("no close hangs");
}

#[tokio::test(start_paused = true)]
async fn requests_that_never_run_give_their_records_back_when_they_are_dropped() {
    let rig = Rig::spawning(|number| if number == 0 { Spawn::Run } else { Spawn::Keep });
    let service = Service::answering_after(ms(5));
    let config = Config::builder().record_ttl(Duration::MAX).build().unwrap();
    let producer = service.producer_on(rig.clone(), config);
    let outcomes = put(&producer, 10);
    sleep(ms(500)).await;
    let closing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.close_or_fail(Duration::ZERO).await }
    });
    sleep(ms(1)).await;
    rig.drop_kept();
    for outcome in outcomes {
        let failure = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::CLOSED);
    }
    timeout(PATIENCE, closing).await.expect("no close hangs").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drive_loop_that_is_never_polled_gives_its_records_back_when_it_is_dropped() {
    let rig = Rig::spawning(|_| Spawn::Keep);
    let service = Service::answering_after(ms(5));
    let producer = service.producer_on(rig.clone(), Config::default());
    let outcomes = put(&producer, 10);
    let flushing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    sleep(ms(500)).await;
    rig.drop_kept();
    for outcome in outcomes {
        let failure = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!((&*failure.error.code, failure.is_ambiguous()), (code::CLOSED, false));
    }
    timeout(PATIENCE, flushing).await.expect("no flush hangs").unwrap();
    timeout(PATIENCE, producer.close()).await.expect("no close hangs");
}

#[tokio::test(start_paused = true)]
async fn when_the_drive_loop_is_dropped_every_outcome_put_flush_and_close_ends() {
    let (rig, service) = (Rig::new(), Service::new(|_| Fate::Hang));
    let config = Config::builder().record_ttl(Duration::MAX).max_outstanding_records(15).build().unwrap();
    let producer = service.producer_on(rig.clone(), config);
    let mut outcomes = put(&producer, 10);
    sleep(ms(200)).await; // those are under way,
    assert_eq!(service.under_way(), 1);
    let (flushing, closing) = (producer.clone(), producer.clone());
    let flushing = tokio::spawn(async move { flushing.flush().await });
    sleep(ms(1)).await;
    outcomes.extend(put(&producer, 5)); // those wait for company,
    let waiting: Vec<_> = (0..5)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.put("events", "k", n.to_string()).await })
        })
        .collect(); // and those for room
    sleep(ms(1)).await;
    rig.drop_drive_loop();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let failure = timeout(PATIENCE, outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!((&*failure.error.code, failure.is_ambiguous()), (code::CLOSED, n < 10), "{failure:?}");
    }
    for (n, waiting) in waiting.into_iter().enumerate() {
        let refused = timeout(PATIENCE, waiting).await.expect("no put hangs").unwrap();
        let Err(PutError::Closed { record }) = refused else { panic!("taken") };
        assert_eq!(record.data, n.to_string());
    }
    timeout(PATIENCE, flushing).await.expect("no flush hangs").unwrap();
    timeout(PATIENCE, closing.close()).await.expect("no close hangs");
    assert_eq!((service.under_way(), producer.outstanding_records()), (0, 0));
}
