//! Plants each bug in a copy of the project and counts the seeds until the simulator finds it.
//!
//! `cargo run --release -p kpl-simulator --bin planted [-- --check] [--part COMMIT] [NAME ...]`
//!
//! A bug is a file in `tests/simulator/planted`: a line that describes the bug, the level at which the simulator must
//! find it within 5,000 seeds, and one or more replacements. The old text must occur once in its file. With `After:`, it
//! is the first occurrence after that text.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::{env, fs, thread};

use clap::Parser;

const SEEDS_MAX: u64 = 5_000;
const BUGS: &str = "tests/simulator/planted";
/// The number of parts of the bugs for `--part`.
const PARTS: u64 = 8;

/// Plant bugs, one at a time, and count the seeds until the simulator finds each of them.
#[derive(Parser)]
struct Args {
    /// Only check that every bug can still be planted
    #[arg(long)]
    check: bool,
    /// Plant only an eighth of the bugs, which this commit's hash chooses: all of them take half an hour
    #[arg(long, value_name = "COMMIT", value_parser = part)]
    part: Option<u64>,
    /// Names of bugs [default: all]
    names: Vec<String>,
}

/// Returns the part that a commit's hash chooses.
fn part(commit: &str) -> std::result::Result<u64, String> {
    let start = commit.get(..8).ok_or("not a commit's hash")?;
    u64::from_str_radix(start, 16).map(|hash| hash % PARTS).map_err(|error| error.to_string())
}

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(missed) => {
            println!("{missed} failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("planted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number of bugs that were not found, or cannot be planted.
fn run(args: &Args) -> Result<usize> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let bugs = Bug::load(&project.join(BUGS), &args.names)?;
    if args.check {
        let errors: Vec<String> = bugs.iter().filter_map(|bug| bug.plant(&project, false).err()).collect();
        errors.iter().for_each(|error| println!("{error}"));
        println!("{} of {} bugs can be planted", bugs.len() - errors.len(), bugs.len());
        return Ok(errors.len());
    }
    let is_in_part = |number: u64| args.part.is_none_or(|part| number % PARTS == part);
    let bugs: Vec<Bug> =
        bugs.into_iter().zip(0..).filter(|(_, number)| is_in_part(*number)).map(|(bug, _)| bug).collect();
    let work = project.join("target/planted");
    let tree = Tree::copy(&project, &work)?;
    println!("{:<42} {:<7} {:>6}  promise that it broke", "planted bug", "level", "seeds");
    // The simulator of a bug runs while the simulator of the next bug is built.
    let (to_run, simulators) = mpsc::sync_channel::<(Bug, PathBuf)>(1);
    let runner = thread::spawn(move || simulators.into_iter().filter(|(bug, program)| !find(bug, program)).count());
    for bug in bugs {
        let originals = bug.plant(&tree.0, true)?;
        let built = build(&bug, &tree.0, &work);
        for (file, text) in originals {
            write(&file, &text)?;
        }
        to_run.send((bug, built?)).map_err(|error| error.to_string())?;
    }
    drop(to_run);
    runner.join().map_err(|_| "the runner panicked".to_owned())
}

struct Bug {
    name: String,
    level: String,
    replacements: Vec<Replacement>,
}

struct Replacement {
    file: String,
    /// A text before the replaced text.
    after: Option<String>,
    old: String,
    new: String,
}

impl Bug {
    fn load(folder: &Path, names: &[String]) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "bug"));
        files.sort_unstable();
        let name = |file: &Path| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(unknown) = names.iter().find(|wanted| files.iter().all(|file| name(file) != **wanted)) {
            return Err(format!("there is no bug {unknown:?} in {BUGS}"));
        }
        files.retain(|file| names.is_empty() || names.contains(&name(file)));
        files.iter().map(|file| Self::parse(name(file), &read(file)?)).collect()
    }

    fn parse(name: String, text: &str) -> Result<Self> {
        let error = |what: &str| format!("{name}: {what}");
        let (_description, rest) = text.split_once("\nLevel: ").ok_or_else(|| error("no level"))?;
        let (level, rest) = rest.split_once('\n').ok_or_else(|| error("no replacement"))?;
        let level = level.to_owned();
        let mut replacements = Vec::new();
        for part in rest.split_terminator(">>>\n") {
            let (head, body) = part.split_once("<<<\n").ok_or_else(|| error("no <<<"))?;
            let (old, new) = body.split_once("===\n").ok_or_else(|| error("no ==="))?;
            let field = |field: &str| head.lines().find_map(|line| line.strip_prefix(field)).map(str::to_owned);
            let file = field("File: ").ok_or_else(|| error("no file"))?;
            replacements.push(Replacement { file, after: field("After: "), old: old.to_owned(), new: new.to_owned() });
        }
        Ok(Self { name, level, replacements })
    }

    /// Checks that the bug can be planted below `root`, and plants it if `write_it`. Returns the original files.
    fn plant(&self, root: &Path, write_it: bool) -> Result<Vec<(PathBuf, String)>> {
        let mut originals = Vec::new();
        for Replacement { file, after, old, new } in &self.replacements {
            let path = root.join(file);
            let text = read(&path)?;
            let once = |text: &str, what: &str| match text.matches(what).count() {
                1 => Ok(text.find(what).unwrap_or_default()),
                count => Err(format!("{}: {file} has {what:?} {count} times", self.name)),
            };
            let at = match after {
                None => once(&text, old)?,
                Some(after) => {
                    let start = once(&text, after)?;
                    start + text[start..].find(old.as_str()).ok_or_else(|| format!("{}: not in {file}", self.name))?
                }
            };
            if write_it {
                write(&path, &[&text[..at], new, &text[at + old.len()..]].concat())?;
            }
            originals.push((path, text));
        }
        // With two replacements in a file, the first one has its original text. It must be restored last.
        originals.reverse();
        Ok(originals)
    }
}

