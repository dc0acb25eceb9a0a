//! Tokens in files that the user gives.

use std::io::Write as _;
use std::path::Path;

use conclave_net::{GivenSecret, SecretError, read_given_secret};

use crate::limits::TOKEN_FILE_BYTES_MAX;

/// Reads the file of a token. A warning goes to stderr if everybody can read the file and it belongs to another user, as
/// servers do it.
///
/// # Errors
/// If the file cannot be read, or is this user's own and others can read it.
pub(crate) fn read_token(path: &Path) -> Result<Vec<u8>, SecretError> {
    let GivenSecret { content, exposed } = read_given_secret(path, TOKEN_FILE_BYTES_MAX)?;
    if let Some(exposed) = exposed {
        let _ = writeln!(std::io::stderr(), "conclave-chaos: warning: {exposed}");
    }
    Ok(content)
}
