//! The peers, each in its own file.

mod aiokpl;
mod api;
mod aws_kinesis_agg;
mod aws_kinesis_agg_node;
mod kcl;
mod kinesis_deaggregator;
mod kpl;

use clap::ValueEnum;

use crate::Args;
use crate::report::Report;
use crate::service::Service;
use crate::tools::Tools;

/// A peer: software that others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// The aggregation module for Python
    AwsKinesisAgg,
    /// The aggregation module for Node, with the AWS SDK for JavaScript
    AwsKinesisAggNode,
    /// A producer in Python
    Aiokpl,
    /// The AWS SDK for Python
    Boto3,
    /// The AWS command line
    AwsCli,
    /// The AWS SDK for JavaScript
    AwsSdkJs,
    /// The producer library of AWS
    Kpl,
    /// The consumer library of AWS
    Kcl,
    /// The deaggregation module for Java
    KinesisDeaggregator,
}

/// Returns the named peers, or all if none is named.
pub(crate) fn chosen(named: &[Peer]) -> &[Peer] {
    if named.is_empty() { Peer::value_variants() } else { named }
}

impl Peer {
    /// Returns the peer's name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Runs all comparisons with the peer, and adds them to the report.
    ///
    /// # Errors
    ///
    /// If the peer is not available on this machine, or does not run.
    pub(crate) async fn run(
        self,
        args: &Args,
        tools: &Tools,
        service: &Service,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        match self {
            Self::AwsKinesisAgg => aws_kinesis_agg::run(args, tools, service, report).await,
            Self::AwsKinesisAggNode => aws_kinesis_agg_node::run(args, tools, service, report).await,
            Self::Aiokpl => aiokpl::run(args, tools, service, report).await,
            Self::Boto3 => api::boto3(tools, report).await,
            Self::AwsCli => api::aws_cli(tools, report).await,
            Self::AwsSdkJs => api::aws_sdk_js(tools, report).await,
            Self::Kpl => kpl::run(args, tools, service, report).await,
            Self::Kcl => kcl::run(tools, service, report).await,
            Self::KinesisDeaggregator => kinesis_deaggregator::run(tools, service, report).await,
        }
    }
}
