//! Failures, and the only mapping between them and [`tonic::Status`].

use std::time::Duration;

use conclave_core::Refusal;
use conclave_core::limits::NODES_MAX;
use conclave_core::refusal::Class;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::chat::{self, Certainty, LeaderHint};

/// Metadata: a stable word for the failure, such as `room_unknown`.
pub const CODE: &str = "conclave-code";
/// Metadata: whether to retry: `never`, `same_request` (repeat it unchanged) or `after_ms=<n>`.
pub const RETRY: &str = "conclave-retry";
/// Metadata: the client address to try first.
pub const LEADER: &str = "conclave-leader";
/// Metadata: the Raft term of the leader in [`LEADER`].
pub const LEADER_TERM: &str = "conclave-leader-term";
/// Metadata: what is known about the effect: `refused`, `not_sent` or `unknown`.
pub const CERTAINTY: &str = "conclave-certainty";
/// Metadata: the request number to go back to.
pub const EXPECTED: &str = "conclave-expected-request";

/// Metadata: `yes` if the refused request used up its number; absent otherwise.
pub const NUMBER_USED: &str = "conclave-number-used";
/// Metadata: addresses of better nodes, best first, separated by commas.
pub const TRY: &str = "conclave-try";

/// Code: the cluster's feature level does not allow the request yet. Nothing was sent.
pub const NOT_YET: &str = "not_yet";
/// The code of a write with a session that may only read.
pub const READS_ONLY: &str = "reads_only";
/// Code: too many passwords are checked here, or too many were wrong from the caller's address. Nothing was done.
pub const TOO_MANY_LOG_INS: &str = "too_many_log_ins";
/// Code: the disk of the shard's leader has no room. Nothing was sent.
pub const DISK_FULL: &str = "disk_full";
/// How a problem of a cluster begins whose replicas have applied different things.
pub const DIVERGED: &str = "DIVERGED";
/// Code: the port takes no more connections, or none of this address. Nothing was sent.
pub const TOO_MANY_CONNECTIONS: &str = "too_many_connections";
/// How long a client waits before it connects again to a server that takes no more connections.
pub const TOO_MANY_CONNECTIONS_RETRY: Duration = Duration::from_secs(1);
/// How long a client waits before it retries a request for which there was no room.
pub const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// How long a client waits before it retries a request that the cluster does not allow yet.
pub const NOT_YET_RETRY: Duration = Duration::from_secs(1);

/// A failed call, with what is known about its effect.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The request was refused for good.
    #[error("{0}")]
    Refused(Refusal),
    /// The call is invalid for good.
    #[error("{message}")]
    Invalid {
        /// The stable word of the API.
        code: &'static str,
        /// The mistake and its remedy, for display.
        message: String,
    },
    /// The session token is missing, damaged or not known.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller may not do this, or not now.
    #[error("{message}")]
    Denied {
        /// The stable word of the API.
        code: &'static str,
        /// The status of the call.
        status: Code,
        /// What the caller can do, for display.
        message: String,
    },
    /// Proven not appended. The caller tries again, best at the leader.
    #[error("{message}")]
    NotSent {
        /// The stable word of the API.
        code: &'static str,
        /// A message for display.
        message: String,
        /// How long to wait before the next try.
        after: Duration,
        /// The leader to try first, if known.
        leader: Option<LeaderHint>,
    },
    /// Proven not appended. The node is full or drains, so the caller tries another node.
    #[error("{message}")]
    Elsewhere {
        /// Stable word: `node_full` or `node_draining`.
        code: &'static str,
        /// A message for display.
        message: String,
        /// Client addresses of better nodes, best first.
        addresses: Vec<String>,
    },
    /// In doubt: the request may or may not take effect. The caller repeats it with the same request number.
    #[error("{message}")]
    Unknown {
        /// The stable word of the API.
        code: &'static str,
        /// A message for display.
        message: String,
        /// The leader to try first, if known.
        leader: Option<LeaderHint>,
    },
}

