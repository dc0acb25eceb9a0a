//! Finds out which cluster the servers belong to, before anything secret is said to them.
//!
//! A command means one cluster: the one of the servers that are given, else the current one of the state directory
//! (`conclave use`). Servers of other clusters are left alone, whatever rooms they have: nothing is sent to them, nothing
//! is read from them. If no server of the cluster answers, what is sent waits in the outbox. Only a state directory that
//! knows no cluster takes the one that answers first.
//!
//! A server proves by TLS that it belongs to a cluster. If the cluster is known already, from the given address
//! (`conclave://HOST:PORT/ID`), from `conclave up` on this machine or from an earlier command, only its servers are
//! believed. At the first contact the cluster that a server proves to belong to is believed and kept, as ssh does. Where the
//! user gives a host name, and the server has a certificate for it that the system's authorities accept, the owner of the name
//! says which cluster that is, and the server proves that it belongs to it. A
//! server without TLS is spoken to only if this user's state says that its cluster has none, if it is on this machine, or
//! with `--insecure`; and never if its cluster is known to use TLS.

mod proof;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use conclave_client::find::{Candidate, PRIORITY_LAST, Seed};
use conclave_client::{CaId, Client, Net};
use conclave_net::{Expect, Trust};
use futures::stream::{FuturesUnordered, StreamExt as _};

use crate::errors::{LastAttempt, last_attempt, of_connect};
use crate::exit::{Exit, Failed};
use crate::known::{Cluster, Known, is_cluster_id};
use crate::limits::{CLI_WHICH_CLUSTER, OTHER_CLUSTERS_MAX};
use crate::output;
use crate::settings::{NO_STATE_DIR, Settings};
use proof::{Silence, Unproven, is_plain, named_by_owner, prove, tls_unusable};

/// The cluster that the command uses, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    /// Its id; if none of its servers answers, the one that is known from before.
    pub(crate) id: Option<String>,
    /// Its name, for people.
    pub(crate) name: String,
    /// Its certificate authority; `None` for a cluster without TLS.
    pub(crate) authority: Option<CaId>,
    /// The network to reach its servers over.
    pub(crate) net: Net,
    /// The server of the cluster that has answered.
    pub(crate) answered: Option<String>,
    /// Other clusters that were found while no server of this one answered.
    pub(crate) others: Vec<Other>,
    /// Why a server must not be believed although it claims to belong to the cluster.
    pub(crate) refused: Option<Failed>,
    /// Whether this user knew before this command whether the cluster uses TLS, and which authority it has.
    pub(crate) is_known: bool,
    /// Why the last server did not answer.
    pub(crate) last: LastAttempt,
}

impl Identified {
    /// The failure of a command that cannot do anything without an answer of the cluster, if others have answered in its
    /// place. If nobody has, the command asks for longer.
    pub(crate) fn must_answer(&self) -> Result<(), Failed> {
        if self.answered.is_some() {
            return Ok(());
        }
        match &self.refused {
            Some(failed) => Err(failed.clone()),
            None if self.others.is_empty() => Ok(()),
            // `explain` names the other clusters.
            None => Err(Failed::new(
                Exit::NoServer,
                format!("no server of the cluster {} answers", self.name),
                "",
            )),
        }
    }
}

impl Identified {
    /// Checks that a password or token may be shown to the server that has answered: its cluster was known before this command, or the
    /// server is on this machine, or has no TLS, which takes other permissions. `secret` says what would be shown.
    ///
    /// # Errors
    /// If a cluster is met for the first time over a network.
    pub(crate) fn must_be_known(&self, settings: &Settings, secret: &str) -> Result<(), Failed> {
        let (Some(authority), Some(address)) = (self.authority, &self.answered) else { return Ok(()) };
        if self.is_known || settings.insecure || is_loopback(address) {
            return Ok(());
        }
        let what = format!(
            "the cluster at {address}, with the authority {authority}, was not known here before: {secret} was not sent to it"
        );
        let next = format!(
            "if that is your cluster's authority (ask its operator), name it: --server conclave://{address}/{authority}"
        );
        Err(Failed::new(Exit::Refused, what, next))
    }
}

/// Whether a server speaks TLS.
pub(crate) async fn speaks_tls(address: &str, patience: Duration) -> bool {
    matches!(prove(address, Trust::FirstUse(Expect::AnyNode), patience).await, Ok(Ok(_)))
}

/// A cluster that was found and is not the one that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) id: String,
    pub(crate) name: String,
    /// One of its servers.
    pub(crate) address: String,
}

