//! The HTTP server: awsJson1_1, which all AWS SDKs and the AWS CLI use, and CBOR, which the SDKs for Java use.

mod dispatch;
mod format;
mod server;

pub use server::{Server, serve_connection};
