//! The example for smol: what every driver has to do, over real HTTP. No thread here has a tokio runtime, but for the
//! emulator's.

#[path = "../../../tests/http/connections.rs"]
mod connections;
#[allow(dead_code, reason = "main is for those who run it")]
#[path = "../../examples/smol.rs"]
mod example;
#[path = "../../../tests/http/records.rs"]
mod records;
#[path = "../../../tests/http/rig.rs"]
mod rig;

use kpl_driver::AwsRuntime;
use kpl_driver::core::Config;
use kpl_emulator::Server;

use self::example::Smol;
use self::rig::{certificates, client, emulator, producer};

/// What the tests of all drivers need to know of this one.
mod driver {
    pub(crate) use kpl_driver::PutError;
    pub(crate) use kpl_driver::core::{Config, ConfigBuilder, PutFailure, UserRecord};
    pub(crate) use smol::block_on;

    pub(crate) use crate::example::Smol as Runtime;

    pub(crate) type Producer = kpl_driver::Producer<Runtime>;

    /// What is said of a host that is not known.
    pub(crate) const UNKNOWN_HOST: &str = "no connection came about: io error: failed to lookup address";

    pub(crate) async fn sleep(time: std::time::Duration) {
        smol::Timer::after(time).await;
    }
}

#[test]
fn the_driver_conforms() {
    kpl_driver::conformance::driver(&Smol::default());
}

#[test]
fn no_tokio_runtime_is_there() {
    smol::block_on(async {
        assert!(tokio::runtime::Handle::try_current().is_err());
        smol::spawn(async { assert!(tokio::runtime::Handle::try_current().is_err()) }).await;
    });
}

#[test]
fn a_connection_that_was_closed_while_idle_harms_nobody() {
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
fn https_wants_trust() {
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
