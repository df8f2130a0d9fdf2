//! A path to a server, whose connections can be cut.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cut {
    /// Both ends are told, as when a server closes idle connections.
    Closed,
    /// No end is told, and nothing passes any more, as when a firewall has forgotten them.
    Forgotten,
}

/// A forwarder on a port of its own.
pub(crate) struct Path {
    pub(crate) address: SocketAddr,
    cuts: broadcast::Sender<Cut>,
}

impl Path {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, _) = broadcast::channel(1);
        let new_connections = cuts.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(client, server, new_connections.subscribe()));
            }
        });
        Self { address, cuts }
    }

    /// Cuts the connections that exist, and returns their number.
    pub(crate) fn cut(&self, how: Cut) -> usize {
        self.cuts.send(how).unwrap_or(0)
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, mut cuts: broadcast::Receiver<Cut>) {
    let mut server = TcpStream::connect(server).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        cut = cuts.recv() => if cut == Ok(Cut::Forgotten) { pending().await }
    }
}
