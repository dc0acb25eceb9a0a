//! `conclave admin`: drains a server and takes that back, spreads clients, makes certificates.

mod ca;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use conclave_client::limits::CLIENT_CONNECT_TIMEOUT;
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::admin::{
    DrainRequest, DrainResponse, RebalanceRequest, RebalanceResponse, UndrainRequest, UndrainResponse,
};
use conclave_proto::admin_token::{AdminToken, WithAdminToken};
use conclave_proto::status::from_status;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::people::admin as people;
use crate::admin_token::{self, Kept};
use crate::args::admin::{AdminArgs, AdminCommand};
use crate::errors::{LastAttempt, last_attempt, no_server};
use crate::exit::{Exit, Failed};
use crate::identify::{Identified, identify};
use crate::known::Known;
use crate::settings::Settings;
use crate::view::text::{count, safe};
use crate::{output, session};

type Admin = AdminServiceClient<Channel>;

/// Runs the command.
///
/// # Errors
/// If no server can run it.
pub(super) async fn run(args: AdminArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let file = args.admin_token_file.as_deref();
    let tokens = Tokens::of(file, settings);
    match args.command {
        AdminCommand::Drain { node, force } => drain(node, force, &tokens?, settings).await,
        AdminCommand::Undrain { node } => undrain(node, &tokens?, settings).await,
        AdminCommand::Rebalance => rebalance(&tokens?, settings).await,
        AdminCommand::Ca { command } => ca::run(command, settings).await,
        AdminCommand::Registration { mode } => people::registration(mode, file, settings).await,
        AdminCommand::User(user) => people::account(&user, file, settings).await,
    }
}

#[derive(Debug, Serialize)]
struct Drained<'a> {
    node: &'a str,
    still_leads: u32,
    clients: u32,
}

async fn drain(node: String, force: bool, tokens: &Tokens, settings: &Settings) -> anyhow::Result<Exit> {
    let answer = call_any_server(tokens, settings, async |channel, token| {
        Admin::with_interceptor(channel, token).drain(DrainRequest { node: node.clone(), force }).await
    });
    let DrainResponse { still_leads, clients } = answer.await?;
    let json = Drained { node: &node, still_leads, clients };
    output::done(settings.json, &json, &drained(&node, still_leads, clients));
    Ok(if still_leads + clients == 0 { Exit::Ok } else { Exit::Refused })
}

