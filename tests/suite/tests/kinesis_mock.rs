//! The harness itself: kinesis-mock starts, speaks both ways, and goes.

use kpl_suite::kinesis_mock::{KinesisMock, Options};
use kpl_suite::{Certificates, client};

#[tokio::test]
async fn both_ways_lead_to_the_same_streams() {
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
    let stranger = Certificates::generate();
    let client = client::new(&mock.https_url(), Some(stranger.ca_pem()));
    let error = client.list_streams().send().await.unwrap_err();
    assert!(error.as_service_error().is_none(), "refused before anything was asked: {error:?}");
}

#[test]
fn it_is_gone_with_its_owner() {
    let Some(mock) = KinesisMock::start_blocking(Options::default()) else {
        return;
    };
    let address = mock.url().replace("http://", "");
    assert!(std::net::TcpStream::connect(&address).is_ok());
    drop(mock);
    assert!(std::net::TcpStream::connect(&address).is_err());
}

#[tokio::test]
async fn its_answers_carry_errors_that_the_sdk_knows() {
    let Some(mock) = KinesisMock::start(Options::default()).await else {
        return;
    };
    let error = mock.client().list_shards().stream_name("missing").send().await.unwrap_err();
    assert!(error.into_service_error().is_resource_not_found_exception());
}
