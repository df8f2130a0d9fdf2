//! Loads the credentials of a transport and keeps them.
//!
//! The SDK's cache loads them inside the request that needs them. So the request's timeout ends the load, the next
//! request starts it again, and a refresh delays all requests. Here, each load is a task of its own. It outlives the
//! request, and all requests wait for the same one, or use the old credentials while these are valid.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::config::{AsyncSleep, ConfigBag, ResolveCachedIdentity, RuntimeComponents, SharedAsyncSleep};
use aws_sdk_kinesis::error::BoxError;
use aws_smithy_async::future::timeout::Timeout;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityCachePartition, IdentityFuture, ResolveIdentity, SharedIdentityResolver,
};
use event_listener::Event;

use crate::aws::errors::one_line;
use crate::aws::request_trace::RequestTrace;
use crate::runtime::AwsRuntime;
use crate::sync::lock;

/// The maximum time of a load: a process that hangs must not be waited for until the program ends. The SDK's own
/// providers give up after about 22 s (`pessimistic_load_timeout` of `aws-smithy-runtime`).
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The time from the end of a load to the next one, if requests wait for it.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The time from a failed load to the next one, while the old credentials are valid.
const REFRESH_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The time before the expiry at which a refresh starts, but at most half of the lifetime.
const REFRESH_BEFORE_EXPIRY: Duration = Duration::from_secs(60);

/// The time until a refresh of credentials that do not expire. That of the SDK (`DEFAULT_EXPIRATION` of
/// `aws-smithy-runtime`).
const REFRESH_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// A failed load. All requests that waited for it have it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("credentials: {0}")]
pub(in crate::aws) struct LoadError(Arc<str>);

impl LoadError {
    /// Creates an error with the text in one line: what a process printed may have several.
    fn new(text: &str) -> Self {
        Self(text.split_whitespace().collect::<Vec<_>>().join(" ").into())
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The credentials of one transport. A clone shares them.
#[derive(Clone, Debug)]
pub(in crate::aws) struct CredentialsCache(Arc<Inner>);

struct Inner {
    /// The provider's partition. A transport has one provider.
    partition: OnceLock<IdentityCachePartition>,
    state: Mutex<State>,
    load_ended: Event,
    time: SharedTimeSource,
    sleep: SharedAsyncSleep,
    spawn: Box<dyn Fn(Task) + Send + Sync>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialsCache")
    }
}

impl CredentialsCache {
    pub(in crate::aws) fn new<R: AwsRuntime>(runtime: &R, time: SharedTimeSource) -> Self {
        let runtime = runtime.clone();
        Self(Arc::new(Inner {
            partition: OnceLock::new(),
            state: Mutex::default(),
            load_ended: Event::new(),
            time,
            sleep: R::sleep_impl(),
            spawn: Box::new(move |task| runtime.spawn(task)),
        }))
    }

    /// Loads the credentials again after the service has refused those with this number, unless they were replaced
    /// since.
    pub(in crate::aws) fn refuse(&self, number: u64) {
        let now = self.0.time.now();
        lock(&self.0.state).refuse(number, now);
    }

    /// Returns the time since the start of the load in progress.
    pub(in crate::aws) fn loading_time(&self) -> Option<Duration> {
        let started = lock(&self.0.state).loading_since?;
        self.0.time.now().duration_since(started).ok()
    }

