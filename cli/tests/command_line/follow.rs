//! `kpl put --follow` and `--checkpoint`: growth, rotation, restarts.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kpl_emulator::Faults;
use tempfile::TempDir;

use crate::rig::{KPL, Kinesis, Run, command, end, kpl, program, signal, wait_until};
use crate::signals::has_signal;

/// A directory with log files, and a stream.
struct Setup {
    dir: TempDir,
    kinesis: Kinesis,
}

impl Setup {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), kinesis: Kinesis::start(1) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Returns the arguments of a run that puts files with a checkpoint.
    fn args(&self, options: &str, files: &str) -> String {
        let dir = self.dir.path().display();
        format!("put {} --json --key k --checkpoint {dir}/checkpoint {options} {dir}/{files}", self.kinesis.args())
    }

    fn start(&self, options: &str, files: &str) -> Child {
        command(&self.args(options, files)).stdin(Stdio::null()).spawn().unwrap()
    }

    fn wait_for(&self, lines: &[&str]) {
        wait_until(&format!("{lines:?} arrive"), || self.data().len() >= lines.len());
        assert_eq!(self.data(), lines);
    }

    /// Returns the data in the order of the stream, which has one shard.
    fn data(&self) -> Vec<String> {
        self.kinesis.read().into_iter().map(|record| String::from_utf8(record.data.to_vec()).unwrap()).collect()
    }

    /// Waits until the checkpoint says that some text is resolved.
    fn wait_for_checkpoint(&self, text: &str) {
        wait_until(text, || fs::read_to_string(self.path("checkpoint")).is_ok_and(|json| json.contains(text)));
    }
}

