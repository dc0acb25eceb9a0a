//! The authority and what it issues.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conclave_net::{CA_FILE, CERTIFICATE_FILE, CaId, Identity, KEY_FILE, pem_problem, read_secret};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::files::{failed, make_dir, write_new_secret, write_secret};
use crate::limits::{
    CA_LIFETIME, CERTIFICATE_LIFETIME, CLOCK_ERROR, CLOCK_LATEST, FILE_BYTES_MAX, HOSTS_MAX,
};
use crate::request::RequestedKey;
use crate::{PkiError, Request, Validity, der};

/// The file with the authority's private key and certificate: one file, so that they are written in one step.
const CA_KEY_FILE: &str = "ca.key";
/// The domain of the names that only the authority gives.
const OWN_DOMAIN: &str = ".conclave";

/// The certificate authority of a cluster.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    id: CaId,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The owner of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The one name of the cluster that the certificate carries.
    pub identity: Identity,
    /// Host names and IP addresses under which others reach the owner.
    pub hosts: Vec<String>,
}

/// A certificate of the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The owner, with the host names and addresses of the certificate.
    pub subject: Subject,
    /// The time during which it is valid.
    pub validity: Validity,
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Issued {
    /// The authority's certificate, in PEM.
    pub ca_pem: String,
    /// The certificate, in PEM.
    pub certificate_pem: String,
    /// The private key, in PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes an authority with a new key, in memory.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn create(now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(CaId::of(&key.subject_public_key_info()));
        valid(&mut params, now, CA_LIFETIME);
        let certificate = params.self_signed(&key)?;
        Ok(Self::of(key, certificate.pem()))
    }

    fn of(key: KeyPair, pem: String) -> Self {
        let id = CaId::of(&key.subject_public_key_info());
        Self { issuer: Issuer::new(params(id), key), pem, id }
    }

    /// The digest of the authority's public key.
    #[must_use]
    pub fn id(&self) -> CaId {
        self.id
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the authority into a directory, which is made with mode 0700 if it is not there: `ca.key` with the key and
    /// the certificate, mode 0600, in one step, and a copy of the certificate in `ca.pem`.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if there is an authority in the directory already; it is left alone.
    pub fn write(&self, dir: &Path) -> Result<(), PkiError> {
        make_dir(dir)?;
        let content = format!("{}{}", self.issuer.key().serialize_pem(), self.pem);
        write_new_secret(&dir.join(CA_KEY_FILE), content.as_bytes())?;
        write_secret(&dir.join(CA_FILE), self.pem.as_bytes())
    }

    /// Reads the authority of a directory.
    ///
    /// # Errors
    /// [`PkiError::Exposed`] if other users can read the key; see [`PkiError`] for the others.
    pub fn read(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(CA_KEY_FILE);
        let content = read_secret(&path, FILE_BYTES_MAX).map_err(|error| match error {
            conclave_net::SecretError::Exposed(exposed) => PkiError::Exposed(exposed),
            conclave_net::SecretError::File(source) => failed(&path)(source),
        })?;
        let damaged = |why: String| PkiError::Damaged { what: path.display().to_string(), why };
        let key = PrivateKeyDer::from_pem_slice(&content).map_err(|error| damaged(pem_problem(&error)))?;
        let key = KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| damaged(error.to_string()))?;
        let certificate =
            CertificateDer::from_pem_slice(&content).map_err(|error| damaged(pem_problem(&error)))?;
        let found = CaId::of_certificate(&certificate);
        if found != Some(CaId::of(&key.subject_public_key_info())) {
            return Err(damaged("its certificate belongs to another key".to_owned()));
        }
        let text = String::from_utf8(content).map_err(|_| damaged("it is not text".to_owned()))?;
        let pem = text.find("-----BEGIN CERTIFICATE-----").and_then(|at| text.get(at..)).unwrap_or_default();
        Ok(Self::of(key, pem.to_owned()))
    }

    /// Reads the authority of a directory, or makes one there. The second value says whether it was made. If another
    /// process makes one at the same time, both return the same authority.
    ///
    /// # Errors
    /// As [`Ca::read`] and [`Ca::write`].
    pub fn read_or_create(dir: &Path, now: SystemTime) -> Result<(Self, bool), PkiError> {
        if !dir.join(CA_KEY_FILE).try_exists().map_err(failed(dir))? {
            let made = Self::create(now)?;
            match made.write(dir) {
                Ok(()) => return Ok((made, true)),
                Err(PkiError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let ca = Self::read(dir)?;
        ca.restore_copy(dir)?;
        Ok((ca, false))
    }

    /// Writes `ca.pem` in the directory of this authority again if it is not what it should be: the process that made the
    /// key may have ended before it wrote the copy.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn restore_copy(&self, dir: &Path) -> Result<(), PkiError> {
        let path = dir.join(CA_FILE);
        match fs::read(&path) {
            Ok(content) if content == self.pem.as_bytes() => Ok(()),
            _ => write_secret(&path, self.pem.as_bytes()),
        }
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// [`PkiError::Host`] or [`PkiError::Hosts`], if the subject's host names cannot be in a certificate.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Issued, PkiError> {
        let request = Request::new()?;
        let certificate_pem = self.sign(request.pem(), subject, now)?;
        Ok(Issued { ca_pem: self.pem.clone(), certificate_pem, key_pem: request.key_pem() })
    }

    /// Signs a request: the certificate, in PEM. The names are those of `subject`, never those of the request.
    ///
    /// # Errors
    /// [`PkiError::Damaged`] if the request is not a P-256 request signed with its own key; as [`Ca::issue`] else.
    pub fn sign(&self, request_pem: &str, subject: &Subject, now: SystemTime) -> Result<String, PkiError> {
        let key = RequestedKey::of(request_pem)?;
        let mut params = CertificateParams::default();
        valid(&mut params, now, CERTIFICATE_LIFETIME);
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names(subject, self.id)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (client, server) = (ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
        params.extended_key_usages = match subject.identity {
            Identity::Node(_) | Identity::NameServer(_) => vec![client, server],
            Identity::Chaos | Identity::Alerts => vec![server],
            Identity::Tool | Identity::None => vec![client],
        };
        Ok(params.signed_by(&key, &self.issuer)?.pem())
    }

    /// Reads a certificate that this authority issued, also one that has expired.
    ///
    /// # Errors
    /// [`PkiError::Damaged`] if it is no certificate, or not of this authority.
    pub fn certificate(&self, pem: &[u8]) -> Result<Certificate, PkiError> {
        let damaged = |why: String| PkiError::Damaged { what: CERTIFICATE_FILE.to_owned(), why };
        let certificate =
            CertificateDer::from_pem_slice(pem).map_err(|error| damaged(pem_problem(&error)))?;
        let foreign = || damaged(format!("it was not issued by the authority {}", self.id));
        let (validity, names) =
            der::issued(&certificate, self.issuer.key().der_bytes()).ok_or_else(foreign)?;
        let identity = names.iter().find_map(|name| Identity::of_name(name, self.id)).ok_or_else(foreign)?;
        let own = identity.name(self.id).into_iter().chain([self.id.pages_name()]).collect::<Vec<_>>();
        let hosts = names.into_iter().filter(|name| !own.contains(name)).collect();
        Ok(Certificate { subject: Subject { identity, hosts }, validity })
    }
}

impl Subject {
    /// The same owner with its host names and addresses in their only form, each once.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        for host in &mut self.hosts {
            *host = match host.parse::<IpAddr>() {
                Ok(address) => address.to_string(),
                Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
            };
        }
        self.hosts.sort();
        self.hosts.dedup();
        self
    }
}

