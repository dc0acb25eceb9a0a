//! conclave's formats: messages between clients and nodes, messages between nodes, and the content of
//! data files, with the conversions to and from [`conclave_core`].
//!
//! * [`accounts`]: accounts, sessions and invites in their stored form.
//! * [`chat`], [`people`], [`admin`], [`cluster`], [`dns`], [`fault`], [`raft`], [`log`]: the code generated from `proto/`.
//! * [`action`], [`command`], [`event`]: encoding and decoding of actions, commands and events.
//! * [`frame`]: events that are encoded once, with the same bytes for every subscriber.
//! * [`mac`]: MACs with the cluster's secret, which authenticate messages.
//! * [`status`]: the only mapping between failures and [`tonic::Status`].
//! * [`token`]: resume tokens.

#[expect(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; its documentation is in proto/"
)]
#[allow(rustdoc::invalid_html_tags, reason = "the comments of proto/ are no HTML")]
mod generated {
    pub mod chat {
        pub mod v1 {
            tonic::include_proto!("conclave.chat.v1");
        }
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("conclave.admin.v1");
        }
    }
    pub mod cluster {
        pub mod v1 {
            tonic::include_proto!("conclave.cluster.v1");
        }
    }
    pub mod dns {
        pub mod v1 {
            tonic::include_proto!("conclave.dns.v1");
        }
    }
    pub mod fault {
        pub mod v1 {
            tonic::include_proto!("conclave.fault.v1");
        }
    }
    pub mod log {
        pub mod v1 {
            tonic::include_proto!("conclave.log.v1");
        }
    }
    pub mod people {
        pub mod v1 {
            tonic::include_proto!("conclave.people.v1");
        }
    }
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("conclave.raft.v1");
        }
    }
}

pub mod accounts;
pub mod action;
pub mod admin_token;
pub mod command;
pub mod event;
pub mod frame;
pub mod mac;
pub mod reply;
pub mod rights;
pub mod status;
pub mod token;

/// The API for operators.
pub use generated::admin::v1 as admin;
/// The client API.
pub use generated::chat::v1 as chat;
/// The records in which nodes describe themselves.
pub use generated::cluster::v1 as cluster;
/// The gRPC API of the authoritative name server.
pub use generated::dns::v1 as dns;
/// The API for fault injection.
pub use generated::fault::v1 as fault;
/// The formats of log entries, state rows and snapshots.
pub use generated::log::v1 as log;
/// The API for accounts and sessions.
pub use generated::people::v1 as people;
/// The API between the nodes of a cluster.
pub use generated::raft::v1 as raft;

/// The encoded descriptors of every file in `proto/`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Decoding failed: the bytes are damaged, or in a format that this version does not know.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes are not protobuf, or not of this message.
    #[error("cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A required field is missing.
    #[error("the field {0} is missing or not known to this version")]
    Missing(&'static str),
    /// A field has a value that is not allowed.
    #[error("the field {0} has a value that is not allowed")]
    Invalid(&'static str),
    /// A message of several kinds has none that this version knows: a newer version wrote it.
    #[error("{0} is of a kind that this version does not know")]
    UnknownKind(&'static str),
    /// A newer version wrote the commands.
    #[error("the commands need feature level {needs}, and this version understands up to {understands}")]
    NewerLevel {
        /// The level of the commands.
        needs: u32,
        /// The highest level that this node understands.
        understands: u32,
    },
}

impl FormatError {
    /// Whether a newer version wrote the bytes: they are not damaged, and that version can read them.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        match self {
            Self::UnknownKind(_) | Self::NewerLevel { .. } => true,
            Self::Decode(_) | Self::Missing(_) | Self::Invalid(_) => false,
        }
    }
}
