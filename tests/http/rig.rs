//! Clients, producers, certificates, and a server whose responses come from the test. This folder is included in each
//! driver's tests over HTTP. `crate::driver` has what differs between the drivers.

#![allow(dead_code, reason = "each driver's tests use a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::driver::{ConfigBuilder, Producer, Runtime};
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, SharedHttpClient};
use kpl_driver::AwsRuntime;
use kpl_emulator::{Emulator, Options, Server};

/// The secrets of the client's credentials.
pub(crate) const SECRETS: [&str; 2] = ["the-secret-access-key", "the-session-token"];

pub(crate) fn client(url: &str, http_client: SharedHttpClient) -> aws_sdk_kinesis::Client {
    let [secret, token] = SECRETS;
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKID", secret, Some(token.into()), None, "test"))
        .endpoint_url(url)
        .http_client(http_client)
        .sleep_impl(Runtime::sleep_impl())
        .build();
    aws_sdk_kinesis::Client::from_conf(config)
}

pub(crate) fn producer(url: &str, config: ConfigBuilder) -> Producer {
    let http_client = Runtime::http_client(None).unwrap();
    Producer::new(client(url, http_client), config.build().unwrap())
}

/// Starts the emulator on its own thread: no thread of async-std may enter a tokio runtime.
pub(crate) fn emulator() -> (Emulator, Server) {
    let emulator = Emulator::new(Options::default()).with_stream("events", 3);
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    (emulator, server)
}

/// Creates a certificate authority, as PEM, and a server's TLS config with a certificate that it signed.
pub(crate) fn certificates() -> (String, Arc<rustls::ServerConfig>) {
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (ca.pem(), Arc::new(config))
}

/// A request as received, with its head in lower case.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// An HTTP server with a thread for each connection.
pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl TestServer {
    /// Starts a server. `respond` returns the whole response to a request, or `None` to close the connection.
    pub(crate) fn start(respond: impl Fn(Request) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let (respond, count) = (Arc::new(respond), open.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (respond, count) = (respond.clone(), count.clone());
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let _ = serve_connection(stream.unwrap(), &*respond);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, open }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the number of open connections.
    pub(crate) fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// Serves requests until one side closes the connection.
fn serve_connection(stream: TcpStream, respond: &dyn Fn(Request) -> Option<String>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let head = head.to_lowercase();
        let len =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;
        let Some(response) = respond(Request { head, body }) else { return Ok(()) };
        (&stream).write_all(response.as_bytes())?;
    }
}

/// Returns a response with status 200 and this body.
pub(crate) fn ok(body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// A TCP proxy whose open connections can die without a reset, as behind a firewall that has forgotten them.
pub(crate) struct Proxy {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// The number of connections that are dead, from the first one.
    dead: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, dead) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let proxy = Self { addr, accepted: accepted.clone(), dead: dead.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(target).unwrap());
                let connection = accepted.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to, dead) = (from.try_clone().unwrap(), to.try_clone().unwrap(), dead.clone());
                    std::thread::spawn(move || forward(&from, &to, || connection < dead.load(Ordering::SeqCst)));
                }
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Forwards nothing more on the connections so far. They stay open.
    pub(crate) fn kill_connections(&self) {
        self.dead.store(self.connections(), Ordering::SeqCst);
    }
}

/// Forwards what arrives, or drops it if the connection is dead.
fn forward(mut from: &TcpStream, mut to: &TcpStream, is_dead: impl Fn() -> bool) {
    let mut buffer = [0; 16_384];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !is_dead() && to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
