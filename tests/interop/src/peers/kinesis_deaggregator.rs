//! amazon-kinesis-deaggregator (Maven): AWS's deaggregation for Lambda, with the KCL 1.x and the AWS SDK for Java 1.x.

use crate::corpus;
use crate::line;
use crate::report::{Comparison, Report};
use crate::service::Service;
use crate::tools::{Java, Tools, run as run_tool};

const STREAM: &str = "events";

pub(crate) async fn run(tools: &Tools, service: &Service, report: &mut Report) -> anyhow::Result<()> {
    let java = tools.java("deaggregator")?;
    let version = java.version("amazon-kinesis-deaggregator")?;
    report.add(&version, "reads what kpl-tokio stored, in CBOR", reads(&java, service).await);
    Ok(())
}

async fn reads(java: &Java, service: &Service) -> anyhow::Result<Comparison> {
    service.create_stream(STREAM, 4);
    let expected = service.put_with_kpl_tokio(STREAM, &corpus::cases()).await?;
    let output = run_tool(service.configure(&mut java.program("ReadWithDeaggregator.java")).arg(STREAM), "")?;
    let mut comparison = Comparison::default();
    comparison.multisets(expected, line::read(&output)?);
    Ok(comparison)
}