/// The cluster of the command. Asks the servers until one has proved which cluster it belongs to; the result is kept for the command.
///
/// # Errors
/// If no cluster is known, and a server answers that must not be believed.
pub(crate) async fn identify(settings: &Settings) -> anyhow::Result<&Identified> {
    settings.identified.get_or_try_init(async || find_out(settings).await).await
}

/// The cluster that a command expects.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// Its id, if this user has met it before.
    id: Option<String>,
    /// The authority that its servers must prove to belong to.
    authority: Option<CaId>,
    /// The file that names the expected cluster; empty if the command line names it.
    said_in: String,
}

impl Expected {
    fn of(settings: &Settings, known: &Known, addresses: &[String]) -> Result<Self, Failed> {
        known.check()?;
        let mut id = settings.cluster.as_ref().map(|cluster| cluster.id.clone());
        if settings.given && id.is_none() && !settings.anew {
            id = known.recorded(&settings.asked());
        }
        let kept = id.as_deref().map(|id| known.authority(id)).transpose()?.flatten();
        if let Some(given) = settings.authority {
            // The given identity is what the user means.
            let id = id.filter(|_| kept == Some(given));
            return Ok(Self { id, authority: Some(given), said_in: String::new() });
        }
        let said_in = match (&id, &settings.cluster) {
            // Chosen by its name.
            (Some(id), Some(_)) if known.current().is_none_or(|current| current.id != *id) => {
                known.says_authority(id)
            }
            (Some(_), Some(_)) => known.says_current(),
            (Some(_), None) => known.says_recorded(&settings.asked()),
            (None, _) => known.says_servers(addresses),
        };
        let authority = match id {
            Some(_) => kept,
            // The user goes over to the cluster that runs there now, whatever ran there before.
            None if settings.anew => None,
            None => known.of_servers(addresses)?.flatten(),
        };
        Ok(Self { id, authority, said_in })
    }

    /// The refusal of a server that does not prove that it belongs to the expected cluster. `presented` is what it does.
    fn unproven(&self, address: &str, pin: CaId, presented: impl std::fmt::Display) -> Failed {
        let what = format!(
            "the server {address} does not prove that it belongs to the cluster {pin} ({presented}): no message and no token was sent to it"
        );
        let next = match self.said_in.as_str() {
            "" => "somebody may be listening; if another cluster is meant, give its id (`conclave up` and `conclave status` \
                   show it)"
                .to_owned(),
            file => format!(
                "somebody may be listening; if another cluster runs there now and you mean it, go over to it: conclave use \
                 {address} (what is known of the old one is in {file})"
            ),
        };
        Failed::new(Exit::Refused, what, next)
    }

    fn is(&self, answer: &Answer) -> bool {
        self.authority.is_none_or(|authority| answer.authority == Some(authority))
            && self.id.as_deref().is_none_or(|id| answer.id == id)
    }

    /// Whether this user knew before this answer what it proves: from an address with the cluster's id, from `conclave up`,
    /// or from an earlier command; or whether the host name that the user gave proves it.
    fn was_known(&self, known: &Known, answer: &Answer) -> Result<bool, Failed> {
        Ok(match answer.authority {
            Some(_) if answer.by_name => true,
            Some(proved) => self.authority == Some(proved) || known.authority(&answer.id)? == Some(proved),
            None => known.of_servers(std::slice::from_ref(&answer.address))? == Some(None),
        })
    }

    /// Whether the command knows which cluster it means.
    fn is_known(&self) -> bool {
        self.id.is_some() || self.authority.is_some()
    }
}

