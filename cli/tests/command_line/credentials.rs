//! Which connections are made without a verification of the certificate.
//!
//! The HTTP client that verifies certificates uses the proxy of the environment, and the other one does not. So a proxy
//! shows which client makes a connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use crate::rig::{Kinesis, command, end};

const WITHOUT_VERIFICATION: &str = "--dangerous-without-certificate-verification";

/// A server that refuses all requests, and keeps the first bytes of each connection.
struct Server {
    addr: SocketAddr,
    received: mpsc::Receiver<Vec<u8>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, received) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut buffer) = (stream.unwrap(), [0_u8; 1_024]);
                let len = stream.read(&mut buffer).unwrap_or(0);
                // Before the reply, so that the bytes are there when the run ends.
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { addr, received }
    }

    /// Returns the first bytes of each connection.
    fn received(&self) -> Vec<Vec<u8>> {
        self.received.try_iter().collect()
    }
}

/// Returns a command that uses a proxy for HTTPS.
fn command_with_proxy(args: &str, proxy: &Server) -> Command {
    let mut command = command(args);
    for name in ["ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    for name in ["HTTPS_PROXY", "https_proxy"] {
        command.env(name, format!("http://{}", proxy.addr));
    }
    command
}

#[test]
fn credentials_are_never_requested_without_certificate_verification() {
    for option in ["", WITHOUT_VERIFICATION] {
        let proxy = Server::start();
        let mut command = command_with_proxy(&format!("shards --stream s --region us-east-1 {option}"), &proxy);
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://credentials.invalid/");
        command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret");
        let run = end(command.spawn().unwrap());
        assert_eq!(run.code(), 2, "{run:#?}");
        let connections = proxy.received();
        let is_expected = |bytes: &Vec<u8>| bytes.starts_with(b"CONNECT credentials.invalid:443 ");
        assert!(!connections.is_empty() && connections.iter().all(is_expected), "{option}: {connections:?} {run:#?}");
    }
}

#[test]
fn kinesis_can_be_used_without_certificate_verification() {
    for (option, has_proxy) in [("", true), (WITHOUT_VERIFICATION, false)] {
        let (proxy, kinesis) = (Server::start(), Server::start());
        let endpoint = format!("--endpoint-url https://{} --dummy-credentials", kinesis.addr);
        let mut command = command_with_proxy(&format!("shards --stream s {endpoint} {option}"), &proxy);
        let run = end(command.spawn().unwrap());
        assert_eq!(run.code(), 2, "{run:#?}");
        assert_eq!((proxy.received().is_empty(), kinesis.received().is_empty()), (!has_proxy, has_proxy), "{option}");
    }
}

#[test]
fn a_machine_without_certificate_authorities_can_put_over_http() {
    let kinesis = Kinesis::start(1);
    let mut command = command(&format!("put {} --json", kinesis.args()));
    // rustls reads the machine's authorities from there.
    command.env("SSL_CERT_FILE", "/dev/null").env_remove("SSL_CERT_DIR");
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"line\n").unwrap();
    let run = end(child);
    assert_eq!((run.code(), kinesis.data()), (0, vec![b"line".to_vec()]), "{}", run.stderr);
}
