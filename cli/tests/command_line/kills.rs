//! `kpl put --follow --checkpoint` is killed at random moments, while files are written, rotated and truncated and the
//! service fails. Every line is in the stream, in the order of its key, and duplicates are within what was said.
//!
//! `KPL_KILLS=300 KPL_SEED=7 cargo test -p kpl --test command_line kills -- --nocapture` runs longer. With `KPL_LOGROTATE`, the
//! real logrotate rotates.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use kpl_emulator::Faults;
use serde_json::Value;

use crate::logs::Log;
use crate::rig::{Kinesis, command, end, signal, wait_until};

/// Kills without an environment variable.
const KILLS: u64 = 20;

/// A log, how it is rotated, and when its writer opens the new file.
struct Rotating {
    log: Log,
    is_copied: bool,
    reopen_after: Option<u32>,
}

impl Rotating {
    fn new(directory: &Path, name: &str, is_copied: bool) -> Self {
        Self { log: Log::open(directory, name), is_copied, reopen_after: None }
    }

    fn reopen(&mut self) {
        if self.reopen_after.take().is_some() {
            self.log.reopen();
        }
    }

    fn rotate(&mut self, random: &mut Rng, checkpoint: &Path) {
        // Old files are deleted when their lines are stored: their inodes are used again.
        let json = fs::read(checkpoint).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or(Value::Null);
        let ended = json["files"].as_array().into_iter().flatten().filter(|file| file["ended"] == true);
        // With the size, because the checkpoint may be older than the file that has the inode now.
        let ended: Vec<_> =
            ended.filter_map(|file| Some((file["inode"].as_u64()?, file["offset"].as_u64()?))).collect();
        let is_done = |metadata: Metadata| ended.contains(&(metadata.ino(), metadata.len()));
        if self.is_copied {
            self.log.copy_and_truncate(is_done);
        } else {
            // Writers have moved on long before the next rotation.
            self.reopen();
            self.log.rename(is_done);
            self.reopen_after = Some(random.u32(0..4));
        }
    }
}

/// Writes and rotates.
struct World {
    random: Rng,
    logs: Vec<Rotating>,
    rotations: u64,
    checkpoint: PathBuf,
}

impl World {
    /// Does some of what happens in 10 ms. Rotates more if no `kpl` runs.
    fn step(&mut self, is_dead: bool) {
        let Self { random, logs, rotations, checkpoint } = self;
        for rotating in logs.iter_mut() {
            match rotating.reopen_after {
                Some(0) => rotating.reopen(),
                Some(steps) => rotating.reopen_after = Some(steps - 1),
                None => {}
            }
            match random.u32(0..100) {
                0..40 => rotating.log.write(random.u64(1..60)),
                40..45 => rotating.log.write_part(),
                45..48 => rotating.log.write(random.u64(100..600)),
                _ => {}
            }
            if random.u32(0..1_000) < if is_dead { 100 } else { 8 } {
                rotating.rotate(random, checkpoint);
                *rotations += 1;
            }
        }
    }

    /// Runs for a time.
    fn run(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.step(false);
            sleep(Duration::from_millis(self.random.u64(2..20)));
        }
    }
}

/// Faults of one run. Replies are lost only if duplicates are not counted.
fn faults(random: &mut Rng, loses_replies: bool) -> Faults {
    let mut rate = |of: f64| if random.bool() { random.f64() * of } else { 0.0 };
    let (throttle_rate, internal_failure_rate, http_500_rate, drop_reply_rate) =
        (rate(0.5), rate(0.3), rate(0.5), rate(0.3));
    let latency = Duration::from_millis(random.u64(0..40));
    Faults {
        throttle_rate,
        internal_failure_rate,
        // An outage in one of five runs.
        http_500_rate: if random.u32(0..5) == 0 { 1.0 } else { http_500_rate },
        drop_reply_rate: if loses_replies { drop_reply_rate } else { 0.0 },
        latency,
        latency_jitter: latency,
        ..Faults::default()
    }
}

