//! Session tokens: they identify the caller of each call.
//!
//! A token is `cnv1_` and, in hexadecimal, the session's id (8 bytes) and a secret (16 bytes). The meta
//! shard keeps only a digest of the secret, so any node can check a token and none can make one up.

use conclave_core::meta::displayed_client_name;
use conclave_core::name::check_user_name;
use conclave_core::{Command, Refusal, Reply, SessionId, ShardId, UserId};
use conclave_proto::chat::OpenSessionResponse;
use conclave_proto::status::Failure;
use sha2::{Digest as _, Sha256};
use tonic::codegen::http::HeaderMap;

use crate::router::Router;

const PREFIX: &str = "cnv1_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 32;

/// The authenticated caller of a call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) name: String,
}

/// The token of a call, not checked yet.
#[derive(Debug)]
pub(crate) struct Token {
    session: SessionId,
    secret: u128,
}

impl Token {
    /// Reads the token of a call.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Failure> {
        parse(headers).map(|(session, secret)| Self { session, secret })
    }

    /// The session that the token names.
    pub(crate) fn claimed(&self) -> SessionId {
        self.session
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
        }),
        Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
        other => Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}"))),
    }
}

/// The caller whose token it is.
pub(crate) async fn caller(router: &Router, token: Token) -> Result<Caller, Failure> {
    let Token { session, secret } = token;
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
            Ok(Caller { session: record.session, user: record.user, name: record.user_name })
        }
        // Both cases get the same answer, so that a caller cannot learn which sessions exist.
        _ => Err(Failure::Unauthenticated(Refusal::SessionUnknown.to_string())),
    }
}

/// The refusal of a call without a token.
pub(crate) fn token_missing() -> Failure {
    Failure::Unauthenticated(
        "the call has no session token; open a session and send it as `authorization: Bearer <token>`"
            .to_owned(),
    )
}

fn parse(headers: &HeaderMap) -> Result<(SessionId, u128), Failure> {
    let value = headers.get("authorization").ok_or_else(token_missing)?;
    let damaged = || Failure::Unauthenticated("the session token is damaged; open a new session".to_owned());
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(damaged)?;
    let digits = token.strip_prefix(PREFIX).ok_or_else(damaged)?;
    if digits.len() != ID_DIGITS + SECRET_DIGITS || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(damaged());
    }
    let (id, secret) = digits.split_at(ID_DIGITS);
    let id = u64::from_str_radix(id, 16).map_err(|_| damaged())?;
    let secret = u128::from_str_radix(secret, 16).map_err(|_| damaged())?;
    Ok((SessionId(id), secret))
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
        assert_eq!(parse(&with(&good)).unwrap(), (SessionId(7), 99));
        for bad in [
            "",
            "Bearer ",
            "Bearer x",
            "Basic abc",
            &good[..good.len() - 1],
            &good.replace("cnv1", "cnv2"),
            &good.replace('7', "+"),
        ] {
            assert!(matches!(parse(&with(bad)), Err(Failure::Unauthenticated(_))), "{bad}");
        }
        assert!(parse(&HeaderMap::new()).is_err());
        assert_ne!(digest(1), digest(2));
    }
}
