//! What the authority issues is what verifiers accept, and nothing else is.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conclave_net::Credentials;
use conclave_pki::limits::CERTIFICATE_LIFETIME;
use conclave_pki::{Ca, CaId, Identity, PkiError, Request, Subject, Validity};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[expect(clippy::disallowed_methods, reason = "verifiers compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn node(id: u64, hosts: &[&str]) -> Subject {
    Subject { identity: Identity::Node(id), hosts: hosts.iter().map(|&host| host.to_owned()).collect() }
}

/// Verifies as rustls does.
fn verify(ca: &Ca, pem: &str, usage: KeyUsage, at: SystemTime) -> Result<Vec<String>, webpki::Error> {
    let authority = CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap();
    let own = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let own = EndEntityCert::try_from(&own)?;
    let anchor = anchor_from_trusted_cert(&authority)?;
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    own.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], at, usage, None, None)?;
    Ok(own.valid_dns_names().map(str::to_owned).collect())
}

#[test]
fn a_chain_verifies_and_carries_its_names() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    let issued = ca.issue(&node(3, &["N3.example.org", "127.0.0.1", "::1"]), now).unwrap();
    let own_name = Identity::Node(3).name(ca.id()).unwrap();
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        let names: BTreeSet<_> =
            verify(&ca, &issued.certificate_pem, usage, now).unwrap().into_iter().collect();
        assert_eq!(
            names,
            BTreeSet::from([own_name.clone(), ca.id().pages_name(), "n3.example.org".to_owned()])
        );
    }
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let certificate = EndEntityCert::try_from(&der).unwrap();
    for host in ["127.0.0.1", "::1", "n3.example.org", own_name.as_str()] {
        certificate.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).unwrap();
    }
    let other = ServerName::try_from("n4.example.org").unwrap();
    assert!(certificate.verify_is_valid_for_subject_name(&other).is_err());
}

#[test]
fn another_authority_and_another_time_are_refused() {
    let now = now();
    let (ca, other) = (Ca::create(now).unwrap(), Ca::create(now).unwrap());
    assert_ne!(ca.id(), other.id());
    let issued = ca.issue(&node(1, &[]), now).unwrap();
    let check = |ca, at| verify(ca, &issued.certificate_pem, KeyUsage::server_auth(), at);
    check(&ca, now + CERTIFICATE_LIFETIME - DAY).unwrap();
    assert!(matches!(check(&other, now), Err(webpki::Error::UnknownIssuer)));
    assert!(matches!(check(&ca, now + CERTIFICATE_LIFETIME + DAY), Err(webpki::Error::CertExpired { .. })));
    assert!(matches!(check(&ca, now - DAY), Err(webpki::Error::CertNotValidYet { .. })));
}

#[test]
fn a_tool_cannot_act_as_a_server() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    let tool = ca.issue(&Subject { identity: Identity::Tool, hosts: Vec::new() }, now).unwrap();
    verify(&ca, &tool.certificate_pem, KeyUsage::client_auth(), now).unwrap();
    assert!(verify(&ca, &tool.certificate_pem, KeyUsage::server_auth(), now).is_err());
}

#[test]
fn chaos_controllers_and_receivers_of_alerts_serve_pages_and_cannot_act_as_members() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    for identity in [Identity::Chaos, Identity::Alerts] {
        let issued = ca.issue(&Subject { identity, hosts: Vec::new() }, now).unwrap();
        verify(&ca, &issued.certificate_pem, KeyUsage::server_auth(), now).unwrap();
        assert!(verify(&ca, &issued.certificate_pem, KeyUsage::client_auth(), now).is_err());
    }
}

