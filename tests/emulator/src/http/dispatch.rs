//! One request to its operation, and the result to its reply.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Emulator;
use super::format::Format;
use crate::{Kinesis, ServiceError};

/// The reply is lost: the connection, or HTTP/2's stream, is closed without it.
#[derive(Debug, thiserror::Error)]
#[error("the reply is lost, as asked for")]
pub(super) struct Lost;

const TARGET_PREFIX: &str = "Kinesis_20131202.";

/// The service takes 10 MiB of records, which base64 makes a third larger; beyond that, nothing is read.
const BODY_MAX: usize = 32 << 20;

pub(super) async fn answer(request: Request<Incoming>, emulator: Emulator) -> Result<Response<Full<Bytes>>, Lost> {
    let mut response = handle_reply(request, &emulator).await?;
    if let Ok(id) = HeaderValue::try_from(emulator.request_id()) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    Ok(response)
}

async fn handle_reply(request: Request<Incoming>, emulator: &Emulator) -> Result<Response<Full<Bytes>>, Lost> {
    if request.method() == Method::GET {
        return Ok(reply(StatusCode::OK, "text/plain", "kinesis emulator: ok\n".into()));
    }
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.strip_prefix(TARGET_PREFIX)).and_then(Operation::parse);
    let unknown = target.unwrap_or_default().to_owned();
    let format = Format::of(request.headers());
    // Asking for the body is what answers `Expect: 100-continue`.
    let body = match http_body_util::Limited::new(request.into_body(), BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(error_reply(format, &ServiceError::serialization(format!("the body: {error}")))),
    };
    let Some(operation) = operation else {
        return Ok(error_reply(format, &ServiceError::unknown_operation(format!("{unknown:?} is not an operation"))));
    };
    let fate = emulator.with(|kinesis, _| kinesis.admit(operation.name()));
    if fate.delay > Duration::ZERO {
        tokio::time::sleep(fate.delay).await;
    }
    if fate.http_500 {
        return Ok(error_reply(format, &ServiceError::internal_failure("Internal service failure.")));
    }
    if let Some(error) = &fate.error {
        return Ok(error_reply(format, error));
    }
    let result = operation.run(format, &body, emulator);
    if fate.drop_reply {
        return Err(Lost);
    }
    Ok(match result {
        Ok(body) => reply(StatusCode::OK, format.content_type(), body.into()),
        Err(error) => error_reply(format, &error),
    })
}

macro_rules! operations {
    ($($name:ident => |$kinesis:ident, $now:ident, $request:ident| $call:expr;)*) => {
        /// An operation of the service.
        #[derive(Clone, Copy)]
        enum Operation { $($name,)* }

        impl Operation {
            fn parse(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn run(self, format: Format, body: &[u8], emulator: &Emulator) -> Result<Vec<u8>, ServiceError> {
                match self {
                    $(Self::$name => carry_out(format, body, emulator, |$kinesis, $now, $request| $call),)*
                }
            }
        }
    };
}

operations! {
    CreateStream => |kinesis, now, request| kinesis.create_stream(now, &request);
    DeleteStream => |kinesis, _now, request| kinesis.delete_stream(&request);
    DescribeStream => |kinesis, now, request| kinesis.describe_stream(now, &request);
    DescribeStreamSummary => |kinesis, now, request| kinesis.describe_stream_summary(now, &request);
    GetRecords => |kinesis, now, request| kinesis.get_records(now, &request);
    GetShardIterator => |kinesis, now, request| kinesis.get_shard_iterator(now, &request);
    ListShards => |kinesis, now, request| kinesis.list_shards(now, &request);
    ListStreams => |kinesis, _now, request| kinesis.list_streams(&request);
    MergeShards => |kinesis, now, request| kinesis.merge_shards(now, &request);
    PutRecord => |kinesis, now, request| kinesis.put_record(now, request);
    PutRecords => |kinesis, now, request| kinesis.put_records(now, request);
    SplitShard => |kinesis, now, request| kinesis.split_shard(now, &request);
    UpdateMaxRecordSize => |kinesis, _now, request| kinesis.update_max_record_size(&request);
    UpdateShardCount => |kinesis, now, request| kinesis.update_shard_count(now, &request);
    UpdateStreamRecordDistributionStrategy => |kinesis, _now, request| kinesis.update_record_distribution(&request);
}

/// Reads the request, has it done, and writes the reply; only the doing is under the lock.
fn carry_out<Q: DeserializeOwned, A: Serialize>(
    format: Format,
    body: &[u8],
    emulator: &Emulator,
    operation: impl FnOnce(&mut Kinesis, Duration, Q) -> Result<A, ServiceError>,
) -> Result<Vec<u8>, ServiceError> {
    let request = format.read::<Q>(body)?;
    let answer = emulator.with(|kinesis, now| operation(kinesis, now, request))?;
    format.write(&answer)
}

fn error_reply(format: Format, error: &ServiceError) -> Response<Full<Bytes>> {
    // Two strings can be written; and the code stands in a header, too.
    let body = format.write(&serde_json::json!({ "__type": error.code, "message": error.message }));
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply(status, format.content_type(), body.unwrap_or_default().into());
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(error.code));
    response
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
