//! Session tokens: they identify the caller of each call.
//!
//! A token is `cnv1_` and, in hexadecimal, the session's id (8 bytes) and a secret (16 bytes). The meta
//! shard keeps only a digest of the secret, so any node can check a token and none can make one up. The token of a session
//! for reading only is `cnr1_`, the session's id, the user's id, and a MAC (16 bytes); see [`crate::api::readers`].

use conclave_core::access::Powers;
use conclave_core::meta::displayed_client_name;
use conclave_core::name::check_user_name;
use conclave_core::record::SessionRecord;
use conclave_core::{Command, Refusal, Reply, SessionId, ShardId, UserId};
use conclave_proto::chat::OpenSessionResponse;
use conclave_proto::status::{Failure, READS_ONLY};
use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic::codegen::http::HeaderMap;

use crate::api::readers::{MAC_BYTES, Readers, ReadingSession};
use crate::router::Router;

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
    /// What the user may do in every room.
    pub(crate) powers: Powers,
    /// The session may not write.
    pub(crate) reads_only: bool,
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

/// Opens a session for the named user.
pub(crate) async fn open(
    router: &Router,
    user: &str,
    client: &str,
    cluster: u128,
) -> Result<OpenSessionResponse, Failure> {
    // Checked before anything is replicated: anybody may make this call.
    check_user_name(user).map_err(Failure::Refused)?;
    let secret: u128 = rand::random();
    let client = displayed_client_name(client);
    let command = Command::OpenSession { user: user.to_owned(), secret_digest: digest(secret), client };
    match router.decide(ShardId::META, &command).await? {
        Reply::SessionOpened { session, user: id } => Ok(OpenSessionResponse {
            token: format!("{PREFIX}{:016x}{secret:032x}", session.0),
            session_id: session.0,
            user_id: id.0,
            user: user.to_owned(),
            cluster_id: format!("{cluster:032x}"),
            feature_level: router.shards.topology.feature_level(),
            cluster: None,
        }),
        Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
        other => Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}"))),
    }
}

/// Opens a session for reading only, at this node. Needs no majority, and keeps nothing.
pub(crate) async fn open_reading(
    router: &Router,
    readers: &Readers,
    name: &str,
    cluster: u128,
) -> Result<OpenSessionResponse, Failure> {
    check_user_name(name).map_err(Failure::Refused)?;
    let user = router.reader(ShardId::META)?.user_named(name).await?.unwrap_or(UserId(0));
    let (ReadingSession { session, user }, mac) = readers.open(user);
    Ok(OpenSessionResponse {
        token: format!("{READING_PREFIX}{:016x}{:016x}{:032x}", session.0, user.0, u128::from_be_bytes(mac)),
        session_id: session.0,
        user_id: user.0,
        user: name.to_owned(),
        cluster_id: format!("{cluster:032x}"),
        feature_level: router.shards.topology.feature_level(),
        cluster: None,
    })
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
pub(crate) async fn caller(router: &Router, readers: &Readers, token: Token) -> Result<Caller, Failure> {
    let unknown = || Failure::Unauthenticated(Refusal::SessionUnknown.to_string());
    let (session, secret) = match token {
        Token::Session { session, secret } => (session, secret),
        Token::Reading { session, mac } if readers.has_opened(session, mac) => {
            let ReadingSession { session, user } = session;
            return Ok(Caller {
                session,
                user,
                name: String::new(),
                powers: Powers::default(),
                reads_only: true,
            });
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
    match record {
        Some(record) if same(record.secret_digest, digest(secret)) => {
            let SessionRecord { session, user, user_name: name, .. } = record;
            Ok(Caller { session, user, name, powers: Powers::default(), reads_only: false })
        }
        // Both cases get the same answer, so that a caller cannot learn which sessions exist.
        _ => Err(unknown()),
    }
}

/// The refusal of a call without a token.
pub(crate) fn token_missing() -> Failure {
    Failure::Unauthenticated(
        "the call has no session token; open a session and send it as `authorization: Bearer <token>`"
            .to_owned(),
    )
}

fn digest(secret: u128) -> [u8; 16] {
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