/// A copy of the project's files.
struct Tree(PathBuf);

impl Tree {
    fn copy(project: &Path, work: &Path) -> Result<Self> {
        let tree = work.join("tree");
        let _ = fs::remove_dir_all(&tree);
        let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = Command::new("git").args(list).current_dir(project).output().map_err(|error| error.to_string())?;
        for file in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
            let (from, to) = (project.join(file), tree.join(file));
            if !from.exists() {
                continue; // deleted, and not committed yet
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(|error| error.to_string())?;
            }
            fs::copy(&from, &to).map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(Self(tree))
    }
}

/// Builds the simulator with a bug and moves the program to its own path, which it returns.
fn build(bug: &Bug, tree: &Path, work: &Path) -> Result<PathBuf> {
    let target = work.join("target");
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--quiet",
        "--profile",
        "planted",
        "--locked",
        "-p",
        "kpl-simulator",
        "--bin",
        "kpl-simulator",
    ]);
    cargo.args(["--no-default-features", "--features", if bug.level == "driver" { "driver" } else { "" }]);
    // CI switches it off for everything else. Here each build differs from the one before in a few lines.
    cargo.env("CARGO_INCREMENTAL", "1");
    let output =
        cargo.arg("--target-dir").arg(&target).current_dir(tree).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{} does not build:\n{}", bug.name, String::from_utf8_lossy(&output.stderr)));
    }
    let program = work.join(format!("{}{}", bug.name, env::consts::EXE_SUFFIX));
    let built = target.join("planted").join(format!("kpl-simulator{}", env::consts::EXE_SUFFIX));
    fs::rename(built, &program).map_err(|error| error.to_string())?;
    Ok(program)
}

/// Runs a simulator with a bug and prints the first finding. Returns whether there is one.
fn find(bug: &Bug, program: &Path) -> bool {
    let mut simulator = Command::new(program);
    // While a rare bug is searched for, no other one is built, and the cores are free.
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    simulator.args(["--level", &bug.level, "--count", &SEEDS_MAX.to_string(), "--timeout", "20"]);
    simulator.args(["--jobs", &jobs.to_string()]);
    let output = simulator.stderr(Stdio::null()).output();
    let _ = fs::remove_file(program);
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let seed = text.lines().find_map(|line| line.strip_prefix("REPRODUCE WITH: ")?.rsplit(' ').next()?.parse().ok());
    let promise = text.lines().find_map(|line| line.strip_prefix("PROMISE  ")).unwrap_or_default();
    let promise = promise.split(':').next().unwrap_or_default();
    match seed {
        Some(seed) => {
            let seed: u64 = seed;
            println!("{:<42} {:<7} {:>6}  {promise}", bug.name, bug.level, seed + 1);
        }
        None => println!("{:<42} {:<7} {:>6}  NOT FOUND", bug.name, bug.level, '-'),
    }
    seed.is_some()
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
