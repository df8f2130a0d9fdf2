//! Listening, connections, and ending them.

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

use super::Emulator;
use super::dispatch::answer;

/// Serves an [`Emulator`] on a port until it is stopped or dropped. It speaks HTTP/1.1 and HTTP/2, as the client begins;
/// over TLS a client begins with what the config's ALPN protocols offer.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    tls: bool,
    task: JoinHandle<()>,
    /// Dropped to have the task end.
    running: Option<oneshot::Sender<()>>,
    /// If the server has threads of its own.
    runtime: Option<Runtime>,
}

impl Server {
    /// Serves on a free port of loopback.
    ///
    /// # Errors
    ///
    /// If the port cannot be had.
    pub async fn start(emulator: &Emulator) -> io::Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into(), emulator, None).await
    }

    /// Serves on `addr` (port 0: a free one), over TLS if a config is given. Runs on the caller's tokio runtime.
    ///
    /// # Errors
    ///
    /// If the address cannot be had.
    pub async fn bind(addr: SocketAddr, emulator: &Emulator, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let acceptor = tls.map(TlsAcceptor::from);
        let tls = acceptor.is_some();
        let (running, stopped) = oneshot::channel();
        let task = tokio::spawn(run(listener, emulator.clone(), acceptor, stopped));
        Ok(Self { addr, tls, task, running: Some(running), runtime: None })
    }

    /// Serves from a thread of its own, for programs without a tokio runtime and for those that should not share theirs.
    ///
    /// # Errors
    ///
    /// If the address or the thread cannot be had.
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

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL, for `--endpoint-url` and the like.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// Stops listening and cuts every connection, whatever it is at. When this returns the port is free and no request
    /// is at work any more: what is stored then stays as it is. (Dropping the server does the same, without waiting.)
    pub async fn stop(mut self) {
        drop(self.running.take());
        // It ends, whatever comes; a panic of a connection is not ours to report.
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

/// Connections, and requests of HTTP/2, which have tasks of their own. Dropped, it cuts them all.
#[derive(Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }

    /// Cuts them, and waits until none is at work.
    async fn shutdown(self) {
        // A connection may begin a request while it is being cut.
        loop {
            let mut tasks = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                return;
            }
            tasks.shutdown().await;
        }
    }
}

/// Begins tasks, as long as the server is there.
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

/// Serves until it is stopped, and then ends all connections. When this future is dropped they are cut as well.
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
            // Out of file descriptors, most likely: others end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, emulator: Emulator, acceptor: Option<TlsAcceptor>, spawner: Spawner) {
    // Without it, small replies wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => serve_http(stream, emulator, spawner).await,
        // A client that does not trust us, or speaks no TLS, is its own problem.
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve_http(stream, emulator, spawner).await;
            }
        }
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    emulator: Emulator,
    spawner: Spawner,
) {
    let service = service_fn(move |request| {
        let emulator = emulator.clone();
        async move { answer(request, emulator).await }
    });
    let mut builder = auto::Builder::new(spawner);
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    // Errors are clients that went away, and replies that were to be lost.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}
