//! End-to-end tests of kpl-async-std, on the emulator and on kinesis-mock. Only the services run on tokio.

mod on_the_emulator {
    use kpl_suite::Service;

    kpl_suite::end_to_end_tests!(tokio::test, kpl_async_std::AsyncStd, Some(Service::emulator().await));
}

mod on_kinesis_mock {
    use kpl_suite::Service;

    kpl_suite::end_to_end_tests!(tokio::test, kpl_async_std::AsyncStd, Service::kinesis_mock().await);
}
