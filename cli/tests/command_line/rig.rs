//! Runs `kpl`, and an emulator whose records tests can read.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kpl_emulator::consumer::{ConsumedRecord, read_stream};
use kpl_emulator::{Emulator, Options, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A time limit that is long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A time limit for a run after its last input.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);

/// The path of the `kpl` binary.
pub(crate) const KPL: &str = env!("CARGO_BIN_EXE_kpl");

/// Returns a command that runs `kpl` with these arguments, separated by white space, without AWS environment variables.
pub(crate) fn command(args: &str) -> Command {
    let mut command = program(KPL);
    command.args(args.split_whitespace());
    command
}

/// Returns a command that runs a program, which may start `kpl`, without AWS environment variables.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "/none");
    command.env("AWS_SHARED_CREDENTIALS_FILE", "/none");
    command
}

/// The result of a run of `kpl`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Parses standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

/// Runs `kpl` to its end.
pub(crate) fn kpl(args: &str, input: &[u8]) -> Run {
    let mut child = command(args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // In a thread, because `kpl` may write before it has read all input. Errors are ignored, because it may end before
    // that.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let run = end(child);
    writer.join().unwrap();
    run
}

/// Starts `kpl` and writes the begin of its input, which goes on until the second value is dropped.
pub(crate) fn start(args: &str, input: &[u8]) -> (Child, ChildStdin) {
    let mut child = command(args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    (child, stdin)
}

/// Waits until a run ends. Kills it and panics after a time limit.
pub(crate) fn end(child: Child) -> Run {
    let pid = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    // The receiver is dropped only after the time limit.
    thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let Ok(output) = ended.recv_timeout(RUN_TIMEOUT) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("timeout: the run does not end");
    };
    let output = output.unwrap();
    Run {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Sends a signal by name, such as `INT`.
pub(crate) fn signal(child: &Child, name: &str) {
    let signal = match name {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "HUP" => Signal::HUP,
        other => panic!("unknown signal {other}"),
    };
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until a condition is true. Panics after a time limit.
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < TIMEOUT, "timeout: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An emulator in this process, with the stream `s`.
pub(crate) struct Kinesis {
    pub(crate) emulator: Emulator,
    server: Option<Server>,
    addr: SocketAddr,
}

impl Kinesis {
    pub(crate) fn start(shards: u32) -> Self {
        let emulator = Emulator::new(Options::unlimited()).with_stream("s", shards);
        let server = Server::bind_on_thread((Ipv4Addr::LOCALHOST, 0).into(), &emulator, None).unwrap();
        Self { emulator, addr: server.addr(), server: Some(server) }
    }

    /// Returns the arguments of `kpl` for this emulator and its stream.
    pub(crate) fn args(&self) -> String {
        format!("--endpoint-url http://{} --dummy-credentials --stream s", self.addr)
    }

    /// Returns the user records that a consumer reads.
    pub(crate) fn read(&self) -> Vec<ConsumedRecord> {
        self.emulator.with(|kinesis, _| read_stream(kinesis, "s")).records
    }

    /// Returns the data that a consumer reads, sorted.
    pub(crate) fn data(&self) -> Vec<Vec<u8>> {
        let mut data: Vec<_> = self.read().into_iter().map(|record| record.data.to_vec()).collect();
        data.sort();
        data
    }

    pub(crate) fn requests(&self, operation: &str) -> u64 {
        self.emulator.with(|kinesis, _| kinesis.counters().requests.get(operation).copied().unwrap_or(0))
    }

    /// Returns the number of stored Kinesis records.
    pub(crate) fn records_stored(&self) -> u64 {
        self.emulator.with(|kinesis, _| kinesis.counters().records_stored)
    }

    /// Closes all connections and stops listening. Keeps the records.
    pub(crate) fn stop(&mut self) {
        self.server = None;
    }

    /// Deletes all records.
    pub(crate) fn lose_all_records(&mut self, shards: u32) {
        self.stop();
        self.emulator = Emulator::new(Options::unlimited()).with_stream("s", shards);
        self.restart();
    }

    /// Listens again, on the same port.
    pub(crate) fn restart(&mut self) {
        let start = Instant::now();
        while self.server.is_none() {
            match Server::bind_on_thread(self.addr, &self.emulator, None) {
                Ok(server) => self.server = Some(server),
                Err(error) => assert!(start.elapsed() < TIMEOUT, "{error}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
