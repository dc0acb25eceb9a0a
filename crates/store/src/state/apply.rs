//! Applying commands.
//!
//! A batch of entries is applied under one lock. The rows that it needs and that are not in memory are read from the
//! file beforehand, without the lock and on a thread for blocking work (see [`ShardState::load_rows`]): neither the
//! async runtime nor the readers of the shard wait for the disk. [`conclave_core::apply`] makes the decisions; this
//! module stores its changes, and [`super::view`] is what it reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use conclave_core::access::Member;
use conclave_core::limits::{HISTORY_BLOCK_BYTES_MAX, UNWRITTEN_BYTES_MAX};
use conclave_core::meta::direct_name;
use conclave_core::name::folded;
use conclave_core::people::Closing;
use conclave_core::planted::{Bug, planted};
use conclave_core::record::{RoomHead, RoomInfo, UserRecord};
use conclave_core::session::{ENDED, SessionRoom};
use conclave_core::{Change, Command, Outcome, Reply, RoomId, Seq, SessionId, ShardId, Stamp, UserId};
use conclave_proto::{command, event};
use openraft::EntryPayload;

use super::db::StateDb;
use super::key::Key;
use super::row::Row;
use super::view::ApplyView;
use super::{Inner, ShardState};
use crate::disk::DataFile;
use crate::error::StoreError;
use crate::lock;
use crate::types::{Entry, LogId, Membership, Replies, StoredMembership};

/// Estimated bytes of a command's changed rows until they are written, besides the event.
const COMMAND_BYTES: usize = 256;

/// The result of applying a batch.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The answers, for each entry.
    pub(crate) replies: Vec<Replies>,
    /// Rooms with new events, and their heads.
    pub(crate) heads: Vec<(RoomId, Seq)>,
    /// The number of commands.
    pub(crate) commands: usize,
}

enum Decoded {
    Blank,
    Membership(Membership),
    Commands(Stamp, Vec<Command>),
}

fn decode(entry: Entry, understands: u32) -> Result<(LogId, Decoded), StoreError> {
    let decoded = match entry.payload {
        EntryPayload::Blank => Decoded::Blank,
        EntryPayload::Membership(membership) => Decoded::Membership(membership),
        EntryPayload::Normal(payload) => {
            let (stamp, commands) = command::decode_batch(&payload.0, understands).map_err(|error| {
                StoreError::format(DataFile::LOG, &format!("the entry {}", entry.log_id), &error)
            })?;
            Decoded::Commands(stamp, commands)
        }
    };
    Ok((entry.log_id, decoded))
}

