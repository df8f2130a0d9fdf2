//! The tests that all drivers share, over real HTTP, for the smol example. No thread has a Tokio runtime except the
//! emulator's.

#[path = "../../../tests/http/connections.rs"]
mod connections;
#[allow(dead_code, reason = "the tests do not call main")]
#[path = "../../examples/smol.rs"]
mod example;
#[path = "../../../tests/http/records.rs"]
mod records;
#[path = "../../../tests/http/rig.rs"]
mod rig;
#[path = "../../../tests/http/stalls.rs"]
mod stalls;

use kpl_driver::AwsRuntime;
use kpl_driver::core::Config;
use kpl_emulator::Server;

use self::example::Smol;
use self::rig::{certificates, client, emulator, producer};

/// The items that the shared tests need from each driver.
mod driver {
    pub(crate) use kpl_driver::PutError;
    pub(crate) use kpl_driver::core::{Config, ConfigBuilder, PutFailure, UserRecord};
    pub(crate) use smol::block_on;

    pub(crate) use crate::example::Smol as Runtime;

    pub(crate) type Producer = kpl_driver::Producer<Runtime>;

    /// The error for an unknown host.
    pub(crate) const UNKNOWN_HOST: &str = "connection not established: io error: failed to lookup address";

    pub(crate) async fn sleep(time: std::time::Duration) {
        smol::Timer::after(time).await;
    }
}

#[test]
fn the_driver_conforms() {
    kpl_driver::conformance::driver(&Smol::default());
}

#[test]
fn tasks_run_without_a_tokio_runtime() {
    smol::block_on(async {
        assert!(tokio::runtime::Handle::try_current().is_err());
        smol::spawn(async { assert!(tokio::runtime::Handle::try_current().is_err()) }).await;
    });
}

#[test]
fn an_idle_connection_that_was_closed_is_not_ambiguous() {
    let (emulator, server) = emulator();
    let (url, addr) = (server.url(), server.addr());
    smol::block_on(async {
        let producer = producer(&url, Config::builder());
        producer.put("events", "k", "before").await.unwrap().await.unwrap();
        server.stop().await;
        let _server = Server::bind_on_thread(addr, &emulator, None).unwrap();
        let receipt = producer.put("events", "k", "after").await.unwrap().await.unwrap();
        assert!(receipt.attempts().iter().all(|attempt| !attempt.is_ambiguous()), "{receipt:?}");
    });
}

#[test]
fn https_requires_a_trusted_certificate() {
    let (emulator, _) = emulator();
    let (ca_pem, tls) = certificates();
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, Some(tls)).unwrap();
    let put = |ca_pem: Option<&[u8]>| {
        let config = Config::builder().record_ttl(std::time::Duration::from_millis(600)).build().unwrap();
        let producer = driver::Producer::new(client(&server.url(), Smol::http_client(ca_pem).unwrap()), config);
        smol::block_on(async { producer.put("events", "k", "x").await.unwrap().await })
    };
    put(Some(ca_pem.as_bytes())).unwrap();
    let failure = put(None).unwrap_err();
    assert!(!failure.is_ambiguous(), "{failure:?}");
    assert!(failure.error.message.contains("UnknownIssuer"), "{failure}");
}
