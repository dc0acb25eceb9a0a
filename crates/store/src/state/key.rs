//! Keys of the state file: shard, kind, id, all big-endian, so that a shard is one range and a
//! room's history is one range in it.

use conclave_core::{NodeId, RoomId, Seq, SessionId, ShardId, UserId};

/// The kind of a row, which follows the shard in its key. The numbers are in data files: they never change.
pub(crate) mod kind {
    pub(crate) const APPLIED: u8 = 0;
    pub(crate) const ROOM: u8 = 1;
    pub(crate) const MEMBER: u8 = 2;
    pub(crate) const REPLIES: u8 = 3;
    pub(crate) const SESSION_ROOMS: u8 = 4;
    pub(crate) const MESSAGE: u8 = 5;
    pub(crate) const META: u8 = 16;
    pub(crate) const DIRECTORY: u8 = 17;
    pub(crate) const USER: u8 = 18;
    pub(crate) const USER_NAME: u8 = 19;
    pub(crate) const SESSION: u8 = 20;
    pub(crate) const NODE: u8 = 21;
    pub(crate) const LAYOUT: u8 = 22;
    pub(crate) const ROOM_NAME: u8 = 23;
    pub(crate) const CREDENTIAL: u8 = 32;
    pub(crate) const OPEN_SESSIONS: u8 = 33;
    pub(crate) const ENDING: u8 = 34;
    pub(crate) const FOLDED: u8 = 35;
    pub(crate) const INVITE: u8 = 36;
    /// The last kind, so that a snapshot's receiver knows the rooms before their history.
    pub(crate) const HISTORY: u8 = 64;
}

/// Length of a shard's prefix.
pub(crate) const SHARD: usize = 4;

/// The key of a row that is kept in memory while it is in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Room(RoomId),
    Member(RoomId, UserId),
    Replies(SessionId, RoomId),
    /// What the room knows of a message. A message without a row is as its event says.
    Message(RoomId, Seq),
    SessionRooms(SessionId),
    Meta,
    Directory(String),
    User(String),
    UserName(UserId),
    /// The name of a room in the room directory, by the room's id.
    RoomName(RoomId),
    Session(SessionId),
    Credential(UserId),
    /// The list of a user's open sessions.
    OpenSessions(UserId),
    /// A session of which shards must still hear that it has ended.
    Ending(SessionId),
    /// The name of an account by its folded form.
    Folded(String),
    /// An invite by its digest.
    Invite([u8; 16]),
    Node(NodeId),
    Layout,
}

impl Key {
    /// The key's bytes.
    pub(crate) fn encode(&self, shard: ShardId) -> Vec<u8> {
        let numbers = |kind, numbers: &[u64]| {
            let mut key = with_kind(shard, kind);
            numbers.iter().for_each(|n| key.extend_from_slice(&n.to_be_bytes()));
            key
        };
        let name = |kind, name: &str| {
            let mut key = with_kind(shard, kind);
            key.extend_from_slice(name.as_bytes());
            key
        };
        match self {
            Self::Room(room) => numbers(kind::ROOM, &[room.0]),
            Self::Member(room, user) => numbers(kind::MEMBER, &[room.0, user.0]),
            Self::Replies(session, room) => numbers(kind::REPLIES, &[session.0, room.0]),
            Self::Message(room, seq) => numbers(kind::MESSAGE, &[room.0, seq.0]),
            Self::SessionRooms(session) => numbers(kind::SESSION_ROOMS, &[session.0]),
            Self::Meta => with_kind(shard, kind::META),
            Self::Directory(room) => name(kind::DIRECTORY, room),
            Self::User(user) => name(kind::USER, user),
            Self::UserName(user) => numbers(kind::USER_NAME, &[user.0]),
            Self::RoomName(room) => numbers(kind::ROOM_NAME, &[room.0]),
            Self::Session(session) => numbers(kind::SESSION, &[session.0]),
            Self::Credential(user) => numbers(kind::CREDENTIAL, &[user.0]),
            Self::OpenSessions(user) => numbers(kind::OPEN_SESSIONS, &[user.0]),
            Self::Ending(session) => numbers(kind::ENDING, &[session.0]),
            Self::Folded(folded) => name(kind::FOLDED, folded),
            Self::Invite(digest) => {
                let mut key = with_kind(shard, kind::INVITE);
                key.extend_from_slice(digest);
                key
            }
            Self::Node(node) => numbers(kind::NODE, &[node.0]),
            Self::Layout => with_kind(shard, kind::LAYOUT),
        }
    }
}

