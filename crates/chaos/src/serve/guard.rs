//! Authorises the requests that change something.
//!
//! With a token, every such request must send it. Without a token, the controller listens on loopback only, and refuses changing
//! requests from web pages: a browser sends an `Origin` header with these, and any page that a user visits could make them.

use std::net::SocketAddr;
use std::path::Path;

use conclave_net::{SecretError, is_loopback};

use crate::limits::{TOKEN_BYTES_MAX, TOKEN_BYTES_MIN};
use crate::secret::read_token;
use crate::serve::refusal::{Refusal, RefusalKind};

/// The controller's token, or none.
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
    /// The guard of a controller that listens at this address. The token is the first line of the file.
    ///
    /// # Errors
    /// If the file has no token, or is this user's own and others can read it, or there is no file and a token is needed.
    pub fn open(token_file: Option<&Path>, listen: SocketAddr) -> Result<Self, String> {
        let Some(path) = token_file else { return Self::new(None, listen) };
        let content = read_token(path).map_err(|error| match error {
            SecretError::Exposed(exposed) => format!("the controller's token: {exposed}"),
            SecretError::File(error) => {
                format!("the token cannot be read from {}: {error}", path.display())
            }
        })?;
        let text = String::from_utf8_lossy(&content);
        let token = text.lines().next().unwrap_or_default().trim();
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) || !token.is_ascii() {
            return Err(format!(
                "{} has no token: its first line must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} ASCII characters, such as those of \
                 `openssl rand -hex 32`",
                path.display()
            ));
        }
        Self::new(Some(token.to_owned()), listen)
    }

    /// The guard with this token, or none.
    ///
    /// # Errors
    /// If there is no token and the controller listens on more than loopback.
    pub fn new(token: Option<String>, listen: SocketAddr) -> Result<Self, String> {
        if token.is_none() && !is_loopback(listen.ip()) {
            return Err(format!(
                "without a token anyone who reaches {listen} could break the cluster: use --token-file, or listen on 127.0.0.1"
            ));
        }
        Ok(Self { token })
    }

    /// Authorises a request that changes something, by its headers.
    ///
    /// # Errors
    /// If the token is missing or wrong, or a web page made the request to a controller without a token.
    pub fn authorise(&self, authorization: Option<&str>, origin: Option<&str>) -> Result<(), Refusal> {
        match &self.token {
            None if origin.is_some() => Err(Refusal::new(
                RefusalKind::Forbidden,
                "a controller without a token refuses changes from web pages",
                "start the controller with --token-file, or send the request from a program, without an Origin header",
            )),
            None => Ok(()),
            Some(token) => {
                let given = authorization.and_then(|value| value.strip_prefix("Bearer "));
                if given.is_some_and(|given| is_same_token(given.trim(), token)) {
                    Ok(())
                } else {
                    Err(Refusal::new(
                        RefusalKind::Unauthenticated,
                        "this request needs the controller's token",
                        "send `authorization: Bearer TOKEN` with the token in the controller's --token-file",
                    ))
                }
            }
        }
    }
}

/// Compares in constant time for tokens of the same length.
fn is_same_token(given: &str, token: &str) -> bool {
    given.len() == token.len()
        && given.bytes().zip(token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn loopback() -> SocketAddr {
        "127.0.0.1:9464".parse().unwrap()
    }

    #[test]
    fn more_than_loopback_needs_a_token() {
        let anywhere: SocketAddr = "0.0.0.0:9464".parse().unwrap();
        let error = Guard::new(None, anywhere).unwrap_err();
        assert!(error.contains("0.0.0.0:9464") && error.contains("--token-file"), "{error}");
        assert!(Guard::new(Some(TOKEN.to_owned()), anywhere).is_ok());
        assert!(Guard::new(None, loopback()).is_ok());
        assert!(Guard::new(None, "[::1]:9464".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_wrong_token_and_a_web_page_without_a_token_are_refused() {
        let open = Guard::new(None, loopback()).unwrap();
        assert!(open.authorise(None, None).is_ok());
        assert_eq!(
            open.authorise(None, Some("http://localhost:9464")).unwrap_err().kind,
            RefusalKind::Forbidden
        );
        let guarded = Guard::new(Some(TOKEN.to_owned()), loopback()).unwrap();
        assert!(guarded.authorise(Some("Bearer 0123456789abcdef"), Some("http://a")).is_ok());
        for wrong in [None, Some("0123456789abcdef"), Some("Bearer 0123456789abcdeF"), Some("Bearer ")] {
            assert_eq!(guarded.authorise(wrong, None).unwrap_err().kind, RefusalKind::Unauthenticated);
        }
        assert!(!format!("{guarded:?}").contains(TOKEN));
    }

    #[test]
    fn a_file_without_a_token_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(Guard::open(Some(&path), loopback()).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "short\n").unwrap();
        set_mode(&path, 0o600);
        assert!(Guard::open(Some(&path), loopback()).unwrap_err().contains("has no token"));
        std::fs::write(&path, format!("{TOKEN}\nmore\n")).unwrap();
        let guard = Guard::open(Some(&path), loopback()).unwrap();
        assert!(guard.authorise(Some(&format!("Bearer {TOKEN}")), None).is_ok());
    }

    #[test]
    fn a_token_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        for mode in [0o640, 0o604] {
            set_mode(&path, mode);
            let refused = Guard::open(Some(&path), loopback()).unwrap_err();
            assert!(refused.contains("other users") && refused.contains("chmod 600"), "{refused}");
            assert!(!refused.contains(TOKEN), "{refused}");
        }
        set_mode(&path, 0o600);
        assert!(Guard::open(Some(&path), loopback()).is_ok());
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
}
