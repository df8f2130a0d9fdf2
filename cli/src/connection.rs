//! The connection to the service: region, endpoint, credentials, TLS.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::future;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{Builder, Credentials, ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use clap::Args;
use kpl_tokio::{http_client, with_current_profile};

/// Options that override what the AWS SDK finds in the environment and in profiles.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The AWS region
    #[arg(long)]
    region: Option<String>,
    /// Use this endpoint instead of the AWS default: an emulator, kinesis-mock, LocalStack, a VPC endpoint
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// The profile in ~/.aws
    #[arg(long)]
    profile: Option<String>,
    /// Sign with dummy credentials, for services that do not check them (default region: us-east-1)
    #[arg(long, conflicts_with = "profile")]
    dummy_credentials: bool,
    /// Also trust the certificate authorities in this PEM file
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    ca_bundle: Option<PathBuf>,
    /// Trust any certificate of the Kinesis endpoint: an attacker on the network can read and change all data. The
    /// certificates of services that return credentials are still verified
    #[arg(long)]
    dangerous_without_certificate_verification: bool,
}

impl Connection {
    /// Returns the connection to an emulator on this machine.
    pub(crate) fn to_emulator(url: String) -> Self {
        Self { endpoint_url: Some(url), dummy_credentials: true, ..Self::default() }
    }

    /// Returns a client with the SDK's retries. Looks up region and credentials, so that a run without them fails here
    /// and not for each line.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let sdk_config = self.sdk_config().await?;
        if sdk_config.region().is_none() {
            return Err(anyhow!("no AWS region is set: give --region, or set AWS_REGION, or `region` in the profile"));
        }
        let provider = sdk_config.credentials_provider().ok_or_else(|| anyhow!("no AWS credentials are set"))?;
        let credentials = provider.provide_credentials().await.map_err(|error| {
            let hint = if self.endpoint_url.is_some() {
                "for a service that does not check them, give --dummy-credentials; otherwise "
            } else {
                ""
            };
            anyhow!(
                "no AWS credentials: {hint}set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --profile ({})",
                chain(&error)
            )
        })?;
        let mut config = Builder::from(&sdk_config).credentials_provider(Found::new(credentials, provider));
        if self.dangerous_without_certificate_verification {
            // Only here: the credentials providers use the HTTP client of `sdk_config`, and send it secrets.
            config.set_http_client(Some(http_client::dangerous_without_certificate_verification()));
        }
        Ok(Client::from_conf(config.build()))
    }

    async fn sdk_config(&self) -> anyhow::Result<SdkConfig> {
        let http_client = match &self.ca_bundle {
            Some(path) if !path.as_os_str().is_empty() => {
                let pem = std::fs::read(path).with_context(|| format!("cannot read --ca-bundle {path:?}"))?;
                http_client::with_ca_bundle(&pem).with_context(|| format!("--ca-bundle {path:?}"))?
            }
            _ => http_client::new(),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client);
        if let Some(url) = &self.endpoint_url {
            let is_valid = url
                .strip_prefix("http://")
                .or_else(|| url.strip_prefix("https://"))
                .is_some_and(|rest| !rest.is_empty());
            anyhow::ensure!(is_valid, "--endpoint-url is {url:?}, but must begin with http:// or https://");
            loader = loader.endpoint_url(url);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        } else if self.dummy_credentials {
            loader = loader.region(Region::from_static("us-east-1"));
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if self.dummy_credentials {
            loader =
                loader.credentials_provider(Credentials::new("AKIDUMMY", "dummy", None, None, "--dummy-credentials"));
            return Ok(loader.load().await);
        }
        Ok(with_current_profile(loader.load().await, self.profile.as_deref()))
    }
}

/// A provider whose credentials were already asked for: a slow process is not started a second time for the first
/// request.
#[derive(Debug)]
struct Found {
    first: Mutex<Option<Credentials>>,
    provider: SharedCredentialsProvider,
}

impl Found {
    fn new(first: Credentials, provider: SharedCredentialsProvider) -> Self {
        Self { first: Mutex::new(Some(first)), provider }
    }
}

impl ProvideCredentials for Found {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        match self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(first) => future::ProvideCredentials::ready(Ok(first)),
            None => self.provider.provide_credentials(),
        }
    }
}

/// Returns the `StreamName` and `StreamARN` of a request. One of them is set.
pub(crate) fn target(stream: &str) -> (Option<String>, Option<String>) {
    if stream.starts_with("arn:") { (None, Some(stream.to_owned())) } else { (Some(stream.to_owned()), None) }
}

/// Returns an error in one line: the service's code and message, or the SDK's error with its causes.
pub(crate) fn explain<E, R>(error: &SdkError<E, R>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug,
{
    match error.as_service_error().and_then(|error| Some((error.code()?, error.message()?))) {
        Some((code, message)) => format!("{code}: {message}"),
        None => chain(error),
    }
}

/// Returns an error with its causes, without repetitions.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line = line + ": " + &text;
        }
        next = cause.source();
    }
    line
}
