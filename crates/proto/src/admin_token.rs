//! The token with which operators prove themselves to servers and name servers.
//!
//! Whoever has it may drain nodes and inject faults. Sent as `authorization: Bearer cnva_…` with the calls of operators.

use std::fmt;

use sha2::{Digest as _, Sha256};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The beginning of every token, by which people and scanners recognize it.
pub const PREFIX: &str = "cnva_";
/// Allowed length of a token behind its prefix. With 32 characters of a hexadecimal token, nobody guesses it.
pub const LENGTH: std::ops::RangeInclusive<usize> = 32..=256;
/// The metadata key of the token.
const AUTHORIZATION: &str = "authorization";

/// The token of a cluster's operators. Never printed by [`fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

/// The content of a file is no admin token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has no admin token, which is {PREFIX} and {min} to {max} letters, digits, - or _",
    min = LENGTH.start(),
    max = LENGTH.end()
)]
pub struct NoAdminToken;

impl AdminToken {
    /// The token in the content of a file, without the white space around it.
    ///
    /// # Errors
    /// If the content has another form. The error does not repeat the content.
    pub fn parse(content: &[u8]) -> Result<Self, NoAdminToken> {
        let text = std::str::from_utf8(content.trim_ascii()).map_err(|_| NoAdminToken)?;
        let rest = text.strip_prefix(PREFIX).ok_or(NoAdminToken)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if LENGTH.contains(&rest.len()) && rest.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoAdminToken)
        }
    }

    /// The token as text. Callers must not log it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether the metadata of a call has this token. The comparison takes constant time.
    #[must_use]
    pub fn is_in(&self, metadata: &MetadataMap) -> bool {
        let given =
            metadata.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        given.is_some_and(|given| same(&digest(given.trim()), &digest(&self.0)))
    }

    fn bearer(&self) -> Option<MetadataValue<Ascii>> {
        let mut value = MetadataValue::try_from(format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Compares in constant time.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Adds the token, if there is one, to the calls of a client.
#[derive(Clone, Debug, Default)]
pub struct WithAdminToken(pub Option<AdminToken>);

impl Interceptor for WithAdminToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.0.as_ref().and_then(AdminToken::bearer) {
            request.metadata_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(digit: &str) -> AdminToken {
        AdminToken::parse(format!(" {PREFIX}{}\n", digit.repeat(64)).as_bytes()).unwrap()
    }

    #[test]
    fn a_call_with_the_token_is_recognized() {
        let (mine, other) = (token("a"), token("b"));
        let call = WithAdminToken(Some(mine.clone())).call(Request::new(())).unwrap();
        assert!(mine.is_in(call.metadata()));
        assert!(!other.is_in(call.metadata()));
        let without = WithAdminToken(None).call(Request::new(())).unwrap();
        assert!(!mine.is_in(without.metadata()));
        let mut metadata = MetadataMap::new();
        metadata.insert(AUTHORIZATION, mine.reveal().parse().unwrap());
        assert!(!mine.is_in(&metadata), "it is no bearer token");
    }

    #[test]
    fn a_token_is_never_printed_and_has_one_form() {
        assert_eq!(format!("{:?} {:?}", token("a"), WithAdminToken(None)), "AdminToken WithAdminToken(None)");
        for bad in ["", "cnva_", "cnva_short", &"a".repeat(64), &format!("cnva_{} {0}", "a".repeat(40))] {
            assert_eq!(AdminToken::parse(bad.as_bytes()), Err(NoAdminToken), "{bad}");
        }
        assert!(AdminToken::parse(format!("{PREFIX}{}", "a".repeat(257)).as_bytes()).is_err());
        assert!(!NoAdminToken.to_string().contains("short"));
    }
}
