//! What is measured, in a process of its own: kpl's drivers, the AWS SDK alone, and the least that there is to do.

mod floor;
pub(crate) mod held;
mod kpl;
mod raw_sdk;

use anyhow::Context;
use kpl_driver::AwsRuntime;

use crate::setup::Measured;
use crate::{Order, Subject};

pub(crate) fn run(order: Order) -> anyhow::Result<Measured> {
    match order.subject {
        Subject::Tokio => tokio()?.block_on(ours::<kpl_tokio::Tokio>(&order)),
        #[cfg(feature = "async-std")]
        Subject::AsyncStd => {
            let (done, end) = std::sync::mpsc::channel();
            // In a task of its executor's threads, as an application would.
            kpl_driver::Runtime::spawn(&kpl_async_std::AsyncStd::default(), async move {
                let _ = done.send(ours::<kpl_async_std::AsyncStd>(&order).await);
            });
            end.recv().context("the task panicked")?
        }
        Subject::RawSdk => tokio()?.block_on(raw_sdk::run(&order.url, &order.work)),
        Subject::Floor => floor::run(&order.url, &order.work, true),
        Subject::FloorScalar => floor::run(&order.url, &order.work, false),
    }
}

async fn ours<R: AwsRuntime>(order: &Order) -> anyhow::Result<Measured> {
    if order.hold {
        held::run::<R>(&order.url, &order.work).await
    } else {
        kpl::run::<R>(&order.url, &order.work).await
    }
}

fn tokio() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}
