//! Tracks followed rooms for the user: checks that no event is skipped, and reports lost connections in one line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_client::{CallError, Client, HistoryQuery, Start};
use tokio::time::Instant;

use crate::errors::of_call;
use crate::exit::{Exit, Failed};
use crate::search::Search;
use crate::view::text::took;

/// A connection is reported as lost after this long; most are back much sooner.
const MISSING_AFTER: Duration = Duration::from_secs(1);

/// The ids of rooms by name. A room is named by its name in commands, and by its id in events and positions.
///
/// # Errors
/// If a room does not exist, or, unless `patient`, no server answers.
pub(super) async fn resolve(
    client: &Client,
    rooms: &[String],
    patient: bool,
) -> Result<BTreeMap<String, u64>, Failed> {
    let mut ids = BTreeMap::new();
    for room in rooms {
        let id = loop {
            match client.history(HistoryQuery::newest(room.as_str(), 1)).await {
                Ok(page) => break page.room_id,
                Err(CallError::NoServer { .. } | CallError::Unavailable { .. }) if patient => {}
                Err(error) => return Err(of_call(Some(room), &error)),
            }
        };
        ids.insert(room.clone(), id);
    }
    Ok(ids)
}

/// The position of each followed room.
#[derive(Debug, Default)]
pub(super) struct FollowedRooms {
    rooms: BTreeMap<String, FollowedRoom>,
    names: BTreeMap<u64, String>,
}

#[derive(Debug, Default)]
struct FollowedRoom {
    /// The last printed event.
    last: Option<u64>,
    /// The seq that must be reached before the stream is complete.
    target: u64,
}

impl FollowedRooms {
    /// Follows a room from `start`, at least to the seq `target`.
    pub(super) fn begin(&mut self, room: &str, start: Start, target: Option<u64>) {
        let last = match start {
            Start::After(seq) => Some(seq),
            Start::Last(_) | Start::Now => None,
        };
        self.rooms.insert(room.to_owned(), FollowedRoom { last, target: target.unwrap_or(0) });
    }

    /// Stops to follow a room.
    pub(super) fn end(&mut self, room: &str) {
        self.rooms.remove(room);
    }

    /// The followed rooms with the seq to continue after, if there is one yet.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        self.rooms.iter().map(|(room, position)| (room.as_str(), position.last))
    }

    /// Advances a room by its next event, or fails if its seq is not the next one.
    pub(super) fn next(&mut self, room: &str, seq: u64) -> Result<(), Failed> {
        let position = self.rooms.entry(room.to_owned()).or_default();
        match position.last {
            Some(last) if seq != last + 1 => {
                let what = format!("#{room}:{} was expected, but #{room}:{seq} came", last + 1);
                Err(Failed::new(Exit::Verification, what, "conclave status"))
            }
            _ => {
                position.last = Some(seq);
                Ok(())
            }
        }
    }

    /// Sets the position of a room whose earlier events were deleted.
    pub(super) fn jump(&mut self, room: &str, seq: u64) {
        self.rooms.entry(room.to_owned()).or_default().last = Some(seq);
    }

    /// The stream has delivered everything up to this seq, even if that was nothing. Returns whether it has delivered
    /// an event of the room, or began after one.
    pub(super) fn reached(&mut self, room: &str, seq: u64) -> bool {
        let position = self.rooms.entry(room.to_owned()).or_default();
        let begun = position.last.is_some_and(|last| last > 0);
        position.last = position.last.or(Some(seq));
        begun
    }

    /// Whether every room has reached its target.
    pub(super) fn complete(&self) -> bool {
        self.rooms.values().all(|position| position.last.unwrap_or(0) >= position.target)
    }

    /// Records a room's name.
    pub(super) fn named(&mut self, id: u64, name: &str) {
        self.names.insert(id, name.to_owned());
    }

    /// A room's name: as recorded, else as `elsewhere` has it, else the only followed room, else the id.
    pub(super) fn name(&self, id: u64, elsewhere: impl FnOnce() -> Option<Arc<str>>) -> String {
        let known = self.names.get(&id).cloned();
        known
            .or_else(|| elsewhere().map(|name| name.to_string()))
            .or_else(|| self.only_room().map(str::to_owned))
            .unwrap_or_else(|| id.to_string())
    }

    /// The followed room, if there is only one.
    pub(super) fn only_room(&self) -> Option<&str> {
        let mut rooms = self.rooms.keys();
        rooms.next().filter(|_| rooms.next().is_none()).map(String::as_str)
    }
}

/// The names of servers by address: those of the search, which may use other addresses than the cluster, and those of
/// the cluster. Names are only for display, so failures are ignored.
pub(super) async fn names(client: Client, search: Arc<Search>) -> BTreeMap<String, String> {
    let nodes = client.status().await.map(|status| status.nodes).unwrap_or_default();
    let mut names = search.names();
    names.extend(nodes.into_iter().map(|node| (node.address, node.name)));
    names
}

/// Decides what to report about the connection: nothing, unless it was lost.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// Whether there was ever a connection.
    pub(super) ever: bool,
    node: String,
    names: BTreeMap<String, String>,
    lost: Option<Instant>,
    /// Why no server takes the stream, before there was ever a connection.
    pub(super) refused: Option<String>,
    said: bool,
    back: Option<String>,
    /// Signs of life in a row that said that no majority of the servers answers.
    without_quorum: u32,
    said_without_quorum: bool,
    /// Whether the stream has caught up since it was opened: from then on an event is a sign of a quorum.
    caught_up: bool,
}

impl Connection {
    /// Records the names of nodes by address.
    pub(super) fn name_nodes(&mut self, names: impl IntoIterator<Item = (String, String)>) {
        self.names.extend(names);
    }

