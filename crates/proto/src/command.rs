//! Commands to bytes and back.
//!
//! A gateway encodes a command once. The leader joins encoded commands to a batch, which is the payload
//! of one Raft entry. Every replica decodes the batch when it applies the entry. An appended entry cannot
//! be taken back, so a batch consists of [`Encoded`] commands only: commands that this program encoded
//! itself, and commands of another node that this program was able to decode.

use bytes::{BufMut, Bytes, BytesMut};
use conclave_core::access::RoomKind;
use conclave_core::record::{NodeRecord, Person, Phc};
use conclave_core::ring::Layout;
use conclave_core::{Command, DataDirId, NodeId, Origin, RequestNo, RoomId, SessionId, Stamp, UserId, level};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::log::{self, command::Kind};
use crate::{FormatError, accounts, action, rights};

/// `CommandBatch.time_ms`.
const TIME_FIELD: u32 = 1;
/// `CommandBatch.commands`.
const COMMANDS_FIELD: u32 = 2;
/// `CommandBatch.min_level`.
const MIN_LEVEL_FIELD: u32 = 3;
/// `CommandBatch.rules_level`.
const RULES_FIELD: u32 = 5;

/// An encoded command that this program can decode. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    bytes: Bytes,
    level: u32,
    is_of_client: bool,
}

impl Encoded {
    /// Checks bytes that another node sent: they must be a command that this node understands, which is up to feature
    /// level `understands`.
    ///
    /// `min_level` is the level that the sender reports: an older program does not see a field that was added to a command
    /// that it knows.
    ///
    /// # Errors
    /// If they are not such a command; [`FormatError::is_newer`] tells a newer version's command from damage.
    pub fn from_peer(bytes: Bytes, min_level: u32, understands: u32) -> Result<(Self, Command), FormatError> {
        let command = from_proto(log::Command::decode(bytes.clone())?)?;
        let level = command.level().max(min_level);
        check_level(level, understands)?;
        Ok((Self { bytes, level, is_of_client: command.is_of_client() }, command))
    }

    /// The lowest feature level that allows the command.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Whether a client asked for the command: see [`Command::is_of_client`].
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        self.is_of_client
    }

    /// The length of the encoded command in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no command is encoded as nothing")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The encoded command.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

fn check_level(needs: u32, understands: u32) -> Result<(), FormatError> {
    if needs > understands { Err(FormatError::NewerLevel { needs, understands }) } else { Ok(()) }
}

/// Encodes one command.
#[must_use]
pub fn encode(command: &Command) -> Encoded {
    Encoded {
        bytes: to_proto(command).encode_to_vec().into(),
        level: command.level(),
        is_of_client: command.is_of_client(),
    }
}

/// Joins encoded commands to a batch, with the leader's time and with the highest feature level that the time or one of
/// the commands needs.
#[must_use]
pub fn encode_batch(stamp: Stamp, commands: &[Encoded]) -> Bytes {
    let one = |command: &Encoded| {
        key_len(COMMANDS_FIELD) + encoded_len_varint(command.len() as u64) + command.len()
    };
    let time = stamp.time_ms.cast_unsigned();
    // The first level is not written: a batch without the field has level 1, as in release 0.1.0.
    let level = commands.iter().map(Encoded::level).fold(stamp.level(), u32::max);
    let above_first = |level: u32| Some(level).filter(|level| *level > level::FIRST);
    let (level, rules) = (above_first(level), above_first(stamp.level()));
    let len = key_len(TIME_FIELD)
        + encoded_len_varint(time)
        + commands.iter().map(one).sum::<usize>()
        + level.map_or(0, |level| key_len(MIN_LEVEL_FIELD) + encoded_len_varint(level.into()))
        + rules.map_or(0, |level| key_len(RULES_FIELD) + encoded_len_varint(level.into()));
    let mut out = BytesMut::with_capacity(len);
    encode_key(TIME_FIELD, WireType::Varint, &mut out);
    encode_varint(time, &mut out);
    for command in commands {
        encode_key(COMMANDS_FIELD, WireType::LengthDelimited, &mut out);
        encode_varint(command.len() as u64, &mut out);
        out.put_slice(&command.bytes);
    }
    if let Some(level) = level {
        encode_key(MIN_LEVEL_FIELD, WireType::Varint, &mut out);
        encode_varint(level.into(), &mut out);
    }
    if let Some(rules) = rules {
        encode_key(RULES_FIELD, WireType::Varint, &mut out);
        encode_varint(rules.into(), &mut out);
    }
    out.freeze()
}

