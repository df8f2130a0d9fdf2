//! Hosts of a [turmoil](::turmoil) simulation: Kinesis as a server, and producers whose requests go over the simulated
//! network with the AWS SDK and HTTP.
//!
//! For a world that is the same each time, run it in a process of its own: tokio drops the tasks of a crashed host in an
//! order that depends on the number of tasks in the process so far.
//!
//! ```
//! use std::time::Duration;
//! use kpl_testing::{Kinesis, hosts};
//! use kpl_tokio::Config;
//!
//! let kinesis = Kinesis::new(7).stream("events", 2);
//! let mut sim = turmoil::Builder::new().rng_seed(7).build();
//! let service = kinesis.clone();
//! sim.host("kinesis", move || hosts::serve(service.clone(), 4567));
//! sim.client("app", async {
//!     let producer = hosts::producer("http://kinesis:4567", Config::default());
//!     let outcome = producer.put("events", "user-123", "hello").await?;
//!     assert!(outcome.await.is_ok());
//!     Ok(())
//! });
//! sim.run().unwrap();
//! kinesis.compare("events", [("user-123", "hello")]).assert_exactly_once();
//! ```

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::turmoil::net::{TcpListener, TcpStream};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kpl_core::{Config, Instant};
use kpl_driver::AwsTransport;
use kpl_emulator::serve_connection;
use kpl_tokio::aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use kpl_tokio::{Producer, Tokio, aws_sdk_kinesis};
use tower_service::Service;

use crate::kinesis::seeded;
use crate::{Kinesis, START};

/// Serves Kinesis on a port of the current host, until the host crashes. Its records survive that.
///
/// # Errors
///
/// If the port is in use.
pub async fn serve(kinesis: Kinesis, port: u16) -> Result<(), Box<dyn std::error::Error>> {
    kinesis.set_clock(|| ::turmoil::sim_elapsed().unwrap_or(Duration::ZERO));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve_connection(stream, (*kinesis).clone()));
    }
}

/// Creates a producer on the current host. `endpoint` has the name of the host of Kinesis: `http://kinesis:4567`.
///
/// A config without a seed gets the seed 1, so that each run has the same jitter.
///
/// # Panics
///
/// Panics outside a host of a simulation.
pub fn producer(endpoint: &str, config: Config) -> Producer {
    let Some(elapsed) = ::turmoil::sim_elapsed() else { panic!("a producer is created on a host of a simulation") };
    let runtime = Tokio::starting_at(Instant::from_nanos(0) + START + elapsed);
    let client = aws_sdk_kinesis::Client::from_conf(
        aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("simulated", "simulated", None, None, "simulated"))
            .endpoint_url(endpoint)
            .http_client(http_client())
            .build(),
    );
    let transport = AwsTransport::new(&runtime, &client, config.request_timeout());
    Producer::with_transport(runtime, transport, seeded(config, 1))
}

/// Creates an HTTP client for the AWS SDK, whose connections are those of the simulated network.
pub fn http_client() -> SharedHttpClient {
    let client = Client::builder(TokioExecutor::new()).build(Connector);
    let connector = SharedHttpConnector::new(SimulatedHttp(client));
    http_client_fn(move |_, _| connector.clone())
}

#[derive(Clone, Debug)]
struct SimulatedHttp(Client<Connector, SdkBody>);

impl HttpConnector for SimulatedHttp {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let response = client.request(request).await.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(response.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Connects to a host of the simulation by its name.
#[derive(Clone, Copy, Debug)]
struct Connector;

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
            Ok(Stream(TokioIo::new(stream)))
        })
    }
}

struct Stream(TokioIo<TcpStream>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