async fn find_out(settings: &Settings) -> anyhow::Result<Identified> {
    let known = Known::new(&settings.state_dir);
    let groups = candidates(settings).await;
    let expected = Expected::of(settings, &known, &groups.concat())?;
    let (mut last, mut refused, mut others) = (LastAttempt::default(), None, Vec::new());
    for addresses in groups {
        let patience = settings.timeout.min(CLI_WHICH_CLUSTER);
        let mut answers: FuturesUnordered<_> =
            addresses.iter().map(|address| ask(address, &expected, settings, patience)).collect();
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(Silence::Unreachable(why)) => {
                    // A server that says that it is full says more than one that cannot be reached.
                    if why.is_full || !last.is_full {
                        last = why;
                    }
                    continue;
                }
                Err(Silence::Refused(failed)) => {
                    refused = Some(failed);
                    continue;
                }
            };
            if !expected.is(&answer) {
                let claims_it = expected.id.as_deref() == Some(answer.id.as_str());
                match settings.authority.or(expected.authority.filter(|_| claims_it)) {
                    // The user has said whose server this must be, or it says that it is of the cluster that is meant.
                    Some(pin) => {
                        let other = format!("it says that it belongs to the cluster {}", answer.id);
                        refused = Some(expected.unproven(&answer.address, pin, other));
                    }
                    None => note_other(&mut others, &answer),
                }
                continue;
            }
            let is_known = expected.was_known(&known, &answer)?;
            match believe(&known, &answer, settings) {
                Ok(()) => {
                    remember(&known, &answer, settings);
                    let net = net(answer.authority)?;
                    return Ok(Identified {
                        name: known.cluster(&answer.id).shown().to_owned(),
                        id: Some(answer.id),
                        authority: answer.authority,
                        net,
                        answered: Some(answer.address),
                        others: Vec::new(),
                        is_known,
                        refused: None,
                        last,
                    });
                }
                Err(failed) => refused = Some(failed),
            }
        }
    }
    if let Some(failed) = refused.clone().filter(|_| !expected.is_known()) {
        return Err(failed.into());
    }
    let id = expected.id.or_else(|| expected.authority.map(|authority| authority.to_string()));
    Ok(Identified {
        name: id.as_deref().map(|id| known.cluster(id).shown().to_owned()).unwrap_or_default(),
        net: net(expected.authority)?,
        authority: expected.authority,
        answered: None,
        is_known: expected.authority.is_some(),
        id,
        others,
        refused,
        last,
    })
}

fn note_other(others: &mut Vec<Other>, answer: &Answer) {
    if others.len() < OTHER_CLUSTERS_MAX && !others.iter().any(|other: &Other| other.id == answer.id) {
        let Answer { id, name, address, .. } = answer.clone();
        others.push(Other { id, name, address });
    }
}

/// The network to servers of a cluster.
fn net(authority: Option<CaId>) -> Result<Net, Failed> {
    let Some(ca) = authority else { return Ok(Net::System) };
    Net::System.to_cluster(ca).map_err(|error| tls_unusable(&error))
}

/// The answer of a server.
#[derive(Clone, Debug)]
struct Answer {
    address: String,
    id: String,
    name: String,
    /// The authority that the server has proved to belong to; `None` if it speaks no TLS.
    authority: Option<CaId>,
    /// Whether the owner of the host name that the user gave says that this is the authority.
    by_name: bool,
}

/// Asks a server for its cluster: over TLS, or without if it speaks none and no authority is expected. A server of another
/// cluster than the expected one is told nothing but this question.
async fn ask(
    address: &str,
    expected: &Expected,
    settings: &Settings,
    patience: Duration,
) -> Result<Answer, Silence> {
    let pin = expected.authority;
    let named = match pin {
        None if is_given_name(address, settings) => named_by_owner(address, patience).await?,
        _ => None,
    };
    let first_use = || Trust::FirstUse(Expect::AnyNode);
    let trust = pin.or(named).map_or_else(first_use, |ca| Trust::Cluster(ca, Expect::AnyNode));
    let authority = match (prove(address, trust, patience).await?, pin) {
        (Ok(authority), _) => authority,
        (Err(Unproven::Otherwise(error)), None) if named.is_some() => {
            return Err(Silence::Refused(bad_certificate(address, &error)));
        }
        (Err(Unproven::Unreachable(why)), _) => return Err(Silence::Unreachable(why.into())),
        (Err(Unproven::Otherwise(error)), None) if is_plain(&error) => None,
        (Err(Unproven::Otherwise(error)), None) => {
            return Err(Silence::Refused(bad_certificate(address, &error)));
        }
        (Err(Unproven::Otherwise(error)), Some(pin)) => match prove(address, first_use(), patience).await? {
            Ok(Some(other)) => Some(other),
            _ => return Err(Silence::Refused(expected.unproven(address, pin, error))),
        },
    };
    let mut builder = Client::builder().servers([address]).patience(patience);
    if let Some(authority) = authority {
        builder = builder.authority(authority);
    }
    let observer = builder.observe().await.map_err(|error| Silence::Refused(of_connect(&error)))?;
    match observer.status_of(address).await {
        Ok(status) if is_cluster_id(&status.cluster_id) => Ok(Answer {
            address: address.to_owned(),
            id: status.cluster_id,
            name: status.cluster_name,
            authority,
            by_name: named.is_some(),
        }),
        Ok(_) => Err(Silence::Unreachable("the server does not know its cluster yet".to_owned().into())),
        Err(error) => Err(Silence::Unreachable(last_attempt(&error))),
    }
}