impl Failure {
    /// An invalid call: [`Failure::Invalid`].
    #[must_use]
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { code, message: message.into() }
    }

    /// A request that was not sent: [`Failure::NotSent`].
    #[must_use]
    pub fn not_sent(code: &'static str, message: impl Into<String>, after: Duration) -> Self {
        Self::NotSent { code, message: message.into(), after, leader: None }
    }

    /// A request in doubt: [`Failure::Unknown`].
    #[must_use]
    pub fn unknown(code: &'static str, message: impl Into<String>) -> Self {
        Self::Unknown { code, message: message.into(), leader: None }
    }

    /// The same failure with the leader to try first.
    #[must_use]
    pub fn with_leader(mut self, hint: Option<LeaderHint>) -> Self {
        if let Self::NotSent { leader, .. } | Self::Unknown { leader, .. } = &mut self {
            *leader = hint;
        }
        self
    }

    /// The stable word of the API.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.word(),
            Self::Unauthenticated(_) => "session_unknown",
            Self::Invalid { code, .. }
            | Self::Denied { code, .. }
            | Self::NotSent { code, .. }
            | Self::Elsewhere { code, .. }
            | Self::Unknown { code, .. } => code,
        }
    }

    fn leader(&self) -> Option<&LeaderHint> {
        match self {
            Self::NotSent { leader, .. } | Self::Unknown { leader, .. } => leader.as_ref(),
            Self::Refused(_)
            | Self::Invalid { .. }
            | Self::Unauthenticated(_)
            | Self::Denied { .. }
            | Self::Elsewhere { .. } => None,
        }
    }

    fn try_addresses(&self) -> &[String] {
        match self {
            Self::Elsewhere { addresses, .. } => addresses,
            _ => &[],
        }
    }

    fn certainty(&self) -> (Certainty, &'static str) {
        match self {
            Self::Refused(_) | Self::Invalid { .. } | Self::Unauthenticated(_) | Self::Denied { .. } => {
                (Certainty::Refused, "refused")
            }
            Self::NotSent { .. } | Self::Elsewhere { .. } => (Certainty::NotSent, "not_sent"),
            Self::Unknown { .. } => (Certainty::Unknown, "unknown"),
        }
    }

    fn expected(&self) -> u64 {
        match self {
            Self::Refused(Refusal::RequestOutOfOrder { expected }) => *expected,
            _ => 0,
        }
    }

    /// Whether the request's number is used up.
    fn number_used(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.uses_number())
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::NotSent { after, .. } => *after,
            _ => Duration::ZERO,
        }
    }
}

/// The failure inside a stream of results.
impl From<&Failure> for chat::Failure {
    fn from(failure: &Failure) -> Self {
        Self {
            certainty: failure.certainty().0.into(),
            code: failure.code().to_owned(),
            message: failure.to_string(),
            retry_after_ms: u32::try_from(failure.retry_after().as_millis()).unwrap_or(u32::MAX),
            expected_request_no: failure.expected(),
            leader: failure.leader().cloned(),
            try_addresses: failure.try_addresses().to_vec(),
            number_used: failure.number_used(),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut metadata = MetadataMap::new();
        let mut put = |key: &'static str, value: &str| {
            if let Ok(value) = MetadataValue::try_from(value) {
                metadata.insert(key, value);
            }
        };
        put(CODE, failure.code());
        put(CERTAINTY, failure.certainty().1);
        put(RETRY, &retry_class(&failure));
        if failure.expected() != 0 {
            put(EXPECTED, &failure.expected().to_string());
        }
        if failure.number_used() {
            put(NUMBER_USED, "yes");
        }
        if !failure.try_addresses().is_empty() {
            put(TRY, &failure.try_addresses().join(","));
        }
        if let Some(leader) = failure.leader() {
            put(LEADER, &leader.address);
            put(LEADER_TERM, &leader.term.to_string());
        }
        Self::with_metadata(grpc_code(&failure), failure.to_string(), metadata)
    }
}

fn retry_class(failure: &Failure) -> String {
    match failure {
        // Not lost: the client sends again, from the number that is expected.
        Failure::Refused(Refusal::RequestOutOfOrder { .. }) => "from_expected".to_owned(),
        Failure::Refused(_)
        | Failure::Invalid { .. }
        | Failure::Unauthenticated(_)
        | Failure::Denied { .. } => "never".to_owned(),
        Failure::Unknown { .. } => "same_request".to_owned(),
        Failure::NotSent { after, .. } => format!("after_ms={}", after.as_millis()),
        Failure::Elsewhere { .. } => "after_ms=0".to_owned(),
    }
}

