//! Credentials from the profile's files as they are now. The SDK's provider reads `~/.aws/config` and
//! `~/.aws/credentials` only once, so it does not notice that keys were replaced.

use aws_config::SdkConfig;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::provider::future;
use aws_sdk_kinesis::config::{ProvideCredentials, SharedCredentialsProvider};

use super::containers::provider_config;

/// Returns an SDK config whose credentials are found as in the default chain, and whose profile is read each time they
/// are loaded. The SDK reads it once, and uses keys that were replaced in the file until the program ends.
///
/// `profile` is the name of the profile; `None` means that of `AWS_PROFILE`, or `default`. Use this for a config that
/// `aws_config` has loaded without a credentials provider of its own.
/// [`Producer::from_env`](crate::Producer::from_env) uses it.
pub fn with_current_profile(sdk_config: SdkConfig, profile: Option<&str>) -> SdkConfig {
    let Some(loaded) = sdk_config.credentials_provider() else { return sdk_config };
    let current = CurrentProfile { sdk_config: sdk_config.clone(), profile: profile.map(str::to_owned) };
    // The order of the default chain, which follows for its other providers: they keep what they know from load to
    // load, such as the last credentials of the instance metadata service.
    let chain = CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
        .or_else("Profile", current)
        .or_else("DefaultChain", loaded);
    sdk_config.into_builder().credentials_provider(SharedCredentialsProvider::new(chain)).build()
}

/// A provider that reads the profile each time.
#[derive(Debug)]
struct CurrentProfile {
    sdk_config: SdkConfig,
    profile: Option<String>,
}

impl ProvideCredentials for CurrentProfile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // The config of the providers keeps the profile, so it is new, too.
        let mut builder = ProfileFileCredentialsProvider::builder().configure(&provider_config(&self.sdk_config));
        if let Some(profile) = &self.profile {
            builder = builder.profile_name(profile);
        }
        let provider = builder.build();
        future::ProvideCredentials::new(async move { provider.provide_credentials().await })
    }
}
