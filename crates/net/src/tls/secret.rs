//! Reading files that only their owner may read.

use std::fmt::{self, Debug};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The error of a secret that other users can read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} can be read by other users (mode {mode:04o}): change it to mode 0600 (chmod 600), and make a new one if \
     others may have read it"
)]
pub struct Exposed {
    path: String,
    mode: u32,
}

/// The error of reading a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Other users can read it.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// A secret that the user gives by the path of its file.
pub struct GivenSecret {
    /// The content of the file.
    pub content: Vec<u8>,
    /// Set if everybody can read the file, as its owner, who is another user, chose: a reason for a warning.
    pub exposed: Option<Exposed>,
}

impl Debug for GivenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenSecret").field("exposed", &self.exposed).finish_non_exhaustive()
    }
}

/// Reads a private key or another secret of at most this many bytes. Blocks.
///
/// # Errors
/// [`SecretError::Exposed`] if the file can be read by everybody, or is this process's own and its group can read it.
/// Secrets that the system gives to a service, such as a volume of Kubernetes, belong to root and are readable by the
/// service's group.
pub fn read_secret(path: &Path, bytes_max: u64) -> Result<Vec<u8>, SecretError> {
    let file = File::open(path)?;
    let (exposure, exposed) = look_at(path, &file.metadata()?);
    match exposure {
        Exposure::None => Ok(bounded(file, bytes_max)?),
        Exposure::Own | Exposure::Foreign => Err(exposed.into()),
    }
}

/// As [`read_secret`], for a secret such as a token that other programs may share. A file of another user is only warned
/// about, since this process cannot change it, and what is no regular file, such as a pipe, is not judged.
///
/// # Errors
/// [`SecretError::Exposed`] if the file is this process's own and other users can read it.
pub fn read_given_secret(path: &Path, bytes_max: u64) -> Result<GivenSecret, SecretError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let exposed = match look_at(path, &metadata) {
        _ if !metadata.is_file() => None,
        (Exposure::Own, exposed) => return Err(exposed.into()),
        (Exposure::Foreign, exposed) => Some(exposed),
        (Exposure::None, _) => None,
    };
    Ok(GivenSecret { content: bounded(file, bytes_max)?, exposed })
}

/// Whether others than its user can read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    None,
    /// Group or others can read it, and this user can change that.
    Own,
    /// Everybody can read it, and it belongs to another user.
    Foreign,
}

fn exposure(own: bool, mode: u32) -> Exposure {
    match own {
        true if mode & 0o077 != 0 => Exposure::Own,
        false if mode & 0o007 != 0 => Exposure::Foreign,
        _ => Exposure::None,
    }
}

fn look_at(path: &Path, metadata: &Metadata) -> (Exposure, Exposed) {
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    let exposed = Exposed { path: path.display().to_string(), mode: metadata.mode() & 0o7777 };
    (exposure(own, metadata.mode()), exposed)
}

pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, bytes_max)
}

fn bounded(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content)?;
    match u64::try_from(content.len()) {
        Ok(length) if length <= bytes_max => Ok(content),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_of_another_user_may_be_read_by_the_group() {
        assert_eq!(exposure(false, 0o100_440), Exposure::None);
        assert_eq!(exposure(false, 0o100_444), Exposure::Foreign);
        assert_eq!(exposure(true, 0o100_440), Exposure::Own);
        assert_eq!(exposure(true, 0o100_400), Exposure::None);
    }

    #[test]
    fn a_secret_of_this_user_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        for (mode, refused) in [(0o600, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let given = read_given_secret(&path, 16);
            assert_eq!(matches!(given, Err(SecretError::Exposed(_))), refused, "{mode:o} {given:?}");
            assert_eq!(read_secret(&path, 16).is_err(), refused, "{mode:o}");
            assert!(given.is_ok_and(|given| given.content == b"0123456789abcdef") || refused);
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read_given_secret(&path, 15), Err(SecretError::File(_))));
        // What is no regular file is not judged.
        assert!(read_given_secret(Path::new("/dev/null"), 15).unwrap().exposed.is_none());
    }
}
