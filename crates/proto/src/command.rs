//! Commands to bytes and back.
//!
//! A gateway encodes a command once; the leader only puts such bytes together into a batch, which is
//! the payload of one Raft entry; every replica decodes it when it applies the entry.

use bytes::{BufMut, Bytes, BytesMut};
use conclave_core::command::NodeRecord;
use conclave_core::ring::Layout;
use conclave_core::{
    Action, Command, DirectoryId, NodeId, Origin, Refusal, RequestNo, RoomId, SessionId, UserId,
};
use prost::Message as _;
use prost::encoding::{encode_key, encode_varint, encoded_len_varint, key_len};

use crate::FormatError;
use crate::log::{self, act, command::Kind};

/// `CommandBatch.time_ms`.
const TIME_FIELD: u32 = 1;
/// `CommandBatch.commands`.
const COMMANDS_FIELD: u32 = 2;

/// Encodes one command.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    to_proto(command).encode_to_vec().into()
}

/// Puts encoded commands together into a batch, stamped with the leader's time.
#[must_use]
pub fn encode_batch<'a>(time_ms: i64, commands: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let one =
        |command: &Bytes| key_len(COMMANDS_FIELD) + encoded_len_varint(command.len() as u64) + command.len();
    let time = time_ms.cast_unsigned();
    let len = key_len(TIME_FIELD) + encoded_len_varint(time) + commands.clone().map(one).sum::<usize>();
    let mut out = BytesMut::with_capacity(len);
    encode_key(TIME_FIELD, prost::encoding::WireType::Varint, &mut out);
    encode_varint(time, &mut out);
    for command in commands {
        encode_key(COMMANDS_FIELD, prost::encoding::WireType::LengthDelimited, &mut out);
        encode_varint(command.len() as u64, &mut out);
        out.put_slice(command);
    }
    out.freeze()
}

/// Decodes a batch: the leader's time and the commands.
///
/// # Errors
/// If the bytes are damaged, or hold a command that this version does not know.
pub fn decode_batch(bytes: &[u8]) -> Result<(i64, Vec<Command>), FormatError> {
    let batch = log::CommandBatch::decode(bytes)?;
    let commands = batch.commands.into_iter().map(from_proto).collect::<Result<_, _>>()?;
    Ok((batch.time_ms, commands))
}

fn to_proto(command: &Command) -> log::Command {
    let kind = match command {
        Command::OpenRoom { room, name, creator, creator_name } => Kind::OpenRoom(log::OpenRoom {
            room_id: room.0,
            name: name.clone(),
            creator_id: creator.0,
            creator: creator_name.clone(),
        }),
        Command::Act { room, origin, action } => Kind::Act(log::Act {
            room_id: room.0,
            session_id: origin.session.0,
            author_id: origin.author.0,
            author: origin.author_name.clone(),
            request_no: origin.request.0,
            settled_no: origin.settled.0,
            action: Some(match action {
                Action::Post(text) => act::Action::Post(text.clone()),
                Action::SetTopic(topic) => act::Action::SetTopic(topic.clone()),
                Action::Join => act::Action::Join(true),
                Action::Leave => act::Action::Leave(true),
                Action::Void { refusal, digest } => {
                    act::Action::Void(log::Void { refusal: refusal.code(), digest: *digest })
                }
            }),
        }),
        Command::CreateRoom { name, creator } => {
            Kind::CreateRoom(log::CreateRoom { name: name.clone(), creator_id: creator.0 })
        }
        Command::OpenSession { user, secret_digest, client } => Kind::OpenSession(log::OpenSession {
            user: user.clone(),
            secret_digest: secret_digest.to_vec(),
            client: client.clone(),
        }),
        Command::RegisterNode(node) => {
            Kind::RegisterNode(log::RegisterNode { node: Some(node_to_proto(node)) })
        }
        Command::SetLayout { layout, replaces } => {
            Kind::SetLayout(log::SetLayout { layout: Some(layout_to_proto(layout)), replaces: *replaces })
        }
        Command::SetFeatureLevel(level) => Kind::SetFeatureLevel(log::SetFeatureLevel { level: *level }),
    };
    log::Command { kind: Some(kind) }
}

