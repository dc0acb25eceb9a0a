//! Resume tokens: the positions of a subscription, in a form that every node of the cluster understands.
//!
//! A token is opaque to clients. It is not a secret and grants no permission: a client that resumes
//! still needs a session, and access to each room is checked again. The checksum detects damage; the
//! node that resumes the subscription detects a position beyond a room's end.
//!
//! Layout: version `1`, cluster id (16), epoch (4), then for each room its id and seq as varints,
//! then CRC-32 of all before it (4), big endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use conclave_core::limits::{RESUME_TOKEN_BYTES_MAX, SUBSCRIPTION_ROOMS_MAX};
use conclave_core::{RoomId, Seq};
use prost::encoding::{decode_varint, encode_varint};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 16 + 4;
const CRC: usize = 4;

/// The positions of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// The id of the cluster that gave the token out.
    pub cluster: u128,
    /// The cluster's recovery epoch. A forced recovery raises it, since older tokens no longer fit the history.
    pub epoch: u32,
    /// The rooms, and the last event delivered in each.
    pub rooms: Vec<(RoomId, Seq)>,
}

/// The reason why a token cannot be used. The client subscribes again from a seq, or from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is truncated, changed or invented.
    #[error("the resume token is damaged; subscribe again from a seq")]
    Damaged,
    /// A newer version made the token.
    #[error("the resume token was made by a newer version; ask an upgraded node")]
    Newer,
    /// Another cluster made the token.
    #[error("the resume token belongs to another cluster; subscribe again from a seq")]
    Foreign,
    /// The token was made before a forced recovery.
    #[error(
        "the token is from before a forced recovery of the cluster; subscribe again from a seq, and compare"
    )]
    OldEpoch,
}

impl TokenError {
    /// The stable word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Damaged => "resume_token_damaged",
            Self::Newer => "resume_token_newer",
            Self::Foreign => "resume_token_foreign",
            Self::OldEpoch => "resume_token_old_epoch",
        }
    }
}

impl ResumeToken {
    /// The token's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(self.cluster, self.epoch, self.rooms.iter().copied())
    }

    /// Reads a token and checks that it belongs to this cluster and epoch.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn decode(bytes: &[u8], cluster: u128, epoch: u32) -> Result<Self, TokenError> {
        if bytes.len() < HEADER + CRC || bytes.len() > RESUME_TOKEN_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let (body, mut crc) = bytes.split_at(bytes.len() - CRC);
        if crc32fast::hash(body) != crc.get_u32() {
            return Err(TokenError::Damaged);
        }
        let mut body = body;
        if body.get_u8() != VERSION {
            return Err(TokenError::Newer);
        }
        if body.get_u128() != cluster {
            return Err(TokenError::Foreign);
        }
        if body.get_u32() != epoch {
            return Err(TokenError::OldEpoch);
        }
        let mut rooms = Vec::new();
        while body.has_remaining() {
            let mut varint = || decode_varint(&mut body).map_err(|_| TokenError::Damaged);
            rooms.push((RoomId(varint()?), Seq(varint()?)));
            if rooms.len() > SUBSCRIPTION_ROOMS_MAX {
                return Err(TokenError::Damaged);
            }
        }
        Ok(Self { cluster, epoch, rooms })
    }
}

/// Encodes a token without collecting its rooms first.
#[must_use]
pub fn encode(cluster: u128, epoch: u32, rooms: impl Iterator<Item = (RoomId, Seq)>) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + 16 + CRC);
    out.put_u8(VERSION);
    out.put_u128(cluster);
    out.put_u32(epoch);
    for (room, seq) in rooms {
        encode_varint(room.0, &mut out);
        encode_varint(seq.0, &mut out);
    }
    let crc = crc32fast::hash(&out);
    out.put_u32(crc);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> ResumeToken {
        ResumeToken { cluster: 77, epoch: 1, rooms: vec![(RoomId(1), Seq(500)), (RoomId(9), Seq(0))] }
    }

    #[test]
    fn a_token_is_accepted_by_its_own_cluster_only() {
        let bytes = token().encode();
        assert_eq!(ResumeToken::decode(&bytes, 77, 1), Ok(token()));
        assert_eq!(ResumeToken::decode(&bytes, 78, 1), Err(TokenError::Foreign));
        assert_eq!(ResumeToken::decode(&bytes, 77, 2), Err(TokenError::OldEpoch));
    }

    proptest! {
        #[test]
        fn any_single_damage_is_noticed(at in 0_usize..34, bit in 0_u8..8, cut in 0_usize..34) {
            let good = token().encode();
            let mut bad = good.to_vec();
            let at = at % bad.len();
            bad[at] ^= 1 << bit;
            prop_assert_eq!(ResumeToken::decode(&bad, 77, 1), Err(TokenError::Damaged));
            let cut = cut % good.len();
            prop_assert_eq!(ResumeToken::decode(&good[..cut], 77, 1), Err(TokenError::Damaged));
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ResumeToken::decode(&bytes, 77, 1);
        }
    }
}