impl ShardState {
    /// Applies committed entries, in order. Only one call may run at a time. An error may leave memory in the middle of
    /// an entry: the store has failed then, and memory is not written any more.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        entries: impl Iterator<Item = Entry>,
    ) -> Result<Applied, StoreError> {
        let failed = |error| self.shared.failure.set(error);
        let decode = |entry| decode(entry, self.shared.feature_level);
        let entries = entries.map(decode).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let absent = self.load_rows(&entries).await.map_err(failed)?;
        self.apply_loaded(entries, absent)
    }

    /// Loads the rows that the entries need into memory. Returns the keys of those that do not exist.
    async fn load_rows(self: &Arc<Self>, entries: &[(LogId, Decoded)]) -> Result<BTreeSet<Key>, StoreError> {
        let mut absent = BTreeSet::new();
        loop {
            let missing = lock(&self.inner).missing(entries, &absent);
            if missing.is_empty() {
                return Ok(absent);
            }
            let state = Arc::clone(self);
            let read = move || state.shared.db.rows(state.shard, missing);
            let stopped = |error| StoreError::Closed(format!("reading rows was cut off: {error}"));
            let rows = self.shared.work.block(read).await.map_err(stopped)??;
            let mut inner = lock(&self.inner);
            for (key, row) in rows {
                match row {
                    // Meanwhile a reader may have loaded it, too.
                    Some(_) if inner.rows.contains(&key) => {}
                    Some(row) => inner.rows.insert_clean(key, row),
                    None => drop(absent.insert(key)),
                }
            }
        }
    }

    fn apply_loaded(
        &self,
        entries: Vec<(LogId, Decoded)>,
        absent: BTreeSet<Key>,
    ) -> Result<Applied, StoreError> {
        let failed = |error| self.shared.failure.set(error);
        let mut out = Applied { replies: Vec::with_capacity(entries.len()), ..Applied::default() };
        let mut inner = lock(&self.inner);
        inner.absent = absent;
        for (log_id, decoded) in entries {
            let mut replies = Vec::new();
            inner.digests.begin_entry();
            match decoded {
                Decoded::Blank => {}
                Decoded::Membership(membership) => {
                    inner.membership = StoredMembership::new(Some(log_id), membership);
                }
                Decoded::Commands(stamp, commands) => {
                    replies.reserve_exact(commands.len());
                    for command in &commands {
                        let reply = inner.apply(&self.shared.db, self.shard, stamp, command);
                        // Set under the lock, so that the writer cannot take half an entry.
                        replies.push(reply.map_err(failed)?);
                    }
                    out.commands += commands.len();
                }
            }
            inner.digests.end_entry(&log_id);
            inner.applied = Some(log_id);
            inner.moved = true;
            out.replies.push(Replies(replies));
        }
        inner.absent.clear();
        let erased = std::mem::take(&mut inner.erased_bytes);
        let bytes = inner.finish_batch(&mut out.heads) + out.commands * COMMAND_BYTES + erased;
        inner.unwritten_bytes += bytes;
        let index = inner.applied.map_or(0, |id| id.index);
        inner.evict();
        if std::mem::take(&mut inner.sees_less) {
            // Under the lock: a reader that finds the events of this batch finds this number, too.
            self.sight.fetch_add(1, Ordering::AcqRel);
        }
        let news = std::mem::take(&mut inner.session_news);
        let cluster = std::mem::take(&mut inner.cluster_changed).then(|| inner.cluster());
        // Under the lock: the writer takes these bytes as soon as it is free, and must not subtract
        // them before they were added.
        let unwritten = self.shared.unwritten.fetch_add(bytes, Ordering::AcqRel) + bytes;
        drop(inner);
        self.shared.writer_queue.changed(unwritten > UNWRITTEN_BYTES_MAX / 4);
        if let Some(cluster) = cluster {
            self.cluster.send_replace(Arc::new(cluster));
        }
        self.publish_session_news(news);
        self.applied.send_replace(index);
        Ok(out)
    }

    /// Waits while too many bytes are applied but not written.
    pub(crate) async fn wait_for_writer(&self) -> Result<(), StoreError> {
        loop {
            let written = self.shared.written.notified();
            self.shared.failure.check()?;
            if self.shared.unwritten.load(Ordering::Acquire) <= UNWRITTEN_BYTES_MAX {
                return Ok(());
            }
            written.await;
        }
    }
}

impl Inner {
    fn apply(
        &mut self,
        db: &StateDb,
        shard: ShardId,
        stamp: Stamp,
        command: &Command,
    ) -> Result<Reply, StoreError> {
        let outcome = conclave_core::apply(&ApplyView { inner: self, db, shard }, shard, stamp, command)?;
        let reply = outcome.reply;
        self.commit(db, shard, outcome)?;
        self.digests.reply(&reply);
        Ok(reply)
    }

    /// The keys of the rows that these entries need and that are neither in memory nor known to be absent. Loading them
    /// may show that more are needed, as a name leads to its user.
    fn missing(&self, entries: &[(LogId, Decoded)], absent: &BTreeSet<Key>) -> BTreeSet<Key> {
        let mut missing = BTreeSet::new();
        let mut need = |key: Key| {
            if !self.rows.contains(&key) && !absent.contains(&key) {
                missing.insert(key);
            }
        };
        for (_, decoded) in entries {
            let Decoded::Commands(_, commands) = decoded else { continue };
            for command in commands {
                self.needs(command, &mut need);
            }
        }
        missing
    }

