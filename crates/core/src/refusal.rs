//! The reasons for which the state machine or a gateway says no. A refusal is final.

/// Why a request was refused. The numbers are stored in the log's state and the words are part of
/// the API: neither ever changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The room is not there.
    #[error("no such room; list the rooms or create it first")]
    RoomUnknown,
    /// See [`crate::name::check_room_name`].
    #[error("a room's name has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit")]
    RoomNameInvalid,
    /// See [`crate::name::check_user_name`].
    #[error("a user's name has 1 to 32 of a-z 0-9 . _ - and begins with a letter or digit")]
    UserNameInvalid,
    /// A message needs at least one byte.
    #[error("the message is empty")]
    TextEmpty,
    /// See [`crate::limits::TEXT_BYTES_MAX`].
    #[error("the message is longer than 16 KiB; split it")]
    TextTooLong,
    /// See [`crate::name::check_topic`].
    #[error("a topic is one line of at most 1,024 bytes")]
    TopicInvalid,
    /// The number is beyond the session's next one. Nothing was stored; go back to `expected`.
    #[error("request numbers have no gaps: the next one is {expected}; send again from there")]
    RequestOutOfOrder {
        /// The session's next request number in this room.
        expected: u64,
    },
    /// The number was used before, for something else. Two clients share one session's state.
    #[error("this request number was used for something else; open a new session")]
    RequestReused,
    /// Only what is idempotent by itself may come without a number.
    #[error("the request needs a request number, from 1")]
    RequestNumberMissing,
    /// See [`crate::limits::ROOMS_PER_SESSION_MAX`].
    #[error("the session has used too many rooms; open another session")]
    TooManyRoomsInSession,
    /// See [`crate::limits::ROOMS_MAX`].
    #[error("the cluster has as many rooms as it can hold")]
    TooManyRooms,
    /// See [`crate::limits::SESSIONS_PER_USER_MAX`].
    #[error("the user has too many sessions; use an existing one")]
    TooManySessions,
    /// The session is not known to the cluster.
    #[error("the session is not known here; open a new one")]
    SessionUnknown,
    /// A node id belongs to one data directory for ever.
    #[error(
        "this node id belongs to another data directory; a node that lost its directory must join as a new node"
    )]
    NodeIdTaken,
    /// The layout was computed from one that is no longer in force.
    #[error("the layout has changed meanwhile; compute it again")]
    LayoutChanged,
    /// A command that this shard never takes: a mistake in the sender, never in the data.
    #[error("the command does not belong to this shard")]
    WrongShard,
    /// The feature level only rises, and never beyond what every node supports.
    #[error("the feature level can only rise to one that every node supports")]
    FeatureLevelInvalid,
    /// The shards are not those of the cluster, or one has no, too many or repeated replicas.
    #[error("a layout has every shard of the cluster, each with 1 to 7 different replicas")]
    LayoutInvalid,
    /// The cluster already uses what the node's version does not understand.
    #[error("the cluster's feature level is beyond this version; install the newer version on the node")]
    NodeTooOld,
    /// See [`crate::limits::NODES_MAX`].
    #[error("the cluster has as many nodes as it can hold")]
    TooManyNodes,
    /// Made by a newer version and not known here.
    #[error("refused with code {0}, which this version does not know")]
    Other(u32),
}

impl Refusal {
    /// The stored number.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::RoomUnknown => 1,
            Self::RoomNameInvalid => 2,
            Self::UserNameInvalid => 3,
            Self::TextEmpty => 4,
            Self::TextTooLong => 5,
            Self::TopicInvalid => 6,
            Self::RequestOutOfOrder { .. } => 7,
            Self::RequestReused => 8,
            Self::RequestNumberMissing => 9,
            Self::TooManyRoomsInSession => 10,
            Self::TooManyRooms => 11,
            Self::TooManySessions => 12,
            Self::SessionUnknown => 13,
            Self::NodeIdTaken => 14,
            Self::LayoutChanged => 15,
            Self::WrongShard => 16,
            Self::FeatureLevelInvalid => 17,
            Self::LayoutInvalid => 18,
            Self::NodeTooOld => 19,
            Self::TooManyNodes => 20,
            Self::Other(code) => code,
        }
    }

    /// The refusal with a stored number; `expected` belongs to [`Refusal::RequestOutOfOrder`].
    #[must_use]
    pub fn from_code(code: u32, expected: u64) -> Self {
        match code {
            1 => Self::RoomUnknown,
            2 => Self::RoomNameInvalid,
            3 => Self::UserNameInvalid,
            4 => Self::TextEmpty,
            5 => Self::TextTooLong,
            6 => Self::TopicInvalid,
            7 => Self::RequestOutOfOrder { expected },
            8 => Self::RequestReused,
            9 => Self::RequestNumberMissing,
            10 => Self::TooManyRoomsInSession,
            11 => Self::TooManyRooms,
            12 => Self::TooManySessions,
            13 => Self::SessionUnknown,
            14 => Self::NodeIdTaken,
            15 => Self::LayoutChanged,
            16 => Self::WrongShard,
            17 => Self::FeatureLevelInvalid,
            18 => Self::LayoutInvalid,
            19 => Self::NodeTooOld,
            20 => Self::TooManyNodes,
            other => Self::Other(other),
        }
    }

    /// Whether a request that is refused so uses up its number. It does when it was decided in its
    /// turn; it does not when nothing could be stored or when it was not its turn.
    #[must_use]
    pub fn uses_number(self) -> bool {
        matches!(self, Self::TextEmpty | Self::TextTooLong | Self::TopicInvalid | Self::Other(_))
    }

    /// The stable word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RoomUnknown => "room_unknown",
            Self::RoomNameInvalid => "room_name_invalid",
            Self::UserNameInvalid => "user_name_invalid",
            Self::TextEmpty => "text_empty",
            Self::TextTooLong => "text_too_long",
            Self::TopicInvalid => "topic_invalid",
            Self::RequestOutOfOrder { .. } => "request_out_of_order",
            Self::RequestReused => "request_reused",
            Self::RequestNumberMissing => "request_number_missing",
            Self::TooManyRoomsInSession => "too_many_rooms_in_session",
            Self::TooManyRooms => "too_many_rooms",
            Self::TooManySessions => "too_many_sessions",
            Self::SessionUnknown => "session_unknown",
            Self::NodeIdTaken => "node_id_taken",
            Self::LayoutChanged => "layout_changed",
            Self::WrongShard => "wrong_shard",
            Self::FeatureLevelInvalid => "feature_level_invalid",
            Self::LayoutInvalid => "layout_invalid",
            Self::NodeTooOld => "node_too_old",
            Self::TooManyNodes => "too_many_nodes",
            Self::Other(_) => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn codes_come_back() {
        for code in 1..=20 {
            let refusal = Refusal::from_code(code, 5);
            assert_eq!(refusal.code(), code);
            assert!(!matches!(refusal, Refusal::Other(_)), "{code} has a name");
            assert_ne!(refusal.word(), "refused");
        }
        assert_eq!(Refusal::from_code(9_999, 0).code(), 9_999);
    }
}
