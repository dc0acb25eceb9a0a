//! Finds out which cluster the servers belong to, before anything secret is said to them.
//!
//! A server proves by TLS that it belongs to a cluster. If the cluster is known already, from the given address
//! (`conclave://HOST:PORT/ID`), from `conclave up` on this machine or from an earlier command, only its servers are
//! believed. At the first contact the cluster that a server proves to belong to is believed and kept, as ssh does. A
//! server without TLS is spoken to only if this user's state says that its cluster has none, if it is on this machine, or
//! with `--insecure`; and never if its cluster is known to use TLS.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use conclave_client::find::{Candidate, PRIORITY_LAST};
use conclave_client::{CaId, Client, Net};
use conclave_net::{Expect, TlsClient, Trust};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::timeout;

use crate::errors::{last_attempt, of_connect};
use crate::exit::{Exit, Failed};
use crate::known::Known;
use crate::limits::{CLI_SLOTS_MAX, CLI_WHICH_CLUSTER};
use crate::output;
use crate::settings::Settings;

/// The file that maps the searched servers to the id of their cluster.
const LAST_CLUSTER: &str = "last-cluster";

/// The cluster of the servers, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    /// Its id; if no server answers, the one that was recorded for these servers.
    pub(crate) id: Option<String>,
    /// Its certificate authority; `None` for a cluster without TLS.
    pub(crate) authority: Option<CaId>,
    /// The network to reach its servers over.
    pub(crate) net: Net,
    /// Why the last server did not answer.
    pub(crate) last: String,
}

/// The cluster of the searched servers. The servers are asked once in each command.
///
/// # Errors
/// If a server answers and must not be believed.
pub(crate) async fn identify(settings: &Settings) -> anyhow::Result<&Identified> {
    settings.identified.get_or_try_init(async || find_out(settings).await).await
}

async fn find_out(settings: &Settings) -> anyhow::Result<Identified> {
    let known = Known::new(&settings.state_dir);
    let memory = settings.state_dir.join(LAST_CLUSTER);
    let recorded = recall(&memory, &settings.asked());
    let groups = candidates(settings).await;
    let told = settings.authority.map(Some).or_else(|| known.of_servers(&groups.concat()));
    let pin = match told {
        Some(told) => told,
        None => recorded.as_deref().map(|id| known.authority(id)).transpose()?.flatten(),
    };
    let (mut last, mut refused) = (String::new(), None);
    for addresses in groups {
        let patience = settings.timeout.min(CLI_WHICH_CLUSTER);
        let mut answers: FuturesUnordered<_> =
            addresses.iter().map(|address| ask(address, pin, patience)).collect();
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(Silence::Unreachable(why)) => {
                    last = why;
                    continue;
                }
                Err(Silence::Refused(failed)) => {
                    refused = Some(failed);
                    continue;
                }
            };
            match believe(&known, &answer, settings) {
                Ok(()) => {
                    remember(&memory, &settings.asked(), &answer.id)?;
                    let net = net(answer.authority)?;
                    return Ok(Identified { id: Some(answer.id), authority: answer.authority, net, last });
                }
                Err(failed) => refused = Some(failed),
            }
        }
    }
    if let Some(failed) = refused {
        return Err(failed.into());
    }
    Ok(Identified { id: recorded.or(pin.map(|pin| pin.to_string())), authority: pin, net: net(pin)?, last })
}

/// The network to servers of a cluster.
fn net(authority: Option<CaId>) -> Result<Net, Failed> {
    let Some(ca) = authority else { return Ok(Net::System) };
    Net::System.to_cluster(ca).map_err(|error| tls_unusable(&error))
}

fn tls_unusable(error: &conclave_net::TlsError) -> Failed {
    Failed::new(Exit::Refused, error.to_string(), "")
}

/// The answer of a server.
struct Answer {
    address: String,
    id: String,
    /// The authority that the server has proved to belong to; `None` if it speaks no TLS.
    authority: Option<CaId>,
}

/// Why a server gave no answer.
enum Silence {
    Unreachable(String),
    Refused(Failed),
}