/// The prefix of all keys of a shard.
pub(crate) fn shard_prefix(shard: ShardId) -> Vec<u8> {
    shard.0.to_be_bytes().to_vec()
}

/// The prefix of all keys of one kind in a shard.
pub(crate) fn with_kind(shard: ShardId, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(SHARD + 1 + 16);
    key.extend_from_slice(&shard.0.to_be_bytes());
    key.push(kind);
    key
}

/// The smallest key after all keys with this prefix. No prefix is all `0xff`.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The key of the block of history that begins with this event.
pub(crate) fn block(shard: ShardId, room: RoomId, first: Seq) -> Vec<u8> {
    let mut key = with_kind(shard, kind::HISTORY);
    key.extend_from_slice(&room.0.to_be_bytes());
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

/// First key and end of a room's history.
pub(crate) fn history(shard: ShardId, room: RoomId) -> (Vec<u8>, Vec<u8>) {
    let mut prefix = with_kind(shard, kind::HISTORY);
    prefix.extend_from_slice(&room.0.to_be_bytes());
    let end = end_of(&prefix);
    (prefix, end)
}

/// The prefix of a session's stored replies, in all rooms of the shard.
pub(crate) fn replies_of(shard: ShardId, session: SessionId) -> Vec<u8> {
    let mut prefix = with_kind(shard, kind::REPLIES);
    prefix.extend_from_slice(&session.0.to_be_bytes());
    prefix
}

/// The number behind a key's shard and kind.
pub(crate) fn parse_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(SHARD + 1..)?.try_into().ok()?))
}

/// Room and first event of a block, from the key without its shard.
pub(crate) fn parse_block(key: &[u8]) -> Option<(RoomId, Seq)> {
    let numbers = key.strip_prefix(&[kind::HISTORY])?;
    let (room, first) = numbers.split_first_chunk::<8>()?;
    Some((RoomId(u64::from_be_bytes(*room)), Seq(u64::from_be_bytes(first.try_into().ok()?))))
}

/// Room and seq, from the key of a message's row without its shard.
pub(crate) fn parse_message(key: &[u8]) -> Option<(RoomId, Seq)> {
    let (room, seq) = key.strip_prefix(&[kind::MESSAGE])?.split_first_chunk::<8>()?;
    Some((RoomId(u64::from_be_bytes(*room)), Seq(u64::from_be_bytes(seq.try_into().ok()?))))
}

/// The room, from the key of a room's row without its shard.
pub(crate) fn parse_room(key: &[u8]) -> Option<RoomId> {
    let number = key.strip_prefix(&[kind::ROOM])?;
    Some(RoomId(u64::from_be_bytes(number.try_into().ok()?)))
}

/// The user, from the key of a member's row without its shard.
pub(crate) fn parse_member(key: &[u8]) -> Option<UserId> {
    let user = key.strip_prefix(&[kind::MEMBER])?.get(8..)?;
    Some(UserId(u64::from_be_bytes(user.try_into().ok()?)))
}

/// The key of the shard's position in the log.
pub(crate) fn applied(shard: ShardId) -> Vec<u8> {
    with_kind(shard, kind::APPLIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_key_range_and_a_rooms_history_is_one_in_it() {
        let shard = ShardId(0x00ff);
        let prefix = shard_prefix(shard);
        assert!(block(shard, RoomId(u64::MAX), Seq(u64::MAX)) < end_of(&prefix));
        assert!(end_of(&prefix) <= shard_prefix(ShardId(0x0100)));
        let first = block(shard, RoomId(7), Seq(1));
        let last = block(shard, RoomId(7), Seq(u64::MAX));
        assert!(first < last && last < block(shard, RoomId(8), Seq(0)));
        assert!(last < end_of(&prefix));
        assert_eq!(parse_block(&last[SHARD..]), Some((RoomId(7), Seq(u64::MAX))));
        assert_eq!(parse_block(&last[SHARD + 1..]), None);
        assert_eq!(parse_room(&Key::Room(RoomId(9)).encode(shard)[SHARD..]), Some(RoomId(9)));
    }
}
