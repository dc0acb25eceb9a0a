//! Who may change something.
//!
//! Whoever reaches a controller that has a token must know it. Without one the controller listens on loopback only, and
//! takes nothing from pages in a browser: these say where they are from with everything that changes something, and a person
//! who looks at some page has not asked for anything to be broken.

use std::net::SocketAddr;
use std::path::Path;

use crate::serve::desk::{Kind, Refusal};

/// The shortest token that is one.
const TOKEN_BYTES_MIN: usize = 16;
/// The longest.
const TOKEN_BYTES_MAX: usize = 1_024;

/// The token, if there is one.
#[derive(Clone)]
pub struct Guard {
    token: Option<String>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("has_token", &self.token.is_some()).finish()
    }
}

impl Guard {
    /// For a controller that listens there. The token is the first line of the file.
    ///
    /// # Errors
    /// If the file has no token, or there is none where one is needed.
    pub fn open(token_file: Option<&Path>, listens: &[SocketAddr]) -> Result<Self, String> {
        let Some(path) = token_file else { return Self::new(None, listens) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("the token cannot be read from {}: {error}", path.display()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) || !token.is_ascii() {
            return Err(format!(
                "{} has no token: its first line must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} plain letters, such as those of \
                 `openssl rand -hex 32`",
                path.display()
            ));
        }
        Self::new(Some(token.to_owned()), listens)
    }

    /// With this token, or none.
    ///
    /// # Errors
    /// If there is none and the controller listens on more than loopback.
    pub fn new(token: Option<String>, listens: &[SocketAddr]) -> Result<Self, String> {
        match listens.iter().find(|address| !address.ip().is_loopback()) {
            Some(address) if token.is_none() => Err(format!(
                "whoever reaches {address} could break the cluster: give a --token-file, or listen on 127.0.0.1"
            )),
            _ => Ok(Self { token }),
        }
    }

    /// Whether a call that changes something is taken.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, authorization: Option<&str>, origin: Option<&str>) -> Result<(), Refusal> {
        let refused = |kind, why: &str| Err(Refusal { kind, why: why.to_owned() });
        match &self.token {
            None if origin.is_some() => {
                refused(Kind::NotAllowed, "this controller takes nothing from pages in a browser")
            }
            None => Ok(()),
            Some(token) => {
                let given = authorization.and_then(|value| value.strip_prefix("Bearer "));
                if given.is_some_and(|given| same(given.trim(), token)) {
                    Ok(())
                } else {
                    refused(
                        Kind::NotKnown,
                        "this needs the controller's token: send `authorization: Bearer TOKEN` with what is in its --token-file",
                    )
                }
            }
        }
    }
}

/// Takes as long for a token that is nearly right as for any other of the same length.
fn same(given: &str, token: &str) -> bool {
    given.len() == token.len()
        && given.bytes().zip(token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn loopback() -> Vec<SocketAddr> {
        ["127.0.0.1:9464", "[::1]:9465"].map(|address| address.parse().unwrap()).into()
    }

    #[test]
    fn more_than_loopback_needs_a_token() {
        let anywhere: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "0.0.0.0:9464".parse().unwrap()];
        let error = Guard::new(None, &anywhere).unwrap_err();
        assert!(error.contains("0.0.0.0:9464") && error.contains("--token-file"), "{error}");
        assert!(Guard::new(Some(TOKEN.to_owned()), &anywhere).is_ok());
        assert!(Guard::new(None, &loopback()).is_ok());
    }

    #[test]
    fn a_token_is_demanded_and_browsers_are_not_taken_at_their_word() {
        let open = Guard::new(None, &loopback()).unwrap();
        assert!(open.admit(None, None).is_ok());
        assert_eq!(open.admit(None, Some("http://localhost:9464")).unwrap_err().kind, Kind::NotAllowed);
        let guarded = Guard::new(Some(TOKEN.to_owned()), &loopback()).unwrap();
        assert!(guarded.admit(Some("Bearer 0123456789abcdef"), Some("http://a")).is_ok());
        for wrong in [None, Some("0123456789abcdef"), Some("Bearer 0123456789abcdeF"), Some("Bearer ")] {
            assert_eq!(guarded.admit(wrong, None).unwrap_err().kind, Kind::NotKnown);
        }
        assert!(!format!("{guarded:?}").contains(TOKEN));
    }

    #[test]
    fn a_file_without_a_token_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(Guard::open(Some(&path), &loopback()).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "short\n").unwrap();
        assert!(Guard::open(Some(&path), &loopback()).unwrap_err().contains("has no token"));
        std::fs::write(&path, format!("{TOKEN}\nmore\n")).unwrap();
        let guard = Guard::open(Some(&path), &loopback()).unwrap();
        assert!(guard.admit(Some(&format!("Bearer {TOKEN}")), None).is_ok());
    }
}
