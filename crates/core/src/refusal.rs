//! The reasons for which the state machine or a gateway says no, as one table. A refusal is final.
//!
//! Everything that differs between refusals stands in its row: the code that is stored, the word of the API, the sentence for
//! people, whether the request's number is used up, what kind of failure it is, and what a client does next. Core, the wire
//! and the client take it from here.

/// The class of a refusal, from which its gRPC status follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What the request names does not exist.
    NotFound,
    /// The request can never be valid.
    Invalid,
    /// A limit is reached.
    Exhausted,
    /// The state has changed since the caller looked at it.
    Conflict,
    /// The request does not fit the state.
    Precondition,
    /// The caller is not known.
    Unauthenticated,
}

/// What a client does after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Report the refusal: it is the request's outcome.
    Report,
    /// Go back to the request number that the refusal names, and send again from there.
    GoBack,
    /// Open a new session: another client uses this one.
    NewSession,
    /// Ask another node, then open a new session.
    Authenticate,
}

/// What the table says of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    code: u32,
    word: &'static str,
    uses_number: bool,
    class: Class,
    next: Next,
}

/// Where the number of a refused request goes: `uses` it up, since the request was decided in its turn, or `keeps` it,
/// since nothing could be stored or since it was not the request's turn.
macro_rules! number {
    (uses) => {
        true
    };
    (keeps) => {
        false
    };
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $code:literal $variant:ident $word:literal $number:ident $class:ident $next:ident $sentence:literal;)*) => {
        /// Why a request was refused. The codes are stored in the log's state and the words are part of the API: neither
        /// ever changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal {
            $($(#[$doc])* #[error($sentence)] $variant,)*
            /// The number is beyond the session's next one. Nothing was stored; go back to `expected`.
            #[error("request numbers have no gaps: the next one is {expected}; send again from there")]
            RequestOutOfOrder {
                /// The session's next request number in this room.
                expected: u64,
            },
            /// Made by a newer version and not known here. Its number counts as used up, so every code from 21 on uses
            /// up its number.
            #[error("refused with code {0}, which this version does not know")]
            Other(u32),
        }

        impl Refusal {
            /// Every refusal that has a name, but for [`Refusal::RequestOutOfOrder`].
            const NAMED: &[Self] = &[$(Self::$variant,)*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        code: $code,
                        word: $word,
                        uses_number: number!($number),
                        class: Class::$class,
                        next: Next::$next,
                    },)*
                    Self::RequestOutOfOrder { .. } => Row {
                        code: OUT_OF_ORDER,
                        word: "request_out_of_order",
                        uses_number: false,
                        class: Class::Conflict,
                        next: Next::GoBack,
                    },
                    Self::Other(code) => {
                        Row { code, word: "refused", uses_number: true, class: Class::Invalid, next: Next::Report }
                    }
                }
            }

            /// The refusal with a stored code; `expected` belongs to [`Refusal::RequestOutOfOrder`].
            #[must_use]
            pub const fn from_code(code: u32, expected: u64) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    OUT_OF_ORDER => Self::RequestOutOfOrder { expected },
                    other => Self::Other(other),
                }
            }
        }
    };
}

const OUT_OF_ORDER: u32 = 7;

