//! A web service that puts request bodies into a stream: tide on async-std.
//!
//! Run an emulated Kinesis in one terminal, the service in another, and a client in a third:
//!
//! ```text
//! cargo run --release -- emulator --port 4567 --stream events:4
//!
//! export AWS_ENDPOINT_URL=http://127.0.0.1:4567 AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x
//! cargo run -p kpl-async-std --example tide
//!
//! curl -i --data hello http://127.0.0.1:8080/events/user-123            # 202 at once
//! curl -i --data hello http://127.0.0.1:8080/events/user-123/stored     # 200 with shard and sequence number
//! ```
//!
//! Without `AWS_ENDPOINT_URL`, the service puts to Amazon Kinesis. SIGTERM or Ctrl-C ends it without losing a record.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_signal::{Signal, Signals};
use async_std::channel::{Sender, bounded};
use async_std::future::timeout;
use async_std::net::TcpListener;
use async_std::prelude::{FutureExt, StreamExt};
use kpl_async_std::{Outcome, Producer, PutError, PutFailure, code};
use tide::listener::Listener;
use tide::prelude::json;
use tide::{Middleware, Next, Request, Response, StatusCode};

/// The stream of the events.
pub const STREAM: &str = "events";

/// The time limit for requests at shutdown, and then for records.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let producer = Producer::from_env().await?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut signals = Signals::new([Signal::Term, Signal::Int])?;
    serve(listener, producer, async move {
        let _ = signals.next().await;
    })
    .await?;
    Ok(())
}

/// Serves until `stop` ends. Then it refuses new requests and waits for requests in flight and for outstanding records.
///
/// # Errors
///
/// An error of the listener.
pub async fn serve(listener: TcpListener, producer: Producer, stop: impl Future<Output = ()>) -> io::Result<()> {
    let (in_flight, all_done) = bounded::<()>(1);
    let gate = Gate(Arc::new(Mutex::new(Some(in_flight))));
    let mut app = tide::with_state(producer.clone());
    app.with(gate.clone());
    app.at("/events/:key").post(put);
    app.at("/events/:key/stored").post(put_stored);
    let mut listener = app.bind(listener).await?;
    let stopped = async {
        stop.await;
        Ok(())
    };
    listener.accept().race(stopped).await?;

    drop(listener); // refuses new connections
    gate.close(); // refuses new requests on open connections
    let _ = timeout(DRAIN_TIMEOUT, all_done.recv()).await;
    producer.close_or_fail(DRAIN_TIMEOUT).await;
    Ok(())
}

/// Puts the event and responds at once, without its result.
async fn put(mut request: Request<Producer>) -> tide::Result {
    Ok(match try_put(&mut request).await? {
        Ok(_) => Response::new(StatusCode::Accepted),
        Err(error) => refused(&error),
    })
}

/// Puts the event and responds when it is stored or has failed.
async fn put_stored(mut request: Request<Producer>) -> tide::Result {
    let outcome = match try_put(&mut request).await? {
        Ok(outcome) => outcome,
        Err(error) => return Ok(refused(&error)),
    };
    Ok(match outcome.await {
        Ok(receipt) => {
            let stored = json!({ "shard": receipt.shard_id(), "sequence_number": receipt.sequence_number() });
            Response::builder(StatusCode::Ok).body(stored).build()
        }
        Err(failure) => failed(&failure),
    })
}

/// Puts the event of a request. If the producer is full, it does not wait: the client can retry the request.
async fn try_put(request: &mut Request<Producer>) -> tide::Result<Result<Outcome, PutError>> {
    let data = request.body_bytes().await?;
    let key = request.param("key")?;
    Ok(request.state().try_put(STREAM, key, data))
}

fn refused(error: &PutError) -> Response {
    match error {
        PutError::Invalid { .. } => Response::builder(StatusCode::BadRequest),
        _ => Response::builder(StatusCode::ServiceUnavailable).header("retry-after", "1"),
    }
    .body(json!({ "error": error.to_string() }))
    .build()
}

fn failed(failure: &PutFailure) -> Response {
    let in_time = &*failure.error.code != code::EXPIRED;
    let status = if in_time { StatusCode::BadGateway } else { StatusCode::GatewayTimeout };
    // After an ambiguous failure, the event may be in the stream.
    let body = json!({ "error": failure.to_string(), "ambiguous": failure.is_ambiguous() });
    Response::builder(status).body(body).build()
}

/// Accepts requests until it is closed. Each request has a clone of the sender, which is dropped after the response. So
/// the channel closes when all requests are done.
#[derive(Clone)]
struct Gate(Arc<Mutex<Option<Sender<()>>>>);

impl Gate {
    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[tide::utils::async_trait]
impl Middleware<Producer> for Gate {
    async fn handle(&self, request: Request<Producer>, next: Next<'_, Producer>) -> tide::Result {
        let in_flight = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(in_flight) = in_flight else {
            return Ok(Response::builder(StatusCode::ServiceUnavailable).header("connection", "close").build());
        };
        let mut response = next.run(request).await;
        response.insert_ext(in_flight); // dropped when the response is written
        Ok(response)
    }
}
