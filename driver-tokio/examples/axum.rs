//! A web service that puts what it is sent: axum on tokio.
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

/// A record of 10 MiB is the largest that any stream takes. The producer knows what this one takes.
const BODY_BYTES_MAX: usize = 10 << 20;

/// What is left of the time that supervisors grant, mostly 30 seconds, goes half to requests and half to records.
const PATIENCE: Duration = Duration::from_secs(12);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let producer = Producer::from_env().await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
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

/// Serves until `stop`; then the requests under way are answered, and then what was put is sent.
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
        // Clients that do not end their requests hold up nobody for ever.
        () = async { let _ = stopped.await; tokio::time::sleep(PATIENCE).await } => {}
    }
    producer.close_or_fail(PATIENCE).await;
    Ok(())
}

pub(crate) fn router(producer: Producer) -> Router {
    Router::new()
        .route("/events/{key}", post(put))
        .route("/events/{key}/stored", post(put_stored))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(producer)
}

/// Answers at once. The record goes out, whatever becomes of the request.
async fn put(State(producer): State<Producer>, Path(key): Path<String>, data: Bytes) -> Response {
    match producer.try_put(STREAM, key, data) {
        Ok(_outcome) => StatusCode::ACCEPTED.into_response(),
        Err(error) => refused(&error),
    }
}

/// Answers when the record is stored, or has failed.
async fn put_stored(State(producer): State<Producer>, Path(key): Path<String>, data: Bytes) -> Response {
    let outcome = match producer.try_put(STREAM, key, data) {
        Ok(outcome) => outcome,
        Err(error) => return refused(&error),
    };
    match outcome.await {
        Ok(receipt) => {
            let place = json!({ "shard": receipt.shard_id(), "sequence_number": receipt.sequence_number() });
            Json(place).into_response()
        }
        Err(failure) => {
            // If it is ambiguous, a client that sends it again may make a duplicate.
            let why = json!({ "error": failure.to_string(), "is_ambiguous": failure.is_ambiguous() });
            (StatusCode::BAD_GATEWAY, Json(why)).into_response()
        }
    }
}

/// A full producer is no reason to queue up requests: clients come back.
fn refused(error: &PutError) -> Response {
    match error {
        PutError::Invalid { .. } => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], error.to_string()).into_response(),
    }
}
