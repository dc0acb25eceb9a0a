//! The state machine's replies on the wire.

use conclave_core::{Refusal, Reply, RoomId, Seq, SessionId, UserId};

use crate::FormatError;
use crate::raft::{self, reply};

/// A reply in the form in which the leader sends it to the gateway.
#[must_use]
pub fn to_proto(reply: Reply) -> raft::Reply {
    let acked = |seq: Seq, time_ms, duplicate, forgotten| {
        reply::Reply::Acked(raft::Acked { seq: seq.0, time_ms, duplicate, forgotten })
    };
    let reply = match reply {
        Reply::Acked { seq, time_ms, duplicate } => acked(seq, time_ms, duplicate, false),
        Reply::Unchanged => acked(Seq(0), 0, false, false),
        Reply::Forgotten => acked(Seq(0), 0, true, true),
        Reply::Refused(refusal) => {
            let expected = match refusal {
                Refusal::RequestOutOfOrder { expected } => expected,
                _ => 0,
            };
            reply::Reply::Refused(raft::Refused { code: refusal.code(), expected })
        }
        Reply::RoomCreated { room, created } => {
            reply::Reply::RoomCreated(raft::RoomCreated { room_id: room.0, created })
        }
        Reply::SessionOpened { session, user } => {
            reply::Reply::SessionOpened(raft::SessionOpened { session_id: session.0, user_id: user.0 })
        }
        Reply::Done => reply::Reply::Done(true),
        Reply::Account { user, credential_revision } => {
            reply::Reply::Account(raft::Account { user_id: user.0, credential_revision })
        }
    };
    raft::Reply { reply: Some(reply) }
}

/// A reply from the form in which the leader sent it.
///
/// # Errors
/// If the reply's kind is missing or not known to this version.
pub fn from_proto(reply: &raft::Reply) -> Result<Reply, FormatError> {
    Ok(match reply.reply.as_ref().ok_or(FormatError::UnknownKind("the reply"))? {
        reply::Reply::Acked(acked) if acked.forgotten => Reply::Forgotten,
        reply::Reply::Acked(acked) if acked.seq == 0 => Reply::Unchanged,
        reply::Reply::Acked(acked) => {
            Reply::Acked { seq: Seq(acked.seq), time_ms: acked.time_ms, duplicate: acked.duplicate }
        }
        reply::Reply::Refused(refused) => Reply::Refused(Refusal::from_code(refused.code, refused.expected)),
        reply::Reply::RoomCreated(made) => {
            Reply::RoomCreated { room: RoomId(made.room_id), created: made.created }
        }
        reply::Reply::SessionOpened(opened) => {
            Reply::SessionOpened { session: SessionId(opened.session_id), user: UserId(opened.user_id) }
        }
        reply::Reply::Done(_) => Reply::Done,
        reply::Reply::Account(account) => {
            Reply::Account { user: UserId(account.user_id), credential_revision: account.credential_revision }
        }
    })
}