fn grpc_code(failure: &Failure) -> Code {
    match failure {
        Failure::Refused(refusal) => match refusal.class() {
            Class::NotFound => Code::NotFound,
            Class::Invalid => Code::InvalidArgument,
            Class::Exhausted => Code::ResourceExhausted,
            Class::Conflict => Code::Aborted,
            Class::Precondition => Code::FailedPrecondition,
            Class::Unauthenticated => Code::Unauthenticated,
            Class::Denied => Code::PermissionDenied,
        },
        Failure::Invalid { .. } => Code::InvalidArgument,
        Failure::Unauthenticated(_) => Code::Unauthenticated,
        Failure::Denied { status, .. } => *status,
        Failure::Elsewhere { .. } => Code::ResourceExhausted,
        Failure::NotSent { .. } | Failure::Unknown { .. } => Code::Unavailable,
    }
}

/// The failure that a client reads from a status. A status that did not come from conclave itself (a
/// broken connection, a proxy's answer) is [`Certainty::Unknown`].
#[must_use]
pub fn from_status(status: &Status) -> chat::Failure {
    let word = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
    let number = |key| word(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let certainty = match word(CERTAINTY) {
        Some("refused") => Certainty::Refused,
        Some("not_sent") => Certainty::NotSent,
        _ => Certainty::Unknown,
    };
    let after = word(RETRY).and_then(|text| text.strip_prefix("after_ms=")?.parse().ok()).unwrap_or(0);
    chat::Failure {
        certainty: certainty.into(),
        code: word(CODE).unwrap_or("connection").to_owned(),
        message: status.message().to_owned(),
        retry_after_ms: after,
        expected_request_no: number(EXPECTED),
        leader: word(LEADER).map(|address| LeaderHint {
            address: address.to_owned(),
            term: number(LEADER_TERM),
            ..LeaderHint::default()
        }),
        try_addresses: word(TRY)
            .map(|list| list.split(',').take(NODES_MAX).map(str::to_owned).collect())
            .unwrap_or_default(),
        number_used: word(NUMBER_USED) == Some("yes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire() {
        let leader = Some(LeaderHint { address: "h:1".into(), term: 4, ..LeaderHint::default() });
        for failure in [
            Failure::Refused(Refusal::RequestOutOfOrder { expected: 12 }),
            Failure::Refused(Refusal::TextTooLong),
            Failure::invalid("frame_too_large", "too large"),
            Failure::Unauthenticated("no token".into()),
            Failure::Denied { code: "not_operator", status: Code::PermissionDenied, message: "no".into() },
            Failure::not_sent("no_leader", "wait", Duration::from_millis(30)).with_leader(leader.clone()),
            Failure::unknown("timeout", "maybe").with_leader(leader),
            Failure::Elsewhere {
                code: "node_full",
                message: "full".into(),
                addresses: vec!["a:1".into(), "b:2".into()],
            },
        ] {
            let direct = chat::Failure::from(&failure);
            assert_eq!(from_status(&Status::from(failure)), direct);
        }
    }

    #[test]
    fn a_request_that_came_too_early_is_sent_again_from_the_expected_number() {
        let retry = |refusal| {
            let status = Status::from(Failure::Refused(refusal));
            status.metadata().get(RETRY).and_then(|word| word.to_str().ok()).map(str::to_owned)
        };
        let early = retry(Refusal::RequestOutOfOrder { expected: 2 });
        assert_eq!(early.as_deref(), Some("from_expected"));
        assert_eq!(retry(Refusal::RequestReused).as_deref(), Some("never"));
    }

    #[test]
    fn a_status_of_another_program_leaves_the_request_in_doubt() {
        let failure = from_status(&Status::unavailable("connection reset"));
        assert_eq!(failure.certainty(), Certainty::Unknown);
        assert_eq!(failure.code, "connection");
    }
}