    /// Passes the keys of the rows that the command reads or changes to `need`.
    fn needs(&self, command: &Command, need: &mut impl FnMut(Key)) {
        match command {
            Command::Act { room, origin, action } => {
                need(Key::Room(*room));
                if origin.request.is_numbered() {
                    need(Key::Replies(origin.session, *room));
                }
                need(Key::SessionRooms(origin.session));
                need(Key::Member(*room, origin.author));
                if let Some(target) = action.target() {
                    need(Key::Member(*room, target.user));
                }
                let messages = action.messages().into_iter().filter(|seq| *seq != Seq(0));
                messages.for_each(|seq| need(Key::Message(*room, seq)));
            }
            Command::OpenSession { user, .. } => self.needs_account(user, 1, need),
            // To disable an account, or to make it less, closes its sessions, and so does claiming it.
            Command::SetAccount(change) => self.needs_account(&change.name, usize::MAX, need),
            Command::Register { invite, name, .. } => {
                invite.iter().for_each(|digest| need(Key::Invite(*digest)));
                self.needs_account(name, usize::MAX, need);
            }
            Command::PutInvite(invite) => need(Key::Invite(invite.digest)),
            Command::SetPassword { user, .. } => {
                need(Key::Credential(*user));
                self.needs_user(*user, need);
                self.needs_list(*user, usize::MAX, need);
            }
            Command::LogIn(log_in) => {
                self.needs_user(log_in.user, need);
                self.needs_list(log_in.user, 1, need);
            }
            Command::CloseSessions(Closing::One(session)) => self.needs_session(*session, need),
            Command::CloseSessions(Closing::Of(user) | Closing::AllBut(user, _)) => {
                self.needs_user(*user, need);
                self.needs_list(*user, usize::MAX, need);
            }
            Command::ForgetSessions(sessions) => {
                sessions.iter().for_each(|session| need(Key::Session(*session)));
            }
            Command::SeenSessions(seen) => {
                seen.iter().for_each(|(session, _)| self.needs_session(*session, need));
            }
            Command::EndSession { .. } => {}
            Command::OpenRoom { room, .. } => need(Key::Room(*room)),
            Command::CreateRoom { name, creator, .. } => {
                need(Key::Directory(name.clone()));
                self.needs_user(*creator, need);
            }
            Command::OpenDirect { creator, people } => {
                need(Key::Directory(direct_name(people)));
                self.needs_user(*creator, need);
                people.iter().for_each(|user| self.needs_user(*user, need));
            }
            Command::RegisterNode(_)
            | Command::SetLayout { .. }
            | Command::SetFeatureLevel(_)
            | Command::SetRegistration(_) => {}
        }
    }

    fn needs_user(&self, user: UserId, need: &mut impl FnMut(Key)) {
        need(Key::UserName(user));
        if let Some(Row::Name(name)) = self.rows.get(&Key::UserName(user)) {
            need(Key::User(name.clone()));
        }
    }

    /// The rows of an account by its name, and the newest of its sessions.
    fn needs_account(&self, name: &str, newest: usize, need: &mut impl FnMut(Key)) {
        need(Key::User(name.to_owned()));
        need(Key::Folded(folded(name)));
        if let Some(Row::User(user)) = self.rows.get(&Key::User(name.to_owned())) {
            need(Key::Credential(user.user));
            self.needs_list(user.user, newest, need);
        }
    }

    /// The list of a user's open sessions, and the newest of them.
    fn needs_list(&self, user: UserId, newest: usize, need: &mut impl FnMut(Key)) {
        need(Key::OpenSessions(user));
        if let Some(Row::OpenSessions(list)) = self.rows.get(&Key::OpenSessions(user)) {
            list.iter().rev().take(newest).for_each(|open| need(Key::Session(open.session)));
        }
    }

