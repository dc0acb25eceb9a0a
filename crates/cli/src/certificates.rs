//! A directory with a cluster's certificate authority, and beside it a directory for each server and name server with its
//! certificate.
//!
//! Issuing again renews only what is missing, damaged or due. A directory without a private key has the signing request of
//! an owner who keeps the key elsewhere: its certificate is renewed for the same key.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use conclave_net::{CA_FILE, CERTIFICATE_FILE, Credentials, KEY_FILE};
use conclave_pki::limits::REQUEST_BYTES_MAX;
use conclave_pki::{Ca, Identity, PkiError, Subject, write_secret};

use crate::private;

/// The signing request of an owner who keeps the key elsewhere.
pub(crate) const REQUEST_FILE: &str = "node.csr";
/// Names of files in the directory of an authority.
const RESERVED: [&str; 4] = [".", "..", "ca.key", CA_FILE];

/// The owner of a certificate, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// Host names and addresses under which others reach it.
    pub(crate) hosts: Vec<String>,
}

impl Named {
    /// One without host names.
    pub(crate) fn only(name: &str) -> Self {
        Self { name: name.to_owned(), hosts: Vec::new() }
    }
}

/// The owner of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The name of its directory.
    pub(crate) name: String,
    /// Without host names, those of the certificate that is there stay.
    subject: Subject,
}

/// The owners of a cluster's certificates. `servers` are all servers that the cluster begins with, since a server's id is
/// the position of its name among them. A name server's number is the one that its name ends with. All `others` of one kind are alike.
///
/// # Errors
/// With the name that cannot be used, and why.
pub(crate) fn owners(
    servers: &[Named],
    name_servers: &[Named],
    others: &[(&[Named], Identity)],
) -> Result<Vec<Owner>, String> {
    let mut names = BTreeSet::new();
    let tools = others.iter().flat_map(|(named, _)| named.iter());
    for Named { name, .. } in servers.iter().chain(name_servers).chain(tools) {
        if name.is_empty() || name.contains('/') || RESERVED.contains(&name.as_str()) {
            return Err(format!("{name:?} cannot be the name of a directory for a certificate"));
        }
        if !names.insert(name) {
            return Err(format!("{name:?} is named twice"));
        }
    }
    let owner = |named: &Named, identity| Owner {
        name: named.name.clone(),
        subject: Subject { identity, hosts: named.hosts.clone() }.normalised(),
    };
    let mut sorted: Vec<&Named> = servers.iter().collect();
    sorted.sort_unstable_by_key(|named| &named.name);
    let mut owners: Vec<Owner> =
        (1..).zip(sorted).map(|(id, named)| owner(named, Identity::Node(id))).collect();
    for named in name_servers {
        let digits = named.name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let last = digits.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let number = last.parse().map_err(|_| {
            format!("the name server's name {:?} must end with its number, as ns1 does", named.name)
        })?;
        let made = owner(named, Identity::NameServer(number));
        if let Some(other) = owners.iter().find(|other| other.subject.identity == made.subject.identity) {
            return Err(format!("{:?} and {:?} have the same number", other.name, made.name));
        }
        owners.push(made);
    }
    for (named, identity) in others {
        owners.extend(named.iter().map(|named| owner(named, *identity)));
    }
    Ok(owners)
}

/// Issues the certificates of these owners, each into the directory of its name. Returns the names of those whose
/// certificates were made.
///
/// # Errors
/// If a certificate cannot be made or written.
pub(crate) fn issue<'a>(
    dir: &Path,
    ca: &Ca,
    owners: &'a [Owner],
    now: SystemTime,
) -> anyhow::Result<Vec<&'a str>> {
    let mut made = Vec::new();
    for owner in owners {
        if bring_up_to_date(&dir.join(&owner.name), ca, &owner.subject, now)
            .with_context(|| format!("the certificate of {}", owner.name))?
        {
            made.push(owner.name.as_str());
        }
    }
    Ok(made)
}