#[test]
fn the_validity_of_a_certificate_can_be_read_back() {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let issued = Ca::create(now).unwrap().issue(&node(1, &[]), now).unwrap();
    let validity = Validity::of_pem(issued.certificate_pem.as_bytes()).unwrap();
    assert_eq!(validity.not_after, now + CERTIFICATE_LIFETIME);
    assert!(validity.not_before < now);
    assert!(!validity.is_due(now + 59 * DAY));
    assert!(validity.is_due(now + 60 * DAY));
    assert!(matches!(Validity::of_pem(b"nothing"), Err(PkiError::Damaged { .. })));
}

#[test]
fn a_certificate_is_read_back_by_its_own_authority_only() {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (ca, other) = (Ca::create(now).unwrap(), Ca::create(now).unwrap());
    for identity in
        [Identity::Node(3), Identity::NameServer(1), Identity::Tool, Identity::Chaos, Identity::Alerts]
    {
        let hosts = ["N3.example.org.", "127.0.0.1", "FD00::1", "n3.example.org"].map(str::to_owned);
        let subject = Subject { identity, hosts: hosts.to_vec() }.normalised();
        assert_eq!(subject.hosts, ["127.0.0.1", "fd00::1", "n3.example.org"]);
        let issued = ca.issue(&subject, now).unwrap();
        let read = ca.certificate(issued.certificate_pem.as_bytes()).unwrap();
        assert_eq!(read.subject.normalised(), subject);
        assert_eq!(read.validity, Validity::of_pem(issued.certificate_pem.as_bytes()).unwrap());
        let foreign = other.certificate(issued.certificate_pem.as_bytes()).unwrap_err();
        assert!(foreign.to_string().contains("not issued by the authority"), "{foreign}");
        // A name of the first authority in a certificate of another one.
        let mut der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap().to_vec();
        let at = der.windows(7).position(|window| window == b"conclav").unwrap();
        der[at] = b'C';
        let text = data_encoding::BASE64.encode(&der);
        let forged = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        assert!(matches!(ca.certificate(forged.as_bytes()), Err(PkiError::Damaged { .. })));
    }
    assert!(ca.certificate(ca.pem().as_bytes()).is_err(), "an authority is no member");
    assert!(ca.certificate(b"noise").is_err());
}

#[test]
fn a_request_keeps_its_key_in_its_directory() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("tls");
    let first = Request::in_dir(&dir).unwrap();
    let key = dir.join("node.key");
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Request::in_dir(&dir).unwrap();
    assert_eq!(again.key_pem(), first.key_pem());
    assert_eq!(fs::read_to_string(&key).unwrap(), first.key_pem());
    let signed = ca.sign(again.pem(), &node(2, &[]), now).unwrap();
    Credentials::from_pem(ca.pem().as_bytes(), signed.as_bytes(), first.key_pem().as_bytes()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Request::in_dir(&dir), Err(PkiError::Exposed(_))));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "noise").unwrap();
    assert!(matches!(Request::in_dir(&dir), Err(PkiError::Damaged { .. })));
}

#[test]
fn a_clock_beyond_all_calendars_makes_a_certificate_nevertheless() {
    let latest = UNIX_EPOCH.checked_add(Duration::from_secs(u64::MAX >> 2)).unwrap();
    for now in [UNIX_EPOCH, latest] {
        Ca::create(now).unwrap().issue(&node(1, &[]), now).unwrap();
    }
}

#[test]
fn a_signing_request_gets_the_names_of_its_subject() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    let request = Request::new().unwrap();
    let signed = ca.sign(request.pem(), &node(9, &["n9"]), now).unwrap();
    let names = verify(&ca, &signed, KeyUsage::server_auth(), now).unwrap();
    assert_eq!(names, [Identity::Node(9).name(ca.id()).unwrap(), ca.id().pages_name(), "n9".to_owned()]);
    assert!(request.key_pem().contains("PRIVATE KEY"));
    assert!(!request.pem().contains("PRIVATE KEY"));
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    let request = Request::new().unwrap();
    let mut lines: Vec<String> = request.pem().lines().map(str::to_owned).collect();
    // The last line but one is the end of the signature, the third is in the key.
    for line in [2, lines.len() - 2] {
        let original = lines[line].clone();
        let flipped = if original.starts_with('A') { "B" } else { "A" };
        lines[line].replace_range(0..1, flipped);
        let forged = lines.join("\n");
        assert!(matches!(ca.sign(&forged, &node(1, &[]), now), Err(PkiError::Damaged { .. })), "line {line}");
        lines[line] = original;
    }
    ca.sign(&lines.join("\n"), &node(1, &[]), now).unwrap();
    for noise in [String::new(), "x".repeat(100_000), ca.pem().to_owned()] {
        assert!(matches!(ca.sign(&noise, &node(1, &[]), now), Err(PkiError::Damaged { .. })));
    }
}

