//! The signals that end the program.

use std::future::pending;
use std::io;
use std::process::ExitCode;

use tokio::sync::watch;

/// A signal that ends the program. The value is its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGHUP, sent when the terminal is closed.
    #[cfg(unix)]
    Hangup = 1,
    /// SIGINT, sent by Ctrl-C.
    Interrupt = 2,
    /// SIGTERM, sent to stop services and containers.
    #[cfg(unix)]
    Terminate = 15,
}

impl Signal {
    /// Returns the exit status of a run that this signal cut short: 128 plus its number, as in shells.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(128 + self as u8)
    }
}

/// The signals that have arrived, in order.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts(watch::Receiver<Vec<Signal>>);

impl Interrupts {
    /// Starts to listen. The signals no longer end the program.
    pub(crate) fn listen() -> io::Result<Self> {
        let (arrived, receiver) = watch::channel(Vec::new());
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            loop {
                let signal = signals.next().await;
                arrived.send_modify(|arrived: &mut Vec<Signal>| arrived.push(signal));
            }
        });
        Ok(Self(receiver))
    }

    /// Waits until `count` signals have arrived, and returns the first of them. `count` is at least 1.
    pub(crate) async fn wait_for(&mut self, count: usize) -> Signal {
        // The sender is dropped with the runtime.
        if self.0.wait_for(|arrived| arrived.len() >= count).await.is_err() {
            pending::<()>().await;
        }
        match self.first() {
            Some(signal) => signal,
            None => pending().await,
        }
    }

    /// Returns the first signal, if one has arrived.
    pub(crate) fn first(&self) -> Option<Signal> {
        self.0.borrow().first().copied()
    }
}

#[cfg(unix)]
struct Signals {
    /// `None` if the program was started with SIGHUP ignored.
    hangup: Option<tokio::signal::unix::Signal>,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { hangup, interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Signal {
        let Self { hangup, interrupt, terminate } = self;
        let hangup = async move {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = hangup => Signal::Hangup,
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        }
    }
}

/// Returns whether the program was started with SIGHUP ignored, as by `nohup`. Always false on systems other than
/// Linux, which have no safe way to find out.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    mask.and_then(|mask| u128::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
        Signal::Interrupt
    }
}
