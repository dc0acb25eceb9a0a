//! Finding servers, for clients and for servers that join alike.
//!
//! * [`Seed`]: what people write where an address is wanted: `host:port`, or the name of a zone.
//! * `srv`: asks name servers, all of them at once. `order` is what follows from the answer; pure. `dns_net` is the network on
//!   which they are asked.
//! * `mdns`: asks the local network.
//! * `cache`: the members that an earlier connection learned, on disk.
//! * [`Chain`]: all of these one after the other, until one of them knows somebody.
//!
//! A client needs a [`Finder`] to begin with and when it is stuck; in between the cluster itself says who its members
//! are, so running clients go on when nothing can be found any more.

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

/// The port of nodes for clients, unless another one is given.
pub const CLIENT_PORT: u16 = 7400;
/// The port of resolvers, unless another one is given.
pub const RESOLVER_PORT: u16 = 7453;
/// The zone, unless another one is given.
pub const ZONE: &str = "conclave.internal";
/// The lowest priority (RFC 2782: the highest number) of nodes that are there for good. Those behind it leave, are full,
/// or were there once.
pub const PRIORITY_LAST: u16 = 40;

/// Finds nodes.
pub trait Finder: fmt::Debug + Send + Sync + 'static {
    /// Finds nodes. It takes as long as it takes to know, never more than a few seconds.
    fn find(&self) -> BoxFuture<'_, Result<Found, NotFound>>;

    /// The cluster said that these are its members (`host:port` of client APIs); for the next time.
    fn learned(&self, members: Vec<String>) -> BoxFuture<'_, ()> {
        drop(members);
        Box::pin(std::future::ready(()))
    }
}

/// Nodes that were found: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The nodes, best first.
    pub candidates: Vec<Candidate>,
    /// How long this holds; nothing where only asking again after a failure makes sense.
    pub fresh_for: Option<Duration>,
    /// Who said it.
    pub source: Source,
    /// What others said who were asked before, each in a sentence.
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
    /// Its name; empty where that is not known.
    pub name: String,
    /// As in RFC 2782: the lowest first; from [`PRIORITY_LAST`] on only if there is nobody else.
    pub priority: u16,
    /// How many clients it should get compared with the others.
    pub weight: u16,
}

impl Candidate {
    /// A node of which only the address is known.
    #[must_use]
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), name: String::new(), priority: 0, weight: 1 }
    }

    /// The same, to be tried only if there is nobody else.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.priority = self.priority.max(PRIORITY_LAST);
        self
    }
}

/// Who knew the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The program or its user.
    Given,
    /// A name server.
    Srv,
    /// The local network.
    Mdns,
    /// What an earlier connection learned.
    Cache,
    /// Nobody: these are the default addresses.
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

/// Nobody knows a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("no server was found: {}", .notes.join("; "))]
pub struct NotFound {
    /// What each of those said who were asked, in a sentence.
    pub notes: Vec<String>,
}
