//! Wrong usage, help, and a closed standard output.

use std::io::Write;

use crate::rig::{command, end, kpl};

#[test]
fn wrong_usage_exits_with_status_2_and_names_the_error() {
    for (args, message) in [
        ("put", "--stream"),
        ("put --stream s --key-field 0", "--key-field"),
        ("put --stream s --key-field 1 --key x", "cannot be used with"),
        ("put --stream s --key-json id", "did you mean \"/id\"?"),
        ("put --stream a/b --emulator", "stream is \"a/b\", but must be"),
        ("put --stream s --emulator --key=", "partition_key is empty"),
        ("put --stream s --emulator --shards 0", "cannot create the stream \"s\" with 0 shards"),
        ("put --stream s --emulator --endpoint-url http://x", "cannot be used with"),
        (
            "put --stream s --emulator --collection-max-count 501",
            "--collection-max-count is 501, but must be from 1 to 500",
        ),
        ("put --stream s --endpoint-url localhost:4567 --dummy-credentials", "must begin with http:// or https://"),
        ("put --stream s", "no AWS region is set"),
        ("put --stream s --endpoint-url http://127.0.0.1:1 --region r", "give --dummy-credentials"),
        ("put --stream s --dry-run", "unless --shards N is given: no AWS region is set"),
        ("put --stream s --dry-run --shards 0", "--shards is 0, but must be from 1 to 20000 with --dry-run"),
        ("put --stream s --dry-run --verify", "cannot be used with"),
        ("put --stream s --dry-run --dead-letter x", "cannot be used with"),
        ("put --stream s --dry-run --metrics-port 1", "cannot be used with"),
        ("put --stream s --metrics-port 0", "neither a port from 1 to 65535"),
        ("put --stream s --dry-run --emulator", "cannot be used with"),
        ("put --stream s --dry-run --shards 1 --region r", "cannot be used with"),
        ("put --stream s --shards 2", "<--dry-run|--emulator>"),
        ("completions tcsh", "invalid value"),
        ("man --out /dev/null", "cannot write --out \"/dev/null\""),
        ("put --stream s --region r --ca-bundle /none", "cannot read --ca-bundle \"/none\""),
        ("put --stream s --emulator --dead-letter /none/x", "cannot write --dead-letter \"/none/x\""),
        ("shards --stream s --explicit-hash-key 1x", "explicit_hash_key is \"1x\", but must be"),
        ("emulator --stream s", "NAME:SHARDS"),
        ("emulator --throttle-rate 2", "a rate is from 0 to 1"),
    ] {
        let run = kpl(args, b"");
        assert_eq!((run.code(), run.stdout.as_str()), (2, ""), "{args}: {run:#?}");
        assert!(run.stderr.contains(message), "{args}: {}", run.stderr);
    }
}

#[test]
fn help_and_version_are_printed() {
    for command in ["", "put", "encode", "decode", "shards", "emulator", "completions", "man"] {
        let args = &format!("{command} --help");
        let run = kpl(args, b"");
        assert_eq!((run.code(), run.stderr.as_str()), (0, ""), "{args}");
        assert!(run.stdout.contains("Usage: kpl"), "{args}: {}", run.stdout);
    }
    assert_eq!(kpl("--version", b"").stdout, format!("kpl {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn closed_standard_output_does_not_change_the_exit_status() {
    let run = |args: &str, input: &[u8]| {
        let mut child = command(args).spawn().unwrap();
        drop(child.stdout.take());
        child.stdin.take().unwrap().write_all(input).unwrap();
        end(child)
    };
    let put = run("put --emulator --stream s", b"line\n");
    assert_eq!((put.code(), put.stderr.as_str()), (0, ""), "{put:#?}");
    let failed = run("put --emulator --stream s --key-json /id", b"no JSON\n");
    assert_eq!(failed.code(), 1, "{failed:#?}");
    let encode = run("encode", b"{\"partition_key\": \"a\", \"data\": \"\"}\n");
    assert_eq!((encode.code(), encode.stderr.as_str()), (0, ""), "{encode:#?}");
}

#[test]
#[cfg(target_os = "linux")]
fn summary_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = command("put --emulator --stream s").stdout(full).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"line\n").unwrap();
    let run = end(child);
    assert_eq!(run.code(), 1, "{run:#?}");
    assert!(run.stderr.starts_with("kpl: cannot print the summary: "), "{run:#?}");
}
