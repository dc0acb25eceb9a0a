//! Session tokens: they identify the caller of each call.
//!
//! A token is `cnv1_` and, in hexadecimal, the session's id (8 bytes) and a secret (16 bytes). The meta
//! shard keeps only a digest of the secret, so any node can check a token and none can make one up. The token of a session
//! for reading only is `cnr1_`, the session's id, the user's id, and a MAC (16 bytes); see [`crate::api::readers`].

use conclave_core::access::Powers;
use conclave_core::meta::displayed_client_name;
use conclave_core::name::check_user_name;
use conclave_core::people::powers_of;
use conclave_core::people::{check_without_password, is_open};
use conclave_core::record::{ClusterRole, SessionRecord, UserKind};
use conclave_core::{Command, Refusal, Reply, SessionId, ShardId, UserId};
use conclave_proto::chat::OpenSessionResponse;
use conclave_proto::status::{Failure, READS_ONLY};
use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic::codegen::http::HeaderMap;

use crate::api::gateway::Gateway;
use crate::api::readers::{MAC_BYTES, ReadingSession};
use crate::people::endings::is_open_now;

const PREFIX: &str = "cnv1_";
const READING_PREFIX: &str = "cnr1_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 32;

/// The authenticated caller of a call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) name: String,
    /// What the user may do in the whole cluster.
    pub(crate) role: ClusterRole,
    /// What the user is.
    pub(crate) kind: UserKind,
    /// The session may not write.
    pub(crate) reads_only: bool,
}

impl Caller {
    /// What the caller may do in every room.
    pub(crate) fn powers(&self) -> Powers {
        powers_of(self.role, self.kind)
    }
}

/// The token of a call, not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Session { session: SessionId, secret: u128 },
    Reading { session: ReadingSession, mac: [u8; MAC_BYTES] },
}

impl Token {
    /// Reads the token of a call.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Failure> {
        let value = headers.get("authorization").ok_or_else(token_missing)?;
        let damaged =
            || Failure::Unauthenticated("the session token is damaged; open a new session".to_owned());
        let token =
            value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(damaged)?;
        Self::parse(token).ok_or_else(damaged)
    }

    fn parse(token: &str) -> Option<Self> {
        let (kind, digits) = token.split_at_checked(PREFIX.len())?;
        let is_whole = |ids: usize| {
            digits.len() == ids * ID_DIGITS + SECRET_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
        };
        let id = |at: usize| u64::from_str_radix(digits.get(at * ID_DIGITS..(at + 1) * ID_DIGITS)?, 16).ok();
        let secret = |ids: usize| u128::from_str_radix(digits.get(ids * ID_DIGITS..)?, 16).ok();
        match kind {
            PREFIX if is_whole(1) => Some(Self::Session { session: SessionId(id(0)?), secret: secret(1)? }),
            READING_PREFIX if is_whole(2) => {
                let session = ReadingSession { session: SessionId(id(0)?), user: UserId(id(1)?) };
                Some(Self::Reading { session, mac: secret(2)?.to_be_bytes() })
            }
            _ => None,
        }
    }

    /// The session that the token names.
    pub(crate) fn claimed(&self) -> SessionId {
        match self {
            Self::Session { session, .. } => *session,
            Self::Reading { session, .. } => session.session,
        }
    }
}

/// Opens a session for the named user, without a password.
pub(crate) async fn open(
    gateway: &Gateway,
    user: &str,
    client: &str,
) -> Result<OpenSessionResponse, Failure> {
    // Checked before anything is replicated: anybody may make this call.
    check_user_name(user).map_err(Failure::Refused)?;
    let meta = gateway.router.reader(ShardId::META)?;
    let known = meta.user_named(user).await?;
    check_without_password(meta.registration(), known.as_ref()).map_err(Failure::Refused)?;
    let secret: u128 = rand::random();
    let client = displayed_client_name(client);
    let command = Command::OpenSession { user: user.to_owned(), secret_digest: digest(secret), client };
    opened(gateway, user, secret, &command).await
}

/// Gets a command decided that opens a session with this secret.
pub(crate) async fn opened(
    gateway: &Gateway,
    user: &str,
    secret: u128,
    command: &Command,
) -> Result<OpenSessionResponse, Failure> {
    match gateway.router.decide(ShardId::META, command).await? {
        Reply::SessionOpened { session, user: id } => {
            let token = format!("{PREFIX}{:016x}{secret:032x}", session.0);
            Ok(answer(gateway, token, session, (id, user)))
        }
        Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
        other => Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}"))),
    }
}

fn answer(
    gateway: &Gateway,
    token: String,
    session: SessionId,
    (id, name): (UserId, &str),
) -> OpenSessionResponse {
    OpenSessionResponse {
        token,
        session_id: session.0,
        user_id: id.0,
        user: name.to_owned(),
        cluster_id: format!("{:032x}", gateway.node.cluster),
        feature_level: gateway.router.shards.topology.feature_level(),
        cluster: Some((**gateway.views.borrow()).clone()),
    }
}

