//! The subjects, each in a separate process: kpl's drivers, the AWS SDK alone, and the floor.

mod floor;
pub(crate) mod held;
mod kpl;
mod raw_sdk;

use anyhow::Context;
use kpl_core::Ordering;
use kpl_driver::AwsRuntime;

use crate::setup::Measured;
use crate::{Order, Subject};

/// Runs the subject of a child process.
pub(crate) fn run(order: Order) -> anyhow::Result<Measured> {
    match order.subject {
        Subject::Tokio | Subject::TokioBatch | Subject::TokioOrdered => {
            tokio()?.block_on(run_kpl::<kpl_tokio::Tokio>(&order))
        }
        #[cfg(feature = "async-std")]
        Subject::AsyncStd => {
            let (done, end) = std::sync::mpsc::channel();
            // In a task on the executor's threads, as in an application.
            kpl_driver::Runtime::spawn(&kpl_async_std::AsyncStd::default(), async move {
                let _ = done.send(run_kpl::<kpl_async_std::AsyncStd>(&order).await);
            });
            end.recv().context("the task panicked")?
        }
        Subject::RawSdk => tokio()?.block_on(raw_sdk::run(&order.endpoint, &order.work)),
        Subject::Floor => floor::run(&order.endpoint.url, &order.work, true),
        Subject::FloorScalar => floor::run(&order.endpoint.url, &order.work, false),
    }
}

async fn run_kpl<R: AwsRuntime>(order: &Order) -> anyhow::Result<Measured> {
    if order.hold {
        held::run::<R>(&order.endpoint, &order.work).await
    } else {
        let ordering = if order.subject == Subject::TokioOrdered { Ordering::PerKey } else { Ordering::None };
        kpl::run::<R>(&order.endpoint, &order.work, ordering, order.subject == Subject::TokioBatch).await
    }
}

fn tokio() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}