/// Decodes a batch: the leader's time, and the commands. A node understands commands up to
/// feature level `understands`.
///
/// # Errors
/// If the bytes are damaged, or if a newer version wrote them ([`FormatError::is_newer`]). The batch contains the level
/// because an older version would ignore a field that was added to a command of a known kind.
pub fn decode_batch(bytes: &[u8], understands: u32) -> Result<(Stamp, Vec<Command>), FormatError> {
    let batch = log::CommandBatch::decode(bytes)?;
    check_level(batch.min_level, understands)?;
    let commands: Vec<Command> = batch.commands.into_iter().map(from_proto).collect::<Result<_, _>>()?;
    commands.iter().try_for_each(|command| check_level(command.level(), understands))?;
    let stamp = Stamp::at_level(batch.time_ms, batch.rules_level);
    check_level(stamp.level(), understands)?;
    Ok((stamp, commands))
}

fn to_proto(command: &Command) -> log::Command {
    let kind = match command {
        Command::OpenRoom { room, name, creator, founding } => Kind::OpenRoom(log::OpenRoom {
            room_id: room.0,
            name: name.clone(),
            creator_id: creator.user.0,
            creator: creator.name.clone(),
            founding: founding.as_ref().map(rights::founding_to_proto),
        }),
        Command::Act { room, origin, action } => Kind::Act(log::Act {
            room_id: room.0,
            session_id: origin.session.0,
            author_id: origin.author.0,
            author: origin.author_name.clone(),
            request_no: origin.request.0,
            settled_no: origin.settled.0,
            powers: rights::powers_to_bits(origin.powers),
            action: Some(action::to_log(action)),
        }),
        Command::CreateRoom { name, creator, kind } => Kind::CreateRoom(log::CreateRoom {
            name: name.clone(),
            creator_id: creator.0,
            kind: kind.map_or(0, RoomKind::code).into(),
        }),
        Command::OpenDirect { creator, people } => Kind::OpenDirect(log::OpenDirect {
            creator_id: creator.0,
            people: people.iter().map(|user| user.0).collect(),
        }),
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
        Command::SetAccount(change) => Kind::SetAccount(accounts::account_to_log(change)),
        Command::SetPassword { user, phc, expects_revision, closing } => {
            Kind::SetPassword(log::SetPassword {
                user_id: user.0,
                phc: phc.0.clone(),
                expects_revision: *expects_revision,
                closing: closing.map(accounts::closing_to_log),
            })
        }
        Command::PutInvite(invite) => Kind::PutInvite(accounts::invite_to_log(invite)),
        Command::Register { invite, name, phc } => Kind::Register(log::Register {
            invite: invite.map(|digest| digest.to_vec()).unwrap_or_default(),
            name: name.clone(),
            phc: phc.0.clone(),
        }),
        Command::LogIn(log_in) => Kind::LogIn(accounts::log_in_to_log(log_in)),
        Command::SetRegistration(mode) => Kind::SetRegistration(log::SetRegistration {
            registration: accounts::registration_to_log(*mode).into(),
        }),
        Command::CloseSessions(closing) => Kind::CloseSessions(accounts::closing_to_log(*closing)),
        Command::ForgetSessions(sessions) => {
            Kind::ForgetSessions(log::ForgetSessions { sessions: sessions.iter().map(|id| id.0).collect() })
        }
        Command::SeenSessions(seen) => {
            let seen = seen.iter().map(|(id, day)| log::seen_sessions::Seen { session_id: id.0, day: *day });
            Kind::SeenSessions(log::SeenSessions { seen: seen.collect() })
        }
        Command::EndSession { session } => Kind::EndSession(log::EndSession { session_id: session.0 }),
    };
    log::Command { kind: Some(kind) }
}

