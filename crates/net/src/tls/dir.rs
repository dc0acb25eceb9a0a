//! A directory of credentials that is followed while the process runs.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{MissedTickBehavior, interval};

use super::public::PublicCertificate;
use super::{Callers, Credentials, Expect, Plain, PublicFiles, TlsClient, TlsError, TlsServer, Trust};
use crate::limits::CREDENTIALS_READ_INTERVAL;
use crate::{CaId, Identity};

/// A directory of credentials, and every TLS configuration that was made with them: when the files are renewed, so are the
/// configurations.
#[derive(Debug)]
pub struct TlsDir {
    dir: PathBuf,
    ca: CaId,
    identity: Identity,
    /// The files of a certificate for a public name, beside those of the directory.
    public: Option<PublicFiles>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    credentials: Credentials,
    public: Option<PublicCertificate>,
    servers: Vec<TlsServer>,
    clients: Vec<TlsClient>,
}

impl TlsDir {
    /// Reads the credentials of a directory. Blocks.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn read(dir: &Path) -> Result<Self, TlsError> {
        Self::read_with_public(dir, None)
    }

    /// As [`TlsDir::read`], with a certificate for a public name, which listeners for [`Callers::Anybody`] and
    /// [`Callers::Browsers`] show to those who ask for this name. Behind it stands the authority of the cluster. Blocks.
    ///
    /// # Errors
    /// As [`Credentials::read`], for either.
    pub fn read_with_public(dir: &Path, files: Option<PublicFiles>) -> Result<Self, TlsError> {
        let credentials = Credentials::read(dir)?;
        let public = files.as_ref().map(PublicCertificate::read).transpose()?;
        let (ca, identity) = (credentials.ca(), credentials.identity());
        let current = Mutex::new(Current { credentials, public, servers: Vec::new(), clients: Vec::new() });
        Ok(Self { dir: dir.to_owned(), ca, identity, public: files, current })
    }

    /// The authority of the cluster.
    #[must_use]
    pub fn ca(&self) -> CaId {
        self.ca
    }

    /// The owner of the certificate.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// When the certificate in use expires, seconds since 1970; `None` if the certificate does not say.
    #[must_use]
    pub fn expiry(&self) -> Option<u64> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).credentials.expiry()
    }

    /// When the certificate for a public name in use expires, seconds since 1970; `None` if there is none, or it does not say.
    #[must_use]
    pub fn public_expiry(&self) -> Option<u64> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).public.as_ref()?.expiry()
    }

    /// The TLS of a listener of this process.
    ///
    /// # Errors
    /// If the key does not belong to the certificate.
    pub fn server(&self, callers: Callers, plain: Plain) -> Result<TlsServer, TlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let server = TlsServer::with_public(&current.credentials, current.public.as_ref(), callers, plain)?;
        current.servers.retain(TlsServer::is_shared);
        current.servers.push(server.clone());
        Ok(server)
    }

    /// The TLS of connections to servers of the cluster.
    ///
    /// # Errors
    /// If the key does not belong to the certificate.
    pub fn client(&self, expect: Expect) -> Result<TlsClient, TlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let client = TlsClient::new(Trust::Cluster(self.ca, expect), Some(&current.credentials))?;
        current.clients.retain(TlsClient::is_shared);
        current.clients.push(client.clone());
        Ok(client)
    }

    /// Looks at the files until `stop`, and uses a renewed certificate for new connections.
    pub async fn follow(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut ticks = interval(CREDENTIALS_READ_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = &mut stop => return,
            }
            let this = Arc::clone(&self);
            // One of the two is renewed although the other one is damaged.
            let look = move || [("cluster", this.reload()), ("public", this.reload_public())];
            match tokio::task::spawn_blocking(look).await {
                Ok(looks) => looks.into_iter().for_each(|(certificate, look)| match look {
                    Ok(true) => tracing::info!(certificate, "certificate renewed"),
                    Ok(false) => {}
                    // A writer may be between two files; the next look finds both.
                    Err(error) => {
                        tracing::warn!(certificate, %error, "certificate files rejected, keeping the certificate in use")
                    }
                }),
                Err(error) => {
                    tracing::warn!(%error, "certificate files not read, keeping the certificate in use")
                }
            }
        }
    }

    /// Reads the files of the certificate for a public name again; whether they were new. Blocks.
    ///
    /// # Errors
    /// If the files cannot be used; then nothing changes.
    pub fn reload_public(&self) -> Result<bool, TlsError> {
        let Some(files) = &self.public else { return Ok(false) };
        let found = PublicCertificate::read(files)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.public.as_ref() == Some(&found) {
            return Ok(false);
        }
        for server in &current.servers {
            server.reload_with_public(&current.credentials, Some(&found))?;
        }
        current.public = Some(found);
        Ok(true)
    }

    /// Reads the files again; whether they were new. Blocks.
    ///
    /// # Errors
    /// If the files cannot be used, or belong to another authority or owner; then nothing changes.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let found = Credentials::read(&self.dir)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.credentials == found {
            return Ok(false);
        }
        if found.ca() != self.ca {
            return Err(TlsError::Foreign(self.ca));
        }
        if found.identity() != self.identity {
            return Err(TlsError::OtherOwner { found: found.identity(), before: self.identity });
        }
        // A key that does not belong to the certificate must not be taken over by some and refused by others.
        TlsServer::new(&found, Callers::Anybody, Plain::Refuse)?;
        for server in &current.servers {
            server.reload_with_public(&found, current.public.as_ref())?;
        }
        for client in &current.clients {
            client.reload(&found)?;
        }
        current.credentials = found;
        Ok(true)
    }
}
