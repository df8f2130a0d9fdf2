//! Errors as the service says them.

/// An error of the service: its code, and a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ServiceError {
    /// For instance `ResourceNotFoundException`.
    pub code: &'static str,
    /// In words.
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
    /// A refusal for want of a permission, as IAM words it.
    pub fn denied(operation: &str) -> Self {
        Self::access_denied(format!(
            "User: arn:aws:iam::000000000000:user/any is not authorized to perform: kinesis:{operation}"
        ))
    }

    /// The status that goes with the code on HTTP: 500 for `InternalFailure`, 400 for all others.
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
