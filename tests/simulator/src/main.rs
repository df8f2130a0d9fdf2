//! Runs worlds by their seeds: `cargo run --release -p kpl-simulator -- --from 0 --count 1000`.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

/// Run kpl's state machine in seeded worlds, and report the first promise that it breaks.
#[derive(Parser)]
struct Args {
    /// One seed, instead of many
    #[arg(long)]
    seed: Option<u64>,
    /// The first of many seeds
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many
    #[arg(long, default_value_t = 1_000)]
    count: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.from..args.from + args.count, |seed| seed..seed + 1);
    let (start, mut records, mut succeeded, mut complete) = (Instant::now(), 0, 0, 0);
    for seed in seeds.clone() {
        match kpl_simulator::run_seed(seed) {
            Ok(report) => {
                records += report.records;
                succeeded += report.succeeded;
                complete += u64::from(report.complete);
            }
            Err(finding) => {
                println!("{finding}");
                println!("\nREPRODUCE WITH: cargo run --release -p kpl-simulator -- --seed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} worlds ({complete} to their end), {records} records, {succeeded} with a receipt, no finding; {:.0} records/s",
        seeds.end - seeds.start,
        records as f64 / seconds
    );
    ExitCode::SUCCESS
}