/// Renews the certificates of this authority that lie in directories below its own and are due. Returns the names of the
/// renewed directories, and those of the others that have a certificate which cannot be renewed, with the reason.
///
/// # Errors
/// If the directory cannot be read.
pub(crate) fn renew(dir: &Path, ca: &Ca, now: SystemTime) -> anyhow::Result<Renewed> {
    let mut renewed = Renewed::default();
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut found = entries.collect::<Result<Vec<_>, _>>().with_context(|| dir.display().to_string())?;
    found.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in found {
        let (own_dir, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Ok(pem) = fs::read(own_dir.join(CERTIFICATE_FILE)) else { continue };
        let done = ca.certificate(&pem).and_then(|certificate| {
            if !own_dir.join(KEY_FILE).exists() && !own_dir.join(REQUEST_FILE).exists() {
                let what = own_dir.join(REQUEST_FILE).display().to_string();
                let why =
                    "it is gone, and its owner has the key: let the owner make a new request".to_owned();
                return Err(PkiError::Damaged { what, why });
            }
            bring_up_to_date(&own_dir, ca, &certificate.subject.normalised(), now)
        });
        match done {
            Ok(true) => renewed.names.push(name),
            Ok(false) => {}
            Err(error) => renewed.failed.push((name, error.to_string())),
        }
    }
    Ok(renewed)
}

/// What [`renew`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Renewed {
    pub(crate) names: Vec<String>,
    pub(crate) failed: Vec<(String, String)>,
}

/// Signs the request of an owner who keeps the key, and keeps the request for renewals.
///
/// # Errors
/// If a key is there already, or the request is damaged.
pub(crate) fn sign(
    dir: &Path,
    ca: &Ca,
    owner: &Owner,
    request_pem: &str,
    now: SystemTime,
) -> Result<(), PkiError> {
    let own_dir = dir.join(&owner.name);
    let key = own_dir.join(KEY_FILE);
    if key.exists() {
        let why = "its certificate was issued here; move the directory away to sign a request for it";
        return Err(PkiError::Damaged { what: key.display().to_string(), why: why.to_owned() });
    }
    let subject = with_hosts_of(fs::read(own_dir.join(CERTIFICATE_FILE)).ok(), ca, &owner.subject);
    // Signed first: a request that cannot be signed leaves everything as it is.
    let certificate = ca.sign(request_pem, &subject, now)?;
    let failed = |source| PkiError::File { path: own_dir.display().to_string(), source };
    private::create_dir(&own_dir).map_err(failed)?;
    write_signed(&own_dir, ca, request_pem, &certificate)
}

fn write_signed(dir: &Path, ca: &Ca, request_pem: &str, certificate_pem: &str) -> Result<(), PkiError> {
    write_secret(&dir.join(REQUEST_FILE), request_pem.as_bytes())?;
    write_secret(&dir.join(CA_FILE), ca.pem().as_bytes())?;
    write_secret(&dir.join(CERTIFICATE_FILE), certificate_pem.as_bytes())
}

/// Makes the certificate of a directory anew if it is missing, damaged or due, or has other names.
fn bring_up_to_date(dir: &Path, ca: &Ca, subject: &Subject, now: SystemTime) -> Result<bool, PkiError> {
    let pem = fs::read(dir.join(CERTIFICATE_FILE)).ok();
    let subject = with_hosts_of(pem.clone(), ca, subject);
    let request = fs::read_to_string(dir.join(REQUEST_FILE)).ok();
    let request = request.filter(|pem| pem.len() <= REQUEST_BYTES_MAX && !dir.join(KEY_FILE).exists());
    let has_parts = match &request {
        Some(_) => dir.join(CA_FILE).exists(),
        None => Credentials::read(dir).is_ok_and(|found| found.ca() == ca.id() && found.is_usable()),
    };
    let is_current = pem.and_then(|pem| ca.certificate(&pem).ok()).is_some_and(|certificate| {
        certificate.subject.normalised() == subject && !certificate.validity.is_due(now)
    });
    if has_parts && is_current {
        return Ok(false);
    }
    match request {
        Some(request) => write_signed(dir, ca, &request, &ca.sign(&request, &subject, now)?)?,
        None => ca.issue(&subject, now)?.write(dir)?,
    }
    Ok(true)
}

