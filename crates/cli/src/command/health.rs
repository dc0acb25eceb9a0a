//! `conclave health`: a health check for containers and supervisors.

use std::time::Duration;

use crate::args::HealthArgs;
use crate::exit::{Exit, Failed};
use crate::http::Pages;
use crate::output;

/// Timeout. Health checks have short deadlines of their own.
const DEADLINE: Duration = Duration::from_secs(2);

/// Gets the page once.
///
/// # Errors
/// If the answer is anything but 200; the page goes to stderr.
pub(super) async fn run(args: &HealthArgs) -> anyhow::Result<Exit> {
    let failed = |what: String| Failed::new(Exit::Refused, what, "");
    let authority = args.tls_dir.as_deref().map(conclave_net::read_authority).transpose();
    let pages = authority.and_then(Pages::of).map_err(|error| failed(error.to_string()))?;
    let answer = pages.get(&args.url.address, &args.url.path, DEADLINE).await;
    let answer = answer.map_err(|error| failed(format!("{} does not answer: {error}", args.url)))?;
    if answer.status == 200 {
        return Ok(Exit::Ok);
    }
    output::error(answer.body.trim_end());
    Err(Failed::new(Exit::Refused, format!("{} answers {}", args.url, answer.status), "").into())
}
