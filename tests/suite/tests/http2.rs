//! Tests of the emulator over HTTP/2 and TLS, with the AWS SDK.

use kpl_emulator::{Emulator, Options, Server};
use kpl_suite::{Certificates, client};

#[tokio::test]
async fn tls_negotiates_the_http_version() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 2);
    let certificates = Certificates::generate();
    // If only one protocol is offered, the client has to use it or fail.
    for protocols in [&["h2"] as &[_], &["http/1.1"], &["h2", "http/1.1"]] {
        let tls = Some(certificates.server_config_offering(protocols));
        let server = Server::bind(([127, 0, 0, 1], 0).into(), &emulator, tls).await.unwrap();
        let client = client::new(&server.url(), Some(certificates.ca_pem()));
        let listed = client.list_shards().stream_name("events").send().await.unwrap();
        assert_eq!(listed.shards().len(), 2, "{protocols:?}");
    }
}
