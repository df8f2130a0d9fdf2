//! The sink for Datadog, over its official client, which needs tokio. Feature `datadog`.

mod series;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use datadog_api_client::datadog;
use datadog_api_client::datadogV2::api_metrics::{MetricsAPI, SubmitMetricsError, SubmitMetricsOptionalParams};
use datadog_api_client::datadogV2::model::{MetricContentEncoding, MetricPayload, MetricResource, MetricSeries};
use kpl_driver::metrics::{BoxFuture, MetricsReport, MetricsSink, Progress, SinkError, one_line};
use rustls::{ClientConfig, RootCertStore};

/// The default site of Datadog and its clients.
const SITE: &str = "datadoghq.com";

/// The maximum size of a call before compression. Datadog's limits are 5 MB before compression and 512,000 bytes after.
/// A call below the second limit before compression never exceeds it.
const BYTES_MAX: usize = 500_000;

/// The maximum number of characters of a response in an error message.
const QUOTED_CHARS_MAX: usize = 200;

/// Indexes into the client's list of servers: the server given by protocol and name, and the one given by site.
const SERVER_BY_NAME: usize = 1;
const SERVER_BY_SITE: usize = 2;

/// Sends metrics to Datadog with `POST /api/v2/series`, without an agent. It needs a tokio runtime.
///
/// Each metric of the KPL becomes five. Their names begin with the KPL's name in snake case, for example
/// `kinesis_producer.user_records_put` for `UserRecordsPut`:
///
/// | name | type | value |
/// |---|---|---|
/// | `….count` | count | the number of observations |
/// | `….sum` | count | the sum |
/// | `….avg` | gauge | the average |
/// | `….min`, `….max` | gauge | the minimum and the maximum |
///
/// Latencies are gauges: `kinesis_producer.put_to_ack.p50`, `.p99`, `.p999` and `.max` (from put to the reply that
/// stored the record), with `.count`, a count, and the same of `kinesis_producer.buffering` (from put to the request).
///
/// - **Tags**: `stream` (the name, also for a stream given by ARN), `shard`, `error_code` (of `errors_by_code`), and
///   those of [`tag`](Self::tag). Characters that Datadog does not accept become `_`. Tags are cut after 200
///   characters.
/// - **Sums**: `sum:kinesis_producer.user_records_put.sum{*}` is the producer's total, because each observation is in
///   one series, the finest of `metrics_granularity`. Observations without a shard, such as a failed request, have no
///   tag `shard`, and the `.min` and `.max` of the whole stream. Latencies are per stream, if the report has streams.
/// - **Units**: `byte` for bytes, `millisecond` for times, none for numbers of records, errors and the like.
/// - **Time**: the time of a point is the end of the report, in seconds. The interval of a count is the length of the
///   report. Datadog accepts points of the last hour.
/// - **Limits**: a call has at most 500 kB before compression (gzip). Datadog's limits are 512,000 bytes compressed and
///   5 MB before. A larger report takes several calls. Data points that Datadog has confirmed are not sent again with
///   the rest.
/// - **Errors**: the client does not retry; the report is offered again.
///
/// The limits are those of Datadog's API reference, "Submit metrics". Datadog charges per name and tags;
/// `metrics_granularity` limits their number.
///
/// ```no_run
/// # fn example(producer: kpl_tokio::Producer) -> Result<(), Box<dyn std::error::Error>> {
/// use kpl_tokio::datadog::DatadogSink;
///
/// producer.export_metrics_to(DatadogSink::from_env()?.tag("team:orders"));
/// # Ok(()) }
/// ```
pub struct DatadogSink {
    api: MetricsAPI,
    tags: Vec<String>,
    host: Option<String>,
    progress: Progress,
}

/// The reason why a [`DatadogSink`] cannot be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatadogError {
    /// An environment variable is not set.
    #[error("{variable} is not set: it must be {what}")]
    Missing {
        /// The name of the variable.
        variable: &'static str,
        /// What the variable must be.
        what: &'static str,
    },
    /// The key has characters that are invalid in a header. The error does not show the key.
    #[error("the API key has {chars} characters, not all of them printable ASCII: it must be one of Datadog's keys")]
    ApiKey {
        /// The length of the key in characters.
        chars: usize,
    },
    /// The site is not a host name.
    #[error("the site is {site:?}, but must be a host name such as datadoghq.eu")]
    Site {
        /// The site.
        site: String,
    },
    /// The endpoint is not an HTTP URL.
    #[error("the endpoint is {endpoint:?}, but must be a URL such as https://api.datadoghq.eu")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
    },
    /// The HTTP client cannot be created.
    #[error("the HTTP client cannot be created: {0}")]
    HttpClient(String),
}