/// Opens a session for reading only, at this node. Needs no majority, and keeps nothing. A name that needs a password
/// gets none: its user reads with the session that a log-in opened, which takes no majority either, and ends.
///
/// # Errors
/// `login_required`.
pub(crate) async fn open_reading(gateway: &Gateway, name: &str) -> Result<OpenSessionResponse, Failure> {
    check_user_name(name).map_err(Failure::Refused)?;
    let meta = gateway.router.reader(ShardId::META)?;
    let mut user = meta.user_named(name).await?;
    // The user may be newer than what this node has applied, and would be nobody as long as the session lives. Without a
    // majority nobody is newer.
    if user.is_none()
        && gateway.router.shards.meta().leader_with_quorum().is_some()
        && gateway.router.barrier(ShardId::META).await.is_ok()
    {
        user = meta.user_named(name).await?;
    }
    check_without_password(meta.registration(), user.as_ref()).map_err(Failure::Refused)?;
    let user = user.map_or(UserId(0), |user| user.user);
    let (ReadingSession { session, user }, mac) = gateway.readers.open(user);
    let token = format!("{READING_PREFIX}{:016x}{:016x}{:032x}", session.0, user.0, u128::from_be_bytes(mac));
    Ok(answer(gateway, token, session, (user, name)))
}

/// The refusal of a write by a session that may only read.
pub(crate) fn reads_only() -> Failure {
    Failure::Denied {
        code: READS_ONLY,
        status: Code::PermissionDenied,
        message: "the session is for reading only; open one without reads_only to write".to_owned(),
    }
}

/// The caller whose token it is.
pub(crate) async fn caller(gateway: &Gateway, token: Token) -> Result<Caller, Failure> {
    let Gateway { router, readers, .. } = gateway;
    let unknown = || Failure::Unauthenticated(Refusal::SessionUnknown.to_string());
    let (session, secret) = match token {
        Token::Session { session, secret } => (session, secret),
        Token::Reading { session, mac } if readers.has_opened(session, mac) => {
            return reader(gateway, session).await;
        }
        Token::Reading { .. } => return Err(unknown()),
    };
    let meta = router.reader(ShardId::META)?;
    // Ids are given in order: only a session with a higher one may be newer than what this node has applied.
    let last = meta.last_session();
    let mut record = meta.session(session).await?;
    if record.is_none() && session > last {
        router.barrier(ShardId::META).await?;
        record = meta.session(session).await?;
    }
    // Both cases get the same answer, so that a caller cannot learn which sessions exist.
    let record = record.filter(|record| same(record.secret_digest, digest(secret))).ok_or_else(unknown)?;
    let user = meta.user_named(&record.user_name).await?.ok_or_else(unknown)?;
    let now_ms = gateway.clock.now_ms();
    if !is_open(&record, &user, now_ms) {
        return Err(Failure::Refused(Refusal::SessionEnded));
    }
    gateway.seen.note(&record, now_ms);
    let SessionRecord { session, user: id, user_name: name, .. } = record;
    Ok(Caller { session, user: id, name, role: user.role, kind: user.kind, reads_only: false })
}

/// The caller with a session for reading only. A name that got a password meanwhile takes more than its name.
async fn reader(gateway: &Gateway, reading: ReadingSession) -> Result<Caller, Failure> {
    let meta = gateway.router.reader(ShardId::META)?;
    let user = meta.user(reading.user).await?;
    if check_without_password(meta.registration(), user.as_ref()).is_err() {
        return Err(Failure::Refused(Refusal::SessionEnded));
    }
    let ReadingSession { session, user: id } = reading;
    let kind = user.map_or(UserKind::Person, |user| user.kind);
    Ok(Caller { session, user: id, name: String::new(), role: ClusterRole::None, kind, reads_only: true })
}

/// Refuses a caller whose session has ended since its token was checked.
///
/// # Errors
/// `session_ended`.
pub(crate) async fn check_open(gateway: &Gateway, caller: &Caller) -> Result<(), Failure> {
    if is_open_now(&gateway.router, caller.session, gateway.clock.now_ms()).await? {
        return Ok(());
    }
    Err(Failure::Refused(Refusal::SessionEnded))
}

/// The refusal of a call without a token.
pub(crate) fn token_missing() -> Failure {
    Failure::Unauthenticated(
        "the call has no session token; open a session and send it as `authorization: Bearer <token>`"
            .to_owned(),
    )
}

pub(crate) fn digest(secret: u128) -> [u8; 16] {
    let full = Sha256::digest(secret.to_be_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&full[..16]);
    half
}

/// Compares in constant time.
fn same(a: [u8; 16], b: [u8; 16]) -> bool {
    u128::from_be_bytes(a) ^ u128::from_be_bytes(b) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", value.parse().unwrap());
        headers
    }

    #[test]
    fn tokens_are_read_strictly() {
        let good = format!("Bearer {PREFIX}{:016x}{:032x}", 7, 99);
        assert_eq!(Token::read(&with(&good)).unwrap(), Token::Session { session: SessionId(7), secret: 99 });
        let reading = format!("Bearer {READING_PREFIX}{:016x}{:016x}{:032x}", 8, 9, 99);
        let session = ReadingSession { session: SessionId(8), user: UserId(9) };
        assert_eq!(
            Token::read(&with(&reading)).unwrap(),
            Token::Reading { session, mac: 99_u128.to_be_bytes() }
        );
        for bad in [
            "",
            "Bearer ",
            "Bearer x",
            "Basic abc",
            &good[..good.len() - 1],
            &good.replace("cnv1", "cnv2"),
            &good.replace('7', "+"),
            &good.replace("cnv1", "cnr1"),
            &reading.replace("cnr1", "cnv1"),
            &reading[..reading.len() - 1],
        ] {
            assert!(matches!(Token::read(&with(bad)), Err(Failure::Unauthenticated(_))), "{bad}");
        }
        assert!(Token::read(&HeaderMap::new()).is_err());
        assert_ne!(digest(1), digest(2));
    }
}