fn drained(node: &str, still_leads: u32, clients: u32) -> String {
    let left: Vec<String> = [
        (still_leads > 0).then(|| format!("leads {}", count(still_leads.into(), "shard"))),
        (clients > 0).then(|| format!("has {}", count(clients.into(), "client"))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if left.is_empty() {
        format!(
            "{node} is drained: it leads nothing and has no clients. Restart or undrain it to use it again."
        )
    } else {
        format!(
            "{node} takes no new work, but still {}. Drain it again, or stop it: it hands over then.",
            left.join(" and ")
        )
    }
}

#[derive(Debug, Serialize)]
struct Undrained<'a> {
    node: &'a str,
    was_draining: bool,
}

async fn undrain(node: String, tokens: &Tokens, settings: &Settings) -> anyhow::Result<Exit> {
    let answer = call_any_server(tokens, settings, async |channel, token| {
        Admin::with_interceptor(channel, token).undrain(UndrainRequest { node: node.clone() }).await
    });
    let UndrainResponse { was_draining } = answer.await?;
    let text = if was_draining {
        format!("{node} takes clients again, and gets its leaderships back within some seconds")
    } else {
        format!("{node} was not drained")
    };
    output::done(settings.json, &Undrained { node: &node, was_draining }, &text);
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct Moved<'a> {
    moves: Vec<JsonMove<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonMove<'a> {
    from: &'a str,
    to: &'a [String],
    sessions: u32,
}

async fn rebalance(tokens: &Tokens, settings: &Settings) -> anyhow::Result<Exit> {
    let answer = call_any_server(tokens, settings, async |channel, token| {
        Admin::with_interceptor(channel, token).rebalance(RebalanceRequest {}).await
    });
    let RebalanceResponse { moves } = answer.await?;
    let json = |from, to, sessions| JsonMove { from, to, sessions };
    let json = Moved { moves: moves.iter().map(|one| json(&one.from, &one.to, one.sessions)).collect() };
    output::done(settings.json, &json, &rebalanced(&json.moves));
    Ok(Exit::Ok)
}

/// The moves of clients, a line each.
fn rebalanced(moves: &[JsonMove<'_>]) -> String {
    let line = |one: &JsonMove<'_>| {
        let to: Vec<String> = one.to.iter().map(|name| safe(name, "")).collect();
        format!("{} sends {} to {}", safe(one.from, ""), count(one.sessions.into(), "client"), to.join(", "))
    };
    if moves.is_empty() {
        return "the clients are spread evenly already".to_owned();
    }
    moves.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Where the admin token comes from.
#[derive(Debug)]
pub(super) enum Tokens {
    /// The token of a file that was given.
    Given(AdminToken),
    /// The tokens that `conclave up` kept.
    Kept(Kept),
}

impl Tokens {
    pub(super) fn of(file: Option<&Path>, settings: &Settings) -> Result<Self, Failed> {
        match file {
            Some(file) => admin_token::read_given(file).map(Self::Given),
            None => Ok(Self::Kept(Kept::new(&settings.state_dir))),
        }
    }

    /// The token for a server of this cluster at an address. A server that merely claims to belong to the cluster gets
    /// none. A given token needs a cluster that proves by TLS to be one that was known before, or an address at which
    /// `conclave up` started a server without TLS, or `--insecure`. A kept token is for the servers that `conclave up`
    /// started on this machine, with the authority that it gave them or none.
    ///
    /// # Errors
    /// If nothing proves whose server it is.
    fn for_server(
        &self,
        address: &str,
        cluster: &Identified,
        settings: &Settings,
    ) -> Result<Option<AdminToken>, Failed> {
        let is_started_by_up = || {
            let known = Known::new(&settings.state_dir);
            known.of_servers(&[address.to_owned()]).map(|said| said == Some(cluster.authority))
        };
        match self {
            Self::Given(token) => {
                let proved = cluster.is_known && cluster.authority.is_some();
                if settings.insecure || proved || is_started_by_up()? {
                    Ok(Some(token.clone()))
                } else {
                    Err(unknown(address, cluster))
                }
            }
            Self::Kept(kept) => match &cluster.id {
                Some(id) if is_local(address) && is_started_by_up()? => kept.load(id),
                _ => Ok(None),
            },
        }
    }
}

/// The refusal to show the admin token to a server about which nothing was known before.
fn unknown(address: &str, cluster: &Identified) -> Failed {
    let id = cluster.id.as_deref().unwrap_or_default();
    let (what, next) = match cluster.authority {
        Some(authority) => (
            format!(
                "the cluster {id} at {address}, with the authority {authority}, was not known here before: the admin token \
                 was not sent to it"
            ),
            format!(
                "if that is your cluster's authority, which `conclave admin ca init` prints, name it: \
                 --server conclave://{address}/{authority}"
            ),
        ),
        None => (
            format!(
                "the server {address} speaks no TLS, so nothing proves that it may see the admin token: it was not sent"
            ),
            "give --insecure if you trust every network and every user on the way".to_owned(),
        ),
    };
    Failed::new(Exit::Refused, what, next)
}

fn is_local(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| address.ip().to_canonical().is_loopback())
}

/// Calls one server after the other until one answers. All of these commands are idempotent.
pub(super) async fn call_any_server<A>(
    tokens: &Tokens,
    settings: &Settings,
    call: impl AsyncFn(Channel, WithAdminToken) -> Result<Response<A>, Status>,
) -> anyhow::Result<A> {
    let cluster = identify(settings).await?;
    let net = &cluster.net;
    // A server of another cluster is not asked for anything.
    let observer = session::observer(settings, settings.timeout).await?;
    let found = settings.search.found().await.map_err(|_| no_server(&LastAttempt::default()))?;
    let mut last = LastAttempt::default();
    for address in found.addresses() {
        if let Err(error) = observer.status_of(&address).await {
            last = last_attempt(&error);
            continue;
        }
        let token = WithAdminToken(tokens.for_server(&address, cluster, settings)?);
        let is_shown = token.0.is_some();
        let Ok(endpoint) = net.endpoint(&address) else { continue };
        let channel = net.channel(&endpoint.connect_timeout(connect_timeout(settings)), &address);
        let call = call(channel, token);
        match tokio::time::timeout(settings.timeout, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let failure = from_status(&status);
                if !is_retryable(status.code()) {
                    return Err(refused(&failure.code, &status, is_shown).into());
                }
                last = failure.message.into();
            }
            Err(_) => last = format!("{address} did not answer within {:?}", settings.timeout).into(),
        }
    }
    Err(no_server(&last).into())
}

