//! A web service that puts request bodies into a stream: axum on tokio.
//!
//! ```text
//! kpl emulator --stream events:4 &
//! export AWS_ENDPOINT_URL=http://127.0.0.1:4567 AWS_REGION=us-east-1
//! export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
//! cargo run -p kpl-tokio --example axum
//!
//! curl -id hello http://127.0.0.1:3000/events/user-123            # 202 at once
//! curl -id hello http://127.0.0.1:3000/events/user-123/stored     # 200 with shard and sequence number
//! ```

use std::error::Error;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use kpl_tokio::{Producer, PutError};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

const STREAM: &str = "events";

/// The largest record that any stream accepts, 10 MiB. The producer checks the limit of this stream.
const BODY_BYTES_MAX: usize = 10 << 20;

/// The time limit for requests at shutdown, and then for records. Supervisors usually grant 30 seconds in total.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let producer = Producer::from_env().await?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    serve(listener, producer, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
    .await?;
    Ok(())
}

/// Serves until `stop` ends. Then it waits for requests in flight, and then for outstanding records.
pub(crate) async fn serve(
    listener: TcpListener,
    producer: Producer,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(listener, router(producer.clone())).with_graceful_shutdown(async {
        stop.await;
        let _ = stopping.send(());
    });
    tokio::select! {
        served = server.into_future() => served?,
        // A client that never ends its request must not block the shutdown.
        () = async { let _ = stopped.await; tokio::time::sleep(DRAIN_TIMEOUT).await } => {}
    }
    producer.close_or_fail(DRAIN_TIMEOUT).await;
    Ok(())
}

pub(crate) fn router(producer: Producer) -> Router {
    Router::new()
        .route("/events/{key}", post(put))
        .route("/events/{key}/stored", post(put_stored))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(producer)
}

/// Responds at once. The record is sent, even if the client disconnects.
async fn put(State(producer): State<Producer>, Path(key): Path<String>, data: Bytes) -> Response {
    match producer.try_put(STREAM, key, data) {
        Ok(_outcome) => StatusCode::ACCEPTED.into_response(),
        Err(error) => refused(&error),
    }
}

/// Responds when the record is stored or has failed.
async fn put_stored(State(producer): State<Producer>, Path(key): Path<String>, data: Bytes) -> Response {
    let outcome = match producer.try_put(STREAM, key, data) {
        Ok(outcome) => outcome,
        Err(error) => return refused(&error),
    };
    match outcome.await {
        Ok(receipt) => {
            let location = json!({ "shard": receipt.shard_id(), "sequence_number": receipt.sequence_number() });
            Json(location).into_response()
        }
        Err(failure) => {
            // After an ambiguous failure, a client that repeats the request may store a duplicate.
            let body = json!({ "error": failure.to_string(), "is_ambiguous": failure.is_ambiguous() });
            (StatusCode::BAD_GATEWAY, Json(body)).into_response()
        }
    }
}

/// Refuses the request instead of queueing it while the producer is full. The client can retry it.
fn refused(error: &PutError) -> Response {
    match error {
        PutError::Invalid { .. } => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], error.to_string()).into_response(),
    }
}
