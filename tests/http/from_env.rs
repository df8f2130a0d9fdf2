//! `Producer::from_env`, in a process with an environment of its own.

use std::path::Path;
use std::process::Command;

use crate::driver::{Producer, block_on};
use kpl_emulator::{Emulator, Options, Server};

use crate::rig::{Threads, certificates, ok};

/// Set in the child, which runs the first test of this file and does its part there.
const CHILD: &str = "KPL_TEST_IN_THE_CHILD";

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// What a child says in an environment with credentials.
fn child(environment: &[(&str, &str)]) -> String {
    child_without_credentials(&[environment, &KEYS].concat())
}

fn child_without_credentials(environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "from_env::region_endpoint_credentials_and_ca_bundle_come_from_the_environment",
            "--exact",
            "--nocapture",
        ])
        .env_clear()
        .env(CHILD, "1")
        .envs([("AWS_CONFIG_FILE", "/nowhere"), ("AWS_EC2_METADATA_DISABLED", "true")])
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn in_the_child() {
    block_on(async {
        match Producer::from_env().await {
            Ok(producer) => {
                let receipt = producer.put("events", "k", "from the environment").await.unwrap().await.unwrap();
                println!("stored in {}", receipt.shard_id());
                producer.close().await;
            }
            Err(error) => println!("error: {error}"),
        }
    });
}

#[test]
fn region_endpoint_credentials_and_ca_bundle_come_from_the_environment() {
    if std::env::var_os(CHILD).is_some() {
        return in_the_child();
    }
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    let (ca_pem, tls) = certificates();
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, Some(tls)).unwrap();
    let bundle = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("from-env-{}.pem", std::process::id()));
    std::fs::write(&bundle, ca_pem).unwrap();
    let bundle = bundle.to_str().unwrap();
    let said = child(&[("AWS_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", &server.url()), ("AWS_CA_BUNDLE", bundle)]);
    std::fs::remove_file(bundle).unwrap();
    assert!(said.contains("stored in shardId-000000000000"), "{said}");
    let data = emulator.with(|kinesis, _| kinesis.records("events").map(|(_, _, record)| record.data.clone()).next());
    assert_eq!(data.unwrap(), "from the environment");
}

#[test]
fn what_the_environment_lacks_is_said() {
    for none in [&[][..], &[("AWS_REGION", "")]] {
        let said = child(none);
        assert!(said.contains("error: no AWS region is set: set AWS_REGION, or `region` in the profile"), "{said}");
    }
    let said = child(&[("AWS_REGION", "us-east-1"), ("AWS_CA_BUNDLE", "/nowhere/ca.pem")]);
    assert!(said.contains("error: AWS_CA_BUNDLE is \"/nowhere/ca.pem\", which cannot be used: No such file"), "{said}");
    let said = child(&[("AWS_REGION", "us-east-1"), ("AWS_CA_BUNDLE", "/dev/null")]);
    assert!(said.contains("which cannot be used: the CA bundle of 0 bytes cannot be used"), "{said}");
}

#[test]
fn a_proxy_comes_from_the_environment() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    // It answers whatever host it is asked for, as a proxy would.
    let proxy = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let endpoint = ("AWS_ENDPOINT_URL", "http://kinesis.invalid");
    let said = child(&[("AWS_REGION", "us-east-1"), endpoint, ("HTTP_PROXY", &proxy.url())]);
    assert!(said.contains("stored in shardId-000000000000"), "{said}");
}

#[test]
fn credentials_of_a_container_come_from_an_endpoint_with_a_host_name() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let container = Threads::serve(|heard| {
        assert!(heard.head.starts_with("get /role http/1.1") && heard.head.contains("authorization: token"));
        ok(r#"{"AccessKeyId":"AKID","SecretAccessKey":"secret","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#)
    });
    let uri = format!("http://localhost:{}/role", container.addr.port());
    let said = child_without_credentials(&[
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", &server.url()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token"),
    ]);
    assert!(said.contains("stored in shardId-000000000000"), "{said}");
    let data = emulator.with(|kinesis, _| kinesis.records("events").map(|(_, _, record)| record.data.clone()).next());
    assert_eq!(data.unwrap(), "from the environment");
}