fn start(args: &str, messages: &Path) -> Child {
    let messages = File::options().append(true).create(true).open(messages).unwrap();
    command(args).stdin(Stdio::null()).stderr(messages).spawn().unwrap()
}

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn survive(seed: u64, loses_replies: bool) {
    let kills = environment("KPL_KILLS", KILLS);
    println!("REPRODUCE WITH: KPL_SEED={seed} KPL_KILLS={kills}, loses replies: {loses_replies}");
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let messages = dir.path().join("messages");
    let kinesis = Kinesis::start(3);
    let args = format!(
        "put {} --key-field 1 --ordering per-key --json --follow --checkpoint {}/checkpoint {}/*.log --max-outstanding-records 3000",
        kinesis.args(),
        dir.path().display(),
        logs.display()
    );
    let mut world = World {
        random: Rng::with_seed(seed),
        logs: Vec::new(),
        rotations: 0,
        checkpoint: dir.path().join("checkpoint"),
    };
    for (name, is_copied) in [("renamed", false), ("copied", true), ("other", false)] {
        world.logs.push(Rotating::new(&logs, name, is_copied));
    }
    let (mut killed, mut ended, mut runs) = (0, 0, 0);
    while killed < kills {
        kinesis.emulator.set_faults(faults(&mut world.random, loses_replies));
        let child = start(&args, &messages);
        runs += 1;
        // Some runs end before they have read anything, and some write a few checkpoints.
        let ms = if world.random.u32(0..4) == 0 { 2_500 } else { 500 };
        let time = Duration::from_millis(world.random.u64(1..ms));
        if runs == 1 {
            // Rotated files that no run has seen under their names are not read.
            wait_until("the first checkpoint", || world.checkpoint.exists());
        }
        world.run(time);
        if world.random.u32(0..10) == 0 {
            // Without a fault, so that it can flush; in the middle of the writes.
            kinesis.emulator.set_faults(Faults::default());
            wait_until("the signal is handled", || is_handled(&child));
            signal(&child, "TERM");
            let run = end(child);
            assert_eq!(run.code(), 0, "{run:#?}, {}", fs::read_to_string(&messages).unwrap());
            ended += 1;
        } else {
            kill(child);
            killed += 1;
        }
        for _ in 0..world.random.u32(0..6) {
            world.step(true);
        }
        // A file that appears.
        if world.random.u32(0..8) == 0 {
            let name = format!("new{runs}");
            world.logs.push(Rotating::new(&logs, &name, world.random.bool()));
        }
    }
    for rotating in &mut world.logs {
        rotating.reopen();
        rotating.log.complete();
    }

    kinesis.emulator.set_faults(Faults::default());
    let child = start(&args, &messages);
    let expected: u64 = world.logs.iter().map(|rotating| rotating.log.lines).sum();
    let mut progress = (u64::MAX, Instant::now());
    loop {
        let missing = missing(&kinesis, &world.logs);
        if missing.is_empty() {
            break;
        }
        let count = missing.iter().map(|(_, start, end)| end - start).sum();
        if count < progress.0 {
            progress = (count, Instant::now());
        }
        if progress.1.elapsed() > Duration::from_secs(30) {
            kill(child);
            let messages = fs::read_to_string(&messages).unwrap();
            panic!(
                "of {expected} lines, these are missing: {missing:?}, seed {seed}\n{messages}\nkept: {:?}",
                dir.keep()
            );
        }
        sleep(Duration::from_millis(200));
    }
    signal(&child, "TERM");
    let run = end(child);
    assert_eq!(run.code(), 0, "{run:#?}, {}", fs::read_to_string(&messages).unwrap());

    let kept = |what: String| -> ! {
        let messages = fs::read_to_string(&messages).unwrap();
        panic!("{what}, seed {seed}\n{messages}\nkept: {:?}", dir.keep())
    };
    // The first copies of the lines of each key are in the order of the log.
    let mut next: HashMap<String, u64> = HashMap::new();
    let records = kinesis.read();
    for record in &records {
        let (_, number) = Log::parse(&record.data);
        let next = next.entry(record.partition_key.clone()).or_insert(number % 10);
        if number > *next {
            kept(format!("line {number} of {} is before line {next}", record.partition_key));
        }
        *next = (*next).max(number + 10);
    }
    let duplicates = records.len() as u64 - expected;
    let said = run.json()["checkpoint"]["put_again_total"]["lines"].as_u64().unwrap();
    if !loses_replies {
        assert!(duplicates <= said, "{duplicates} duplicates, but {said} were said, seed {seed}");
    }
    println!(
        "{killed} kills, {ended} ends by SIGTERM, {} rotations, {expected} lines, {duplicates} duplicates, at most {said} said",
        world.rotations
    );
}

/// Returns the ranges of lines that did not arrive.
fn missing(kinesis: &Kinesis, logs: &[Rotating]) -> Vec<(String, u64, u64)> {
    let arrived: HashSet<_> = kinesis.read().iter().map(|record| Log::parse(&record.data)).collect();
    let mut missing: Vec<(String, u64, u64)> = Vec::new();
    for log in logs.iter().map(|rotating| &rotating.log) {
        for number in (0..log.lines).filter(|number| !arrived.contains(&(log.name.clone(), *number))) {
            match missing.last_mut() {
                Some((name, _, end)) if *name == log.name && *end == number => *end += 1,
                _ => missing.push((log.name.clone(), number, number + 1)),
            }
        }
    }
    missing
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Returns whether the process handles SIGTERM. Before that, SIGTERM ends it.
fn is_handled(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u128::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> 14 & 1 == 1)
}

#[test]
#[cfg(target_os = "linux")]
fn no_line_is_lost_by_kills_rotations_and_truncations() {
    survive(environment("KPL_SEED", 1), false);
}

#[test]
#[cfg(target_os = "linux")]
fn no_line_is_lost_by_kills_while_replies_are_lost() {
    survive(environment("KPL_SEED", 1) + 1_000, true);
}
