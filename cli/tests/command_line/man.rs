//! `kpl man`.

use std::collections::BTreeMap;
use std::process::Command;

use crate::rig::kpl;

#[test]
fn out_writes_a_page_of_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("share/man/man1");
    let run = kpl(&format!("man --out {}", out.display()), b"");
    assert_eq!((run.code(), run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
    let entries = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap());
    let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().unwrap();
    let pages: BTreeMap<_, _> =
        entries.map(|entry| (name(&entry), std::fs::read_to_string(entry.path()).unwrap())).collect();
    let commands = ["completions", "decode", "emulator", "encode", "man", "put", "shards"];
    let expected = commands.iter().map(|command| format!("kpl-{command}.1")).chain(["kpl.1".into()]);
    assert_eq!(pages.keys().cloned().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    // All that the page of the program names exists, and it is what `kpl man` prints.
    let main = &pages["kpl.1"];
    for command in commands {
        assert!(main.contains(&format!("kpl\\-{command}(1)")), "{command}: {main}");
    }
    assert!(!main.contains("kpl\\-help"), "{main}");
    assert_eq!(kpl("man", b"").stdout, *main);
    assert!(pages["kpl-put.1"].contains("\\fB\\-\\-dry\\-run\\fR"), "{}", pages["kpl-put.1"]);

    // groff is not on every machine.
    for page in pages.keys() {
        let check = Command::new("groff").args(["-k", "-man", "-ww", "-z"]).arg(out.join(page)).output();
        if let Ok(check) = check {
            assert_eq!((check.status.success(), String::from_utf8_lossy(&check.stderr).as_ref()), (true, ""), "{page}");
        }
    }
}
