//! The service: it puts events that its clients send into a stream.

use std::sync::Arc;

use kpl_driver::{Producer, PutError, Runtime};
use kpl_testing::core::{Config, Ordering};

pub(crate) const STREAM: &str = "events";

/// A request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) user: String,
    pub(crate) body: String,
    /// Whether the answer waits until the event is stored.
    pub(crate) confirm: bool,
}

/// A bug that is planted in the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// It drops the outcome before the answer, so it confirms events that are not stored yet.
    ConfirmsTooEarly,
    /// It ends without a wait for the events that are not stored yet.
    DoesNotDrain,
}

/// The service. It works on any runtime.
pub(crate) struct Service<R> {
    producer: Producer<R>,
    bug: Bug,
}

impl<R: Runtime> Service<R> {
    pub(crate) fn new(producer: Producer<R>, bug: Bug) -> Arc<Self> {
        Arc::new(Self { producer, bug })
    }

    pub(crate) fn config() -> Config {
        Config::builder().ordering(Ordering::PerKey).build().expect("the settings are valid")
    }

    /// Handles a request, and returns an HTTP status: 202 if the event is accepted, 200 if it is stored.
    pub(crate) async fn handle(&self, event: Event) -> u16 {
        if !event.confirm {
            return match self.producer.try_put(STREAM, event.user, event.body) {
                Ok(_) => 202,
                Err(PutError::Invalid { .. }) => 400,
                Err(_) => 503,
            };
        }
        let outcome = match self.producer.put(STREAM, event.user, event.body).await {
            Ok(outcome) => outcome,
            Err(PutError::Invalid { .. }) => return 400,
            Err(_) => return 503,
        };
        if self.bug == Bug::ConfirmsTooEarly {
            drop(outcome);
            return 200;
        }
        match outcome.await {
            Ok(_) => 200,
            Err(_) => 502,
        }
    }

    /// Ends the service, as at SIGTERM: waits until all events are stored or have failed.
    pub(crate) async fn drain(&self) {
        if self.bug != Bug::DoesNotDrain {
            self.producer.close().await;
        }
    }
}
