//! A scripted HTTP server on plain threads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// A received request.
pub(super) struct Request {
    /// The number of its connection, in the order in which they were accepted.
    pub(super) connection: usize,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a field of the JSON body. It must be a string without escapes.
    pub(super) fn field(&self, name: &str) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let value = body.split_once(&format!("\"{name}\":\"")).and_then(|(_, rest)| rest.split_once('"'));
        value.map(|(value, _)| value.to_owned()).unwrap_or_default()
    }
}

/// The reply to a request.
pub(super) enum Reply {
    Json(String),
    /// JSON after a delay.
    Delayed(Duration, String),
    /// JSON in pieces with pauses.
    InPieces(String),
    /// The connection is closed after half of the JSON.
    CutOff(String),
    Redirect(&'static str),
    /// The connection stays open without a reply.
    Silence,
    /// The connection is closed without a reply.
    Close,
}

/// A server on a free loopback port. It stops when it is dropped.
pub(super) struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|error| panic!("no free port: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("no address: {error}"));
        let (connections, stopped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stop, reply) = (connections.clone(), stopped.clone(), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let connection = count.fetch_add(1, Ordering::SeqCst);
                let reply = reply.clone();
                // An error means that the client has disconnected.
                thread::spawn(move || serve(connection, &stream, &*reply));
            }
        });
        Self { addr, connections, stopped }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the number of connections accepted so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wake the listener, which is blocked in accept.
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(connection: usize, stream: &TcpStream, reply: &impl Fn(&Request) -> Reply) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Without a timeout, the thread could stay forever.
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(connection, &mut reader, stream)? {
        match reply(&request) {
            Reply::Json(body) => write(stream, &body)?,
            Reply::Delayed(delay, body) => {
                thread::sleep(delay);
                write(stream, &body)?;
            }
            Reply::InPieces(body) => {
                let response = response(&body);
                for piece in response.as_bytes().chunks(response.len() / 4 + 1) {
                    { stream }.write_all(piece)?;
                    thread::sleep(Duration::from_millis(10));
                }
            }
            Reply::CutOff(body) => {
                let response = response(&body);
                return { stream }.write_all(&response.as_bytes()[..response.len() - body.len() / 2]);
            }
            Reply::Redirect(location) => {
                { stream }.write_all(
                    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
                        .as_bytes(),
                )?;
            }
            Reply::Silence => {}
            Reply::Close => return Ok(()),
        }
    }
    Ok(())
}

fn response(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn write(mut stream: &TcpStream, body: &str) -> io::Result<()> {
    stream.write_all(response(body).as_bytes())
}

/// Reads the next request of a connection; `None` at its end. A body without a length is not read.
fn read(connection: usize, reader: &mut BufReader<&TcpStream>, mut stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(path) = line.split(' ').nth(1).map(str::to_owned) else {
        return Ok(None);
    };
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { connection, path, headers, body: Vec::new() };
    if request.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
