//! Serves the emulator until it is killed: `cargo run -p kpl-emulator --example serve -- 4567 events:4`.

use std::net::Ipv4Addr;

use kpl_emulator::{Emulator, Options, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("usage: serve PORT [STREAM:SHARDS…]")?.parse()?;
    let mut emulator = Emulator::new(Options::default());
    for stream in args {
        let (name, shards) = stream.split_once(':').ok_or("a stream has to be NAME:SHARDS")?;
        emulator = emulator.with_stream(name, shards.parse()?);
    }
    let server = Server::bind((Ipv4Addr::LOCALHOST, port).into(), &emulator, None).await?;
    println!("{}", server.url());
    std::future::pending().await
}
