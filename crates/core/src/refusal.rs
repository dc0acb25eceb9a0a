//! The reasons for which the state machine or a gateway refuses a request, as one table. A refusal is final.
//!
//! A row holds everything that differs between refusals: the stored code, the word of the API, the sentence for people,
//! whether the request's number is used up, the class of the failure, and the client's next step. Core, the wire
//! formats and the client use this table.

/// The class of a refusal, from which its gRPC status follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request names a room, event or node that does not exist.
    NotFound,
    /// The request can never be valid.
    Invalid,
    /// A limit is reached.
    Exhausted,
    /// The state has changed since the caller read it.
    Conflict,
    /// The request does not fit the state.
    Precondition,
    /// The caller's session is not known.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
}

/// A client's next step after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Report the refusal as the request's outcome.
    Report,
    /// Go back to the request number that the refusal names, and send again from there.
    GoBack,
    /// Open a new session: another client uses this one.
    NewSession,
    /// Ask another node, then open a new session.
    Authenticate,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    code: u32,
    word: &'static str,
    uses_number: bool,
    class: Class,
    next: Next,
}

/// Whether a refused request uses up its number. `uses`: the request was decided in its turn. `keeps`: nothing could be
/// stored, or it was not the request's turn.
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
        /// Why a request was refused. The codes are stored in the log's state and the words are part of the API:
        /// neither ever changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal {
            $($(#[$doc])* #[error($sentence)] $variant,)*
            /// The number is beyond the session's next one. Nothing was stored; go back to `expected`.
            #[error("request numbers have no gaps: the next one is {expected}; send again from there")]
            RequestOutOfOrder {
                /// The session's next request number in this room.
                expected: u64,
            },
            /// A code of a newer version. The request's number counts as used up, so every code from 21 on that an older
            /// node can meet in a room must use up the number.
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
    /// The room does not exist.
    1 RoomUnknown "room_unknown" keeps NotFound Report
        "no such room; list the rooms or create it first";
    /// The room's name breaks the rules of [`crate::name::check_room_name`].
    2 RoomNameInvalid "room_name_invalid" keeps Invalid Report
        "a room's name has 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit";
    /// The user's name breaks the rules of [`crate::name::check_user_name`].
    3 UserNameInvalid "user_name_invalid" keeps Invalid Report
        "a user's name has 1 to 32 of a-z 0-9 . _ - and begins with a letter or digit";
    /// The message is empty.
    4 TextEmpty "text_empty" uses Invalid Report
        "the message is empty";
    /// The message is longer than [`crate::limits::TEXT_BYTES_MAX`].
    5 TextTooLong "text_too_long" uses Invalid Report
        "the message is longer than 16 KiB; split it";
    /// The topic breaks the rules of [`crate::name::check_topic`].
    6 TopicInvalid "topic_invalid" uses Invalid Report
        "a topic is one line of at most 1,024 bytes";
    /// The number was used before, for another action. This happens when two clients share one session's state.
    8 RequestReused "request_reused" keeps Precondition NewSession
        "this request number was used for another request; open a new session";
    /// The request has no number, and is not idempotent by itself.
    9 RequestNumberMissing "request_number_missing" keeps Invalid Report
        "the request needs a request number, from 1";
    /// The session has request numbers in [`crate::limits::ROOMS_PER_SESSION_MAX`] rooms of the shard already.
    10 TooManyRoomsInSession "too_many_rooms_in_session" keeps Exhausted Report
        "the session has used too many rooms; open another session";
    /// The cluster has [`crate::limits::ROOMS_MAX`] rooms already.
    11 TooManyRooms "too_many_rooms" keeps Exhausted Report
        "the cluster has as many rooms as it can hold";
    /// The user has opened [`crate::limits::SESSIONS_PER_USER_MAX`] sessions already.
    12 TooManySessions "too_many_sessions" keeps Exhausted Report
        "the user has too many sessions; use an existing one";
    /// The session is not known to the cluster.
    13 SessionUnknown "session_unknown" keeps Unauthenticated Authenticate
        "the session is not known here; open a new one";
    /// The node id is registered with another data dir. A node id belongs to one data dir for ever.
    14 NodeIdTaken "node_id_taken" keeps Precondition Report
        "this node id belongs to another data dir; put the old data dir back, or join as a new node";
    /// The layout was computed from one that is no longer in force.
    15 LayoutChanged "layout_changed" keeps Conflict Report
        "the layout has changed meanwhile; compute it again";
    /// The command was proposed to the wrong shard: a mistake of the sender, never damage of the data.
    16 WrongShard "wrong_shard" keeps Invalid Report
        "the command does not belong to this shard";
    /// The requested feature level is lower than the current one, or above one that every node supports.
    17 FeatureLevelInvalid "feature_level_invalid" keeps Precondition Report
        "the feature level can only rise to one that every node supports";
    /// The layout has another number of shards than the cluster, or a shard has no, too many or repeated replicas.
    18 LayoutInvalid "layout_invalid" keeps Invalid Report
        "a layout has every shard of the cluster, each with 1 to 7 different replicas";
    /// The cluster's feature level is above the highest level of the node's version.
    19 NodeTooOld "node_too_old" keeps Precondition Report
        "the cluster's feature level is beyond this version; install the newer version on the node";
    /// The cluster has [`crate::limits::NODES_MAX`] nodes already.
    20 TooManyNodes "too_many_nodes" keeps Exhausted Report
        "the cluster has as many nodes as it can hold";
    /// The room has no event at the seq that the request names.
    21 TargetUnknown "target_unknown" uses NotFound Report
        "the room has no such event; name the seq of one that is there";
    /// The user is no member of the room, which the action needs.
    22 NotAMember "not_a_member" uses Denied Report
        "you are not a member of the room; join it, or ask a member to add you";
    /// The member's role does not allow the action. See [`crate::access`].
    23 NotAllowed "not_allowed" uses Denied Report
        "your role in the room does not allow this; ask an owner or a moderator";
    /// The member is muted.
    24 Muted "muted" uses Denied Report
        "you are muted in the room for now";
    /// The user is banned from the room.
    25 Banned "banned" uses Denied Report
        "you are banned from the room; a moderator can add you again";
    /// The room is archived.
    26 RoomArchived "room_archived" uses Precondition Report
        "the room is archived: it can be read, and nobody writes in it";
    /// No user has the name.
    27 UserUnknown "user_unknown" uses NotFound Report
        "there is no user of this name";
    /// The user whom an action concerns is no member of the room.
    28 NoSuchMember "no_such_member" uses NotFound Report
        "this user is not a member of the room";
    /// The reason is longer than [`crate::limits::REASON_BYTES_MAX`], or has more than one line.
    29 ReasonInvalid "reason_invalid" uses Invalid Report
        "a reason is one line of at most 512 bytes";
    /// The room has [`crate::limits::MEMBERS_MAX`] members already.
    30 TooManyMembers "too_many_members" uses Exhausted Report
        "the room has as many members as it can hold";
    /// A direct conversation has nobody else, or more than [`crate::limits::DIRECT_PEOPLE_MAX`] people.
    31 PeopleInvalid "people_invalid" uses Invalid Report
        "a direct conversation has 1 to 10 people";
    /// Only the author of a message edits it.
    32 NotYours "not_yours" uses Denied Report
        "the message is somebody else's; only its author can edit it";
    /// The message was deleted.
    33 TargetDeleted "target_deleted" uses Precondition Report
        "the message was deleted";
    /// The event at the seq that the request names is no message.
    34 TargetNotMessage "target_not_message" uses Precondition Report
        "the event is no message; name the seq of a message";
    /// The message has [`crate::limits::EDITS_MAX`] edits already.
    35 TooManyEdits "too_many_edits" uses Exhausted Report
        "the message was edited 64 times already; post a new one";
    /// The reaction breaks the rules of [`crate::message::check_emoji`].
    36 EmojiInvalid "emoji_invalid" uses Invalid Report
        "a reaction has 1 to 64 bytes, without spaces and control characters";
    /// The message has [`crate::limits::REACTIONS_MAX`] reactions, or [`crate::limits::REACTION_KINDS_MAX`] different ones.
    37 TooManyReactions "too_many_reactions" uses Exhausted Report
        "the message has as many reactions as it can hold";
    /// The thread that the request names is about a message that is in a thread itself.
    38 ThreadInvalid "thread_invalid" uses Precondition Report
        "the message is in a thread already; answer in that thread";
    /// The session has ended: its user, an admin or time has ended it. Nothing that it sends takes effect any more.
    41 SessionEnded "session_ended" keeps Unauthenticated Authenticate
        "this session has ended; log in again";
    /// The name needs a password, or the cluster takes no name without an account.
    42 LoginRequired "login_required" keeps Unauthenticated Report
        "this name needs a password here: log in with it, or ask an admin for an invite";
    /// The password was changed while somebody logged in with the earlier one.
    43 CredentialsChanged "credentials_changed" keeps Conflict Report
        "the password was changed meanwhile; log in again";
    /// An admin has disabled the account.
    44 UserDisabled "user_disabled" keeps Precondition Report
        "this account is disabled; ask an admin of the cluster";
    /// The name has an account with a password already.
    46 NameTaken "name_taken" keeps Conflict Report
        "the name has an account already: log in, or take another name";
    /// No new account can have the name; see [`crate::name::is_reserved`].
    47 NameReserved "name_reserved" keeps Invalid Report
        "nobody can have this name, because it would pass for a part of the system; take another one";
    /// The name looks like the name of an account; see [`crate::name::folded`].
    48 NameLooksAlike "name_looks_alike" keeps Conflict Report
        "the name looks like the name of an account that exists; take another one";
    /// The invite does not exist, was used up, has expired, or is for another name.
    49 InviteInvalid "invite_invalid" keeps Precondition Report
        "the invite is used up, expired, or for another name; ask for a new one";
    /// The cluster has [`crate::limits::INVITES_MAX`] invites that can be used.
    50 TooManyInvites "too_many_invites" keeps Exhausted Report
        "the cluster has too many unused invites; wait until some expire, or withdraw some";
    /// The cluster would have no active admin any more.
    51 LastAdmin "last_admin" keeps Precondition Report
        "the cluster would be left without an admin; give somebody else the role first";
    /// The cluster's registration mode does not let people make accounts.
    52 RegistrationClosed "registration_closed" keeps Precondition Report
        "this cluster makes accounts only by invite; ask an admin for one";
    /// The hashed password is not in the PHC string format, or is longer than [`crate::limits::PHC_BYTES_MAX`].
    53 CredentialInvalid "credential_invalid" keeps Invalid Report
        "the password was not hashed as a cluster takes it";
}

/// The codes of refusals that an older node never meets with a numbered request: only the meta shard answers them, whose
/// requests have no numbers, or, in a room, `session_ended`, which follows only a command of the same feature level.
#[cfg(test)]
const WITHOUT_OLDER_NODES: std::ops::RangeInclusive<u32> = 41..=53;

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

    /// The class, which determines the gRPC status.
    #[must_use]
    pub const fn class(self) -> Class {
        self.row().class
    }

    /// The client's next step.
    #[must_use]
    pub const fn next(self) -> Next {
        self.row().next
    }

    /// The refusal with that word of the API; `expected` belongs to [`Refusal::RequestOutOfOrder`]. `None` for the word
    /// of a newer version.
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
        for code in (1..=38).chain(WITHOUT_OLDER_NODES).filter(|code| *code != 45) {
            let refusal = Refusal::from_code(code, 5);
            assert_eq!(refusal.code(), code);
            assert!(!matches!(refusal, Refusal::Other(_)), "{code} has a name");
            assert_eq!(Refusal::from_word(refusal.word(), 5), Some(refusal));
        }
        assert_eq!(
            Refusal::NAMED.len() + 1,
            38 + WITHOUT_OLDER_NODES.count() - 1,
            "every code was looked at"
        );
        assert_eq!(Refusal::from_code(9_999, 0).code(), 9_999);
        assert_eq!(Refusal::from_word("refused", 0), None);
    }

    #[test]
    fn a_code_that_older_versions_do_not_know_uses_up_its_number() {
        let newer = Refusal::NAMED.iter().filter(|refusal| refusal.code() > 20);
        for refusal in newer.filter(|refusal| !WITHOUT_OLDER_NODES.contains(&refusal.code())) {
            assert!(refusal.uses_number(), "{refusal:?}: an older node takes it for Other, which does");
        }
    }
}