/// The subject, with the host names of this certificate if it has none of its own.
fn with_hosts_of(pem: Option<Vec<u8>>, ca: &Ca, subject: &Subject) -> Subject {
    let before = pem.and_then(|pem| ca.certificate(&pem).ok());
    match before {
        Some(before) if subject.hosts.is_empty() && before.subject.identity == subject.identity => {
            before.subject.normalised()
        }
        _ => subject.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use conclave_pki::Request;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY
    }

    fn of(servers: &[&str], name_servers: &[&str]) -> Result<Vec<Owner>, String> {
        let named = |names: &[&str]| names.iter().map(|name| Named::only(name)).collect::<Vec<_>>();
        owners(&named(servers), &named(name_servers), &[])
    }

    fn at(host: &str) -> Vec<Owner> {
        let named = Named { name: "a".to_owned(), hosts: vec![host.to_owned()] };
        owners(&[named], &[], &[]).unwrap()
    }

    #[test]
    fn a_certificate_whose_request_is_lost_gets_no_other_key() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(now()).unwrap();
        let owners = of(&["node1"], &[]).unwrap();
        let request = Request::new().unwrap();
        sign(dir.path(), &ca, &owners[0], request.pem(), now()).unwrap();
        let own = dir.path().join("node1");
        fs::remove_file(own.join(REQUEST_FILE)).unwrap();
        let done = renew(dir.path(), &ca, now() + 61 * DAY).unwrap();
        assert!(done.names.is_empty() && done.failed[0].1.contains("new request"), "{done:?}");
        assert!(!own.join(KEY_FILE).exists());
    }

    #[test]
    fn certificates_are_made_once_and_renewed_when_they_are_due() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(now()).unwrap();
        let servers: Vec<String> = (1..=10).map(|node| format!("node{node}")).collect();
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        let owners = of(&servers, &["ns1", "conclave-dns-20"]).unwrap();
        let made = |at| issue(dir.path(), &ca, &owners, at).unwrap().len();
        assert_eq!(made(now()), 12);
        assert_eq!(made(now() + 59 * DAY), 0);
        assert_eq!(made(now() + 61 * DAY), 12);
        assert_eq!(made(now()), 12, "a clock that was ahead is set right");
        assert_eq!(made(now()), 0);
        // node10 comes second in the order of the names.
        let identity = |name| Credentials::read(&dir.path().join(name)).unwrap().identity();
        assert_eq!(
            ["node1", "node10", "node2", "ns1", "conclave-dns-20"].map(identity),
            [
                Identity::Node(1),
                Identity::Node(2),
                Identity::Node(3),
                Identity::NameServer(1),
                Identity::NameServer(20)
            ]
        );
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(now()).unwrap();
        let owners = of(&["a", "b"], &[]).unwrap();
        let made = |ca: &Ca| issue(dir.path(), ca, &owners, now()).unwrap();
        assert_eq!(made(&ca), ["a", "b"]);
        // A key of another certificate, as after a crash between two files.
        fs::copy(dir.path().join("b/node.key"), dir.path().join("a/node.key")).unwrap();
        assert_eq!(made(&ca), ["a"]);
        fs::write(dir.path().join("b/node.pem"), "noise").unwrap();
        assert_eq!(made(&ca), ["b"]);
        assert_eq!(made(&Ca::create(now()).unwrap()), ["a", "b"]);
    }

    #[test]
    fn names_are_those_of_the_initial_cluster_and_of_directories() {
        let (chaos, alerts) = ([Named::only("chaos"), Named::only("other")], [Named::only("alerts")]);
        let kinds = [(&chaos[..], Identity::Chaos), (&alerts[..], Identity::Alerts)];
        let tools = owners(&[], &[], &kinds).unwrap();
        let of_tools: Vec<Identity> = tools.iter().map(|owner| owner.subject.identity).collect();
        assert_eq!(of_tools, [Identity::Chaos, Identity::Chaos, Identity::Alerts]);
        let twice = [Named::only("a")];
        assert!(owners(&twice, &[], &[(&twice, Identity::Alerts)]).unwrap_err().contains("named twice"));
        let dotted = of(&["n1.example.org", "n2"], &["ns1.example.org2"]).unwrap();
        assert_eq!(dotted[0].subject.identity, Identity::Node(1));
        assert_eq!(dotted[2].subject.identity, Identity::NameServer(2));
        for (servers, name_servers, why) in [
            (&["../n1"][..], &[][..], "name of a directory"),
            (&[".."], &[], "name of a directory"),
            (&["ca.key"], &[], "name of a directory"),
            (&[""], &[], "name of a directory"),
            (&["a", "a"], &[], "named twice"),
            (&["ns1"], &["ns1"], "named twice"),
            (&[], &["ns"], "end with its number"),
            (&[], &["1ns"], "end with its number"),
            (&[], &["ns1", "dns1"], "the same number"),
        ] {
            assert!(of(servers, name_servers).unwrap_err().contains(why), "{servers:?} {name_servers:?}");
        }
    }

    #[test]
    fn host_names_are_kept_until_others_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(now()).unwrap();
        let made = |owners: &[Owner]| issue(dir.path(), &ca, owners, now()).unwrap().len();
        let hosts = || {
            let pem = fs::read(dir.path().join("a/node.pem")).unwrap();
            ca.certificate(&pem).unwrap().subject.hosts
        };
        assert_eq!((made(&at("N1.example.org")), hosts()), (1, vec!["n1.example.org".to_owned()]));
        assert_eq!((made(&at("n1.example.org.")), made(&of(&["a"], &[]).unwrap())), (0, 0));
        assert_eq!((made(&at("10.0.0.1")), hosts()), (1, vec!["10.0.0.1".to_owned()]));
        let later = now() + 61 * DAY;
        assert_eq!(renew(dir.path(), &ca, later).unwrap().names, ["a"]);
        assert_eq!(hosts(), ["10.0.0.1"]);
    }

    #[test]
    fn every_certificate_of_the_authority_is_renewed_at_two_thirds_of_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, other) = (Ca::create(now()).unwrap(), Ca::create(now()).unwrap());
        issue(dir.path(), &ca, &of(&["a", "b"], &["ns1"]).unwrap(), now()).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        assert_eq!(renew(dir.path(), &ca, now() + 59 * DAY).unwrap(), Renewed::default());
        issue(dir.path(), &other, &of(&["foreign"], &[]).unwrap(), now()).unwrap();
        let renewed = renew(dir.path(), &ca, now() + 61 * DAY).unwrap();
        assert_eq!(renewed.names, ["a", "b", "ns1"]);
        let [(name, why)] = renewed.failed.as_slice() else { panic!("{renewed:?}") };
        assert!(name == "foreign" && why.contains("not issued by the authority"), "{renewed:?}");
        let identity = Credentials::read(&dir.path().join("ns1")).unwrap().identity();
        assert_eq!(identity, Identity::NameServer(1));
    }

    #[test]
    fn a_signed_request_is_renewed_for_the_same_key() {
        let (dir, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = Ca::create(now()).unwrap();
        let request = Request::in_dir(far.path()).unwrap();
        let owner = &at("n1.example.org")[0];
        let own_dir = dir.path().join("a");
        sign(dir.path(), &ca, owner, request.pem(), now()).unwrap();
        assert!(!own_dir.join("node.key").exists());
        let fits = || {
            for file in ["ca.pem", "node.pem"] {
                fs::copy(own_dir.join(file), far.path().join(file)).unwrap();
            }
            let found = Credentials::read(far.path()).unwrap();
            assert!(found.is_usable() && found.identity() == Identity::Node(1));
        };
        fits();
        assert_eq!(renew(dir.path(), &ca, now() + 59 * DAY).unwrap(), Renewed::default());
        assert_eq!(renew(dir.path(), &ca, now() + 61 * DAY).unwrap().names, ["a"]);
        fits();
        assert_eq!(issue(dir.path(), &ca, &of(&["a"], &[]).unwrap(), now() + 130 * DAY).unwrap(), ["a"]);
        fits();
        assert!(!own_dir.join("node.key").exists(), "the key stays where it is");

        let issued = &of(&["a", "b"], &[]).unwrap();
        issue(dir.path(), &ca, issued, now() + 130 * DAY).unwrap();
        let refused = sign(dir.path(), &ca, &issued[1], request.pem(), now()).unwrap_err();
        assert!(refused.to_string().contains("issued here"), "{refused}");
    }
}