fn from_proto(command: log::Command) -> Result<Command, FormatError> {
    Ok(match command.kind.ok_or(FormatError::UnknownKind("the command"))? {
        Kind::OpenRoom(open) => Command::OpenRoom {
            room: RoomId(open.room_id),
            name: open.name,
            creator: Person { user: UserId(open.creator_id), name: open.creator },
            founding: open.founding.map(rights::founding_from_proto).transpose()?,
        },
        Kind::Act(act) => Command::Act {
            room: RoomId(act.room_id),
            origin: Origin {
                session: SessionId(act.session_id),
                author: UserId(act.author_id),
                author_name: act.author,
                request: RequestNo(act.request_no),
                settled: RequestNo(act.settled_no),
                powers: rights::powers_from_bits(act.powers)?,
            },
            action: action::from_log(act.action.ok_or(FormatError::UnknownKind("the action"))?)?,
        },
        Kind::CreateRoom(create) => Command::CreateRoom {
            name: create.name,
            creator: UserId(create.creator_id),
            kind: rights::kind_from_proto(create.kind)?,
        },
        Kind::OpenDirect(open) => Command::OpenDirect {
            creator: UserId(open.creator_id),
            people: open.people.into_iter().map(UserId).collect(),
        },
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
        Kind::SetAccount(change) => Command::SetAccount(accounts::account_from_log(change)?),
        Kind::SetPassword(set) => Command::SetPassword {
            user: UserId(set.user_id),
            phc: Phc(set.phc),
            expects_revision: set.expects_revision,
            closing: set.closing.map(accounts::closing_from_log).transpose()?,
        },
        Kind::PutInvite(invite) => Command::PutInvite(accounts::invite_from_log(invite)?),
        Kind::Register(register) => Command::Register {
            invite: if register.invite.is_empty() {
                None
            } else {
                Some(sixteen(&register.invite, "Register.invite")?)
            },
            name: register.name,
            phc: Phc(register.phc),
        },
        Kind::LogIn(log_in) => Command::LogIn(accounts::log_in_from_log(log_in)?),
        Kind::SetRegistration(set) => {
            Command::SetRegistration(accounts::registration_from_log(set.registration)?)
        }
        Kind::CloseSessions(closing) => Command::CloseSessions(accounts::closing_from_log(closing)?),
        Kind::ForgetSessions(forget) => {
            Command::ForgetSessions(forget.sessions.into_iter().map(SessionId).collect())
        }
        Kind::SeenSessions(seen) => Command::SeenSessions(
            seen.seen.into_iter().map(|seen| (SessionId(seen.session_id), seen.day)).collect(),
        ),
        Kind::EndSession(end) => Command::EndSession { session: SessionId(end.session_id) },
    })
}

/// A node's record in its stored form.
#[must_use]
pub fn node_to_proto(node: &NodeRecord) -> log::NodeRecord {
    log::NodeRecord {
        node_id: node.node.0,
        name: node.name.clone(),
        client_address: node.client_address.clone(),
        peer_address: node.peer_address.clone(),
        http_address: node.http_address.clone(),
        web_address: node.web_address.clone(),
        directory_id: node.directory.0.to_be_bytes().to_vec(),
        version: node.version.clone(),
        feature_level: node.feature_level,
    }
}

/// A node's record from its stored form.
///
/// # Errors
/// If the directory id does not have 16 bytes.
pub fn node_from_proto(node: log::NodeRecord) -> Result<NodeRecord, FormatError> {
    Ok(NodeRecord {
        node: NodeId(node.node_id),
        directory: DataDirId(u128::from_be_bytes(sixteen(&node.directory_id, "NodeRecord.directory_id")?)),
        name: node.name,
        client_address: node.client_address,
        peer_address: node.peer_address,
        http_address: node.http_address,
        web_address: node.web_address,
        version: node.version,
        feature_level: node.feature_level,
    })
}

