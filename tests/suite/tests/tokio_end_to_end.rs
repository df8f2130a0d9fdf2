//! End-to-end tests of kpl-tokio, on the emulator and on kinesis-mock.

mod on_the_emulator {
    use kpl_suite::Service;

    kpl_suite::end_to_end_tests!(tokio::test, kpl_tokio::Tokio, Some(Service::emulator().await));
}

mod on_kinesis_mock {
    use kpl_suite::Service;

    kpl_suite::end_to_end_tests!(tokio::test, kpl_tokio::Tokio, Service::kinesis_mock().await);
}
