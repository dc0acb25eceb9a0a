//! Durable outboxes that no client uses now.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::error::{ConnectError, OutboxError};
use crate::journal::Recovered;
use crate::storage::{self, OutboxDir, blocking};
use crate::types::{Content, Pending};

/// The content of a durable outbox on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The user whose session it is; empty if there is no session.
    pub user: String,
    /// Id of the cluster that opened the session.
    pub cluster_id: String,
    /// The session's id; 0 if there is none.
    pub session_id: u64,
    /// The requests without a known outcome, in order within each room. Some of them may have been decided already: the
    /// file need not have the latest outcomes.
    pub pending: Vec<Pending>,
    /// The positions of a consumer, by room id.
    pub positions: BTreeMap<u64, u64>,
}

impl Kept {
    /// Reads the outbox in a directory without a lock, also while a client uses it. An empty result if there is none.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged.
    pub async fn read(dir: &Path) -> Result<Self, ConnectError> {
        let dir = dir.to_owned();
        Ok(blocking(move || read(&dir)).await??)
    }

    /// Forgets the session of an outbox in which nothing waits. A consumer's positions stay. Returns whether nothing waited.
    ///
    /// # Errors
    /// If a client uses the outbox, or it cannot be read or written.
    pub async fn forget_session(dir: &Path) -> Result<bool, ConnectError> {
        let dir = dir.to_owned();
        let forget = move || -> Result<bool, OutboxError> {
            if !dir.join("outbox").exists() {
                return Ok(true);
            }
            let (mut opened, recovered) = OutboxDir::open(&dir)?;
            let mut requests = recovered.rooms.values().flat_map(|room| &room.requests);
            if requests.any(|(_, settled)| !settled) {
                return Ok(false);
            }
            opened.clear(&recovered).map(|()| true)
        };
        Ok(blocking(forget).await??)
    }

    /// Gives up the requests of an outbox: its session is never used again, so nothing else gets their numbers. A consumer's
    /// positions stay. Returns what was given up; a request that had been sent before may have been decided all the same.
    ///
    /// # Errors
    /// If a client uses the outbox, or it cannot be read or written.
    pub async fn drop_requests(dir: &Path) -> Result<Self, ConnectError> {
        let dir = dir.to_owned();
        let drop = move || -> Result<Self, OutboxError> {
            if !dir.join("outbox").exists() {
                return Ok(Self::default());
            }
            let (mut opened, recovered) = OutboxDir::open(&dir)?;
            opened.clear(&recovered)?;
            Ok(of(recovered))
        };
        Ok(blocking(drop).await??)
    }
}

fn read(dir: &Path) -> Result<Kept, OutboxError> {
    let path = dir.join("outbox");
    match fs::read(&path) {
        Ok(bytes) => storage::recover(&path, &bytes).map(of),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
        Err(source) => Err(OutboxError::Io { path, source }),
    }
}

fn of(recovered: Recovered) -> Kept {
    let session = recovered.session.unwrap_or_default();
    let mut pending = Vec::new();
    for (room, requests) in recovered.rooms {
        for (request, _) in requests.requests.into_iter().filter(|(_, settled)| !settled) {
            let request_no = request.request_no;
            pending.extend(request.content.map(|content| Pending {
                room: room.clone(),
                request_no,
                content: Content::from_wire(content),
            }));
        }
    }
    Kept {
        user: session.user,
        cluster_id: session.cluster_id,
        session_id: session.session_id,
        pending,
        positions: recovered.positions,
    }
}