    /// Returns the credentials, or the error of the last load. Returns `None` if the request has to wait for a load.
    /// Starts one if it is due.
    fn ask(
        &self,
        resolver: &SharedIdentityResolver,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Option<Result<Identity, BoxError>> {
        let now = self.0.time.now();
        let (answer, starts_load) = lock(&self.0.state).ask(now);
        if starts_load {
            (self.0.spawn)(Box::pin(load(LoadGuard::new(self), resolver.clone(), components.clone())));
        }
        match answer {
            Answer::Use(identity, number) => {
                if let Some(trace) = config.load::<RequestTrace>() {
                    trace.set_credentials(number);
                }
                Some(Ok(identity))
            }
            Answer::Fail(error) => Some(Err(error.into())),
            Answer::Wait => None,
        }
    }
}

impl ResolveCachedIdentity for CredentialsCache {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let partition = resolver.cache_partition();
        if *self.0.partition.get_or_init(|| partition) != partition {
            return IdentityFuture::new(async move { resolver.resolve_identity(components, config).await });
        }
        if let Some(answer) = self.ask(&resolver, components, config) {
            return IdentityFuture::ready(answer);
        }
        IdentityFuture::new(async move {
            loop {
                let load_ended = self.0.load_ended.listen(); // before asking, so that no wake-up is lost
                match self.ask(&resolver, components, config) {
                    Some(answer) => return answer,
                    None => load_ended.await,
                }
            }
        })
    }
}

/// Asks the provider. Credentials providers ignore the config of the request, so it is empty.
async fn load(mut guard: LoadGuard, resolver: SharedIdentityResolver, components: RuntimeComponents) {
    let config = ConfigBag::base();
    let sleep = guard.cache.0.sleep.sleep(LOAD_TIMEOUT);
    guard.result = match Timeout::new(resolver.resolve_identity(&components, &config), sleep).await {
        Ok(Ok(identity)) => Ok(identity),
        Ok(Err(error)) => Err(LoadError::new(&one_line(&*error))),
        Err(_) => Err(LoadError::new(&format!("no reply within {LOAD_TIMEOUT:?}"))),
    };
}

/// Ends the load when it is dropped, also if the provider panics or the runtime ends.
struct LoadGuard {
    cache: CredentialsCache,
    result: Result<Identity, LoadError>,
}

impl LoadGuard {
    fn new(cache: &CredentialsCache) -> Self {
        Self { cache: cache.clone(), result: Err(LoadError::new("the task that loads them has ended")) }
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let now = self.cache.0.time.now();
        let has_usable = {
            let mut state = lock(&self.cache.0.state);
            state.end_load(self.result.clone(), now);
            state.usable(now).is_some()
        };
        self.cache.0.load_ended.notify(usize::MAX);
        if let (Err(LoadError(error)), true) = (&self.result, has_usable) {
            tracing::warn!(error = %error, "credentials were not refreshed; the old ones are used until they expire");
        }
    }
}

/// What a request does.
enum Answer {
    Use(Identity, u64),
    Fail(LoadError),
    Wait,
}

/// The credentials, and when they are loaded. The time is given by the caller.
#[derive(Default)]
struct State {
    current: Option<Current>,
    /// The start of the load in progress.
    loading_since: Option<SystemTime>,
    /// The error of the last load, if it failed, and its end.
    failure: Option<(LoadError, SystemTime)>,
}

struct Current {
    identity: Identity,
    /// 1 for the first credentials, and so on.
    number: u64,
    loaded: SystemTime,
    refresh_due: SystemTime,
    /// The end of their use; `None` means never.
    expiry: Option<SystemTime>,
    is_refused: bool,
}

impl State {
    /// Returns what a request does, and whether a load starts.
    fn ask(&mut self, now: SystemTime) -> (Answer, bool) {
        let starts_load = self.loading_since.is_none() && self.is_load_due(now);
        if starts_load {
            self.loading_since = Some(now);
        }
        let answer = match (self.usable(now), &self.failure) {
            (Some(current), _) => Answer::Use(current.identity.clone(), current.number),
            (None, Some((error, _))) if self.loading_since.is_none() => Answer::Fail(error.clone()),
            (None, _) => Answer::Wait,
        };
        (answer, starts_load)
    }

    fn is_load_due(&self, now: SystemTime) -> bool {
        let usable = self.usable(now);
        let pause = if usable.is_some() { REFRESH_RETRY_PAUSE } else { RETRY_PAUSE };
        usable.is_none_or(|current| now >= current.refresh_due)
            && self.failure.as_ref().is_none_or(|&(_, ended)| elapsed(ended, now) >= pause)
    }

    fn usable(&self, now: SystemTime) -> Option<&Current> {
        let has_expired = |current: &Current| current.expiry.is_some_and(|end| now >= end);
        self.current.as_ref().filter(|current| !current.is_refused && !has_expired(current))
    }

    /// Takes the result of a load. If it failed, the old credentials are used until they expire, also if the service
    /// has refused them.
    fn end_load(&mut self, result: Result<Identity, LoadError>, now: SystemTime) {
        self.loading_since = None;
        match result {
            Ok(identity) => {
                let number = self.current.as_ref().map_or(1, |current| current.number + 1);
                (self.current, self.failure) = (Some(Current::new(identity, number, now)), None);
            }
            Err(error) => {
                self.failure = Some((error, now));
                if let Some(current) = &mut self.current {
                    current.is_refused = false;
                }
            }
        }
    }

