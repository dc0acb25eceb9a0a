//! conclave's formats: what travels between clients and nodes, what travels between nodes, and what
//! lies on disk, with the conversions to and from [`conclave_core`].
//!
//! * [`chat`], [`admin`], [`chaos`], [`cluster`], [`dns`], [`fault`], [`raft`], [`log`]: the code generated from `proto/`.
//! * [`action`], [`command`], [`event`]: actions, commands and events to bytes and back.
//! * [`frame`]: events that are encoded once and sent to every subscriber as they are.
//! * [`seal`]: messages that only those who know the cluster's secret can make.
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
    pub mod chaos {
        pub mod v1 {
            tonic::include_proto!("conclave.chaos.v1");
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
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("conclave.raft.v1");
        }
    }
}

pub mod action;
pub mod command;
pub mod event;
pub mod frame;
pub mod reply;
pub mod seal;
pub mod status;
pub mod token;

/// The operators' API.
pub use generated::admin::v1 as admin;
/// The API of a controller that breaks clusters on purpose.
pub use generated::chaos::v1 as chaos;
/// The client API.
pub use generated::chat::v1 as chat;
/// What nodes say of themselves.
pub use generated::cluster::v1 as cluster;
/// The resolver's API.
pub use generated::dns::v1 as dns;
/// Faults on purpose.
pub use generated::fault::v1 as fault;
/// Durable formats.
pub use generated::log::v1 as log;
/// Between nodes.
pub use generated::raft::v1 as raft;

/// The encoded descriptors of every file in `proto/`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What was read is not what this format allows: damaged, or made by something else.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not protobuf, or not of this message.
    #[error("cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field without which the message means nothing.
    #[error("the field {0} is missing or not known to this version")]
    Missing(&'static str),
    /// A field with a value that is not allowed.
    #[error("the field {0} has a value that is not allowed")]
    Invalid(&'static str),
    /// One of several kinds, and none that this version knows: a newer version wrote it.
    #[error("{0} is of a kind that this version does not know")]
    UnknownKind(&'static str),
    /// Commands that a newer version wrote.
    #[error("it needs feature level {needs}, and this version understands up to {understands}")]
    NewerLevel {
        /// The level of the commands.
        needs: u32,
        /// The highest level that this node understands.
        understands: u32,
    },
}

impl FormatError {
    /// Whether a newer version wrote what was read: the bytes are sound, and that version can read them.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        match self {
            Self::UnknownKind(_) | Self::NewerLevel { .. } => true,
            Self::Decode(_) | Self::Missing(_) | Self::Invalid(_) => false,
        }
    }
}
