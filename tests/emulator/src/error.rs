//! Errors of the service.

/// An error of the service: its code, and a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ServiceError {
    /// The code, for example `ResourceNotFoundException`.
    pub code: &'static str,
    /// The message.
    pub message: String,
}

macro_rules! constructors {
    ($($name:ident => $code:literal),* $(,)?) => {
        impl ServiceError {
            $(pub(crate) fn $name(message: impl Into<String>) -> Self {
                Self { code: $code, message: message.into() }
            })*
        }
    };
}

constructors! {
    access_denied => "AccessDeniedException",
    expired_iterator => "ExpiredIteratorException",
    expired_next_token => "ExpiredNextTokenException",
    internal_failure => "InternalFailure",
    invalid_argument => "InvalidArgumentException",
    limit_exceeded => "LimitExceededException",
    resource_in_use => "ResourceInUseException",
    resource_not_found => "ResourceNotFoundException",
    throughput_exceeded => "ProvisionedThroughputExceededException",
    validation => "ValidationException",
}

impl ServiceError {
    /// Returns the error for a missing permission, with the message of IAM.
    pub fn denied(operation: &str) -> Self {
        Self::access_denied(format!(
            "User: arn:aws:iam::000000000000:user/any is not authorized to perform: kinesis:{operation}"
        ))
    }

    /// Returns the HTTP status of the code: 500 for `InternalFailure`, 400 for all others.
    pub fn http_status(&self) -> u16 {
        if self.code == "InternalFailure" { 500 } else { 400 }
    }
}

#[cfg(feature = "http")]
impl ServiceError {
    pub(crate) fn serialization(message: impl Into<String>) -> Self {
        Self { code: "SerializationException", message: message.into() }
    }

    pub(crate) fn unknown_operation(message: impl Into<String>) -> Self {
        Self { code: "UnknownOperationException", message: message.into() }
    }
}
