//! A connection pool that is replaced after a timeout.
//!
//! A path can die without a reset, for example when a firewall forgets its connections. All idle connections of the
//! path are dead then. One timeout shows it. Without a new pool, each retry would wait for the timeout of another dead
//! connection.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::errors::{NeverConnected, is_unconnected};
use crate::runtime::AwsRuntime;

/// Returns an HTTP client that sends requests with a client of `new_pool`, and with a new one after a timeout: the
/// connections that were idle at that time are not used again.
///
/// Requests under way end in their pool. Requests that time out together replace it once. A request that is dropped
/// counts as timed out, since the SDK's timeouts drop it. A connection attempt that times out does not count: it says
/// nothing about connections that exist.
///
/// A replaced client is dropped on a thread of its own, because an HTTP client may wait for its threads.
///
/// `driver/examples/smol.rs` in the repository uses it.
pub fn fresh_pool_after_timeout<R: AwsRuntime>(
    new_pool: impl Fn() -> SharedHttpClient + Send + Sync + 'static,
) -> SharedHttpClient {
    let current = Mutex::new(Pool::new(new_pool()));
    let pools = Pools { new_pool: Box::new(new_pool), current, never_connected: R::never_connected };
    SharedHttpClient::new(FreshPool(Arc::new(pools)))
}

#[derive(Clone, Debug)]
struct FreshPool(Arc<Pools>);

/// The pool of new requests, and what replaces it.
struct Pools {
    new_pool: Box<dyn Fn() -> SharedHttpClient + Send + Sync>,
    current: Mutex<Arc<Pool>>,
    never_connected: NeverConnected,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Pools {
    /// Replaces `pool`, unless it has been replaced before.
    fn replace(&self, pool: &Arc<Pool>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, pool) {
            *current = Pool::new((self.new_pool)());
            pool.is_replaced.store(true, Ordering::Relaxed);
        }
    }
}

impl HttpClient for FreshPool {
    fn http_connector(&self, settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let pool = self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connector = pool.client().http_connector(settings, parts);
        SharedHttpConnector::new(Connector { connector, pool, pools: self.0.clone() })
    }
}

/// A client with its connections.
#[derive(Debug)]
struct Pool {
    /// `None` only in `drop`.
    client: Option<SharedHttpClient>,
    is_replaced: AtomicBool,
}

impl Pool {
    fn new(client: SharedHttpClient) -> Arc<Self> {
        Arc::new(Self { client: Some(client), is_replaced: AtomicBool::new(false) })
    }

    fn client(&self) -> &SharedHttpClient {
        self.client.as_ref().unwrap_or_else(|| unreachable!("only `drop` takes the client"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let client = self.client.take();
        if *self.is_replaced.get_mut() {
            // Without a thread, the client is dropped here.
            let _ = thread::Builder::new().spawn(move || drop(client));
        }
    }
}

#[derive(Clone, Debug)]
struct Connector {
    // Refers to the pool's client, so it is dropped before the pool.
    connector: SharedHttpConnector,
    pool: Arc<Pool>,
    pools: Arc<Pools>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { connector, pool, pools } = self.clone();
        HttpConnectorFuture::new(async move {
            let mut in_flight = InFlight { pool, pools, timed_out: true };
            let connector = connector; // dropped before the pool
            let result = connector.call(request).await;
            let never_connected = in_flight.pools.never_connected;
            in_flight.timed_out =
                result.as_ref().is_err_and(|error| error.is_timeout() && !is_unconnected(error, never_connected));
            result
        })
    }
}

/// The guard of a request. Its drop replaces the pool if the request timed out or is dropped before its end.
struct InFlight {
    pool: Arc<Pool>,
    pools: Arc<Pools>,
    timed_out: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.timed_out {
            self.pools.replace(&self.pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use aws_smithy_runtime_api::client::http::http_client_fn;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    /// Ends its requests, each with a new result; with `None`, they never end.
    #[derive(Clone, Copy, Debug)]
    struct Fake(fn() -> Option<Result<HttpResponse, ConnectorError>>);

    impl HttpConnector for Fake {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            match (self.0)() {
                Some(result) => HttpConnectorFuture::ready(result),
                None => HttpConnectorFuture::new(std::future::pending()),
            }
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("not connected")]
    struct NotConnected;

    struct Rig {
        pools: Arc<Pools>,
        created: Arc<AtomicUsize>,
    }

    impl Rig {
        fn new() -> Self {
            let created = Arc::<AtomicUsize>::default();
            let count = created.clone();
            let new_pool = move || {
                count.fetch_add(1, Ordering::Relaxed);
                http_client_fn(|_, _| unreachable!("the tests create their connectors"))
            };
            let current = Mutex::new(Pool::new(new_pool()));
            let never_connected: NeverConnected = |error| error.is::<NotConnected>();
            Self { pools: Arc::new(Pools { new_pool: Box::new(new_pool), current, never_connected }), created }
        }

        /// Starts a request in the current pool.
        fn start(&self, fake: Fake) -> HttpConnectorFuture {
            let pool = self.pools.current.lock().unwrap().clone();
            let connector = SharedHttpConnector::new(fake);
            Connector { connector, pool, pools: self.pools.clone() }.call(HttpRequest::empty())
        }

        fn replaced(&self) -> usize {
            self.created.load(Ordering::Relaxed) - 1
        }
    }

    const TIMES_OUT: Fake = Fake(|| Some(Err(ConnectorError::timeout("no reply".into()))));

    #[tokio::test]
    async fn requests_that_time_out_together_replace_their_pool_once() {
        let rig = Rig::new();
        let requests: Vec<_> = (0..24).map(|_| rig.start(TIMES_OUT)).collect();
        for request in requests {
            request.await.unwrap_err();
        }
        assert_eq!(rig.replaced(), 1);
        rig.start(TIMES_OUT).await.unwrap_err();
        assert_eq!(rig.replaced(), 2);
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_replaces_its_pool() {
        let rig = Rig::new();
        tokio::time::timeout(std::time::Duration::ZERO, rig.start(Fake(|| None))).await.unwrap_err();
        assert_eq!(rig.replaced(), 1);
    }

    #[tokio::test]
    async fn replies_other_errors_and_connections_that_time_out_do_not_replace_the_pool() {
        let rig = Rig::new();
        let reply = || Some(Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::empty())));
        rig.start(Fake(reply)).await.unwrap();
        for error in [
            Fake(|| Some(Err(ConnectorError::io("lost".into())))),
            Fake(|| Some(Err(ConnectorError::timeout(NotConnected.into())))),
        ] {
            rig.start(error).await.unwrap_err();
        }
        assert_eq!(rig.replaced(), 0);
    }
}