    /// The next request starts a load, and waits for it, if the refused credentials are the current ones. Not directly
    /// after a load: if it did not help, the service's error is reported.
    fn refuse(&mut self, number: u64, now: SystemTime) {
        let Some(current) = &mut self.current else { return };
        let last_load = self.failure.as_ref().map_or(current.loaded, |&(_, ended)| ended);
        if current.number == number && elapsed(last_load, now) >= RETRY_PAUSE {
            current.is_refused = true;
        }
    }
}

impl Current {
    /// Credentials are used for at least a second, even if they have expired: the clock of this machine may be wrong.
    /// There is no margin before the expiry: requests that the service refuses at that time are retried.
    fn new(identity: Identity, number: u64, now: SystemTime) -> Self {
        let lifetime = identity.expiration().map(|expiry| expiry.duration_since(now).unwrap_or_default());
        let refresh_in = match lifetime {
            Some(lifetime) => lifetime - REFRESH_BEFORE_EXPIRY.min(lifetime / 2),
            None => REFRESH_INTERVAL,
        };
        Self {
            identity,
            number,
            loaded: now,
            refresh_due: now + refresh_in.max(RETRY_PAUSE),
            expiry: lifetime.map(|lifetime| now + lifetime.max(RETRY_PAUSE)),
            is_refused: false,
        }
    }
}

/// Returns the time since an event. If the clock went backwards, that is unknown, and counts as long.
fn elapsed(event: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(event).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: u64 = 3_600;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn identity(expiry: Option<u64>) -> Result<Identity, LoadError> {
        Ok(Identity::new("key", expiry.map(at)))
    }

    fn failed() -> Result<Identity, LoadError> {
        Err(LoadError::new("no"))
    }

    impl State {
        /// Returns a state whose first load has ended at 0 s.
        fn loaded(expiry: Option<u64>) -> Self {
            let mut state = Self::default();
            assert_eq!(state.asked(0), "wait, load");
            state.end_load(identity(expiry), at(0));
            state
        }

        fn asked(&mut self, seconds: u64) -> String {
            let (answer, starts_load) = self.ask(at(seconds));
            let answer = match answer {
                Answer::Use(_, number) => format!("use {number}"),
                Answer::Fail(_) => "fail".to_owned(),
                Answer::Wait => "wait".to_owned(),
            };
            if starts_load { answer + ", load" } else { answer }
        }
    }

    #[test]
    fn all_requests_wait_for_the_first_load() {
        let mut state = State::default();
        assert_eq!([0, 1, 50].map(|time| state.asked(time)), ["wait, load", "wait", "wait"]);
        state.end_load(identity(None), at(50));
        assert_eq!([50, 60].map(|time| state.asked(time)), ["use 1", "use 1"]);
    }

    #[test]
    fn a_failed_load_is_the_answer_for_a_second() {
        let mut state = State::default();
        state.asked(0);
        state.end_load(failed(), at(10));
        assert_eq!([10, 10, 11, 12].map(|time| state.asked(time)), ["fail", "fail", "wait, load", "wait"]);
    }

    #[test]
    fn a_refresh_starts_before_the_expiry_and_the_old_credentials_are_used_meanwhile() {
        for (end, refresh) in [(HOUR, HOUR - 60), (40, 20), (4, 2)] {
            let mut state = State::loaded(Some(end));
            assert_eq!(state.asked(refresh - 1), "use 1");
            assert_eq!([refresh, end - 1, end].map(|time| state.asked(time)), ["use 1, load", "use 1", "wait"]);
            state.end_load(identity(None), at(end));
            assert_eq!(state.asked(end), "use 2");
        }
        let mut state = State::loaded(None);
        assert_eq!([899, 900, 10 * HOUR].map(|time| state.asked(time)), ["use 1", "use 1, load", "use 1"]);
    }

    #[test]
    fn a_failed_refresh_is_repeated_and_the_old_credentials_are_used_until_they_expire() {
        let mut state = State::loaded(Some(HOUR));
        assert_eq!(state.asked(HOUR - 60), "use 1, load");
        state.end_load(failed(), at(HOUR - 55));
        assert_eq!([HOUR - 46, HOUR - 45].map(|time| state.asked(time)), ["use 1", "use 1, load"]);
        state.end_load(failed(), at(HOUR - 1));
        assert_eq!([HOUR - 1, HOUR].map(|time| state.asked(time)), ["use 1", "wait, load"]);
        state.end_load(failed(), at(HOUR + 9));
        assert_eq!([HOUR + 9, HOUR + 10].map(|time| state.asked(time)), ["fail", "wait, load"]);
    }

    #[test]
    fn refused_credentials_are_loaded_again_once() {
        let mut state = State::loaded(None);
        state.refuse(1, at(5));
        assert_eq!([5, 6].map(|time| state.asked(time)), ["wait, load", "wait"]);
        state.refuse(1, at(6));
        state.end_load(identity(None), at(7));
        // Requests that were signed with the old ones fail later.
        state.refuse(1, at(20));
        assert_eq!(state.asked(20), "use 2");
        state.refuse(0, at(20)); // not signed
        assert_eq!(state.asked(20), "use 2");
    }

    #[test]
    fn credentials_that_are_always_refused_are_loaded_at_most_once_a_second() {
        let mut state = State::loaded(None);
        state.refuse(1, at(0));
        assert_eq!(state.asked(0), "use 1");
        state.refuse(1, at(1));
        assert_eq!(state.asked(1), "wait, load");
        // The old ones are used again, so that the error of the service is reported.
        state.end_load(failed(), at(1));
        assert_eq!(state.asked(1), "use 1");
        state.refuse(1, at(1));
        assert_eq!(state.asked(1), "use 1");
        state.refuse(1, at(2));
        assert_eq!(state.asked(2), "wait, load");
    }

    #[test]
    fn expired_credentials_are_used_for_a_second_because_the_clock_may_be_wrong() {
        let mut state = State::loaded(Some(0));
        assert_eq!([0, 1].map(|time| state.asked(time)), ["use 1", "wait, load"]);
    }

    #[test]
    fn a_clock_that_goes_back_delays_no_load() {
        let mut state = State::default();
        state.asked(100);
        state.end_load(failed(), at(100));
        assert_eq!(state.asked(50), "wait, load");
        state.end_load(identity(None), at(50));
        state.refuse(1, at(20));
        assert_eq!(state.asked(20), "wait, load");
    }
}
