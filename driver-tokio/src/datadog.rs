//! Metrics to Datadog, through its official client, which needs tokio. Feature `datadog`.

mod series;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use datadog_api_client::datadog;
use datadog_api_client::datadogV2::api_metrics::{MetricsAPI, SubmitMetricsError, SubmitMetricsOptionalParams};
use datadog_api_client::datadogV2::model::{MetricContentEncoding, MetricPayload, MetricResource, MetricSeries};
use kpl_driver::metrics::{BoxFuture, MetricsReport, MetricsSink, Progress, SinkError, one_line};
use rustls::{ClientConfig, RootCertStore};

/// Datadog's own, and that of its clients.
const SITE: &str = "datadoghq.com";

/// Of a call, before it is compressed. Datadog takes 5 MB then, and 512,000 bytes after compression: what is smaller
/// before is so after it, whatever is in it.
const BYTES_MAX: usize = 500_000;

/// How much of an answer is quoted.
const QUOTED_CHARS_MAX: usize = 200;

/// In the client's list of servers: the one by protocol and name, and the one by site, which may be any.
const SERVER_BY_NAME: usize = 1;
const SERVER_BY_SITE: usize = 2;

/// Sends metrics to Datadog, by `POST /api/v2/series`, without an agent. It needs tokio, which its client does.
///
/// Each metric of the KPL becomes five, whose names begin with the KPL's in Datadog's spelling, such as
/// `kinesis_producer.user_records_put` for `UserRecordsPut`:
///
/// | name | type | what |
/// |---|---|---|
/// | `….count` | count | how often something was observed |
/// | `….sum` | count | the sum of it |
/// | `….avg` | gauge | the average |
/// | `….min`, `….max` | gauge | the least and the largest |
///
/// Latencies are gauges: `kinesis_producer.put_to_ack.p50`, `.p99`, `.p999` and `.max` (from put to the reply that stored
/// the record), with `.count`, a count, and the same of `kinesis_producer.buffering` (from put to the request).
///
/// - **Tags**: `stream` (its name, also if it is put to by ARN), `shard`, `error_code` (of `errors_by_code`), and those of
///   [`tag`](Self::tag). Characters that Datadog does not take become `_`, and tags end after 200 characters.
/// - **Nothing counts twice**: `sum:kinesis_producer.user_records_put.sum{*}` is the producer's total. So each observation is
///   in one series, the finest that `metrics_granularity` has. What belongs to no shard, such as a request that failed, has
///   no tag `shard`, and the `.min` and `.max` of all that the stream has. Latencies are by stream, where there are
///   streams.
/// - **Units**: `byte` for bytes, `millisecond` for times, none for counts of things.
/// - **Time**: a point is at the end of the report, in seconds; counts have its length as their interval. Datadog takes
///   points of the last hour.
/// - **Limits**: calls have at most 500 kB before compression (gzip); Datadog's limits are 512,000 bytes compressed and
///   5 MB before. What is more goes out in further calls; what Datadog has confirmed is not sent again with the rest.
/// - **Errors**: the client does not retry; the report is offered again.
///
/// Limits and meanings are those of Datadog's API reference, "Submit metrics". Datadog bills by name and tags;
/// `metrics_granularity` bounds them.
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

/// Why a [`DatadogSink`] could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatadogError {
    /// A variable of the environment is not set.
    #[error("{variable} is not set: it must be {what}")]
    Missing {
        /// Its name.
        variable: &'static str,
        /// What it must be.
        what: &'static str,
    },
    /// The key has characters that no header may have. It is not shown.
    #[error("the API key has {chars} characters, not all of them printable ASCII: it must be one of Datadog's keys")]
    ApiKey {
        /// Its length.
        chars: usize,
    },
    /// The site is no host's name.
    #[error("the site is {site:?}, but must be a host's name such as datadoghq.eu")]
    Site {
        /// The site.
        site: String,
    },
    /// The endpoint is no URL.
    #[error("the endpoint is {endpoint:?}, but must be such as https://api.datadoghq.eu")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
    },
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    HttpClient(String),
}

impl DatadogSink {
    /// A sink by the environment, as Datadog's agents and clients know it: the key from `DD_API_KEY`, the site from
    /// `DD_SITE`, which is `datadoghq.com` if it is not set, and tags `env`, `service` and `version` from `DD_ENV`,
    /// `DD_SERVICE` and `DD_VERSION`.
    ///
    /// # Errors
    ///
    /// [`DatadogError`], which names the variable that is missing.
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

    /// A sink with an API key and a site, such as `datadoghq.eu`.
    ///
    /// # Errors
    ///
    /// [`DatadogError`] if one of them cannot be one.
    pub fn new(api_key: &str, site: &str) -> Result<Self, DatadogError> {
        if !is_host(site, "-.") {
            return Err(DatadogError::Site { site: site.into() });
        }
        Self::with_server(api_key, SERVER_BY_SITE, [("site", site)])
    }

    /// A sink with an API key and an endpoint, such as a proxy's `http://localhost:3834`.
    ///
    /// # Errors
    ///
    /// [`DatadogError`] if one of them cannot be one.
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
        // The client panics at a key that is not fit for a header.
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

    /// Says which host the metrics are of. By default they are of none.
    #[must_use]
    pub fn host(self, name: impl Into<String>) -> Self {
        Self { host: Some(name.into()), ..self }
    }

    /// Sends what Datadog has not taken yet of a report, call by call.
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
                // An answer that cannot be read is one of success.
                Ok(_) | Err(datadog::Error::Serde(_)) => {}
                Err(error) => return Err(said(&error).into()),
            }
            sent += series_in_call;
            self.progress.set(report, sent);
        }
    }

    /// At most so many bytes of JSON.
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

/// Without the key.
impl fmt::Debug for DatadogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatadogSink").field("tags", &self.tags).field("host", &self.host).finish_non_exhaustive()
    }
}

/// TLS as everywhere in kpl-tokio, by rustls over ring, trusting the machine's certificate authorities: the client's own
/// features would bring OpenSSL along, or a second crypto library.
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

fn said(error: &datadog::Error<SubmitMetricsError>) -> String {
    match error {
        datadog::Error::ResponseError(response) => {
            let quote: String = response.content.chars().take(QUOTED_CHARS_MAX).collect();
            format!("Datadog refused the metrics: HTTP {}: {quote:?}", response.status)
        }
        error => format!("the metrics did not reach Datadog: {}", one_line(error)),
    }
}
