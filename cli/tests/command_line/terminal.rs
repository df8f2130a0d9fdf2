//! Colours: on a terminal, without one, and with NO_COLOR.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::Stdio;
use std::thread;

use kpl_emulator::{Faults, OperationFault};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::rig::{Kinesis, command, end, kpl};

const RED: &str = "\x1b[1m\x1b[31m";
const YELLOW: &str = "\x1b[1m\x1b[33m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Runs `kpl` with a terminal as its standard output and standard error. Returns what it writes there.
fn on_terminal(args: &str, no_color: Option<&str>) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let program_side = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = command(args);
    command.stdin(Stdio::null()).env("TERM", "xterm-256color");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    if let Some(value) = no_color {
        command.env("NO_COLOR", value);
    }
    let child = command.stdout(program_side.try_clone().unwrap()).stderr(program_side).spawn().unwrap();
    // The terminal ends when all its handles are closed, and the command has two of them.
    drop(command);
    let reader = thread::spawn(move || {
        let (mut terminal, mut written) = (File::from(terminal), Vec::new());
        // On Linux, the end is an error.
        let _ = terminal.read_to_end(&mut written);
        String::from_utf8(written).unwrap()
    });
    end(child);
    reader.join().unwrap()
}

#[test]
fn a_terminal_shows_errors_warnings_and_headings_in_their_styles() {
    let failed = on_terminal("put --stream s --emulator /none", None);
    assert!(failed.contains(&format!("{RED}kpl:{RESET} cannot open \"/none\"")), "{failed:?}");
    let usage = on_terminal("put --emulator", None);
    assert!(usage.contains(&format!("{RED}error:{RESET}")), "{usage:?}");
    let help = on_terminal("--help", None);
    assert!(help.contains("\x1b[1m\x1b[4mUsage:\x1b[0m"), "{help:?}");
    let put = on_terminal("put --emulator --stream s --key-field 1 /dev/null", None);
    assert!(put.contains(&format!("{BOLD}put{RESET} 0 lines")), "{put:?}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines");
    std::fs::write(&file, "key\n\n").unwrap();
    let refused = on_terminal(&format!("put --emulator --stream s --key-field 1 {}", file.display()), None);
    assert!(refused.contains(&format!("{RED}kpl:{RESET} line 2 of")), "{refused:?}");
    assert!(refused.contains(&format!("1 succeeded, {RED}1{RESET} failed")), "{refused:?}");

    let kinesis = Kinesis::start(1);
    let denied = OperationFault::denied("DescribeStreamSummary");
    kinesis.emulator.set_faults(Faults { operations: vec![denied], ..Faults::default() });
    let warned = on_terminal(&format!("put --dry-run {} /dev/null", kinesis.args()), None);
    assert!(warned.contains(&format!("{YELLOW}kpl:{RESET} cannot describe \"s\"")), "{warned:?}");
}

#[test]
fn no_color_switches_all_styles_off() {
    for args in ["put --stream s --emulator /none", "put --emulator", "--help", "shards --help"] {
        let plain = on_terminal(args, Some("1"));
        assert!(!plain.is_empty() && !plain.contains('\x1b'), "{args}: {plain:?}");
    }
    let put = on_terminal("put --emulator --stream s /dev/null", Some("1"));
    // The progress moves the cursor, but has no colour.
    assert!(put.contains("put 0 lines") && !put.contains("\x1b[1m") && !put.contains("\x1b[3"), "{put:?}");
}

#[test]
fn without_a_terminal_there_are_no_styles() {
    for args in ["put --stream s --emulator --key-field 1", "put --emulator", "--help", "man", "completions fish"] {
        let run = kpl(args, b"key\n\n");
        assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'), "{args}: {run:#?}");
    }
}