impl Issued {
    /// Writes `ca.pem`, `node.key` and `node.pem` into a directory, which is made with mode 0700 if it is not there. The
    /// files have mode 0600 and each is replaced in one step, the certificate last. A process that reads between two
    /// steps finds a key that does not belong to the certificate, refuses the pair and reads again later.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn write(&self, dir: &Path) -> Result<(), PkiError> {
        make_dir(dir)?;
        write_secret(&dir.join(CA_FILE), self.ca_pem.as_bytes())?;
        write_secret(&dir.join(KEY_FILE), self.key_pem.as_bytes())?;
        write_secret(&dir.join(CERTIFICATE_FILE), self.certificate_pem.as_bytes())
    }
}

/// The parameters of an authority's certificate follow from its key, so that they need not be read from a file.
fn params(id: CaId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.authority_name());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn valid(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    // Certificates end at the year 9999; a clock that shows such a year is wrong, and is no reason to end the process.
    let now = now.clamp(UNIX_EPOCH + CLOCK_ERROR, UNIX_EPOCH + CLOCK_LATEST);
    params.not_before = (now - CLOCK_ERROR).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(SerialNumber::from(u64::from_be_bytes(rand::random()) >> 1));
}

fn names(subject: &Subject, ca: CaId) -> Result<Vec<SanType>, PkiError> {
    if subject.hosts.len() > HOSTS_MAX {
        return Err(PkiError::Hosts);
    }
    let pages = match subject.identity {
        Identity::Node(_) | Identity::NameServer(_) | Identity::Chaos | Identity::Alerts => {
            Some(ca.pages_name())
        }
        Identity::Tool | Identity::None => None,
    };
    let own = subject.identity.name(ca).into_iter().chain(pages);
    let own = own.map(|name| Ok(SanType::DnsName(name.try_into()?)));
    own.chain(subject.hosts.iter().map(|host| host_name(host))).collect()
}

fn host_name(host: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let refused = || PkiError::Host(host.to_owned());
    let lower = host.to_ascii_lowercase();
    let plain = lower.strip_suffix('.').unwrap_or(&lower);
    let valid = rustls_pki_types::DnsName::try_from(plain).is_ok();
    if !valid || plain.ends_with(OWN_DOMAIN) || plain == OWN_DOMAIN.trim_start_matches('.') {
        return Err(refused());
    }
    Ok(SanType::DnsName(plain.to_owned().try_into().map_err(|_| refused())?))
}
