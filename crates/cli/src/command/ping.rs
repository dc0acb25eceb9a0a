//! `conclave ping`: pings every server.

use futures::stream::{FuturesOrdered, StreamExt as _};
use serde::Serialize;

use crate::exit::{Exit, Failed};
use crate::settings::Settings;
use crate::view::paint::{Ink, paint};
use crate::view::text::safe;
use crate::{errors, output, session};

#[derive(Debug, Serialize)]
struct Json<'a> {
    address: &'a str,
    reachable: bool,
    node_id: Option<u64>,
    version: Option<&'a str>,
    took_us: Option<u64>,
    error: Option<String>,
}

/// Pings all servers at once and prints the answers in the order of the list.
///
/// # Errors
/// If one of them does not answer.
pub(super) async fn run(settings: &Settings) -> anyhow::Result<Exit> {
    let found =
        settings.search.found().await.map_err(|_| errors::no_server(&errors::LastAttempt::default()))?;
    let addresses = found.addresses();
    let client = session::observer(settings, settings.timeout).await?;
    let mut answers: FuturesOrdered<_> = addresses
        .iter()
        .map(|address| {
            let client = &client;
            async move { (address, client.ping(address).await) }
        })
        .collect();
    let mut silent: Vec<&str> = Vec::new();
    let mut last = errors::LastAttempt::default();
    while let Some((address, answer)) = answers.next().await {
        match (&answer, settings.json) {
            (Ok(pong), true) => output::json(&Json {
                address,
                reachable: true,
                node_id: Some(pong.node_id),
                version: Some(&pong.version),
                took_us: u64::try_from(pong.took.as_micros()).ok(),
                error: None,
            })?,
            (Ok(pong), false) => output::line(&format!(
                "{address}  node {}  version {}  {:.2} ms",
                pong.node_id,
                safe(&pong.version, ""),
                pong.took.as_secs_f64() * 1000.0
            ))?,
            (Err(error), true) => output::json(&Json {
                address,
                reachable: false,
                node_id: None,
                version: None,
                took_us: None,
                error: Some(error.to_string()),
            })?,
            (Err(_), false) => {
                output::line(&format!("{address}  {}", paint(settings.style, Ink::Bad, "no answer")))?;
            }
        }
        match answer {
            Ok(_) => {}
            Err(error) => {
                silent.push(address);
                last = errors::last_attempt(&error);
            }
        }
    }
    match silent.as_slice() {
        [] => Ok(Exit::Ok),
        all if all.len() == addresses.len() => Err(errors::no_server(&last).into()),
        some => {
            let what = format!("no answer from {} ({})", some.join(", "), last.why);
            Err(Failed::new(
                Exit::Refused,
                what,
                "`conclave status` names the servers, `conclave doctor` says more",
            )
            .into())
        }
    }
}