    /// Handles the end of the stream. Returns a note, once, if no server has ever taken it.
    pub(super) fn lost(&mut self, now: Instant, why: &str) -> Option<String> {
        self.lost = self.lost.or(Some(now));
        if self.ever {
            return None;
        }
        let first = self.refused.replace(why.to_owned()).is_none();
        first.then(|| format!("no server has a place for this client ({why}); trying again"))
    }

    /// Handles the opening of a stream.
    pub(super) fn connected(&mut self, node: &str, now: Instant) {
        let before = std::mem::replace(&mut self.node, node.to_owned());
        let lost = self.lost.take();
        let first = !std::mem::replace(&mut self.ever, true);
        self.said = false;
        self.caught_up = false;
        if let Some(lost) = lost.filter(|_| !first) {
            let gap = took(now.saturating_duration_since(lost));
            self.back = Some(format!("{} lost, on {} after {gap}", self.name(&before), self.name(node)));
        }
    }

    /// `node2 lost, on node3 after 0.03 s, nothing missed`. Reported when the stream has caught up: by then every
    /// event's seq was checked, and a gap would have ended the command.
    pub(super) fn caught_up(&mut self) -> Option<String> {
        self.caught_up = true;
        self.back.take().map(|back| format!("{back}, nothing missed"))
    }

    /// The note that the connection is lost, once it has been for `MISSING_AFTER`. Returned once.
    pub(super) fn missing(&mut self, now: Instant) -> Option<String> {
        let lost = self.lost.filter(|_| self.ever && !self.said)?;
        (now.saturating_duration_since(lost) >= MISSING_AFTER).then(|| {
            self.said = true;
            format!("{} lost, trying other servers; messages that you send are kept", self.name(&self.node))
        })
    }

    /// Handles a sign of life. Returns a note when the quorum is gone, and when it is back. A single sign without a quorum may
    /// be an election.
    pub(super) fn quorum(&mut self, is_there: bool) -> Option<String> {
        self.without_quorum = if is_there { 0 } else { self.without_quorum.saturating_add(1) };
        let is_gone = self.without_quorum > 1;
        if is_gone == self.said_without_quorum {
            return None;
        }
        self.said_without_quorum = is_gone;
        Some(match is_gone {
            true => "no majority of the servers answers; messages wait until one does".to_owned(),
            false => "a majority of the servers answers again".to_owned(),
        })
    }

    /// Handles an event: a majority has decided it just now, unless the stream is still catching up.
    pub(super) fn event(&mut self) -> Option<String> {
        if self.caught_up { self.quorum(true) } else { None }
    }

    fn name<'a>(&'a self, address: &'a str) -> &'a str {
        self.names.get(address).map_or(address, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_a_verification_failure() {
        let mut positions = FollowedRooms::default();
        positions.begin("r", Start::Last(3), None);
        assert!(positions.next("r", 8).is_ok());
        assert!(positions.next("r", 9).is_ok());
        assert_eq!(positions.next("r", 11).unwrap_err().exit, Exit::Verification);
        positions.begin("s", Start::After(5), None);
        assert!(positions.next("s", 5).is_err());
        positions.jump("s", 80);
        assert!(positions.next("s", 81).is_ok());
    }

    #[test]
    fn a_linearizable_tail_is_complete_at_its_target() {
        let mut positions = FollowedRooms::default();
        positions.begin("r", Start::After(0), Some(2));
        positions.reached("r", 0);
        assert!(!positions.complete());
        positions.next("r", 1).unwrap();
        positions.next("r", 2).unwrap();
        assert!(positions.complete());
    }

    #[test]
    fn room_names_are_found_in_order_of_certainty() {
        let mut positions = FollowedRooms::default();
        positions.begin("r", Start::Now, None);
        assert_eq!(positions.name(7, || None), "r");
        positions.begin("s", Start::Now, None);
        assert_eq!(positions.name(7, || None), "7");
        assert_eq!(positions.name(7, || Some("s".into())), "s");
        positions.named(7, "r");
        assert_eq!(positions.name(7, || None), "r");
    }

    #[test]
    fn a_lost_quorum_is_reported_once_and_an_election_is_not() {
        let mut connection = Connection::default();
        let mut said = |signs: &[bool]| {
            signs.iter().filter_map(|is_there| connection.quorum(*is_there)).collect::<Vec<_>>()
        };
        assert!(said(&[true, false, true, false]).is_empty());
        assert!(said(&[false, false, false])[0].starts_with("no majority"));
        assert!(said(&[false]).is_empty());
        assert_eq!(said(&[true, true, false, true]), ["a majority of the servers answers again"]);
    }

    #[test]
    fn only_a_lost_connection_is_reported() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut connection = Connection::default();
        connection.name_nodes([("a:1".to_owned(), "node1".to_owned())]);
        assert!(connection.lost(start, "full").is_some_and(|text| text.contains("(full)")));
        assert_eq!(connection.lost(start, "full"), None, "told once");
        assert_eq!(connection.missing(after(5_000)), None);
        connection.connected("a:1", start);
        assert_eq!(connection.caught_up(), None);

        assert_eq!(connection.lost(start, "gone"), None);
        connection.lost(after(1_000), "gone");
        assert_eq!(connection.missing(after(999)), None);
        assert!(connection.missing(after(1_000)).is_some_and(|text| text.starts_with("node1 lost")));
        assert_eq!(connection.missing(after(2_000)), None);
        connection.connected("b:2", after(2_030));
        let line = connection.caught_up();
        assert_eq!(line.as_deref(), Some("node1 lost, on b:2 after 2.03 s, nothing missed"));
        assert_eq!(connection.caught_up(), None);
    }
}