/// Asks a server for its cluster: over TLS, or without if it speaks none and no authority is expected.
async fn ask(address: &str, pin: Option<CaId>, patience: Duration) -> Result<Answer, Silence> {
    let trust = match pin {
        Some(ca) => Trust::Cluster(ca, Expect::AnyNode),
        None => Trust::FirstUse(Expect::AnyNode),
    };
    let tls = TlsClient::new(trust, None).map_err(|error| Silence::Refused(tls_unusable(&error)))?;
    let secured = Net::System.secured(tls.clone());
    let authority = match timeout(patience, secured.connect(address)).await {
        Ok(Ok(_)) => tls.ca(),
        Ok(Err(error)) => match (error.kind(), pin) {
            // The server answered, but not as a server of the cluster does.
            (
                ErrorKind::InvalidData
                | ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe,
                Some(pin),
            ) => return Err(Silence::Refused(unproven(address, pin, &error))),
            (ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset, None) => None,
            _ => return Err(Silence::Unreachable(format!("{address}: {error}"))),
        },
        Err(_) => return Err(Silence::Unreachable(format!("{address} did not answer within {patience:?}"))),
    };
    let mut builder = Client::builder().servers([address]).patience(patience);
    if let Some(authority) = authority {
        builder = builder.authority(authority);
    }
    let observer = builder.observe().await.map_err(|error| Silence::Refused(of_connect(&error)))?;
    let status = observer.status_of(address).await;
    match status {
        Ok(status) if is_cluster_id(&status.cluster_id) => {
            Ok(Answer { address: address.to_owned(), id: status.cluster_id, authority })
        }
        Ok(_) => Err(Silence::Unreachable("the server does not know its cluster yet".to_owned())),
        Err(error) => Err(Silence::Unreachable(last_attempt(&error))),
    }
}

/// Decides whether an answer is believed, and keeps what it proves.
fn believe(known: &Known, answer: &Answer, settings: &Settings) -> Result<(), Failed> {
    let (id, address) = (&answer.id, &answer.address);
    let kept = known.authority(id)?;
    match (kept, answer.authority) {
        (Some(kept), Some(proved)) if kept == proved => Ok(()),
        (Some(kept), _) => {
            let what = format!(
                "the server {address} says that it belongs to the cluster {id}, and does not prove it: nothing was sent to it"
            );
            let next = format!(
                "somebody may be listening; if the cluster really has another authority than {kept} now, write it into {}",
                settings.state_dir.join(id).join(".tls").display()
            );
            Err(Failed::new(Exit::Refused, what, next))
        }
        (None, Some(proved)) => {
            known.remember(id, proved).map_err(|error| cannot_use(&settings.state_dir, &error))?;
            let given = settings.authority == Some(proved);
            let note = format!(
                "first contact with the cluster {id} at {address}; from now on only servers with its authority {proved} are \
                 believed"
            );
            output::note(settings.quiet || given, &note);
            Ok(())
        }
        (None, None) if settings.insecure || known.has(id) || is_loopback(address) => Ok(()),
        (None, None) => {
            let what =
                format!("the server {address} speaks no TLS, so nothing proves which cluster it belongs to");
            let next = "start the servers with --tls-dir (docs/deploy.md), or give --insecure if you trust every network on \
                        the way";
            Err(Failed::new(Exit::Refused, what, next))
        }
    }
}

fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => address.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

fn unproven(address: &str, pin: CaId, error: &std::io::Error) -> Failed {
    let what = format!(
        "the server {address} does not prove that it belongs to the cluster {pin} ({error}): nothing was sent to it"
    );
    let next = "somebody may be listening; if another cluster is meant, name it (--server conclave://HOST:PORT/CLUSTER-ID), or give another \
                --state-dir";
    Failed::new(Exit::Refused, what, next)
}

/// The addresses to ask: the found servers, then, if none of them answers, the fallbacks.
async fn candidates(settings: &Settings) -> Vec<Vec<String>> {
    let Ok(found) = settings.search.found().await else { return Vec::new() };
    let (first, last): (Vec<_>, Vec<_>) =
        found.candidates.into_iter().partition(|candidate| candidate.priority < PRIORITY_LAST);
    let addresses = |candidates: Vec<Candidate>| candidates.into_iter().map(|one| one.address).collect();
    [first, last].into_iter().filter(|some| !some.is_empty()).map(addresses).collect()
}

