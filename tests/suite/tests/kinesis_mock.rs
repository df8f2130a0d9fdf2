//! Tests of the harness: kinesis-mock starts, serves HTTP and HTTPS, and ends.

use kpl_suite::kinesis_mock::{KinesisMock, Options};
use kpl_suite::{Certificates, client};

#[tokio::test]
async fn http_and_https_serve_the_same_streams() {
    let Some(mock) = KinesisMock::start(Options { streams: &[("events", 3)], ..Options::default() }).await else {
        return;
    };
    for client in [mock.client(), mock.https_client()] {
        let shards = client.list_shards().stream_name("events").send().await.unwrap();
        assert_eq!(shards.shards().len(), 3);
    }
}

#[tokio::test]
async fn another_authority_is_not_trusted() {
    let Some(mock) = KinesisMock::start(Options::default()).await else {
        return;
    };
    let other = Certificates::generate();
    let client = client::new(&mock.https_url(), Some(other.ca_pem()));
    let error = client.list_streams().send().await.unwrap_err();
    assert!(error.as_service_error().is_none(), "refused before the request was sent: {error:?}");
}

#[test]
fn the_process_ends_when_its_owner_is_dropped() {
    let Some(mock) = KinesisMock::start_blocking(Options::default()) else {
        return;
    };
    let address = mock.url().replace("http://", "");
    assert!(std::net::TcpStream::connect(&address).is_ok());
    drop(mock);
    assert!(std::net::TcpStream::connect(&address).is_err());
}

#[tokio::test]
async fn its_errors_are_parsed_by_the_sdk() {
    let Some(mock) = KinesisMock::start(Options::default()).await else {
        return;
    };
    let error = mock.client().list_shards().stream_name("missing").send().await.unwrap_err();
    assert!(error.into_service_error().is_resource_not_found_exception());
}
