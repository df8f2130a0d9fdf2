//! Credentials from a container endpoint with a host name (`AWS_CONTAINER_CREDENTIALS_FULL_URI`).
//!
//! The SDK requests credentials only from allowed addresses, so it resolves the host name first. Its own resolver needs
//! tokio. The resolver here needs no runtime.

use std::env::var_os;
use std::net::ToSocketAddrs;

use aws_config::SdkConfig;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_sdk_kinesis::config::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use tokio::sync::oneshot;

/// Replaces the credentials provider by a default chain with a resolver, if the credentials come from
/// `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
pub(crate) fn with_containers_by_name(sdk_config: SdkConfig) -> SdkConfig {
    let is_set = |name| var_os(name).is_some();
    // The relative URI takes precedence. It is a path on a fixed address.
    if is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || !is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        return sdk_config;
    }
    let settings = provider_config(&sdk_config);
    // The SDK's default chain ends with the instance metadata service. It is not needed here, because the container
    // endpoint comes before it and is set.
    let chain = CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
        .or_else("Profile", ProfileFileCredentialsProvider::builder().configure(&settings).build())
        .or_else("WebIdentityToken", WebIdentityTokenCredentialsProvider::builder().configure(&settings).build())
        .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(&settings).dns(SystemDns).build());
    sdk_config.into_builder().credentials_provider(SharedCredentialsProvider::new(chain)).build()
}

/// Returns the settings of an SDK config that its credentials providers use. The profile is not read yet.
pub(super) fn provider_config(sdk_config: &SdkConfig) -> ProviderConfig {
    let mut settings = ProviderConfig::without_region()
        .with_region(sdk_config.region().cloned())
        .with_use_fips(sdk_config.use_fips())
        .with_use_dual_stack(sdk_config.use_dual_stack())
        .with_behavior_version(sdk_config.behavior_version());
    if let Some(http_client) = sdk_config.http_client() {
        settings = settings.with_http_client(http_client);
    }
    if let Some(sleep_impl) = sdk_config.sleep_impl() {
        settings = settings.with_sleep_impl(sleep_impl);
    }
    if let Some(retries) = sdk_config.retry_config() {
        settings = settings.with_retry_config(retries.clone());
    }
    if let Some(timeouts) = sdk_config.timeout_config() {
        settings = settings.with_timeout_config(timeouts.clone());
    }
    if let Some(time_source) = sdk_config.time_source() {
        settings = settings.with_time_source(time_source);
    }
    settings
}

/// The machine's resolver, called in a separate thread. The SDK resolves once for all credentials of a producer.
#[derive(Debug)]
struct SystemDns;

impl ResolveDns for SystemDns {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        let (sender, receiver) = oneshot::channel();
        let name = name.to_owned();
        let thread = std::thread::Builder::new().name("kpl-dns".into()).spawn(move || {
            let addrs = (&*name, 0).to_socket_addrs();
            // The receiver may have been dropped.
            let _ = sender.send(addrs.map(|addrs| addrs.map(|addr| addr.ip()).collect()));
        });
        DnsFuture::new(async move {
            thread.map_err(ResolveDnsError::new)?;
            receiver.await.map_err(ResolveDnsError::new)?.map_err(ResolveDnsError::new)
        })
    }
}