/// Checks an id that becomes the name of a directory.
pub(crate) fn is_cluster_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Records a cluster id: one line with the id and the searched servers.
fn remember(file: &Path, asked: &str, id: &str) -> anyhow::Result<()> {
    let line = format!("{id} {asked}");
    let old = fs::read_to_string(file).unwrap_or_default();
    if old.lines().any(|known| known == line) {
        return Ok(());
    }
    let others = old.lines().filter(|known| known.split_once(' ').is_none_or(|(_, other)| other != asked));
    let mut text: String = others.take(CLI_SLOTS_MAX).map(|known| format!("{known}\n")).collect();
    text.push_str(&line);
    text.push('\n');
    let dir = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|error| cannot_use(dir, &error))?;
    let temporary = file.with_extension(std::process::id().to_string());
    fs::write(&temporary, text).map_err(|error| cannot_use(dir, &error))?;
    fs::rename(&temporary, file).with_context(|| format!("write {}", file.display()))
}

fn recall(file: &Path, asked: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (id, _) = text.lines().filter_map(|line| line.split_once(' ')).find(|(_, other)| *other == asked)?;
    is_cluster_id(id).then(|| id.to_owned())
}

pub(crate) fn cannot_use(dir: &Path, error: &std::io::Error) -> Failed {
    let what = format!("the state directory {} cannot be used: {error}", dir.display());
    Failed::new(Exit::Refused, what, "give --state-dir a directory that you may write to")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;
    use crate::settings::{Environment, resolve};

    #[test]
    fn the_last_cluster_is_recorded_for_each_list_of_servers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state").join(LAST_CLUSTER);
        let (here, there) = ("a:1,b:2", "conclave+srv://z");
        let id = |digit: &str| digit.repeat(32);
        assert_eq!(recall(&file, here), None);
        remember(&file, here, &id("1")).unwrap();
        remember(&file, there, &id("2")).unwrap();
        remember(&file, here, &id("3")).unwrap();
        assert_eq!(recall(&file, here), Some(id("3")));
        assert_eq!(recall(&file, there), Some(id("2")));
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
    }

    fn answer(address: &str, id: &str, authority: Option<u128>) -> Answer {
        Answer { address: address.to_owned(), id: id.to_owned(), authority: authority.map(CaId) }
    }

    fn settings(state_dir: &Path, words: &[&str]) -> Settings {
        let dir = state_dir.to_str().unwrap();
        let first = ["conclave", "--quiet", "--state-dir", dir];
        let words: Vec<&str> = first.iter().chain(words).chain(&["rooms"]).copied().collect();
        let global = Args::try_parse_from(words).unwrap().global;
        resolve(&global, &Environment::default()).unwrap()
    }

    #[test]
    fn plain_text_is_for_known_clusters_this_machine_and_the_insecure() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let (strict, insecure) = (settings(dir.path(), &[]), settings(dir.path(), &["--insecure"]));
        let (id, far) = ("ab".repeat(16), "10.0.0.1:7400");
        let refused = believe(&known, &answer(far, &id, None), &strict).unwrap_err();
        assert!(refused.next.contains("--insecure"), "{refused}");
        believe(&known, &answer("127.0.0.1:7400", &id, None), &strict).unwrap();
        believe(&known, &answer(far, &id, None), &insecure).unwrap();
        // The state of version 0.1.0: directories of users alone.
        fs::create_dir_all(dir.path().join(&id).join("ana/0")).unwrap();
        believe(&known, &answer(far, &id, None), &strict).unwrap();
    }

    #[test]
    fn a_cluster_that_proved_its_identity_is_never_believed_without_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let insecure = settings(dir.path(), &["--insecure"]);
        let (id, here) = ("ab".repeat(16), "127.0.0.1:7400");
        believe(&known, &answer(here, &id, Some(7)), &insecure).unwrap();
        believe(&known, &answer(here, &id, Some(7)), &insecure).unwrap();
        for false_proof in [None, Some(8)] {
            let refused = believe(&known, &answer(here, &id, false_proof), &insecure).unwrap_err();
            assert!(refused.what.contains("does not prove it"), "{refused}");
        }
    }

    #[test]
    fn only_a_cluster_id_becomes_a_directory() {
        assert!(is_cluster_id("0123456789abcdef0123456789abcdef"));
        for bad in ["", "../../etc", &"x".repeat(32), &"1".repeat(31)] {
            assert!(!is_cluster_id(bad), "{bad}");
        }
    }
}
