//! Finds servers, for clients and for servers that join a cluster.
//!
//! * [`Seed`]: an address as people write it: `host:port`, or the name of a zone.
//! * `srv`: looks up SRV records at all name servers at once. `order` sorts the answer by RFC 2782 and is pure.
//!   `dns_net` connects the DNS library to the client's network.
//! * `mdns`: browses the local network.
//! * `cache`: a file with the members that an earlier connection learned.
//! * [`Chain`]: tries all of these in turn, until one finds a server.
//!
//! A client needs a [`Finder`] at its start, and when no known node can be reached. In between, the cluster itself
//! names its members, so running clients do not depend on any of these.

mod address;
pub mod cache;
mod chain;
mod dns_net;
pub mod mdns;
mod order;
pub mod srv;

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

pub use address::{Seed, SeedError, name_server, zone_name};
pub use chain::{Chain, Examined, Options};

/// The default port of a node's client API.
pub const CLIENT_PORT: u16 = 7400;
/// The default DNS port of conclave's name servers.
pub const NAME_SERVER_PORT: u16 = 7453;
/// The default zone.
pub const ZONE: &str = "conclave.internal";
/// The SRV priority (RFC 2782: lower numbers first) from which on nodes are only a fallback: leaving, full, or
/// remembered from an earlier connection.
pub const PRIORITY_LAST: u16 = 40;

/// Finds nodes.
pub trait Finder: fmt::Debug + Send + Sync + 'static {
    /// Finds nodes. Takes a few seconds at most.
    fn find(&self) -> BoxFuture<'_, Result<Found, NotFound>>;

    /// Persists the cluster's members (`host:port` of client APIs) for the next start.
    fn save_members(&self, members: Vec<String>) -> BoxFuture<'_, ()> {
        drop(members);
        Box::pin(std::future::ready(()))
    }
}

/// Nodes that were found: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The nodes, best first.
    pub candidates: Vec<Candidate>,
    /// How long the result is fresh; `None` if a new search makes sense only after a failure.
    pub fresh_for: Option<Duration>,
    /// The source that knew them.
    pub source: Source,
    /// Why the sources before it found nothing, each in a sentence.
    pub notes: Vec<String>,
}

impl Found {
    /// The addresses, best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.candidates.iter().map(|candidate| candidate.address.clone()).collect()
    }
}

/// A node that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `host:port` of its client API.
    pub address: String,
    /// Its name; empty if unknown.
    pub name: String,
    /// As in RFC 2782: the lowest first; from [`PRIORITY_LAST`] on only as a fallback.
    pub priority: u16,
    /// Its share of clients relative to the others.
    pub weight: u16,
}

impl Candidate {
    /// A node with a known address and nothing else.
    #[must_use]
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), name: String::new(), priority: 0, weight: 1 }
    }

    /// Makes the node a fallback.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.priority = self.priority.max(PRIORITY_LAST);
        self
    }
}

/// A source of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Addresses given by the program or its user.
    Given,
    /// SRV records of a name server.
    Srv,
    /// mDNS on the local network.
    Mdns,
    /// The members that an earlier connection learned.
    Cache,
    /// The default addresses, because no source knew a node.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "the given addresses",
            Self::Srv => "DNS",
            Self::Mdns => "the local network",
            Self::Cache => "the members of an earlier connection",
            Self::Default => "the default addresses",
        })
    }
}

/// No source knew a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("no server was found: {}", .notes.join("; "))]
pub struct NotFound {
    /// Why each source found nothing, in a sentence each.
    pub notes: Vec<String>,
}