/// A layout in its stored form.
#[must_use]
pub fn layout_to_proto(layout: &Layout) -> log::Layout {
    let shard =
        |replicas: &Vec<NodeId>| log::LayoutShard { replicas: replicas.iter().map(|n| n.0).collect() };
    log::Layout { version: layout.version, shards: layout.shards.iter().map(shard).collect() }
}

/// A layout from its stored form.
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
    use conclave_core::access::Powers;
    use conclave_core::level::FEATURE_LEVEL;
    use conclave_core::record::Founding;
    use conclave_core::{Action, Seq};

    use super::*;

    #[test]
    fn a_batch_survives_encoding() {
        let commands = [
            Command::OpenRoom {
                room: RoomId(7),
                name: "general".into(),
                creator: Person { user: UserId(1), name: "ana".into() },
                founding: None,
            },
            Command::OpenRoom {
                room: RoomId(8),
                name: ":d:1:2".into(),
                creator: Person { user: UserId(1), name: "ana".into() },
                founding: Some(Founding {
                    kind: RoomKind::Direct,
                    people: vec![
                        Person { user: UserId(1), name: "ana".into() },
                        Person { user: UserId(2), name: "bo".into() },
                    ],
                }),
            },
            Command::CreateRoom { name: "a".into(), creator: UserId(1), kind: Some(RoomKind::Private) },
            Command::OpenDirect { creator: UserId(1), people: vec![UserId(1), UserId(2)] },
            Command::Act {
                room: RoomId(7),
                origin: Origin {
                    session: SessionId(3),
                    author: UserId(1),
                    author_name: "ana".into(),
                    request: RequestNo(9),
                    settled: RequestNo(8),
                    powers: Powers::default(),
                },
                action: Action::Post("hello".into()),
            },
            Command::Act {
                room: RoomId(7),
                origin: Origin {
                    session: SessionId(3),
                    author: UserId(1),
                    author_name: "ana".into(),
                    request: RequestNo(10),
                    settled: RequestNo(8),
                    powers: Powers { admin: true, guest: false },
                },
                action: Action::Pin { target: Seq(4), off: true },
            },
            Command::RegisterNode(NodeRecord {
                node: NodeId(2),
                name: "node2".into(),
                client_address: "a:1".into(),
                peer_address: "b:2".into(),
                http_address: "c:3".into(),
                web_address: "http://d:4".into(),
                directory: DataDirId(u128::MAX - 5),
                version: "0".into(),
                feature_level: 1,
            }),
            Command::SetLayout {
                layout: Layout { version: 2, shards: vec![vec![NodeId(1), NodeId(2)], vec![]] },
                replaces: 1,
            },
        ];
        let commands = [&commands[..], &about_people()].concat();
        let encoded: Vec<_> = commands.iter().map(encode).collect();
        for time_ms in [0, 1_700_000_000_000, -1] {
            for stamp in [Stamp::first(time_ms), Stamp::at_level(time_ms, FEATURE_LEVEL)] {
                let batch = encode_batch(stamp, &encoded);
                assert_eq!(decode_batch(&batch, FEATURE_LEVEL).unwrap(), (stamp, commands.to_vec()));
            }
        }
        for command in encoded {
            let bytes = command.clone().into_bytes();
            assert_eq!(Encoded::from_peer(bytes, 0, FEATURE_LEVEL).unwrap().0, command);
        }
    }

    /// Every command about accounts and sessions.
    fn about_people() -> Vec<Command> {
        use conclave_core::people::{AccountChange, Closing, LogIn};
        use conclave_core::record::{ClusterRole, Invite, Registration, SessionKind, UserKind};
        let phc = Phc("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".into());
        let change = AccountChange { name: "ana".into(), kind: None, role: None, disabled: Some(false) };
        vec![
            Command::SetAccount(change.clone()),
            Command::SetAccount(AccountChange {
                kind: Some(UserKind::Guest),
                role: Some(ClusterRole::None),
                disabled: None,
                ..change
            }),
            Command::SetPassword {
                user: UserId(3),
                phc: phc.clone(),
                expects_revision: 7,
                closing: Some(Closing::AllBut(UserId(3), SessionId(4))),
            },
            Command::PutInvite(Invite {
                digest: [9; 16],
                name: "bo".into(),
                kind: UserKind::Bot,
                role: ClusterRole::Operator,
                uses: 5,
                expires_ms: 99,
                by: UserId(1),
            }),
            Command::Register { invite: None, name: "ana".into(), phc: phc.clone() },
            Command::Register { invite: Some([3; 16]), name: "ana".into(), phc },
            Command::LogIn(LogIn {
                user: UserId(4),
                credential_revision: 2,
                secret_digest: [8; 16],
                kind: SessionKind::Access,
                label: "build".into(),
                client: "ci".into(),
                expires_ms: 77,
            }),
            Command::SetRegistration(Registration::Closed),
            Command::CloseSessions(Closing::One(SessionId(4))),
            Command::CloseSessions(Closing::Of(UserId(5))),
            Command::CloseSessions(Closing::AllBut(UserId(5), SessionId(6))),
            Command::ForgetSessions(vec![SessionId(1), SessionId(9)]),
            Command::SeenSessions(vec![(SessionId(2), 20_000)]),
            Command::EndSession { session: SessionId(2) },
        ]
    }

    /// A kind of command, and a kind of action, that no version has yet.
    const UNKNOWN_KINDS: [&[u8]; 3] = [&[], &[0xfa, 0x06, 0x00], &[0x12, 0x05, 0x08, 0x07, 0xfa, 0x06, 0x00]];

    #[test]
    fn an_unknown_kind_is_reported_as_newer_and_not_as_damage() {
        for bytes in UNKNOWN_KINDS.map(Bytes::from_static) {
            let error = Encoded::from_peer(bytes.clone(), 0, u32::MAX).unwrap_err();
            assert!(error.is_newer(), "{error}");
            let batch =
                encode_batch(Stamp::first(1), &[Encoded { bytes, level: level::FIRST, is_of_client: true }]);
            let error = decode_batch(&batch, u32::MAX).unwrap_err();
            assert!(error.is_newer(), "{error}");
        }
        let garbage = Bytes::from_static(&[0x12, 0xff, 0xff]);
        let error = Encoded::from_peer(garbage, 0, u32::MAX).unwrap_err();
        assert!(!error.is_newer(), "{error}");
    }

    #[test]
    fn a_batch_above_the_level_is_refused_even_if_every_command_can_be_decoded() {
        let known = encode(&Command::CreateRoom { name: "general".into(), creator: UserId(1), kind: None });
        let with_a_new_field = Encoded { level: FEATURE_LEVEL + 1, ..known };
        let error =
            decode_batch(&encode_batch(Stamp::first(1), &[with_a_new_field]), FEATURE_LEVEL).unwrap_err();
        assert!(matches!(error, FormatError::NewerLevel { .. }) && error.is_newer(), "{error}");
        let known = encode(&Command::CreateRoom { name: "general".into(), creator: UserId(1), kind: None })
            .into_bytes();
        assert!(Encoded::from_peer(known.clone(), FEATURE_LEVEL + 1, FEATURE_LEVEL).unwrap_err().is_newer());
        assert_eq!(Encoded::from_peer(known, FEATURE_LEVEL, FEATURE_LEVEL).unwrap().0.level(), FEATURE_LEVEL);
        let first = encode(&Command::CreateRoom { name: "general".into(), creator: UserId(1), kind: None });
        let steps_back = encode_batch(Stamp::at_level(1, 2), &[first]);
        assert!(decode_batch(&steps_back, level::FIRST).unwrap_err().is_newer(), "the time needs level 2");
        let raise = encode(&Command::SetFeatureLevel(FEATURE_LEVEL + 1));
        assert!(Encoded::from_peer(raise.into_bytes(), 0, FEATURE_LEVEL).unwrap_err().is_newer());
    }
}
