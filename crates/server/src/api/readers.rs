//! Sessions for reading only, each of one node and kept nowhere.
//!
//! To open a session takes a majority of the servers, and to read takes one of them. So a client that only reads gets its
//! token from the node that it reads from: the token says whose it is, with a MAC (RFC 2104) under a key that the node has
//! drawn at its start. No other node accepts the token, nor does this one after a restart: the client asks for another one
//! (docs/adr/0020-sessions-for-reading.md).

use std::fmt;
use std::sync::Arc;

use conclave_core::{SessionId, UserId};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::local_sessions::{FIRST_READING_ID, is_reading};

/// Set in the ids of sessions whose user has shown a session of its own, which is more than a name.
const SHOWN: u64 = 1 << 62;
/// The size of a token's MAC: the first bytes of the HMAC.
pub(crate) const MAC_BYTES: usize = 16;

/// Makes and checks the tokens of a node's readers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Readers(Arc<[u8; 32]>);

/// A session for reading only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadingSession {
    pub(crate) session: SessionId,
    /// 0 if the cluster does not know the user.
    pub(crate) user: UserId,
}

impl ReadingSession {
    /// Whether the user has shown a session of its own.
    pub(crate) fn is_shown(self) -> bool {
        self.session.0 & SHOWN != 0
    }
}

impl Readers {
    /// With a new key.
    pub(crate) fn new() -> Self {
        Self(Arc::new(rand::random()))
    }

    /// A new session of this user, with its MAC. `shown`: the user has shown a session of its own.
    pub(crate) fn open(&self, user: UserId, shown: bool) -> (ReadingSession, [u8; MAC_BYTES]) {
        let random = (rand::random::<u64>() | FIRST_READING_ID) & !SHOWN;
        let opened = ReadingSession { session: SessionId(random | if shown { SHOWN } else { 0 }), user };
        let mut half = [0; MAC_BYTES];
        half.copy_from_slice(&self.mac(opened).finalize().into_bytes()[..MAC_BYTES]);
        (opened, half)
    }

    /// Whether this node has opened the session since its start. Takes the same time for every MAC.
    pub(crate) fn has_opened(&self, session: ReadingSession, mac: [u8; MAC_BYTES]) -> bool {
        is_reading(session.session) && self.mac(session).verify_truncated_left(&mac).is_ok()
    }

    fn mac(&self, session: ReadingSession) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of every length");
        mac.update(&session.session.0.to_be_bytes());
        mac.update(&session.user.0.to_be_bytes());
        mac
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readers(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_accepted_only_as_its_node_has_opened_it() {
        let (node, other) = (Readers::new(), Readers::new());
        let (opened, mac) = node.open(UserId(7), false);
        assert!(node.has_opened(opened, mac));
        assert!(!other.has_opened(opened, mac), "another node, or this one after a restart");
        assert!(!node.has_opened(ReadingSession { user: UserId(8), ..opened }, mac));
        assert!(!node.has_opened(ReadingSession { session: SessionId(opened.session.0 ^ 1), ..opened }, mac));
        assert!(!node.has_opened(opened, [0; MAC_BYTES]));
        assert!(!opened.is_shown() && node.open(UserId(7), true).0.is_shown());
        assert_ne!(node.open(UserId(7), false).0.session, opened.session);
    }
}
