//! Serves the emulator from an HTTP server that is down for 200 ms after every 400 ms, and closes all connections then.
//! The stored records stay: `cargo run -p kpl-emulator --example flaky -- 4567 events:4`.

use std::net::Ipv4Addr;
use std::time::Duration;

use kpl_emulator::{Emulator, Options, Server};

const UP: Duration = Duration::from_millis(400);
const DOWN: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("usage: flaky PORT [STREAM:SHARDS…]")?.parse()?;
    let mut emulator = Emulator::new(Options::unlimited());
    for stream in args {
        let (name, shards) = stream.split_once(':').ok_or("a stream has to be NAME:SHARDS")?;
        emulator = emulator.with_stream(name, shards.parse()?);
    }
    loop {
        let server = Server::bind((Ipv4Addr::LOCALHOST, port).into(), &emulator, None).await?;
        tokio::time::sleep(UP).await;
        server.stop().await;
        tokio::time::sleep(DOWN).await;
    }
}
