//! `kpl completions`.

use std::process::{Command, Stdio};

use crate::rig::{KPL, kpl};

#[test]
fn bash_completes_commands_options_and_values() {
    for (words, expected) in [
        (&["e"][..], "encode emulator"),
        (&["put", "--key-j"], "--key-json"),
        (&["put", "--ordering", "p"], "per-key"),
        (&["completions", "z"], "zsh"),
    ] {
        // What readline does after the Tab key.
        let script = format!(
            "source <({KPL:?} completions bash)
            COMP_WORDS=(kpl \"$@\") COMP_CWORD=$#
            spec=$(complete -p kpl) || exit
            [[ $spec =~ -F\\ ([^ ]+) ]] || exit
            ${{BASH_REMATCH[1]}} kpl \"${{@: -1}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
            echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &script, "bash"]).args(words).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((&*stdout, &*stderr), (&*format!("{expected}\n"), ""), "{words:?}");
    }
}

#[test]
fn every_shell_accepts_its_script() {
    for (shell, is_required) in [("bash", true), ("zsh", false), ("fish", false)] {
        let script = kpl(&format!("completions {shell}"), b"");
        assert_eq!((script.code(), script.stderr.as_str()), (0, ""), "{shell}");
        assert!(script.stdout.contains("dry-run"), "{shell}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        std::fs::write(&file, script.stdout).unwrap();
        match Command::new(shell).arg("-n").arg(&file).stdin(Stdio::null()).output() {
            Ok(check) => assert!(check.status.success() && check.stderr.is_empty(), "{shell}: {check:?}"),
            Err(error) => assert!(!is_required, "{shell}: {error}"),
        }
    }
}