#[test]
fn host_names_cannot_be_names_of_the_cluster() {
    let now = now();
    let ca = Ca::create(now).unwrap();
    let own = Identity::Node(1).name(ca.id()).unwrap();
    for host in [own.as_str(), &own.to_uppercase(), "x.conclave.", "conclave", "two words", "", "a:1"] {
        assert!(matches!(ca.issue(&node(2, &[host]), now), Err(PkiError::Host(_))), "{host:?}");
    }
    let many = vec!["a.example.org"; 33];
    assert!(matches!(ca.issue(&node(2, &many), now), Err(PkiError::Hosts)));
}

#[test]
fn an_authority_is_read_back_and_never_replaced() {
    let now = now();
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("a/pki");
    let ca = Ca::create(now).unwrap();
    ca.write(&pki).unwrap();
    assert_eq!(fs::metadata(&pki).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&pki).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    assert!(matches!(Ca::create(now).unwrap().write(&pki), Err(PkiError::Exists(_))));
    let read = Ca::read(&pki).unwrap();
    assert_eq!((read.id(), read.pem()), (ca.id(), ca.pem()));
    let issued = read.issue(&node(1, &[]), now).unwrap();
    verify(&ca, &issued.certificate_pem, KeyUsage::server_auth(), now).unwrap();
    fs::write(pki.join("ca.pem"), "").unwrap();
    let (again, made) = Ca::read_or_create(&pki, now).unwrap();
    assert_eq!((again.id(), made), (ca.id(), false));
    assert_eq!(fs::read_to_string(pki.join("ca.pem")).unwrap(), ca.pem());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Ca::create(now()).unwrap().write(dir.path()).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(dir.path().join("ca.key"), Permissions::from_mode(mode)).unwrap();
        let error = Ca::read(dir.path()).unwrap_err();
        assert!(matches!(error, PkiError::Exposed(_)), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    fs::set_permissions(dir.path().join("ca.key"), Permissions::from_mode(0o400)).unwrap();
    Ca::read(dir.path()).unwrap();
}

#[test]
fn a_damaged_authority_is_an_error_with_the_file_in_it() {
    let now = now();
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    Ca::create(now).unwrap().write(&one).unwrap();
    Ca::create(now).unwrap().write(&two).unwrap();
    let split = |path: &std::path::Path| {
        let text = fs::read_to_string(path.join("ca.key")).unwrap();
        let at = text.find("-----BEGIN CERTIFICATE").unwrap();
        (text[..at].to_owned(), text[at..].to_owned())
    };
    let ((key, certificate), (_, other)) = (split(&one), split(&two));
    for content in [String::new(), key.clone(), certificate, format!("{key}{other}")] {
        fs::write(one.join("ca.key"), &content).unwrap();
        let error = Ca::read(&one).unwrap_err();
        assert!(matches!(error, PkiError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
}

#[test]
fn processes_that_begin_at_the_same_time_get_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let begin = std::sync::Barrier::new(8);
    let ids: BTreeSet<CaId> = std::thread::scope(|scope| {
        let make = || {
            begin.wait();
            Ca::read_or_create(dir.path(), now()).unwrap().0.id()
        };
        let running: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1);
}
