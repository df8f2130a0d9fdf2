//! The service on the simulated network of turmoil: its clients, the AWS SDK, HTTP and Kinesis, each on a host.

use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kpl_testing::hosts::{producer, serve};
use kpl_testing::{Faults, Kinesis};
use kpl_tokio::Tokio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use turmoil::net::{TcpListener, TcpStream};

use crate::service::{Bug, Event, STREAM, Service};
use crate::{Counts, Report, check_seeds};

#[derive(Default)]
struct Notes {
    confirmed: Vec<(String, String)>,
    unanswered: usize,
}

fn world(seed: u64, bug: Bug) -> Report {
    let mut rng = Rng::with_seed(seed);
    let kinesis = Kinesis::new(seed).stream(STREAM, 2);
    kinesis.set_faults(Faults { throttle_rate: 0.1, http_500_rate: 0.05, drop_reply_rate: 0.05, ..Faults::default() });
    kinesis.after(Duration::from_secs(3), |kinesis| kinesis.reshard(STREAM, 4).unwrap());
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(120))
        .tick_duration(Duration::from_millis(5))
        .max_message_latency(Duration::from_millis(50))
        .build();
    sim.host("kinesis", {
        let kinesis = kinesis.clone();
        move || serve(kinesis.clone(), 4567)
    });
    sim.host("service", move || run_service(bug));
    let notes = Arc::<Mutex<Notes>>::default();
    for client in 0..2 {
        let (notes, rng) = (notes.clone(), rng.fork());
        sim.client(format!("client-{client}"), async move {
            run_client(client, &notes, rng).await;
            Ok(())
        });
    }
    let mut crashes = 0;
    let mut next = Duration::from_millis(rng.u64(100..1_000));
    let mut is_partitioned = false;
    while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
        if sim.elapsed() < next {
            continue;
        }
        next += Duration::from_millis(rng.u64(100..1_500));
        match rng.u8(0..4) {
            0 => {
                sim.bounce("service"); // a crash and a start
                crashes += 1;
            }
            1 => sim.bounce("kinesis"), // its records stay
            _ if is_partitioned => {
                sim.repair("service", "kinesis");
                is_partitioned = false;
            }
            _ => {
                sim.partition("service", "kinesis");
                is_partitioned = true;
            }
        }
    }
    let notes = std::mem::take(&mut *notes.lock().unwrap());
    Report { confirmed: kinesis.compare(STREAM, notes.confirmed), unanswered: notes.unanswered, crashes }
}

/// A line is a request: the user, whether to confirm, and the body. The answer is a line with the status.
async fn run_service(bug: Bug) -> Result<(), Box<dyn Error>> {
    let service = Service::new(producer("http://kinesis:4567", Service::<Tokio>::config()), bug);
    let listener = TcpListener::bind(("0.0.0.0", 80)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        tokio::spawn(async move {
            let mut stream = BufStream::new(stream);
            let mut line = String::new();
            while let Ok(1..) = stream.read_line(&mut line).await {
                let mut words = line.trim_end().splitn(3, '\t').map(str::to_owned);
                let mut word = || words.next().unwrap_or_default();
                let event = Event { user: word(), confirm: word() == "confirm", body: word() };
                let status = service.handle(event).await;
                if stream.write_all(format!("{status}\n").as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

async fn run_client(client: usize, notes: &Mutex<Notes>, mut rng: Rng) {
    let mut connection = None;
    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(rng.u64(0..300))).await;
        let event =
            Event { user: format!("user {client}"), body: format!("event {n} of {client}"), confirm: rng.bool() };
        // A client waits for a second at most, and then connects again.
        let answer = tokio::time::timeout(Duration::from_secs(1), request(&mut connection, &event)).await;
        let status = answer.ok().and_then(Result::ok);
        let mut notes = notes.lock().unwrap();
        match status {
            Some(200) => notes.confirmed.push((event.user, event.body)),
            Some(_) => {}
            None => {
                connection = None;
                notes.unanswered += 1;
            }
        }
    }
}

async fn request(connection: &mut Option<BufStream<TcpStream>>, event: &Event) -> Result<u16, Box<dyn Error>> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(BufStream::new(TcpStream::connect("service:80").await?)),
    };
    let confirm = if event.confirm { "confirm" } else { "accept" };
    stream.write_all(format!("{}\t{confirm}\t{}\n", event.user, event.body).as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end().parse()?)
}

/// Runs the world of the environment variable `SEED`, with a bug if `BUG` is set.
///
/// The other tests run it in a process of its own for each seed, so that a seed is always the same world: tokio drops the
/// tasks of a crashed host in an order that depends on the number of tasks in the process so far.
#[test]
fn one_world() {
    let seed = env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let report = world(seed, if env::var("BUG").is_ok() { Bug::ConfirmsTooEarly } else { Bug::None });
    println!("{report:?}");
    let Counts(counts) = report.check();
    println!("{COUNTS}{counts:?}");
}

const COUNTS: &str = "counts: ";

/// Runs one world in a process of its own. Returns its output, and whether it passes.
fn run(seed: u64, has_bug: bool) -> (String, bool) {
    let mut process = Command::new(env::current_exe().unwrap());
    process.args(["--exact", "network::one_world", "--nocapture"]).env("SEED", seed.to_string());
    if has_bug {
        process.env("BUG", "1");
    }
    let output = process.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (text, output.status.success())
}

#[test]
fn what_is_confirmed_is_stored_whatever_crashes() {
    check_seeds("turmoil", 100, |seed| {
        let (output, passes) = run(seed, false);
        assert!(passes, "{output}");
        let counts = output.lines().find_map(|line| line.strip_prefix(COUNTS)).unwrap();
        let counts: Vec<usize> =
            counts.trim_matches(['[', ']']).split(", ").map(|count| count.parse().unwrap()).collect();
        Counts(counts.try_into().unwrap())
    });
}

#[test]
fn the_planted_bug_is_found() {
    let found = (0..100).map(|seed| run(seed, true).0).find(|output| output.contains("\nlost: "));
    let found = found.expect("a hundred worlds find it");
    let (_, message) = found.split_once("panicked at").unwrap();
    println!("turmoil: the planted bug is found: {message}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    let world = |seed| run(seed, false).0.lines().find(|line| line.starts_with("Report")).unwrap().to_owned();
    for seed in 0..5 {
        assert_eq!(world(seed), world(seed));
    }
    assert_ne!(world(0).replace("seed: 0", ""), world(1).replace("seed: 1", ""));
}