    /// A session, its user and the list that it is in.
    fn needs_session(&self, session: SessionId, need: &mut impl FnMut(Key)) {
        need(Key::Session(session));
        if let Some(Row::Session(record)) = self.rows.get(&Key::Session(session)) {
            self.needs_user(record.user, need);
            need(Key::OpenSessions(record.user));
        }
    }

    /// Loads a row into memory, if it exists.
    fn bring(&mut self, db: &StateDb, shard: ShardId, key: Key) -> Result<(), StoreError> {
        if self.rows.contains(&key) || self.absent.contains(&key) {
            return Ok(());
        }
        if let Some(row) = db.row(shard, &key)? {
            self.rows.insert_clean(key, row);
        }
        Ok(())
    }

    /// A row that is about to change, read from the file if it is only there.
    fn change(
        &mut self,
        db: &StateDb,
        shard: ShardId,
        key: Key,
        make: fn() -> Row,
    ) -> Result<&mut Row, StoreError> {
        self.bring(db, shard, key.clone())?;
        Ok(self.rows.change(key, self.epoch, make))
    }

    fn replace(&mut self, key: Key, row: Row) {
        *self.rows.change(key, self.epoch, || Row::Member(None)) = row;
    }

    fn commit(&mut self, db: &StateDb, shard: ShardId, outcome: Outcome) -> Result<(), StoreError> {
        for change in outcome.changes {
            self.write(db, shard, change)?;
        }
        if let Some(mut event) = outcome.event {
            if planted(Bug::ApplyByProcess) {
                event.time_ms += i64::from(std::process::id());
            }
            let buffer = self.batch.buffer(event.room, event.seq);
            let begin = buffer.len();
            event::encode_record(&event, buffer);
            self.digests.event(&buffer[begin..]);
        }
        Ok(())
    }

    fn write_head(
        &mut self,
        db: &StateDb,
        shard: ShardId,
        room: RoomId,
        new: RoomHead,
    ) -> Result<(), StoreError> {
        let mut hidden = false;
        if let Row::Room(head, _) = self.change(db, shard, Key::Room(room), room_row)? {
            hidden = head.policy.kind != new.policy.kind;
            *head = new;
        }
        self.sees_less |= hidden;
        Ok(())
    }

    fn write_member(&mut self, room: RoomId, user: UserId, member: Option<Member>) {
        self.sees_less |= member.as_ref().is_none_or(|member| !member.is_present());
        self.fresh_members.insert((room, user), (member.clone(), self.epoch));
        self.replace(Key::Member(room, user), Row::Member(member));
    }

