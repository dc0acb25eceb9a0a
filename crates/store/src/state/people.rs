//! Reading accounts and sessions of the meta shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_core::record::{Credential, Invite, SessionRecord, UserRecord};
use conclave_core::{SessionId, UserId};

use super::ShardState;
use super::key::{self, Key, kind};
use super::row::Row;
use crate::error::ReadError;
use crate::lock;

impl ShardState {
    /// A session.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn session(self: &Arc<Self>, session: SessionId) -> Result<Option<SessionRecord>, ReadError> {
        Ok(match self.row(Key::Session(session)).await? {
            Some(Row::Session(session)) => Some(session),
            _ => None,
        })
    }

    /// The user of this name.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn user_named(self: &Arc<Self>, name: &str) -> Result<Option<UserRecord>, ReadError> {
        Ok(match self.row(Key::User(name.to_owned())).await? {
            Some(Row::User(user)) => Some(user),
            _ => None,
        })
    }

    /// The user with this id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn user(self: &Arc<Self>, user: UserId) -> Result<Option<UserRecord>, ReadError> {
        match self.row(Key::UserName(user)).await? {
            Some(Row::Name(name)) => self.user_named(&name).await,
            _ => Ok(None),
        }
    }

    /// A user's password.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn credential(self: &Arc<Self>, user: UserId) -> Result<Option<Credential>, ReadError> {
        Ok(match self.row(Key::Credential(user)).await? {
            Some(Row::Credential(credential)) => Some(credential),
            _ => None,
        })
    }

    /// The invite with this digest.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn invite(self: &Arc<Self>, digest: [u8; 16]) -> Result<Option<Invite>, ReadError> {
        Ok(match self.row(Key::Invite(digest)).await? {
            Some(Row::Invite(invite)) if invite.uses > 0 => Some(invite),
            _ => None,
        })
    }

    /// The listed open sessions of a user, by id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn sessions_of(self: &Arc<Self>, user: UserId) -> Result<Vec<SessionRecord>, ReadError> {
        let Some(Row::OpenSessions(list)) = self.row(Key::OpenSessions(user)).await? else {
            return Ok(Vec::new());
        };
        let keys = list.iter().map(|open| Key::Session(open.session)).collect();
        let rows = self.rows(keys).await?;
        let session = |row| match row {
            Some(Row::Session(session)) => Some(session),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(session).collect())
    }

    /// At most `limit` users whose names begin with `prefix` and come after `after`, by name.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn users_page(
        self: &Arc<Self>,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<UserRecord>, ReadError> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        self.block(move |state| {
            state.stable(|| {
                let fits = |name: &str| name.starts_with(&prefix) && name > after.as_str();
                // Unwritten users are read first: those that are written meanwhile are then found in the file as well.
                let mut page: BTreeMap<String, UserRecord> = {
                    let inner = lock(&state.inner);
                    let users = inner.rows.unwritten(inner.written).filter_map(|(_, row)| match row {
                        Row::User(user) if fits(&user.name) => Some((user.name.clone(), user.clone())),
                        _ => None,
                    });
                    users.collect()
                };
                let of_names = Key::User(prefix.clone()).encode(state.shard);
                let behind = Key::User(format!("{after}\0")).encode(state.shard);
                let end = key::end_of(&of_names);
                let start = of_names.max(behind);
                if start < end {
                    for row in state.shared.db.read()?.range(&start..&end)?.take(limit) {
                        let (_, value) = row?;
                        if let Some(Row::User(user)) = Row::decode(&Key::User(String::new()), &value)? {
                            page.entry(user.name.clone()).or_insert(user);
                        }
                    }
                }
                Ok(page.into_values().take(limit).collect())
            })
        })
        .await
    }

    /// At most `limit` sessions of which shards must still hear that they have ended, by id. Those of the last moments may
    /// be missing.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn endings(self: &Arc<Self>, limit: usize) -> Result<Vec<SessionId>, ReadError> {
        let written = self.written_page(key::with_kind(self.shard, kind::ENDING), limit, |key, _| {
            key::parse_number(key).map(SessionId)
        });
        let written = written.await?;
        let inner = lock(&self.inner);
        let is_gone = |session: &SessionId| inner.rows.get(&Key::Ending(*session)) == Some(&Row::Gone);
        Ok(written.into_iter().filter(|session| !is_gone(session)).collect())
    }

    /// At most `limit` sessions with ids above `after`, by id. The changes of the last moments may be missing.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn sessions_page(
        self: &Arc<Self>,
        after: SessionId,
        limit: usize,
    ) -> Result<Vec<SessionRecord>, ReadError> {
        let start = Key::Session(SessionId(after.0.saturating_add(1))).encode(self.shard);
        self.written_page(start, limit, |_, value| match Row::decode(&Key::Session(SessionId(0)), value) {
            Ok(Some(Row::Session(session))) => Some(session),
            _ => None,
        })
        .await
    }

    /// At most `limit` invites, by digest, behind this one. The changes of the last moments may be missing.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn invites_page(
        self: &Arc<Self>,
        after: Option<[u8; 16]>,
        limit: usize,
    ) -> Result<Vec<Invite>, ReadError> {
        let mut start = match after {
            Some(after) => Key::Invite(after).encode(self.shard),
            None => key::with_kind(self.shard, kind::INVITE),
        };
        if after.is_some() {
            start.push(0);
        }
        self.written_page(start, limit, |_, value| match Row::decode(&Key::Invite([0; 16]), value) {
            Ok(Some(Row::Invite(invite))) => Some(invite),
            _ => None,
        })
        .await
    }

    /// Rows of the file from a key on, of its kind alone.
    async fn written_page<T: Send + 'static>(
        self: &Arc<Self>,
        start: Vec<u8>,
        limit: usize,
        decode: impl Fn(&[u8], &[u8]) -> Option<T> + Send + 'static,
    ) -> Result<Vec<T>, ReadError> {
        self.block(move |state| {
            state.stable(|| {
                let end = key::end_of(&start[..=key::SHARD]);
                let rows = state.shared.db.read()?.range(&start..&end)?.take(limit);
                let decoded = rows.map(|row| row.map(|(key, value)| decode(&key, &value)));
                decoded.filter_map(Result::transpose).collect()
            })
        })
        .await
    }
}