/// Whether the user gave this address, and gave a host name. Names from elsewhere, such as the DNS, prove nothing: whoever
/// answers there may have a certificate for a name of their own.
fn is_given_name(address: &str, settings: &Settings) -> bool {
    let is_name = address.parse::<SocketAddr>().is_err();
    is_name && settings.given && settings.find.seeds.contains(&Seed::Node(address.to_owned()))
}

/// Keeps which cluster it is, how it is found, and, if there is no current one, that it is the current one. Where nothing can be
/// kept, a command that only reads goes on.
fn remember(known: &Known, answer: &Answer, settings: &Settings) {
    let write = || -> std::io::Result<()> {
        let before = known.cluster(&answer.id);
        let mut now = Cluster { name: answer.name.clone(), ..before.clone() };
        if !before.servers.contains(&answer.address) {
            now.servers.push(answer.address.clone());
        }
        if before.name.is_empty() && settings.given {
            now.asked = settings.asked();
        }
        let current = known.current();
        known.keep(&now)?;
        known.record(&settings.asked(), &answer.id)?;
        match current {
            Some(_) => Ok(()),
            None => known.set_current(&answer.id),
        }
    };
    if let Err(error) = write() {
        tracing::debug!(dir = %settings.state_dir.display(), %error, "failed to keep what is known of the cluster");
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
                "the server {address} says that it belongs to the cluster {id}, and does not prove it: no message and no token was sent to it"
            );
            let next = format!(
                "somebody may be listening: a cluster's authority is never replaced, and that of this one is {kept} ({}). Ask \
                 its operator; if you mean another cluster, go over to it: conclave use {address}",
                settings.state_dir.join(id).join(".tls").display()
            );
            Err(Failed::new(Exit::Refused, what, next))
        }
        (None, Some(proved)) => {
            let given = settings.authority == Some(proved);
            let from_now_on = match known.remember(id, proved) {
                Ok(()) => format!("from now on only servers with its authority {proved} are believed"),
                // What has to be kept, such as a session, fails later.
                Err(error) => format!(
                    "its authority {proved} cannot be kept in {} ({error}), so the next command believes whoever answers",
                    settings.state_dir.display()
                ),
            };
            let proof = proof(answer, settings);
            let note = format!("first contact with the cluster {id} at {address}{proof}; {from_now_on}");
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

/// What a first contact proves about the host name that the user gave. Whoever is on the way can leave a certificate for the
/// name out, so its absence is said.
fn proof(answer: &Answer, settings: &Settings) -> String {
    let host = answer.address.rsplit_once(':').map_or(answer.address.as_str(), |(host, _)| host);
    // An IPv6 address with a scope is in brackets too.
    let is_of_dns = host != "localhost" && !host.ends_with(".localhost") && !host.starts_with('[');
    if answer.by_name {
        ", as a certificate for this name says".to_owned()
    } else if is_of_dns && is_given_name(&answer.address, settings) {
        format!(", and nothing proves that this is the server of {host}")
    } else {
        String::new()
    }
}

fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => address.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

/// The refusal of a server that speaks TLS and proves nothing by it. Without TLS it would prove even less.
fn bad_certificate(address: &str, error: &std::io::Error) -> Failed {
    let what = format!(
        "the server {address} does not prove which cluster it belongs to ({error}): no message and no token was sent to it"
    );
    let next = "see whether the clocks of both machines are right; an expired certificate is renewed by `conclave admin ca renew`";
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

pub(crate) fn cannot_use(dir: &Path, error: &std::io::Error) -> Failed {
    if dir.starts_with(NO_STATE_DIR) {
        let what = "neither XDG_STATE_HOME nor HOME is set, and this command keeps what it sends";
        return Failed::new(Exit::Usage, what, "give --state-dir DIR");
    }
    let what = format!("the state directory {} cannot be used: {error}", dir.display());
    Failed::new(Exit::Refused, what, "give --state-dir a directory that you may write to")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::args::Args;
    use crate::settings::{Environment, resolve};

    fn answer(address: &str, id: &str, authority: Option<u128>) -> Answer {
        let (address, id, name) = (address.to_owned(), id.to_owned(), String::new());
        Answer { address, id, name, authority: authority.map(CaId), by_name: false }
    }

    fn settings(state_dir: &Path, words: &[&str]) -> Settings {
        let dir = state_dir.to_str().unwrap();
        let first = ["conclave", "--quiet", "--state-dir", dir];
        let words: Vec<&str> = first.iter().chain(words).chain(&["rooms"]).copied().collect();
        let global = Args::try_parse_from(words).unwrap().global;
        resolve(&global, &Environment::default()).unwrap()
    }

    #[test]
    fn only_a_host_name_that_the_user_gave_is_a_proof() {
        let dir = tempfile::tempdir().unwrap();
        let given = settings(dir.path(), &["-s", "chat.example.org,10.0.0.1,[::1]:7410"]);
        assert!(is_given_name("chat.example.org:7400", &given));
        for other in ["10.0.0.1:7400", "[::1]:7410", "chat.example.org:7410", "other.example.org:7400"] {
            assert!(!is_given_name(other, &given), "{other}");
        }
        let zone = settings(dir.path(), &["-s", "conclave+srv://chat.example.org"]);
        assert!(!is_given_name("chat.example.org:7400", &zone));
        let id = "ab".repeat(16);
        let pinned = settings(dir.path(), &["-s", &format!("conclave://chat.example.org/{id}")]);
        assert!(!is_given_name("chat.example.org:7400", &pinned));
        assert!(!is_given_name("chat.example.org:7400", &settings(dir.path(), &[])));

        // It may see an admin token, as a cluster that was known before.
        let known = Known::new(dir.path());
        let by_name = Answer { by_name: true, ..answer("chat.example.org:7400", &id, Some(7)) };
        assert!(Expected::default().was_known(&known, &by_name).unwrap());
        let first = answer("chat.example.org:7400", &id, Some(7));
        assert!(!Expected::default().was_known(&known, &first).unwrap());
    }

    #[test]
    fn a_first_contact_says_that_nothing_proves_a_host_name() {
        let dir = tempfile::tempdir().unwrap();
        let given =
            settings(dir.path(), &["-s", "chat.example.org,10.0.0.1,[::1]:7410,localhost,n1.localhost"]);
        let id = "ab".repeat(16);
        let first = answer("chat.example.org:7400", &id, Some(7));
        assert_eq!(proof(&first, &given), ", and nothing proves that this is the server of chat.example.org");
        assert!(!proof(&Answer { by_name: true, ..first }, &given).contains("nothing"));
        // The last name comes from elsewhere.
        let others =
            ["10.0.0.1:7400", "[::1]:7410", "localhost:7400", "n1.localhost:7400", "n1.example.org:7400"];
        for other in others {
            assert_eq!(proof(&answer(other, &id, Some(7)), &given), "", "{other}");
        }
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
        assert!(Expected::default().was_known(&known, &answer(here, &id, Some(7))).unwrap());
        for false_proof in [None, Some(8)] {
            assert!(!Expected::default().was_known(&known, &answer(here, &id, false_proof)).unwrap());
            let refused = believe(&known, &answer(here, &id, false_proof), &insecure).unwrap_err();
            assert!(refused.what.contains("does not prove it"), "{refused}");
        }
    }

    #[test]
    fn a_state_directory_that_knows_a_cluster_expects_it() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let (ours, theirs) = ("ab".repeat(16), "cd".repeat(16));
        let strict = settings(dir.path(), &[]);
        let expected = |settings: &Settings| Expected::of(settings, &known, &["a:1".to_owned()]).unwrap();
        assert!(expected(&strict).is(&answer("a:1", &theirs, None)), "no cluster is known yet");
        known.set_current(&ours).unwrap();
        let strict = settings(dir.path(), &[]);
        assert!(expected(&strict).is(&answer("a:1", &ours, None)));
        assert!(!expected(&strict).is(&answer("a:1", &theirs, Some(9))));
        // With an authority, the id alone is no proof.
        known.remember(&ours, CaId(7)).unwrap();
        assert!(!expected(&strict).is(&answer("a:1", &ours, None)));
        assert!(expected(&strict).is(&answer("a:1", &ours, Some(7))));
        // Given servers are another choice, which is remembered for them alone.
        let given = settings(dir.path(), &["-s", "b:2"]);
        assert!(expected(&given).is(&answer("b:2", &theirs, None)));
        remember(&known, &answer("b:2", &theirs, None), &given);
        assert!(!expected(&given).is(&answer("b:2", &ours, Some(7))));
        assert_eq!(known.current().unwrap().id, ours);
        // Its name leads there, too.
        let named = settings(dir.path(), &["--context", "cdcd"]);
        assert!(!named.given && expected(&named).is(&answer("b:2", &theirs, None)));
        assert_eq!(named.asked(), "b:2");
    }
}
