//! Runs the worlds of many seeds: `cargo run --release -p kpl-simulator -- --count 1000`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use cpu_time::ThreadTime;
use kpl_simulator::{Finding, Level, Report, regressions, run_seed_with};

/// Run kpl in simulated worlds with injected faults, and report broken promises.
#[derive(Parser)]
struct Args {
    /// The state machine alone, or the drive loop around it [default: both]
    #[arg(long)]
    level: Option<Level>,
    /// Whether the records of each key are to be read in order [default: chosen from the seed]
    #[arg(long)]
    ordering: Option<bool>,
    /// Run a single seed
    #[arg(long, conflicts_with_all = ["from", "fresh", "records"])]
    seed: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Derive the first seed from a text, for example a commit hash
    #[arg(long, value_name = "TEXT", conflicts_with = "from")]
    fresh: Option<String>,
    /// Run the worlds that broke a promise in the past (regressions.txt)
    #[arg(long, conflicts_with_all = ["seed", "from", "fresh", "records", "count"])]
    regressions: bool,
    /// The number of seeds
    #[arg(long, default_value_t = 1_000)]
    count: u64,
    /// Run until this number of user records was put, instead of a number of seeds
    #[arg(long, conflicts_with = "count")]
    records: Option<u64>,
    /// The number of threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Report a world that does not end within this time as a finding
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Continue after a finding, and list all findings without their traces
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let levels = args.level.map_or(Level::ALL.to_vec(), |level| vec![level]);
    let mut code = ExitCode::SUCCESS;
    for level in levels {
        if !run(&args, level) {
            code = ExitCode::FAILURE;
            if !args.keep_going {
                break;
            }
        }
    }
    code
}

/// The totals of all runs.
#[derive(Default)]
struct Total {
    worlds: AtomicU64,
    records: AtomicU64,
    succeeded: AtomicU64,
    virtual_seconds: AtomicU64,
    cpu_nanos: AtomicU64,
}

/// Runs all seeds at a level. Returns whether no promise was broken.
fn run(args: &Args, level: Level) -> bool {
    let found: Vec<u64> = regressions().into_iter().filter(|(at, _)| *at == level).map(|(_, seed)| seed).collect();
    let from = match (&args.seed, &args.fresh) {
        (Some(seed), _) => *seed,
        (None, Some(text)) => seed_of(text),
        (None, None) => args.from,
    };
    let count = match (args.seed, args.records) {
        _ if args.regressions => found.len() as u64,
        (Some(_), _) => 1,
        (None, Some(_)) => u64::MAX,
        (None, None) => args.count,
    };
    let (total, next, stop) = (Total::default(), AtomicU64::new(0), AtomicBool::new(false));
    let findings: Mutex<Vec<(u64, Box<Finding>)>> = Mutex::default();
    let current: Vec<CurrentSeed> = (0..args.jobs).map(|_| CurrentSeed::default()).collect();
    let running = AtomicUsize::new(args.jobs);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) > 0 {
                std::thread::sleep(Duration::from_millis(50));
                if let Some(seed) = current.iter().find_map(|worker| worker.stuck_at(args.timeout)) {
                    println!("PROMISE  every world ends\nBROKEN   the world did not end within {} s", args.timeout);
                    println!("{}", repeat_command(level, args.ordering, seed));
                    std::process::exit(1);
                }
            }
        });
        for worker in &current {
            let (total, next, stop, findings, found, running) = (&total, &next, &stop, &findings, &found, &running);
            scope.spawn(move || {
                let start = ThreadTime::now();
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    let seed = if args.regressions { found[n as usize] } else { from.wrapping_add(n) };
                    total.worlds.fetch_add(1, Ordering::Relaxed);
                    worker.start(seed);
                    match run_checked(level, args.ordering, seed, n % TWICE_EVERY == 0) {
                        Ok(report) => {
                            let records = total.records.fetch_add(report.records, Ordering::Relaxed) + report.records;
                            total.succeeded.fetch_add(report.succeeded, Ordering::Relaxed);
                            total.virtual_seconds.fetch_add(report.virtual_time.as_secs(), Ordering::Relaxed);
                            if args.records.is_some_and(|max| records >= max) {
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                        Err(finding) => {
                            if let Ok(mut findings) = findings.lock() {
                                findings.push((seed, finding));
                            }
                            stop.fetch_or(!args.keep_going, Ordering::Relaxed);
                        }
                    }
                }
                worker.end();
                total.cpu_nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let mut findings = findings.into_inner().unwrap_or_default();
    findings.sort_by_key(|(seed, _)| *seed);
    for (seed, finding) in &findings {
        if args.keep_going {
            println!("seed {seed}: {}\n    {}", finding.promise, finding.how);
        } else {
            println!("{finding}");
        }
        println!("{}\n", repeat_command(level, args.ordering, *seed));
    }
    let which = if args.regressions { "from regressions.txt".to_owned() } else { format!("from seed {from}") };
    println!("{level}: {}", total.summary(&which, findings.len()));
    findings.is_empty()
}

/// One world in this many runs twice.
const TWICE_EVERY: u64 = 50;

/// Runs a world. With `twice`, runs it again and compares the reports.
fn run_checked(level: Level, ordering: Option<bool>, seed: u64, twice: bool) -> Result<Report, Box<Finding>> {
    let report = run_seed_with(level, ordering, seed)?;
    if twice {
        let again = run_seed_with(level, ordering, seed)?;
        assert_eq!(report, again, "two runs of one seed differ: --level {level} --seed {seed}");
    }
    Ok(report)
}

/// Returns the command that runs a world again.
fn repeat_command(level: Level, ordering: Option<bool>, seed: u64) -> String {
    let ordering = ordering.map(|ordering| format!(" --ordering {ordering}")).unwrap_or_default();
    format!("REPRODUCE WITH: cargo run --release -p kpl-simulator -- --level {level}{ordering} --seed {seed}")
}

/// The seed that a thread runs, and the time at which it started.
#[derive(Default)]
struct CurrentSeed(Mutex<Option<(u64, Instant)>>);

impl CurrentSeed {
    fn start(&self, seed: u64) {
        self.set(Some((seed, Instant::now())));
    }

    fn end(&self) {
        self.set(None);
    }

    fn stuck_at(&self, timeout: u64) -> Option<u64> {
        let current = *self.0.lock().ok()?;
        current.filter(|(_, since)| since.elapsed().as_secs() >= timeout).map(|(seed, _)| seed)
    }

    fn set(&self, to: Option<(u64, Instant)>) {
        if let Ok(mut current) = self.0.lock() {
            *current = to;
        }
    }
}

impl Total {
    fn summary(&self, which: &str, findings: usize) -> String {
        let time = Duration::from_nanos(self.cpu_nanos.load(Ordering::Relaxed));
        let [worlds, records, succeeded, seconds] =
            [&self.worlds, &self.records, &self.succeeded, &self.virtual_seconds].map(|n| n.load(Ordering::Relaxed));
        format!(
            "{worlds} worlds {which}, {} virtual hours, {records} user records, {succeeded} with a receipt, {}; \
             {:.0} records a second of CPU time",
            seconds / 3_600,
            match findings {
                0 => "no finding".to_owned(),
                n => format!("{n} FINDINGS"),
            },
            records as f64 / time.as_secs_f64()
        )
    }
}

/// Returns the FNV-1a hash of `text`.
fn seed_of(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
