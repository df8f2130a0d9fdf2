//! The server: its port, its connections, and its end.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::dispatch::handle;
use crate::Emulator;

/// A server of an [`Emulator`] on a port. It runs until it is stopped or dropped.
///
/// The client chooses HTTP/1.1 or HTTP/2; over TLS, it chooses one of the ALPN protocols of the config.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    tls: bool,
    task: JoinHandle<()>,
    /// Drop ends the task.
    running: Option<oneshot::Sender<()>>,
    /// The server's own runtime, if it was started by [`Self::bind_on_thread`].
    runtime: Option<Runtime>,
}

impl Server {
    /// Serves on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn start(emulator: &Emulator) -> io::Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into(), emulator, None).await
    }

    /// Serves on `addr`, over TLS if there is a config. Port 0 selects a free port. Runs on the caller's tokio runtime.
    ///
    /// # Errors
    ///
    /// If the address is not available.
    pub async fn bind(addr: SocketAddr, emulator: &Emulator, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let acceptor = tls.map(TlsAcceptor::from);
        let tls = acceptor.is_some();
        let (running, stopped) = oneshot::channel();
        let task = tokio::spawn(run(listener, emulator.clone(), acceptor, stopped));
        Ok(Self { addr, tls, task, running: Some(running), runtime: None })
    }

    /// Serves from its own thread, for programs without a tokio runtime and for those that should not share it.
    ///
    /// # Errors
    ///
    /// If the address is not available, or if the thread cannot be started.
    pub fn bind_on_thread(addr: SocketAddr, emulator: &Emulator, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kinesis-emulator")
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let acceptor = tls.map(TlsAcceptor::from);
        let tls = acceptor.is_some();
        let listener = {
            let _in_runtime = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (running, stopped) = oneshot::channel();
        let task = runtime.spawn(run(listener, emulator.clone(), acceptor, stopped));
        Ok(Self { addr, tls, task, running: Some(running), runtime: Some(runtime) })
    }

    /// Returns the address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns its URL, for example for `--endpoint-url`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// Stops listening and closes every connection at once. When this returns, the port is free and no request is in
    /// flight, so the stored records do not change any more. Drop does the same, but does not wait.
    pub async fn stop(mut self) {
        drop(self.running.take());
        // An error is a panic, which the panic hook has already printed.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The tasks of connections and of HTTP/2 requests. Drop aborts them all.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }

    /// Aborts the tasks and waits until all have ended.
    async fn shutdown(self) {
        // A connection may start a request while it is being aborted.
        loop {
            let mut tasks = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                return;
            }
            tasks.shutdown().await;
        }
    }
}

/// Starts tasks while the server exists.
#[derive(Clone)]
struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Serves until it is stopped, and then closes all connections. Drop of this future closes them, too.
async fn run(listener: TcpListener, emulator: Emulator, acceptor: Option<TlsAcceptor>, stopped: oneshot::Receiver<()>) {
    let tasks = Tasks::default();
    tokio::select! {
        () = accept(listener, emulator, acceptor, tasks.spawner()) => {}
        _ = stopped => {}
    }
    tasks.shutdown().await;
}

async fn accept(listener: TcpListener, emulator: Emulator, acceptor: Option<TlsAcceptor>, spawner: Spawner) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawner.execute(serve(stream, emulator.clone(), acceptor.clone(), spawner.clone())),
            // Probably out of file descriptors. Wait until other connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, emulator: Emulator, acceptor: Option<TlsAcceptor>, spawner: Spawner) {
    // Without it, small replies wait for acknowledgements (Nagle's algorithm).
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => serve_http(stream, emulator, spawner).await,
        // A failed handshake is reported by the client.
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve_http(stream, emulator, spawner).await;
            }
        }
    }
}

/// Serves one connection: any stream of bytes, such as one of a simulated network. It runs until the client closes the
/// connection, or until the future is dropped.
pub async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, emulator: Emulator) {
    let tasks = Tasks::default();
    serve_http(stream, emulator, tasks.spawner()).await;
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    emulator: Emulator,
    spawner: Spawner,
) {
    let service = service_fn(move |request| {
        let emulator = emulator.clone();
        async move { handle(request, emulator).await }
    });
    let mut builder = auto::Builder::new(spawner);
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    // Errors are connections closed by clients, and replies lost by a fault.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