fn from_proto(command: log::Command) -> Result<Command, FormatError> {
    Ok(match command.kind.ok_or(FormatError::Missing("Command.kind"))? {
        Kind::OpenRoom(open) => Command::OpenRoom {
            room: RoomId(open.room_id),
            name: open.name,
            creator: UserId(open.creator_id),
            creator_name: open.creator,
        },
        Kind::Act(act) => Command::Act {
            room: RoomId(act.room_id),
            origin: Origin {
                session: SessionId(act.session_id),
                author: UserId(act.author_id),
                author_name: act.author,
                request: RequestNo(act.request_no),
                settled: RequestNo(act.settled_no),
            },
            action: match act.action.ok_or(FormatError::Missing("Act.action"))? {
                act::Action::Post(text) => Action::Post(text),
                act::Action::SetTopic(topic) => Action::SetTopic(topic),
                act::Action::Join(_) => Action::Join,
                act::Action::Leave(_) => Action::Leave,
                act::Action::Void(void) => {
                    Action::Void { refusal: Refusal::from_code(void.refusal, 0), digest: void.digest }
                }
            },
        },
        Kind::CreateRoom(create) => {
            Command::CreateRoom { name: create.name, creator: UserId(create.creator_id) }
        }
        Kind::OpenSession(open) => Command::OpenSession {
            user: open.user,
            secret_digest: sixteen(&open.secret_digest, "OpenSession.secret_digest")?,
            client: open.client,
        },
        Kind::RegisterNode(register) => Command::RegisterNode(node_from_proto(
            register.node.ok_or(FormatError::Missing("RegisterNode.node"))?,
        )?),
        Kind::SetLayout(set) => Command::SetLayout {
            layout: layout_from_proto(set.layout.ok_or(FormatError::Missing("SetLayout.layout"))?),
            replaces: set.replaces,
        },
        Kind::SetFeatureLevel(set) => Command::SetFeatureLevel(set.level),
    })
}

/// A node's record as it is stored.
#[must_use]
pub fn node_to_proto(node: &NodeRecord) -> log::NodeRecord {
    log::NodeRecord {
        node_id: node.node.0,
        name: node.name.clone(),
        client_address: node.client_address.clone(),
        peer_address: node.peer_address.clone(),
        http_address: node.http_address.clone(),
        directory_id: node.directory.0.to_be_bytes().to_vec(),
        version: node.version.clone(),
        feature_level: node.feature_level,
    }
}

/// A node's record from what is stored.
///
/// # Errors
/// If the directory id does not have 16 bytes.
pub fn node_from_proto(node: log::NodeRecord) -> Result<NodeRecord, FormatError> {
    Ok(NodeRecord {
        node: NodeId(node.node_id),
        directory: DirectoryId(u128::from_be_bytes(sixteen(&node.directory_id, "NodeRecord.directory_id")?)),
        name: node.name,
        client_address: node.client_address,
        peer_address: node.peer_address,
        http_address: node.http_address,
        version: node.version,
        feature_level: node.feature_level,
    })
}

/// A layout as it is stored.
#[must_use]
pub fn layout_to_proto(layout: &Layout) -> log::Layout {
    let shard =
        |replicas: &Vec<NodeId>| log::LayoutShard { replicas: replicas.iter().map(|n| n.0).collect() };
    log::Layout { version: layout.version, shards: layout.shards.iter().map(shard).collect() }
}

/// A layout from what is stored.
#[must_use]
pub fn layout_from_proto(layout: log::Layout) -> Layout {
    let shard = |shard: log::LayoutShard| shard.replicas.into_iter().map(NodeId).collect();
    Layout { version: layout.version, shards: layout.shards.into_iter().map(shard).collect() }
}

fn sixteen(bytes: &[u8], field: &'static str) -> Result<[u8; 16], FormatError> {
    bytes.try_into().map_err(|_| FormatError::Invalid(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back() {
        let commands = [
            Command::OpenRoom {
                room: RoomId(7),
                name: "general".into(),
                creator: UserId(1),
                creator_name: "ana".into(),
            },
            Command::Act {
                room: RoomId(7),
                origin: Origin {
                    session: SessionId(3),
                    author: UserId(1),
                    author_name: "ana".into(),
                    request: RequestNo(9),
                    settled: RequestNo(8),
                },
                action: Action::Post("hello".into()),
            },
            Command::RegisterNode(NodeRecord {
                node: NodeId(2),
                name: "node2".into(),
                client_address: "a:1".into(),
                peer_address: "b:2".into(),
                http_address: "c:3".into(),
                directory: DirectoryId(u128::MAX - 5),
                version: "0".into(),
                feature_level: 1,
            }),
            Command::SetLayout {
                layout: Layout { version: 2, shards: vec![vec![NodeId(1), NodeId(2)], vec![]] },
                replaces: 1,
            },
        ];
        let encoded: Vec<_> = commands.iter().map(encode).collect();
        for time_ms in [0, 1_700_000_000_000, -1] {
            let batch = encode_batch(time_ms, encoded.iter());
            assert_eq!(decode_batch(&batch).unwrap(), (time_ms, commands.to_vec()));
        }
    }

    #[test]
    fn a_command_from_the_future_is_an_error_not_a_guess() {
        let batch = encode_batch(1, [Bytes::from_static(&[0xfa, 0x06, 0x00])].iter());
        assert!(matches!(decode_batch(&batch), Err(FormatError::Missing("Command.kind"))));
    }
}