/// Whether another server may succeed.
fn is_retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled)
}

fn connect_timeout(settings: &Settings) -> Duration {
    settings.timeout.min(CLIENT_CONNECT_TIMEOUT)
}

/// The refusal of a server. `is_shown` says whether it has seen a token.
pub(super) fn refused(word: &str, status: &Status, is_shown: bool) -> Failed {
    let failed = match status.code() {
        Code::Unauthenticated if is_shown => {
            let what = "the admin token is not this cluster's";
            Failed::new(Exit::of_word(word), what, admin_token::SERVERS_FILE)
        }
        Code::NotFound => {
            Failed::new(Exit::NotFound, status.message(), "`conclave status` shows the servers' names")
        }
        Code::Unimplemented => {
            let next = "update the servers; `conclave doctor` shows their versions";
            Failed::new(Exit::Refused, "the server is older than this command", next)
        }
        Code::Unauthenticated => {
            Failed::new(Exit::of_word(word), status.message(), admin_token::SERVERS_FILE)
        }
        _ if ["last_ready_node", "no_ready_majority"].contains(&word) => {
            Failed::new(Exit::Refused, status.message(), "--force drains it all the same")
        }
        _ => Failed::new(Exit::of_word(word), status.message(), ""),
    };
    failed.with_word(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_work_is_reported() {
        assert!(drained("node2", 0, 0).contains("leads nothing"));
        let text = drained("node2", 1, 3);
        assert!(text.contains("still leads 1 shard and has 3 clients"), "{text}");
        assert!(drained("node2", 0, 1).contains("still has 1 client."));
    }

    #[test]
    fn refusals_have_advice() {
        let unknown = refused("not_found", &Status::not_found("there is no node \"x\""), true);
        assert_eq!((unknown.exit, unknown.next.contains("status")), (Exit::NotFound, true));
        assert_eq!(refused("", &Status::unimplemented(""), true).exit, Exit::Refused);
        let wrong = refused("not_operator", &Status::unauthenticated("no"), true);
        assert!(wrong.exit == Exit::Auth && wrong.what.contains("not this cluster's"), "{wrong}");
        let stranger = refused("not_operator", &Status::unauthenticated("no"), false);
        assert!(stranger.exit == Exit::Auth && stranger.next.contains("--admin-token-file"), "{stranger}");
        for word in ["last_ready_node", "no_ready_majority"] {
            let failed = refused(word, &Status::failed_precondition("no"), true);
            assert!(failed.next.contains("--force"), "{failed}");
        }
    }

    #[test]
    fn a_kept_token_is_for_servers_of_this_machine() {
        assert!(is_local("127.0.0.1:7400") && is_local("[::1]:7400") && is_local("[::ffff:127.0.0.1]:1"));
        for elsewhere in
            ["10.0.0.1:7400", "localhost.example.org:7400", "127.0.0.1.example.org:7400", "0.0.0.0:1"]
        {
            assert!(!is_local(elsewhere), "{elsewhere}");
        }
    }
}