impl DatadogSink {
    /// Creates a sink from the environment variables of Datadog's agents and clients: the key from `DD_API_KEY`, the
    /// site from `DD_SITE` (by default `datadoghq.com`), and the tags `env`, `service` and `version` from `DD_ENV`,
    /// `DD_SERVICE` and `DD_VERSION`.
    ///
    /// # Errors
    ///
    /// [`DatadogError`] if the key is missing, or the key or the site is invalid.
    pub fn from_env() -> Result<Self, DatadogError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(api_key) = variable("DD_API_KEY") else {
            return Err(DatadogError::Missing { variable: "DD_API_KEY", what: "an API key of your organization" });
        };
        let mut sink = Self::new(&api_key, variable("DD_SITE").as_deref().unwrap_or(SITE))?;
        for (name, tag) in [("DD_ENV", "env"), ("DD_SERVICE", "service"), ("DD_VERSION", "version")] {
            if let Some(value) = variable(name) {
                sink = sink.tag(&format!("{tag}:{value}"));
            }
        }
        Ok(sink)
    }

    /// Creates a sink from an API key and a site, such as `datadoghq.eu`.
    ///
    /// # Errors
    ///
    /// [`DatadogError`] if one of them is invalid.
    pub fn new(api_key: &str, site: &str) -> Result<Self, DatadogError> {
        if !is_host(site, "-.") {
            return Err(DatadogError::Site { site: site.into() });
        }
        Self::with_server(api_key, SERVER_BY_SITE, [("site", site)])
    }

    /// Creates a sink from an API key and an endpoint, such as a proxy's `http://localhost:3834`.
    ///
    /// # Errors
    ///
    /// [`DatadogError`] if one of them is invalid.
    pub fn with_endpoint(api_key: &str, endpoint: &str) -> Result<Self, DatadogError> {
        match endpoint.trim_end_matches('/').split_once("://") {
            Some((protocol @ ("http" | "https"), name)) if is_host(name, "-._:/[]") => {
                Self::with_server(api_key, SERVER_BY_NAME, [("protocol", protocol), ("name", name)])
            }
            _ => Err(DatadogError::Endpoint { endpoint: endpoint.into() }),
        }
    }

    fn with_server<const N: usize>(
        api_key: &str,
        index: usize,
        variables: [(&str, &str); N],
    ) -> Result<Self, DatadogError> {
        // The client panics if a key is invalid in a header.
        if api_key.is_empty() || !api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(DatadogError::ApiKey { chars: api_key.chars().count() });
        }
        let mut config = datadog::Configuration::new();
        config.set_auth_key("apiKeyAuth", datadog::APIKey { key: api_key.into(), prefix: String::new() });
        config.server_index = index;
        config.server_variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let client = http_client().map_err(|error| DatadogError::HttpClient(one_line(&*error)))?;
        let api = MetricsAPI::with_client_and_config(config, client.into());
        Ok(Self { api, tags: Vec::new(), host: None, progress: Progress::default() })
    }

    /// Adds a tag to all metrics, such as `team:orders`.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(series::tag(tag));
        self
    }

    /// Sets the host of the metrics. By default they have none.
    #[must_use]
    pub fn host(self, name: impl Into<String>) -> Self {
        Self { host: Some(name.into()), ..self }
    }

    /// Sends the part of a report that Datadog has not confirmed yet, in one or more calls.
    async fn send(&self, report: &MetricsReport) -> Result<(), SinkError> {
        let mut sent = self.progress.of(report);
        let mut all = series::of(report, &self.tags).skip(sent).peekable();
        loop {
            let (mut call, mut bytes) = (Vec::new(), 0);
            while let Some(series) = all.next_if(|series| call.is_empty() || bytes + self.bytes_of(series) <= BYTES_MAX)
            {
                bytes += self.bytes_of(&series);
                call.push(match &self.host {
                    Some(host) => series.resources(vec![MetricResource::new().name(host.clone()).type_("host".into())]),
                    None => series,
                });
            }
            if call.is_empty() {
                self.progress.complete(report);
                return Ok(());
            }
            let series_in_call = call.len();
            let compressed = SubmitMetricsOptionalParams::default().content_encoding(MetricContentEncoding::GZIP);
            match self.api.submit_metrics(MetricPayload::new(call), compressed).await {
                // A response that cannot be decoded has a success status.
                Ok(_) | Err(datadog::Error::Serde(_)) => {}
                Err(error) => return Err(error_message(&error).into()),
            }
            sent += series_in_call;
            self.progress.set(report, sent);
        }
    }

    /// Returns an upper bound of the bytes of a series in JSON.
    fn bytes_of(&self, series: &MetricSeries) -> usize {
        series::bytes_of(series) + self.host.as_ref().map_or(0, |host| 6 * host.len())
    }
}

impl MetricsSink for DatadogSink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.send(report))
    }

    fn name(&self) -> &str {
        "Datadog"
    }
}

/// Omits the key.
impl fmt::Debug for DatadogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatadogSink").field("tags", &self.tags).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Creates an HTTP client with the TLS of all of kpl-tokio: rustls with ring, and the machine's certificate
/// authorities. The features of Datadog's client would add OpenSSL or a second crypto library.
fn http_client() -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).build()?)
}

fn is_host(name: &str, others: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || others.contains(char))
}

fn error_message(error: &datadog::Error<SubmitMetricsError>) -> String {
    match error {
        datadog::Error::ResponseError(response) => {
            let quote: String = response.content.chars().take(QUOTED_CHARS_MAX).collect();
            format!("Datadog refused the metrics: HTTP {}: {quote:?}", response.status)
        }
        error => format!("the metrics did not reach Datadog: {}", one_line(error)),
    }
}