refusals! {
    /// The room is not there.
    1 RoomUnknown "room_unknown" keeps NotFound Report
        "no such room; list the rooms or create it first";
    /// See [`crate::name::check_room_name`].
    2 RoomNameInvalid "room_name_invalid" keeps Invalid Report
        "a room's name has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit";
    /// See [`crate::name::check_user_name`].
    3 UserNameInvalid "user_name_invalid" keeps Invalid Report
        "a user's name has 1 to 32 of a-z 0-9 . _ - and begins with a letter or digit";
    /// A message needs at least one byte.
    4 TextEmpty "text_empty" uses Invalid Report
        "the message is empty";
    /// See [`crate::limits::TEXT_BYTES_MAX`].
    5 TextTooLong "text_too_long" uses Invalid Report
        "the message is longer than 16 KiB; split it";
    /// See [`crate::name::check_topic`].
    6 TopicInvalid "topic_invalid" uses Invalid Report
        "a topic is one line of at most 1,024 bytes";
    /// The number was used before, for something else. Two clients share one session's state.
    8 RequestReused "request_reused" keeps Precondition NewSession
        "this request number was used for something else; open a new session";
    /// Only what is idempotent by itself may come without a number.
    9 RequestNumberMissing "request_number_missing" keeps Invalid Report
        "the request needs a request number, from 1";
    /// See [`crate::limits::ROOMS_PER_SESSION_MAX`].
    10 TooManyRoomsInSession "too_many_rooms_in_session" keeps Exhausted Report
        "the session has used too many rooms; open another session";
    /// See [`crate::limits::ROOMS_MAX`].
    11 TooManyRooms "too_many_rooms" keeps Exhausted Report
        "the cluster has as many rooms as it can hold";
    /// See [`crate::limits::SESSIONS_PER_USER_MAX`].
    12 TooManySessions "too_many_sessions" keeps Exhausted Report
        "the user has too many sessions; use an existing one";
    /// The session is not known to the cluster.
    13 SessionUnknown "session_unknown" keeps Unauthenticated Authenticate
        "the session is not known here; open a new one";
    /// A node id belongs to one data directory for ever.
    14 NodeIdTaken "node_id_taken" keeps Precondition Report
        "this node id belongs to another data directory; a node that lost its directory must join as a new node";
    /// The layout was computed from one that is no longer in force.
    15 LayoutChanged "layout_changed" keeps Conflict Report
        "the layout has changed meanwhile; compute it again";
    /// A command that this shard never takes: a mistake in the sender, never in the data.
    16 WrongShard "wrong_shard" keeps Invalid Report
        "the command does not belong to this shard";
    /// The feature level only rises, and never beyond what every node supports.
    17 FeatureLevelInvalid "feature_level_invalid" keeps Precondition Report
        "the feature level can only rise to one that every node supports";
    /// The shards are not those of the cluster, or one has no, too many or repeated replicas.
    18 LayoutInvalid "layout_invalid" keeps Invalid Report
        "a layout has every shard of the cluster, each with 1 to 7 different replicas";
    /// The cluster already uses what the node's version does not understand.
    19 NodeTooOld "node_too_old" keeps Precondition Report
        "the cluster's feature level is beyond this version; install the newer version on the node";
    /// See [`crate::limits::NODES_MAX`].
    20 TooManyNodes "too_many_nodes" keeps Exhausted Report
        "the cluster has as many nodes as it can hold";
    /// The room has no event at the seq that the request names.
    21 TargetUnknown "target_unknown" uses NotFound Report
        "the room has no such event; name the seq of one that is there";
}

impl Refusal {
    /// The stored code.
    #[must_use]
    pub const fn code(self) -> u32 {
        self.row().code
    }

    /// The stable word of the API.
    #[must_use]
    pub const fn word(self) -> &'static str {
        self.row().word
    }

    /// Whether a request that is refused for this reason uses up its number.
    #[must_use]
    pub const fn uses_number(self) -> bool {
        self.row().uses_number
    }

    /// The class, from which the gRPC status follows.
    #[must_use]
    pub const fn class(self) -> Class {
        self.row().class
    }

    /// What a client does next.
    #[must_use]
    pub const fn next(self) -> Next {
        self.row().next
    }

    /// The refusal with that word of the API; `expected` belongs to [`Refusal::RequestOutOfOrder`]. `None` for the word of
    /// a newer version.
    #[must_use]
    pub fn from_word(word: &str, expected: u64) -> Option<Self> {
        let named = Self::NAMED.iter().copied();
        named.chain([Self::RequestOutOfOrder { expected }]).find(|refusal| refusal.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_every_word_stands_for_one_refusal() {
        for code in 1..=21 {
            let refusal = Refusal::from_code(code, 5);
            assert_eq!(refusal.code(), code);
            assert!(!matches!(refusal, Refusal::Other(_)), "{code} has a name");
            assert_eq!(Refusal::from_word(refusal.word(), 5), Some(refusal));
        }
        assert_eq!(Refusal::NAMED.len() + 1, 21, "every code was looked at");
        assert_eq!(Refusal::from_code(9_999, 0).code(), 9_999);
        assert_eq!(Refusal::from_word("refused", 0), None);
    }

    #[test]
    fn a_code_that_older_versions_do_not_know_uses_up_its_number() {
        for refusal in Refusal::NAMED.iter().filter(|refusal| refusal.code() > 20) {
            assert!(refusal.uses_number(), "{refusal:?}: an older node takes it for Other, which does");
        }
    }
}
