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

impl Readers {
    /// With a new key.
    pub(crate) fn new() -> Self {
        Self(Arc::new(rand::random()))
    }

    /// A new session of this user, with its MAC.
    pub(crate) fn open(&self, user: UserId) -> (ReadingSession, [u8; MAC_BYTES]) {
        let opened = ReadingSession { session: SessionId(rand::random::<u64>() | FIRST_READING_ID), user };
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
        let (opened, mac) = node.open(UserId(7));
        assert!(node.has_opened(opened, mac));
        assert!(!other.has_opened(opened, mac), "another node, or this one after a restart");
        assert!(!node.has_opened(ReadingSession { user: UserId(8), ..opened }, mac));
        assert!(!node.has_opened(ReadingSession { session: SessionId(opened.session.0 ^ 1), ..opened }, mac));
        assert!(!node.has_opened(opened, [0; MAC_BYTES]));
        assert_ne!(node.open(UserId(7)).0.session, opened.session);
    }
}