fn terminate(child: Child) -> Run {
    signal(&child, "TERM");
    let run = end(child);
    assert_eq!(run.code(), 0, "{run:#?}");
    run
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_growing_file_is_put_line_by_line_until_a_signal() {
    let setup = Setup::new();
    setup.append("app.log", "1\n2\nha");
    let child = setup.start("--follow", "app.log");
    setup.wait_for(&["1", "2"]);
    setup.append("app.log", "lf");
    sleep(Duration::from_millis(300));
    setup.append("app.log", "\n4\n");
    setup.wait_for(&["1", "2", "half", "4"]);
    let summary = terminate(child).json();
    assert_eq!((&summary["put"], &summary["failed"]), (&4.into(), &0.into()), "{summary:#}");
    assert_eq!(summary["checkpoint"]["put_again_total"]["lines"], 0);
    // Nothing is put twice after an orderly end.
    setup.append("app.log", "5\n");
    let child = setup.start("--follow", "app.log");
    setup.wait_for(&["1", "2", "half", "4", "5"]);
    let summary = terminate(child).json();
    let resumed = &summary["checkpoint"]["resumed"][0];
    assert_eq!(
        (&resumed["offset"], &resumed["line"], &summary["put"]),
        (&11.into(), &4.into(), &1.into()),
        "{summary:#}"
    );
}

#[test]
fn files_that_appear_are_found_by_their_pattern() {
    let setup = Setup::new();
    let child = setup.start("--follow", "*.log");
    setup.append("a.log", "a1\n");
    setup.wait_for(&["a1"]);
    setup.append("b.log", "b1\n");
    setup.append("c.txt", "c1\n");
    setup.wait_for(&["a1", "b1"]);
    fs::remove_file(setup.path("a.log")).unwrap();
    setup.append("b.log", "b2\n");
    setup.wait_for(&["a1", "b1", "b2"]);
    setup.append("a.log", "a2\n");
    setup.wait_for(&["a1", "b1", "b2", "a2"]);
    terminate(child);
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for() {
    let setup = Setup::new();
    let child = setup.start("--follow", "app.log");
    sleep(Duration::from_millis(300));
    setup.append("app.log", "1\n");
    setup.wait_for(&["1"]);
    let run = terminate(child);
    assert!(run.stderr.contains("cannot open"), "{run:#?}");
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let setup = Setup::new();
    setup.append("app.log", "1\n");
    let child = setup.start("--follow", "app.log");
    setup.wait_for(&["1"]);
    // All while the reader does not run.
    stop(&child, true);
    fs::rename(setup.path("app.log"), setup.path("app.log.1")).unwrap();
    setup.append("app.log", "4\n");
    setup.append("app.log.1", "2\n3\n");
    stop(&child, false);
    setup.wait_for(&["1", "2", "3", "4"]);
    // Another writer that has not moved on yet.
    setup.append("app.log.1", "5\n");
    setup.wait_for(&["1", "2", "3", "4", "5"]);
    terminate(child);
}

#[test]
fn the_rest_of_a_truncated_file_is_read_from_its_copy() {
    let setup = Setup::new();
    setup.append("app.log", "1\n");
    let child = setup.start("--follow", "app.log");
    setup.wait_for(&["1"]);
    stop(&child, true);
    setup.append("app.log", "2\n");
    copy_and_truncate(&setup.path("app.log"), &setup.path("app.log.1"));
    // As long as what was read.
    setup.append("app.log", "3\n");
    stop(&child, false);
    setup.wait_for(&["1", "2", "3"]);
    let run = terminate(child);
    assert!(run.stderr.contains("was truncated: its rest is read from"), "{run:#?}");
}

#[test]
fn truncation_without_a_copy_is_reported() {
    let setup = Setup::new();
    setup.append("app.log", "1\n2\n");
    let child = setup.start("--follow", "app.log");
    setup.wait_for(&["1", "2"]);
    File::create(setup.path("app.log")).unwrap();
    setup.append("app.log", "3\n");
    setup.wait_for(&["1", "2", "3"]);
    let run = terminate(child);
    assert!(run.stderr.contains("was truncated after offset 4 was read, and no copy"), "{run:#?}");
}

#[test]
fn all_rotations_while_no_process_runs_are_made_up_for() {
    for is_copied in [false, true] {
        let setup = Setup::new();
        setup.append("app.log", "1\n");
        let child = setup.start("--follow", "app.log");
        setup.wait_for(&["1"]);
        setup.wait_for_checkpoint("\"offset\":2");
        kill(child);
        setup.append("app.log", "2\n");
        for (number, text) in [(2, "3\n"), (3, "4\n")] {
            if number == 3 {
                fs::rename(setup.path("app.log.1"), setup.path("app.log.2")).unwrap();
            }
            if is_copied {
                copy_and_truncate(&setup.path("app.log"), &setup.path("app.log.1"));
            } else {
                fs::rename(setup.path("app.log"), setup.path("app.log.1")).unwrap();
            }
            sleep(Duration::from_millis(50)); // The files have different times.
            setup.append("app.log", text);
        }
        let child = setup.start("--follow", "app.log");
        setup.wait_for(&["1", "2", "3", "4"]);
        let run = terminate(child);
        // Of the line that was written after the kill, the checkpoint cannot know whether it was put.
        assert!(run.json()["checkpoint"]["put_again_total"]["lines"].as_u64() <= Some(1), "{run:#?}");
        // They are not read again by the next run.
        setup.append("app.log", "5\n");
        let child = setup.start("--follow", "app.log");
        setup.wait_for(&["1", "2", "3", "4", "5"]);
        terminate(child);
    }
}

#[test]
fn lines_in_flight_are_put_again_and_counted() {
    let setup = Setup::new();
    setup.append("app.log", "1\n");
    let child = setup.start("--follow", "app.log");
    setup.wait_for(&["1"]);
    setup.wait_for_checkpoint("\"offset\":2");
    setup.kinesis.emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    setup.append("app.log", "2\n3\n");
    wait_until("stored without a reply", || setup.data().len() >= 3);
    kill(child);
    setup.kinesis.emulator.set_faults(Faults::default());
    setup.append("app.log", "4\n");
    let before = setup.data().len();
    let child = setup.start("--follow", "app.log");
    wait_until("the rest arrives", || setup.data().len() >= before + 3);
    let run = terminate(child);
    // The limit is cut to what was there, so the new line counts, too.
    let again = &run.json()["checkpoint"]["put_again"];
    assert_eq!((&again["lines"], &again["bytes"]), (&3.into(), &6.into()), "{run:#?}");
    assert!(run.stderr.contains("at most 3 lines (6 bytes) are put twice"), "{run:#?}");
}

#[test]
fn without_follow_the_next_run_puts_only_what_is_new() {
    let setup = Setup::new();
    let run = |name| kpl(&setup.args("", name), b"");
    setup.append("app.log", "1\n2");
    let first = run("app.log");
    assert_eq!((first.code(), &first.json()["put"]), (0, &2.into()), "{first:#?}");
    assert_eq!(run("app.log").json()["put"], 0);
    setup.append("app.log", "\n3\n");
    assert_eq!(run("app.log").json()["put"], 2, "the newline ends an empty rest");
    // A rotation in between.
    setup.append("app.log", "4\n");
    fs::rename(setup.path("app.log"), setup.path("app.log.1")).unwrap();
    setup.append("app.log", "5\n");
    assert_eq!(run("app.log").json()["put"], 2);
    assert_eq!(setup.data(), ["1", "2", "", "3", "4", "5"]);
}

#[test]
fn a_line_that_the_service_refuses_stops_the_run_before_it_is_lost() {
    let setup = Setup::new();
    setup.append("app.log", "1\n2\n");
    let args = setup.args("--follow", "app.log").replace("--stream s", "--stream later");
    let run = end(command(&args).stdin(Stdio::null()).spawn().unwrap());
    assert_eq!(run.code(), 1, "{run:#?}");
    assert!(run.stderr.contains("stopped before line 1 of"), "{run:#?}");
    assert!(run.stderr.contains("ResourceNotFoundException"), "{run:#?}");
    setup.kinesis.emulator.create_stream("later", 1).unwrap();
    let child = command(&args).stdin(Stdio::null()).spawn().unwrap();
    let count = || {
        setup.kinesis.emulator.with(|kinesis, _| kpl_emulator::consumer::read_stream(kinesis, "later")).records.len()
    };
    wait_until("both lines arrive", || count() == 2);
    terminate(child);
}

#[test]
fn dead_letters_let_the_run_go_on() {
    let setup = Setup::new();
    setup.append("app.log", "1\n2\n");
    let letters = setup.path("dead.ndjson");
    let args = setup.args(&format!("--dead-letter {}", letters.display()), "app.log");
    let run = kpl(&args.replace("--stream s", "--stream nowhere"), b"");
    assert_eq!((run.code(), &run.json()["failed"]), (1, &2.into()), "{run:#?}");
    assert_eq!(fs::read_to_string(&letters).unwrap().lines().count(), 2);
    let again = kpl(&args.replace("--stream s", "--stream nowhere"), b"");
    assert_eq!((again.code(), &again.json()["put"]), (0, &0.into()), "{again:#?}");
}

#[test]
fn lines_without_a_key_are_reported_and_passed() {
    let setup = Setup::new();
    setup.append("app.log", "{\"id\":1}\nno JSON\n{\"id\":3}\n");
    let args = setup.args("", "app.log").replace("--key k", "--key-json /id");
    let run = kpl(&args, b"");
    assert_eq!((run.code(), &run.json()["failed"]), (1, &1.into()), "{run:#?}");
    assert!(run.stderr.contains("line 2 of"), "{run:#?}");
    setup.append("app.log", "no JSON either\n");
    let run = kpl(&args, b"");
    assert_eq!((run.code(), &run.json()["put"]), (1, &1.into()), "{run:#?}");
    assert!(run.stderr.contains("line 4 of"), "lines are counted on: {run:#?}");
}

#[test]
fn an_outage_stops_reading_and_loses_nothing() {
    let mut setup = Setup::new();
    let child = setup.start("--follow --max-outstanding-records 100", "app.log");
    setup.append("app.log", "first\n");
    setup.wait_for(&["first"]);
    setup.kinesis.stop();
    let lines: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    setup.append("app.log", &lines);
    sleep(Duration::from_millis(500));
    fs::rename(setup.path("app.log"), setup.path("app.log.1")).unwrap();
    setup.append("app.log", "between\n");
    sleep(Duration::from_millis(100));
    fs::rename(setup.path("app.log.1"), setup.path("app.log.2")).unwrap();
    fs::rename(setup.path("app.log"), setup.path("app.log.1")).unwrap();
    sleep(Duration::from_millis(100));
    setup.append("app.log", "last\n");
    setup.kinesis.restart();
    wait_until("all lines arrive", || setup.data().iter().any(|line| line == "last"));
    let run = terminate(child);
    assert_eq!(run.json()["succeeded"], 20_003, "{run:#?}");
}

#[test]
fn a_signal_in_an_outage_leaves_lines_to_the_next_run() {
    let setup = Setup::new();
    setup.kinesis.emulator.set_faults(Faults { http_500_rate: 1.0, ..Faults::default() });
    setup.append("app.log", "1\n2\n3\n");
    for (options, code) in [("--follow", 0), ("", 143)] {
        let before = setup.kinesis.requests("PutRecords");
        let child = setup.start(options, "app.log");
        wait_until("a request", || setup.kinesis.requests("PutRecords") > before);
        let signaled_at = Instant::now();
        signal(&child, "TERM");
        let run = end(child);
        let (summary, waited) = (run.json(), signaled_at.elapsed());
        let (failed, left) = (&summary["failed"], &summary["checkpoint"]["left"]);
        assert_eq!((run.code(), failed, left), (code, &0.into(), &3.into()), "{run:#?}");
        assert!(waited >= Duration::from_secs(8), "the signal waits for results: {waited:?}");
    }
    setup.kinesis.emulator.set_faults(Faults::default());
    let run = kpl(&setup.args("", "app.log"), b"");
    let checkpoint = &run.json()["checkpoint"];
    // They were sent, and may be stored.
    assert_eq!((run.code(), &checkpoint["left"]), (0, &0.into()), "{run:#?}");
    assert_eq!(checkpoint["put_again"]["lines"], 3, "{run:#?}");
    assert_eq!(setup.data(), ["1", "2", "3"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf_8_does_not_stop_the_run() {
    use std::os::unix::ffi::OsStrExt;
    let setup = Setup::new();
    setup.append("app.log", "1\n");
    let child = setup.start("--follow", "*.log");
    setup.wait_for(&["1"]);
    fs::write(setup.dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.log")), "x\n").unwrap();
    setup.append("b.log", "2\n");
    setup.wait_for(&["1", "2"]);
    setup.append("app.log", "3\n");
    setup.wait_for(&["1", "2", "3"]);
    terminate(child);
}

#[test]
fn a_rotated_file_that_is_back_at_its_path_goes_on() {
    let setup = Setup::new();
    let run = |count: u64| {
        let run = kpl(&setup.args("", "app.log"), b"");
        assert_eq!((run.code(), &run.json()["put"]), (0, &count.into()), "{run:#?}");
    };
    setup.append("app.log", "1\n");
    run(1);
    setup.append("app.log", "2\n");
    fs::rename(setup.path("app.log"), setup.path("app.log.1")).unwrap();
    setup.append("app.log", "3\n");
    run(2);
    fs::rename(setup.path("app.log.1"), setup.path("app.log")).unwrap();
    setup.append("app.log", "4\n");
    run(1);
    assert_eq!(setup.data(), ["1", "2", "3", "4"]);
}

#[test]
fn files_of_a_directory_that_is_missing_for_a_while_go_on() {
    let setup = Setup::new();
    let (logs, away) = (setup.path("logs"), setup.path("away"));
    fs::create_dir(&logs).unwrap();
    setup.append("logs/app.log", "1\n2\n");
    let run = kpl(&setup.args("", "logs/app.log"), b"");
    assert_eq!((run.code(), &run.json()["put"]), (0, &2.into()), "{run:#?}");
    // As before a file system is mounted: no directory, or an empty one.
    fs::rename(&logs, &away).unwrap();
    let follow = || {
        let child = setup.start("--follow", "logs/*.log");
        wait_until("it handles SIGTERM", || has_signal(&child.id().to_string(), "SigCgt", 15) != Some(false));
        // The files are looked for after that.
        sleep(Duration::from_millis(300));
        child
    };
    terminate(follow());
    fs::create_dir(&logs).unwrap();
    let child = follow();
    fs::remove_dir(&logs).unwrap();
    fs::rename(&away, &logs).unwrap();
    setup.append("logs/app.log", "3\n");
    wait_until("the line arrives", || setup.data().len() >= 3);
    let run = terminate(child);
    assert_eq!(setup.data(), ["1", "2", "3"], "{run:#?}");
}

#[test]
fn a_copy_that_was_missed_comes_before_the_file_and_before_others() {
    let setup = Setup::new();
    setup.append("app.log", "");
    setup.append("b.log", "b\n");
    let args = format!("{} {}", setup.args("", "app.log"), setup.path("b.log").display());
    assert_eq!(kpl(&args, b"").json()["put"], 1);
    setup.append("app.log", "1\n");
    copy_and_truncate(&setup.path("app.log"), &setup.path("app.log.1"));
    setup.append("app.log", "2\n");
    setup.append("b.log", "c\n");
    let run = kpl(&args, b"");
    assert_eq!((run.code(), &run.json()["put"]), (0, &3.into()), "{run:#?}");
    let data = setup.data();
    let place = |line: &str| data.iter().position(|stored| stored == line).unwrap();
    assert!(place("1") < place("2"), "{data:?}");
}

#[cfg(unix)]
#[test]
fn more_files_are_followed_than_a_process_may_open_at_first() {
    let setup = Setup::new();
    for number in 0..150 {
        setup.append(&format!("{number}.log"), "1\n");
    }
    let args = setup.args("--follow", "*.log");
    let mut shell = program("sh");
    shell.args(["-c", "ulimit -Sn 64; exec \"$0\" \"$@\"", KPL]).args(args.split_whitespace());
    let child = shell.stdin(Stdio::null()).spawn().unwrap();
    wait_until("all lines arrive", || setup.data().len() >= 150);
    let run = terminate(child);
    assert!(!run.stderr.contains("Too many open files"), "{run:#?}");
}

#[test]
fn lines_that_wait_for_their_put_at_a_signal_are_not_counted_as_put() {
    let setup = Setup::new();
    setup.kinesis.emulator.set_faults(Faults { latency: Duration::from_millis(50), ..Faults::default() });
    let lines: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    setup.append("app.log", &lines);
    let child = setup.start("--follow --max-outstanding-records 1000", "app.log");
    wait_until("the first lines arrive", || setup.data().len() >= 1_000);
    let run = terminate(child);
    let stored = setup.data().len();
    assert!(stored < 200_000, "the signal came too late");
    assert_eq!(run.json()["checkpoint"]["left"], 0, "{run:#?}");
    let run = kpl(&setup.args("", "app.log"), b"");
    assert_eq!(run.json()["checkpoint"]["put_again"]["lines"], 0, "{run:#?}");
    assert_eq!(setup.data().len(), 200_000);
}

#[cfg(target_os = "linux")]
#[test]
fn a_line_whose_dead_letter_cannot_be_written_stops_the_run() {
    let setup = Setup::new();
    setup.append("app.log", "{\"id\":1}\nno JSON\n");
    let args = setup.args("--dead-letter /dev/full", "app.log").replace("--key k", "--key-json /id");
    for _ in 0..2 {
        let run = kpl(&args, b"");
        assert_eq!(run.code(), 1, "{run:#?}");
        assert!(run.stderr.contains("stopped before line 2 of") && run.stderr.contains("is incomplete"), "{run:#?}");
    }
}

#[test]
fn a_directory_with_brackets_is_no_pattern() {
    let setup = Setup::new();
    let directory = setup.path("[a]");
    fs::create_dir(&directory).unwrap();
    setup.append("[a]/app.log", "1\n");
    let mut command = command(&format!("put {} --json --key k --follow *.log", setup.kinesis.args()));
    let child = command.current_dir(&directory).stdin(Stdio::null()).spawn().unwrap();
    setup.wait_for(&["1"]);
    terminate(child);
}

#[test]
fn lines_of_a_stack_trace_are_one_record() {
    let setup = Setup::new();
    setup.append("app.log", "2026 error\n  at a\n  at b\n2026 next\n");
    let child = setup.start("--follow --multiline-start ^[0-9]", "app.log");
    setup.wait_for(&["2026 error\n  at a\n  at b", "2026 next"]);
    setup.append("app.log", "2026 more\n");
    sleep(Duration::from_millis(200));
    setup.append("app.log", "  at c\n");
    setup.wait_for(&["2026 error\n  at a\n  at b", "2026 next", "2026 more\n  at c"]);
    terminate(child);
    let run = kpl(&format!("put {} --key k --multiline-start ^x", setup.kinesis.args()), b"x1\ny\nx2\nz");
    assert_eq!(run.code(), 0, "{run:#?}");
    assert_eq!(setup.data()[3..], ["x1\ny", "x2\nz"]);
}

#[test]
fn lag_is_in_the_metrics() {
    let mut setup = Setup::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    setup.append("app.log", "1\n");
    let child = setup.start(&format!("--follow --metrics-port {port}"), "app.log");
    let metric = |name: &str| {
        let mut response = String::new();
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
            let _ = stream.read_to_string(&mut response);
        }
        let sample = response.lines().find(|line| line.starts_with(name) && line.contains("app.log\"}"));
        sample.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
    };
    wait_until("there is no lag", || metric("kpl_put_lag_bytes") == Some(0.0));
    setup.kinesis.stop();
    setup.append("app.log", "23456\n");
    wait_until("there is a lag", || metric("kpl_put_lag_bytes") == Some(6.0));
    wait_until("it is old", || metric("kpl_put_lag_seconds").is_some_and(|seconds| seconds >= 1.0));
    setup.kinesis.restart();
    wait_until("there is none again", || metric("kpl_put_lag_seconds") == Some(0.0));
    terminate(child);
}

#[test]
fn wrong_uses_are_errors() {
    let setup = Setup::new();
    setup.append("app.log", "1\n");
    let dir = setup.dir.path().display();
    let checkpoint = format!("--checkpoint {dir}/checkpoint");
    #[cfg(unix)]
    std::os::unix::fs::symlink(setup.dir.path(), setup.path("link")).unwrap();
    for (args, message) in [
        ("--follow".to_owned(), "--follow needs files"),
        (format!("{checkpoint} -"), "--checkpoint needs files"),
        (format!("{checkpoint} {dir}/*.log"), "cannot open"),
        (format!("{checkpoint} {dir}"), "it is not a regular file"),
        (format!("--follow --verify {dir}/app.log"), "cannot be used with"),
        (format!("--follow {checkpoint} {dir}/*"), "is also an input file"),
        (format!("--follow --dead-letter {dir}/dead.log {dir}/*.log"), "is also an input file"),
        #[cfg(unix)]
        (format!("--follow --dead-letter {dir}/dead.log {dir}/link/*.log"), "is also an input file"),
        #[cfg(unix)]
        (format!("--follow --dead-letter {dir}/link/app.log {dir}/app.log"), "is also an input file"),
        ("--multiline-start ( x".into(), "--multiline-start"),
        (format!("--checkpoint {dir}/none/there {dir}/app.log"), "beside --checkpoint"),
    ] {
        let run = kpl(&format!("put --emulator --stream s {args}"), b"");
        assert_eq!((run.code(), run.stdout.as_str()), (2, ""), "{args}: {run:#?}");
        assert!(run.stderr.contains(message), "{args}: {}", run.stderr);
    }
    let first = setup.start("--follow", "app.log");
    setup.wait_for(&["1"]);
    let second = kpl(&setup.args("--follow", "app.log"), b"");
    assert_eq!(second.code(), 2, "{second:#?}");
    assert!(second.stderr.contains("is in use by another kpl put"), "{second:#?}");
    terminate(first);
    let foreign = kpl(&setup.args("", "app.log").replace("--stream s", "--stream t"), b"");
    assert!(foreign.code() == 2 && foreign.stderr.contains("it belongs to the stream \"s\""), "{foreign:#?}");
}

#[test]
fn a_full_disk_under_the_checkpoint_is_reported() {
    let setup = Setup::new();
    setup.append("app.log", "1\n");
    // A directory in the place of the new checkpoint cannot be replaced by a file.
    fs::create_dir(setup.path("checkpoint.new")).unwrap();
    let mut child = setup.start("--follow", "app.log");
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(messages.any(|message| message.contains("cannot write --checkpoint")));
    // Nothing is put that no checkpoint allows.
    assert!(setup.data().is_empty());
    fs::remove_dir(setup.path("checkpoint.new")).unwrap();
    setup.wait_for(&["1"]);
    terminate(child);
}

fn copy_and_truncate(path: &Path, copy: &Path) {
    fs::copy(path, copy).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
}

/// Stops a process, or lets it go on.
fn stop(child: &Child, is_stopped: bool) {
    use rustix::process::{Pid, Signal, kill_process};
    kill_process(Pid::from_child(child), if is_stopped { Signal::STOP } else { Signal::CONT }).unwrap();
}
