//! A web service that puts what it is sent into a stream, with tide.
//!
//! An emulated Kinesis in one terminal, the service in another, and a client in a third:
//!
//! ```text
//! cargo run --release -- emulator --port 4567 --stream events:4
//!
//! export AWS_ENDPOINT_URL=http://127.0.0.1:4567 AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x
//! cargo run -p kpl-async-std --example tide
//!
//! curl -i --data hello http://127.0.0.1:8080/events/user-123            # 202: it is on its way
//! curl -i --data hello http://127.0.0.1:8080/events/user-123/stored     # 200: where it is stored
//! ```
//!
//! Without the first of these variables, it is your Kinesis. SIGTERM, or Ctrl-C, ends it without losing a record.

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

/// The stream that the events go to.
pub const STREAM: &str = "events";

/// How long requests get at the end to be answered, and then records to be stored.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let producer = Producer::from_env().await?;
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut signals = Signals::new([Signal::Term, Signal::Int])?;
    serve(listener, producer, async move {
        let _ = signals.next().await;
    })
    .await?;
    Ok(())
}

/// Serves until `stop` ends; then answers the requests under way, and none after them, and stores what was taken.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve(listener: TcpListener, producer: Producer, stop: impl Future<Output = ()>) -> io::Result<()> {
    let (inside, nobody_inside) = bounded::<()>(1);
    let gate = Gate(Arc::new(Mutex::new(Some(inside))));
    let mut app = tide::with_state(producer.clone());
    app.with(gate.clone());
    app.at("/events/:key").post(put);
    app.at("/events/:key/stored").post(put_and_wait);
    let mut listener = app.bind(listener).await?;
    let stopped = async {
        stop.await;
        Ok(())
    };
    listener.accept().race(stopped).await?;

    drop(listener); // no more connections
    gate.shut(); // and no more requests on those that stand
    let _ = timeout(PATIENCE, nobody_inside.recv()).await;
    producer.close_or_fail(PATIENCE).await;
    Ok(())
}

/// Takes the event and answers at once. What becomes of it, this client does not want to know.
async fn put(mut request: Request<Producer>) -> tide::Result {
    Ok(match take(&mut request).await? {
        Ok(_) => Response::new(StatusCode::Accepted),
        Err(error) => refused(&error),
    })
}

/// Takes the event and answers when it is stored, or will not be.
async fn put_and_wait(mut request: Request<Producer>) -> tide::Result {
    let outcome = match take(&mut request).await? {
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

/// Puts a request's event without waiting for room: a client is better told to come again than kept.
async fn take(request: &mut Request<Producer>) -> tide::Result<Result<Outcome, PutError>> {
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
    // If it is ambiguous, the event may be in the stream all the same.
    let body = json!({ "error": failure.to_string(), "ambiguous": failure.is_ambiguous() });
    Response::builder(status).body(body).build()
}

/// Lets requests in until it is shut. Each takes a copy of the sender along: when the last one is gone, all are answered.
#[derive(Clone)]
struct Gate(Arc<Mutex<Option<Sender<()>>>>);

impl Gate {
    fn shut(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[tide::utils::async_trait]
impl Middleware<Producer> for Gate {
    async fn handle(&self, request: Request<Producer>, next: Next<'_, Producer>) -> tide::Result {
        let inside = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(inside) = inside else {
            return Ok(Response::builder(StatusCode::ServiceUnavailable).header("connection", "close").build());
        };
        let mut response = next.run(request).await;
        response.insert_ext(inside); // it goes when the response is written
        Ok(response)
    }
}
