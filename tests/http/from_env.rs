//! Tests of `Producer::from_env`, in child processes with their own environment.

use std::path::Path;
use std::process::Command;

use crate::driver::{Producer, block_on};
use kpl_emulator::{Emulator, Options, Server};

use crate::rig::{TestServer, certificates, ok};

/// The variable that marks a child process. A child runs the first test of this file, which calls [`run_as_child`]
/// there.
const CHILD: &str = "KPL_TEST_IN_THE_CHILD";

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// Runs a child with these variables and with credentials. Returns its output.
fn run_child(environment: &[(&str, &str)]) -> String {
    run_child_without_credentials(&[environment, &KEYS].concat())
}

/// Runs a child with these variables. Returns its output.
fn run_child_without_credentials(environment: &[(&str, &str)]) -> String {
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

fn run_as_child() {
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
        return run_as_child();
    }
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    let (ca_pem, tls) = certificates();
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, Some(tls)).unwrap();
    let bundle = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("from-env-{}.pem", std::process::id()));
    std::fs::write(&bundle, ca_pem).unwrap();
    let bundle = bundle.to_str().unwrap();
    let output =
        run_child(&[("AWS_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", &server.url()), ("AWS_CA_BUNDLE", bundle)]);
    std::fs::remove_file(bundle).unwrap();
    assert!(output.contains("stored in shardId-000000000000"), "{output}");
    let data = emulator.with(|kinesis, _| kinesis.records("events").map(|(_, _, record)| record.data.clone()).next());
    assert_eq!(data.unwrap(), "from the environment");
}

#[test]
fn missing_and_unusable_variables_are_named_in_the_error() {
    for none in [&[][..], &[("AWS_REGION", "")]] {
        let output = run_child(none);
        assert!(output.contains("error: no AWS region is set: set AWS_REGION, or `region` in the profile"), "{output}");
    }
    let output = run_child(&[("AWS_REGION", "us-east-1"), ("AWS_CA_BUNDLE", "/nowhere/ca.pem")]);
    assert!(
        output.contains("error: AWS_CA_BUNDLE is \"/nowhere/ca.pem\", which cannot be used: No such file"),
        "{output}"
    );
    let output = run_child(&[("AWS_REGION", "us-east-1"), ("AWS_CA_BUNDLE", "/dev/null")]);
    assert!(output.contains("which cannot be used: the CA bundle of 0 bytes cannot be used"), "{output}");
}

#[test]
fn a_proxy_comes_from_the_environment() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    // The emulator answers requests for any host, as a proxy does.
    let proxy = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let endpoint = ("AWS_ENDPOINT_URL", "http://kinesis.invalid");
    let output = run_child(&[("AWS_REGION", "us-east-1"), endpoint, ("HTTP_PROXY", &proxy.url())]);
    assert!(output.contains("stored in shardId-000000000000"), "{output}");
}

#[test]
fn credentials_of_a_container_come_from_an_endpoint_with_a_host_name() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let container = TestServer::start(|request| {
        assert!(request.head.starts_with("get /role http/1.1") && request.head.contains("authorization: token"));
        ok(r#"{"AccessKeyId":"AKID","SecretAccessKey":"secret","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#)
    });
    let uri = format!("http://localhost:{}/role", container.addr.port());
    let output = run_child_without_credentials(&[
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", &server.url()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token"),
    ]);
    assert!(output.contains("stored in shardId-000000000000"), "{output}");
    let data = emulator.with(|kinesis, _| kinesis.records("events").map(|(_, _, record)| record.data.clone()).next());
    assert_eq!(data.unwrap(), "from the environment");
}
