//! Tests of credentials that are slow, expire, are replaced, or fail.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_kinesis::config::Credentials;
use aws_smithy_async::time::TimeSource;
use kpl_driver::AwsRuntime;

use crate::driver::{Config, ConfigBuilder, Producer, Runtime, block_on, sleep};
use crate::rig::{TestServer, client, emulator, ok};

type Load = Pin<Box<dyn Future<Output = provider::Result> + Send>>;

/// A provider that counts its loads. The function gets the number of the load, 1 for the first.
#[derive(Clone)]
struct Provider {
    loads: Arc<AtomicUsize>,
    load: Arc<dyn Fn(usize) -> Load + Send + Sync>,
}

impl Provider {
    fn new(load: impl Fn(usize) -> Load + Send + Sync + 'static) -> Self {
        Self { loads: Arc::default(), load: Arc::new(load) }
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Provider")
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new((self.load)(self.loads.fetch_add(1, Ordering::SeqCst) + 1))
    }
}

fn key(id: &str, expiry: Option<SystemTime>) -> provider::Result {
    Ok(Credentials::new(id, "secret", None, expiry, "test"))
}

/// A clock that only the test moves.
#[derive(Clone, Debug)]
struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(Arc::new(AtomicU64::new(now.as_secs())))
    }

    fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl TimeSource for ManualClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// Returns a producer with these credentials.
fn producer(url: &str, config: ConfigBuilder, provider: &Provider, clock: &ManualClock) -> Producer {
    let client = client(url, Runtime::http_client(None).unwrap());
    let client = client.config().to_builder().credentials_provider(provider.clone()).time_source(clock.clone()).build();
    Producer::new(aws_sdk_kinesis::Client::from_conf(client), config.build().unwrap())
}

/// Returns a config with which each record is a request.
fn one_record_per_request() -> ConfigBuilder {
    Config::builder().aggregation_enabled(false).collection_max_count(1)
}

#[test]
fn credentials_slower_than_a_request_are_loaded_once_and_attempts_say_what_they_wait_for() {
    block_on(async {
        let (emulator, server) = emulator();
        let slow = Provider::new(|_| {
            Box::pin(async {
                sleep(Duration::from_secs(1)).await;
                key("AKID", None)
            })
        });
        let config = Config::builder().request_timeout(Duration::from_millis(300)).start_timeout(Duration::ZERO);
        let producer = producer(&server.url(), config, &slow, &ManualClock::new());
        let receipt = producer.put("events", "k", "x").await.unwrap().await.unwrap();
        let failed: Vec<_> = receipt.attempts().iter().filter_map(|attempt| attempt.error.clone()).collect();
        assert!(!failed.is_empty());
        for error in failed {
            assert_eq!((&*error.code, error.ambiguous), ("Request Not Sent", false));
            assert!(error.message.starts_with("credentials: still loading after "), "{error}");
        }
        assert_eq!((slow.loads(), emulator.with(|kinesis, _| kinesis.records("events").count())), (1, 1));
    });
}

#[test]
fn a_failed_load_is_the_error_of_the_attempts() {
    block_on(async {
        let (_, server) = emulator();
        let failing = Provider::new(|_| {
            Box::pin(async { Err(CredentialsError::provider_error("the process failed:\n  no such user\n")) })
        });
        let config = Config::builder().record_ttl(Duration::from_millis(500)).start_timeout(Duration::ZERO);
        let producer = producer(&server.url(), config, &failing, &ManualClock::new());
        let failure = producer.put("events", "k", "x").await.unwrap().await.unwrap_err();
        assert!(!failure.attempts.is_empty() && !failure.is_ambiguous(), "{failure:?}");
        for attempt in failure.attempts.iter() {
            let error = attempt.error.as_ref().unwrap();
            assert_eq!(&*error.code, "Request Not Sent");
            assert!(error.message.starts_with("credentials: "), "{error}");
            assert!(error.message.ends_with("the process failed: no such user"), "{error}");
        }
        assert_eq!(failing.loads(), 1, "the clock did not move, so the error is kept");
    });
}

#[test]
fn a_slow_refresh_delays_no_record() {
    block_on(async {
        let (emulator, server) = emulator();
        let clock = ManualClock::new();
        let expiry = clock.now() + Duration::from_secs(3_600);
        let provider = Provider::new(move |load| match load {
            1 => Box::pin(async move { key("AKID", Some(expiry)) }),
            _ => Box::pin(std::future::pending()),
        });
        let producer = producer(&server.url(), Config::builder(), &provider, &clock);
        producer.put("events", "k", "before").await.unwrap().await.unwrap();
        assert_eq!(provider.loads(), 1);
        clock.advance(3_600 - 4);
        for n in 0..20 {
            let receipt = producer.put("events", "k", format!("during {n}")).await.unwrap().await.unwrap();
            assert_eq!(receipt.attempts().len(), 1, "{receipt:?}");
        }
        assert_eq!((provider.loads(), emulator.with(|kinesis, _| kinesis.records("events").count())), (2, 21));
    });
}

/// A service that refuses one key id.
#[derive(Default)]
struct Service {
    refuses_old: AtomicBool,
    /// The key ids of the PutRecords requests, in the order of their arrival.
    keys: Mutex<Vec<&'static str>>,
    arrived: Condvar,
    /// The number of requests with the old key that are refused at once.
    refused_at_once: usize,
}

const OLD: &str = "AKIDOLD";
const NEW: &str = "AKIDNEW";

