//! Measures how many PutRecords requests per second (500 records of 1 KB each) the emulator handles over loopback:
//! `cargo run --release -p kpl-emulator --example load`.

use std::time::{Duration, Instant};

use kpl_emulator::{Emulator, Options, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 4;
const DURATION: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options { retain_bytes_max: Some(64 << 20), ..Options::unlimited() };
    let emulator = Emulator::new(options).with_stream("load", 8);
    // Its own threads, as if it were another process.
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None)?;
    let start = Instant::now();
    let clients = (0..CONNECTIONS).map(|_| tokio::spawn(put(server.addr(), start + DURATION)));
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("the client does not panic")?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let (requests, records) =
        emulator.with(|kinesis, _| (kinesis.counters().requests["PutRecords"], kinesis.counters().records_stored));
    println!("{:.0} requests/s, {:.0} records/s of 1 KB", requests as f64 / seconds, records as f64 / seconds);
    Ok(())
}

/// Sends the same request repeatedly on one connection.
async fn put(addr: std::net::SocketAddr, until: Instant) -> std::io::Result<()> {
    let data = "QUJD".repeat(341); // 1,023 bytes
    let entries = (0..500).map(|n| format!(r#"{{"Data":"{data}","PartitionKey":"key-{n}"}}"#));
    let body = format!(r#"{{"StreamName":"load","Records":[{}]}}"#, entries.collect::<Vec<_>>().join(","));
    let request = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: Kinesis_20131202.PutRecords\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut reply = vec![0; 1 << 20];
    while Instant::now() < until {
        stream.write_all(request.as_bytes()).await?;
        let mut len = 0;
        // The reply's body is one JSON object. The server sends nothing more before the next request.
        while !reply[..len].ends_with(b"}]}") {
            let read = stream.read(&mut reply[len..]).await?;
            assert!(read > 0, "the emulator closed the connection");
            len += read;
        }
        assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply[..len.min(500)]));
    }
    Ok(())
}
