//! `conclave health`: a health check for containers and supervisors.

use std::io;
use std::time::Duration;

use futures::future::join_all;

use super::up::other;
use crate::args::HealthArgs;
use crate::exit::{Exit, Failed};
use crate::http::{HttpResponse, Pages};
use crate::output;
use crate::parse::Url;
use crate::settings::Environment;

/// Timeout. Health checks have short deadlines of their own.
const DEADLINE: Duration = Duration::from_secs(2);
/// The page that is asked for by default.
const ADDRESS: &str = "localhost:7480";
const READY: &str = "/readyz";

/// Gets the page once. With the directory of an `up`, or without a URL and without a server at the default port, gets the pages
/// of the servers of an `up`.
///
/// # Errors
/// If the answer is anything but 200; the page goes to stderr.
pub(super) async fn run(args: &HealthArgs, json: bool, environment: &Environment) -> anyhow::Result<Exit> {
    let failed = |what: String| Failed::new(Exit::Refused, what, "");
    let authority = args.tls_dir.as_deref().map(conclave_net::read_authority).transpose();
    let pages = authority.and_then(Pages::of).map_err(|error| failed(error.to_string()))?;
    // A server's own directory comes in the same variable.
    if let Some(dir) = args.dir.as_ref().filter(|dir| args.url.is_none() && other::is_of_up(dir)) {
        let up = other::pages_of_running(dir);
        if up.is_empty() {
            return Err(failed(format!("no `conclave up` of this user runs in {}", dir.display())).into());
        }
        return of_up(&pages, &up, json).await;
    }
    let url = args.url.clone().unwrap_or_else(|| Url { address: ADDRESS.to_owned(), path: READY.to_owned() });
    let answer = pages.get(&url.address, &url.path, DEADLINE).await;
    let nobody = answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if args.url.is_none() && args.dir.is_none() && nobody {
        let up =
            environment.data_dir().map(|dir| other::pages_of_running(&dir.join("up"))).unwrap_or_default();
        if !up.is_empty() {
            return of_up(&pages, &up, json).await;
        }
    }
    judge(&url.to_string(), answer, json)?;
    Ok(Exit::Ok)
}

/// Asks all servers of an `up`.
async fn of_up(pages: &Pages, servers: &[(String, String)], json: bool) -> anyhow::Result<Exit> {
    let answers = servers.iter().map(|(_, address)| pages.get(address, READY, DEADLINE));
    for ((name, address), answer) in servers.iter().zip(join_all(answers).await) {
        judge(&format!("{name} (http://{address}{READY})"), answer, json)?;
    }
    Ok(Exit::Ok)
}

fn judge(page: &str, answer: io::Result<HttpResponse>, json: bool) -> Result<(), Failed> {
    let failed = |what: String| Failed::new(Exit::Refused, what, "");
    let answer = answer.map_err(|error| failed(format!("{page} does not answer: {error}")))?;
    if answer.status == 200 {
        return Ok(());
    }
    let body = answer.body.trim_end();
    if json {
        return Err(failed(format!("{page} answers {}: {body}", answer.status)));
    }
    output::error(body);
    Err(failed(format!("{page} answers {}", answer.status)))
}