impl Service {
    fn start(refused_at_once: usize) -> (Arc<Self>, TestServer) {
        let service = Arc::new(Self { refused_at_once, ..Self::default() });
        let server = TestServer::start({
            let service = service.clone();
            move |request| Some(service.respond(&request.head, &String::from_utf8_lossy(&request.body)))
        });
        (service, server)
    }

    fn respond(&self, head: &str, body: &str) -> String {
        let is_old = head.contains("credential=akidold/");
        let is_put = head.contains("kinesis_20131202.putrecords");
        if is_put {
            self.keys.lock().unwrap().push(if is_old { OLD } else { NEW });
            self.arrived.notify_all();
        }
        if is_old && self.refuses_old.load(Ordering::SeqCst) {
            if is_put {
                self.wait_for_others();
            }
            let body = r#"{"__type":"UnrecognizedClientException","message":"the security token is invalid"}"#;
            return ok(body).unwrap().replace("200 OK", "400 Bad Request");
        }
        let records = body.matches("PartitionKey").count();
        let stored = vec![r#"{"ShardId":"shardId-000000000000","SequenceNumber":"1"}"#; records];
        let response = match () {
            () if is_put => format!(r#"{{"FailedRecordCount":0,"Records":[{}]}}"#, stored.join(",")),
            () if head.contains("kinesis_20131202.listshards") => format!(
                r#"{{"Shards":[{{"ShardId":"shardId-000000000000","HashKeyRange":{{"StartingHashKey":"0",
                "EndingHashKey":"{}"}},"SequenceNumberRange":{{"StartingSequenceNumber":"1"}}}}]}}"#,
                u128::MAX
            ),
            () => "{}".to_owned(),
        };
        ok(&response).unwrap()
    }

    /// Waits until as many requests with the old key have arrived as are to be refused at once.
    fn wait_for_others(&self) {
        let arrived = |keys: &[&str]| keys.iter().filter(|&&key| key == OLD).count();
        let keys = self.keys.lock().unwrap();
        let wait = Duration::from_secs(20);
        drop(self.arrived.wait_timeout_while(keys, wait, |keys| arrived(keys) < self.refused_at_once).unwrap());
    }

    fn take_keys(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.keys.lock().unwrap())
    }
}

#[test]
fn requests_that_are_refused_at_once_cause_one_load() {
    block_on(async {
        let (service, server) = Service::start(12);
        let clock = ManualClock::new();
        let provider = Provider::new(|load| Box::pin(std::future::ready(key(if load == 1 { OLD } else { NEW }, None))));
        let config = one_record_per_request().request_timeout(Duration::from_secs(30));
        let producer = producer(&server.url(), config, &provider, &clock);
        producer.put("events", "k", "before").await.unwrap().await.unwrap();
        assert_eq!(service.take_keys(), [OLD]);

        service.refuses_old.store(true, Ordering::SeqCst);
        clock.advance(60);
        let mut outcomes = vec![];
        for n in 0..12 {
            outcomes.push(producer.put("events", "k", format!("refused {n}")).await.unwrap());
        }
        for outcome in outcomes {
            let receipt = outcome.await.unwrap();
            let codes: Vec<_> = receipt.attempts().iter().filter_map(|attempt| attempt.error.clone()).collect();
            assert!(matches!(&codes[..], [one] if &*one.code == "UnrecognizedClientException"), "{codes:?}");
        }
        assert_eq!(provider.loads(), 2);
        let keys = service.take_keys();
        assert_eq!((keys.len(), keys.iter().filter(|&&key| key == NEW).count()), (24, 12));
    });
}

/// The variable that marks a child process.
const CHILD: &str = "KPL_TEST_IN_THE_CHILD";

/// Puts a record after each line of standard input, and prints a line when it is stored.
fn run_as_child() {
    block_on(async {
        let producer = Producer::from_env_with(one_record_per_request().build().unwrap()).await.unwrap();
        for line in std::io::stdin().lines() {
            producer.put("events", "k", line.unwrap()).await.unwrap().await.unwrap();
            println!("stored");
        }
    });
}

#[test]
fn keys_that_are_replaced_in_the_credentials_file_are_used() {
    if std::env::var_os(CHILD).is_some() {
        return run_as_child();
    }
    let (service, server) = Service::start(0);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("credentials-{}", std::process::id()));
    let write = |id: &str| {
        let next = path.with_extension("next");
        std::fs::write(&next, format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = s\n")).unwrap();
        std::fs::rename(next, &path).unwrap();
    };
    write(OLD);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["credentials::keys_that_are_replaced_in_the_credentials_file_are_used", "--exact", "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .envs([("AWS_CONFIG_FILE", "/nowhere"), ("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_REGION", "us-east-1")])
        .env("AWS_SHARED_CREDENTIALS_FILE", &path)
        .env("AWS_ENDPOINT_URL", server.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut put = || {
        input.write_all(b"data\n").unwrap();
        assert!(output.any(|line| line.unwrap().ends_with("stored")), "the child has ended");
        service.take_keys()
    };
    assert_eq!(put(), [OLD]);
    write(NEW);
    service.refuses_old.store(true, Ordering::SeqCst);
    let keys = put();
    assert!(keys.starts_with(&[OLD]) && keys.ends_with(&[NEW]), "{keys:?}");
    assert_eq!(put(), [NEW]);
    drop(input);
    assert!(child.wait().unwrap().success());
    std::fs::remove_file(path).unwrap();
}