    fn write(&mut self, db: &StateDb, shard: ShardId, change: Change) -> Result<(), StoreError> {
        match change {
            Change::RoomHead(room, new) => self.write_head(db, shard, room, new)?,
            Change::RoomInfo(room, new) => {
                if let Row::Room(_, info) = self.change(db, shard, Key::Room(room), room_row)? {
                    *info = new;
                }
            }
            Change::Topic(room, topic) => {
                if let Row::Room(_, info) = self.change(db, shard, Key::Room(room), room_row)? {
                    info.topic = topic;
                }
            }
            Change::Member { room, user, member } => self.write_member(room, user, member),
            Change::Message { room, seq, state } => {
                self.fresh_messages.insert((room, seq), (state.clone(), self.epoch));
                self.replace(Key::Message(room, seq), Row::Message(state));
            }
            Change::Erase { room, seqs, by } => self.erase(room, &seqs, by)?,
            Change::Replied { session, room, reply, settled } => {
                let key = Key::Replies(session, room);
                let row = self.change(db, shard, key, || Row::Replies(SessionRoom::default()))?;
                if let Row::Replies(known) = row {
                    known.record(reply, settled);
                }
            }
            Change::SessionRooms(session, count) => {
                self.replace(Key::SessionRooms(session), Row::SessionRooms(count));
            }
            Change::Meta(meta) => {
                self.cluster_changed |= meta.feature_level != self.meta.feature_level;
                self.meta = meta;
                self.small.insert(Key::Meta);
            }
            Change::Directory(entry) => {
                self.fresh.insert(entry.name.clone(), (entry.clone(), self.epoch));
                self.replace(Key::RoomName(entry.room), Row::Name(entry.name.clone()));
                self.replace(Key::Directory(entry.name.clone()), Row::Directory(entry));
            }
            Change::User(user) => {
                self.session_news.any |= self.ends_sessions(&user);
                self.replace(Key::UserName(user.user), Row::Name(user.name.clone()));
                self.replace(Key::User(user.name.clone()), Row::User(user));
            }
            Change::Session(session) => {
                if session.closed {
                    self.session_news.closed.push(session.session);
                }
                self.replace(Key::Session(session.session), Row::Session(session));
            }
            Change::SessionForgotten(session) => {
                self.replace(Key::Session(session), Row::Gone);
                self.replace(Key::Ending(session), Row::Gone);
            }
            Change::OpenSessions(user, list) => {
                self.replace(Key::OpenSessions(user), Row::OpenSessions(list));
            }
            Change::Ending(session) => self.replace(Key::Ending(session), Row::Ending),
            Change::Credential(credential) => {
                self.replace(Key::Credential(credential.user), Row::Credential(credential));
            }
            Change::Folded { folded, name } => self.replace(Key::Folded(folded), Row::Name(name)),
            Change::Invite(invite) => self.replace(Key::Invite(invite.digest), Row::Invite(invite)),
            Change::SessionEnded(session) => {
                self.replace(Key::SessionRooms(session), Row::SessionRooms(ENDED));
                self.ended.push(session);
            }
            Change::Node(node) => {
                self.cluster_changed = true;
                self.small.insert(Key::Node(node.node));
                self.nodes.insert(node.node, node);
            }
            Change::Layout(layout) => {
                self.cluster_changed = true;
                self.layout = Some(layout);
                self.small.insert(Key::Layout);
            }
        }
        Ok(())
    }

    /// Erases the content of events: in memory at once, and in the file with the next changes that are written.
    fn erase(&mut self, room: RoomId, seqs: &[Seq], by: Seq) -> Result<(), StoreError> {
        let kept = if planted(Bug::DeleteKeepsEdits) { 1 } else { seqs.len() };
        for seq in seqs.iter().take(kept) {
            self.batch.erase(room, *seq, by)?;
            self.tails.erase(room, *seq, by)?;
            self.erasures.insert((room, *seq), (by, self.epoch));
            self.erased_bytes += HISTORY_BLOCK_BYTES_MAX;
        }
        Ok(())
    }

    /// Whether sessions of the user end by this change of the user's row alone.
    fn ends_sessions(&self, user: &UserRecord) -> bool {
        let before = match self.rows.get(&Key::User(user.name.clone())) {
            Some(Row::User(before)) => (before.disabled, before.unlisted_ended),
            _ => (false, false),
        };
        (user.disabled && !before.0) || (user.unlisted_ended && !before.1)
    }

    /// Ends the batch: its events become each room's newest chunk. Returns their bytes.
    fn finish_batch(&mut self, heads: &mut Vec<(RoomId, Seq)>) -> usize {
        let Self { batch, tails, unwritten, epoch, .. } = self;
        let mut bytes = 0;
        batch.finish(*epoch, |room, chunk| {
            bytes += chunk.records.len();
            heads.push((room, chunk.last));
            unwritten.push((room, chunk.clone()));
            tails.push(room, chunk);
        });
        bytes
    }
}

fn room_row() -> Row {
    Row::Room(RoomHead::default(), RoomInfo::default())
}
