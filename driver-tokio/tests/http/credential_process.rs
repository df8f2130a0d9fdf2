//! Test of `credential_process`, in a child process with its own environment. On async-std, the SDK does not support it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::driver::{Config, Producer, block_on};
use crate::rig::emulator;

/// The variable that marks a child process.
const CHILD: &str = "KPL_TEST_IN_THE_CHILD";

fn run_as_child() {
    block_on(async {
        let config = Config::builder().request_timeout(Duration::from_millis(300)).build().unwrap();
        let producer = Producer::from_env_with(config).await.unwrap();
        producer.put("events", "k", "x").await.unwrap().await.unwrap();
        println!("stored");
        producer.close().await;
    });
}

#[test]
fn a_credential_process_slower_than_a_request_is_started_once() {
    if std::env::var_os(CHILD).is_some() {
        return run_as_child();
    }
    let (emulator, server) = emulator();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("credential-process-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (script, config, starts) = (folder.join("script"), folder.join("config"), folder.join("starts"));
    let json = r#"{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"secret"}"#;
    std::fs::write(&script, format!("echo started >>'{}'\nsleep 1\necho '{json}'\n", starts.display())).unwrap();
    std::fs::write(&config, format!("[default]\ncredential_process = sh '{}'\n", script.display())).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "credential_process::a_credential_process_slower_than_a_request_is_started_once",
            "--exact",
            "--nocapture",
        ])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env(CHILD, "1")
        .envs([("AWS_SHARED_CREDENTIALS_FILE", "/nowhere"), ("AWS_EC2_METADATA_DISABLED", "true")])
        .env("AWS_CONFIG_FILE", &config)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL", server.url())
        .output()
        .unwrap();
    let starts = std::fs::read_to_string(starts).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("stored"), "{output:?}");
    assert_eq!(starts, "started\n");
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("events").count()), 1);
}
