//! The formats of requests and replies: JSON and CBOR.

use hyper::HeaderMap;
use hyper::header::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ServiceError;

/// The format of a request and of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Cbor,
}

const CBOR: &str = "application/x-amz-cbor-1.1";

impl Format {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if headers.get(CONTENT_TYPE).is_some_and(|value| value == CBOR) { Self::Cbor } else { Self::Json }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/x-amz-json-1.1",
            Self::Cbor => CBOR,
        }
    }

    /// Parses a request. An empty body is a request without fields.
    pub(super) fn read<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, ServiceError> {
        match self {
            Self::Json => {
                let body = if body.is_empty() { b"{}" } else { body };
                serde_json::from_slice(body).map_err(|error| ServiceError::serialization(error.to_string()))
            }
            Self::Cbor => {
                let body = if body.is_empty() { &[0xA0] } else { body };
                ciborium::from_reader(body).map_err(|error| ServiceError::serialization(error.to_string()))
            }
        }
    }

    pub(super) fn write<T: Serialize>(self, reply: &T) -> Result<Vec<u8>, ServiceError> {
        match self {
            Self::Json => serde_json::to_vec(reply).map_err(|error| ServiceError::internal_failure(error.to_string())),
            Self::Cbor => {
                let mut body = Vec::new();
                let written = ciborium::into_writer(reply, &mut body);
                written.map_err(|error| ServiceError::internal_failure(error.to_string()))?;
                Ok(body)
            }
        }
    }
}
