//! A directory with a cluster's certificate authority, and beside it a directory for each server with its certificate.
//!
//! Issuing again renews only what is missing, damaged or due.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use conclave_pki::{Ca, Identity, Subject, Validity};
use conclave_server::{CERTIFICATE_FILE, Credentials};

/// Issues the certificates of a cluster's servers, each into the directory of its name. `servers` are the names of all
/// first nodes, since a node's id is the position of its name among them. Returns the names of those whose certificates
/// were made.
///
/// # Errors
/// If a certificate cannot be made or written.
pub(crate) fn issue<'a>(
    dir: &Path,
    ca: &Ca,
    servers: &[&'a str],
    now: SystemTime,
) -> anyhow::Result<Vec<&'a str>> {
    let mut sorted = servers.to_vec();
    sorted.sort_unstable();
    let mut made = Vec::new();
    for (id, name) in (1..).zip(sorted) {
        let (identity, own_dir) = (Identity::Node(id), dir.join(name));
        if is_current(&own_dir, ca, identity, now) {
            continue;
        }
        let issued = ca.issue(&Subject { identity, hosts: Vec::new() }, now);
        let written = issued.and_then(|issued| issued.write(&own_dir));
        written.with_context(|| format!("the certificate of {name}"))?;
        made.push(name);
    }
    Ok(made)
}

/// Whether a directory has a certificate that can be used for a while.
fn is_current(dir: &Path, ca: &Ca, identity: Identity, now: SystemTime) -> bool {
    let Ok(found) = Credentials::read(dir) else { return false };
    let pem = fs::read(dir.join(CERTIFICATE_FILE)).unwrap_or_default();
    found.ca() == ca.id()
        && found.identity() == identity
        && found.is_usable()
        && Validity::of_pem(&pem).is_ok_and(|validity| !validity.is_due(now))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn certificates_are_made_once_and_renewed_when_they_are_due() {
        let dir = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + 20_000 * DAY;
        let ca = Ca::create(now).unwrap();
        let servers: Vec<String> = (1..=10).map(|node| format!("node{node}")).collect();
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        let made = |at| issue(dir.path(), &ca, &servers, at).unwrap().len();
        assert_eq!(made(now), 10);
        assert_eq!(made(now + 59 * DAY), 0);
        assert_eq!(made(now + 61 * DAY), 10);
        // node10 comes second in the order of the names.
        let identity = |name| Credentials::read(&dir.path().join(name)).unwrap().identity();
        assert_eq!(
            ["node1", "node10", "node2"].map(identity),
            [Identity::Node(1), Identity::Node(2), Identity::Node(3)]
        );
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let now = UNIX_EPOCH + 20_000 * DAY;
        let ca = Ca::create(now).unwrap();
        let made = |ca: &Ca| issue(dir.path(), ca, &["a", "b"], now).unwrap();
        assert_eq!(made(&ca), ["a", "b"]);
        // A key of another certificate, as after a crash between two files.
        fs::copy(dir.path().join("b/node.key"), dir.path().join("a/node.key")).unwrap();
        assert_eq!(made(&ca), ["a"]);
        fs::write(dir.path().join("b/node.pem"), "noise").unwrap();
        assert_eq!(made(&ca), ["b"]);
        assert_eq!(made(&Ca::create(now).unwrap()), ["a", "b"]);
    }
}
