//! The node process: its start, its ports, its health check and its end.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::install;
use crate::certs::Certificates;

/// The script that node loads before kinesis-mock. It chooses free ports, and ends node when this process ends.
const PRELOAD: &str = include_str!("../../kinesis-mock/preload.js");

/// The time limit of a start, which takes a second, or several while the machine compiles.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Process {
    child: Mutex<Child>,
    folder: PathBuf,
    http_port: u16,
    https_port: u16,
}

impl Process {
    /// Starts kinesis-mock and waits for its ports.
    pub(super) fn spawn(script: &Path, certificates: &Certificates, environment: &[(&str, String)]) -> Self {
        let folder = new_folder();
        let certificate = folder.join("server.json");
        // The layout of the package's own server.json.
        let pems = serde_json::json!({
            "server": { "key": certificates.key_pem(), "cert": certificates.leaf_pem() },
        });
        fs::write(&certificate, pems.to_string()).expect("a file in the process's folder");
        let preload = folder.join("preload.js");
        fs::write(&preload, PRELOAD).expect("a file in the process's folder");
        let log = File::create(folder.join("log")).expect("a file in the process's folder");

        let child = Command::new("node")
            .arg("--require")
            .arg(&preload)
            .arg(script)
            .current_dir(&folder)
            // The machine may have set these for another process.
            .env_remove("AWS_REGION")
            .env_remove("AWS_ACCOUNT_ID")
            .env_remove("NODE_OPTIONS")
            .env_remove("SHOULD_PERSIST_DATA")
            // Not real ports: preload.js replaces them with free ones.
            .env("KINESIS_MOCK_TLS_PORT", "1")
            .env("KINESIS_MOCK_PLAIN_PORT", "2")
            .env("KINESIS_MOCK_CERT_PATH", &certificate)
            .env("LOG_LEVEL", "WARN")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // Open while this process runs: node ends when it is closed.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("node runs, since `node --version` did");
        let mut process = Self { child: Mutex::new(child), folder, http_port: 0, https_port: 0 };
        process.http_port = process.wait_for("port for HTTP", |process| process.port("listening http "));
        process.https_port = process.wait_for("port for HTTPS", |process| process.port("listening https "));
        process
    }

    pub(super) fn http_port(&self) -> u16 {
        self.http_port
    }

    pub(super) fn https_port(&self) -> u16 {
        self.https_port
    }

    /// Waits until the process is healthy and these streams are active.
    pub(super) fn wait_until_ready<'a>(&self, streams: impl Iterator<Item = &'a str>) {
        self.wait_for("successful health check", |process| process.is_healthy().then_some(()));
        for stream in streams {
            self.wait_for(&format!("active stream {stream}"), |process| process.is_active(stream).then_some(()));
        }
    }

    /// Calls `poll` until it returns a value.
    fn wait_for<T>(&self, what: &str, poll: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(value) = poll(self) {
                return value;
            }
            let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            if let Ok(Some(status)) = status {
                panic!("kinesis-mock ended ({status}) with no {what}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "kinesis-mock has no {what} after {READY_WITHIN:?}:\n{}", self.log());
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Returns the port in a line that preload.js has logged, once the line is complete.
    fn port(&self, line_start: &str) -> Option<u16> {
        let log = self.log();
        let (number, _) = log.split_once(line_start)?.1.split_once('\n')?;
        number.trim().parse().ok()
    }

    fn is_healthy(&self) -> bool {
        self.request("GET /healthcheck", "", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn is_active(&self, stream: &str) -> bool {
        let headers = "content-type: application/x-amz-json-1.1\r\n\
                       x-amz-target: Kinesis_20131202.DescribeStreamSummary\r\n\
                       x-amz-date: 20261101T000000Z\r\n\
                       authorization: AWS4-HMAC-SHA256 Credential=test/20261101/us-east-1/kinesis/aws4_request, \
                       SignedHeaders=host, Signature=00\r\n";
        let body = serde_json::json!({ "StreamName": stream }).to_string();
        self.request("POST /", headers, &body).is_ok_and(|answer| answer.contains(r#""StreamStatus":"ACTIVE""#))
    }

    /// Sends one request over a new connection. The SDK could do it, but it needs a runtime.
    fn request(&self, line: &str, headers: &str, body: &str) -> io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.http_port))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Both fail only if the process has already ended.
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("kinesis-mock's log is {}", self.folder.join("log").display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Creates a folder that no other process and no other test uses.
fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("run-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = install::home().join(name);
    // An earlier process with the same id may have left it behind.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder in the suite's folder");
    folder
}
