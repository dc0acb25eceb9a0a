//! What following rooms means to the person: no event is skipped, and a lost connection is worth one line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_client::{Client, Start};
use tokio::time::Instant;

use crate::exit::{Exit, Failed};
use crate::search::Search;
use crate::view::text::took;

/// A connection is missing this long before the person is told so; most are back much sooner.
const MISSING_AFTER: Duration = Duration::from_secs(1);

/// Where each room stands.
#[derive(Debug, Default)]
pub(super) struct Positions {
    rooms: BTreeMap<String, Position>,
    names: BTreeMap<u64, String>,
}

#[derive(Debug, Default)]
struct Position {
    /// The last event printed, once one was.
    last: Option<u64>,
    /// The stream must come this far before it may be called complete.
    target: u64,
}

impl Positions {
    /// A room is followed from here, at least to the target.
    pub(super) fn begin(&mut self, room: &str, start: Start, target: Option<u64>) {
        let last = match start {
            Start::After(seq) => Some(seq),
            Start::Last(_) | Start::Now => None,
        };
        self.rooms.insert(room.to_owned(), Position { last, target: target.unwrap_or(0) });
    }

    /// A room is no longer followed.
    pub(super) fn end(&mut self, room: &str) {
        self.rooms.remove(room);
    }

    /// The rooms that are followed, and where to go on in each: nowhere yet, or after a seq.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        self.rooms.iter().map(|(room, position)| (room.as_str(), position.last))
    }

    /// The next event of a room must be the next number.
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

    /// What came before is gone for good.
    pub(super) fn jump(&mut self, room: &str, seq: u64) {
        self.rooms.entry(room.to_owned()).or_default().last = Some(seq);
    }

    /// The stream has delivered everything up to here, also where that was nothing.
    pub(super) fn reached(&mut self, room: &str, seq: u64) {
        let position = self.rooms.entry(room.to_owned()).or_default();
        position.last = position.last.or(Some(seq));
    }

    /// Whether every room has come as far as it must.
    pub(super) fn complete(&self) -> bool {
        self.rooms.values().all(|position| position.last.unwrap_or(0) >= position.target)
    }

    /// Learns a room's name.
    pub(super) fn named(&mut self, id: u64, name: &str) {
        self.names.insert(id, name.to_owned());
    }

    /// A room's name: as learned, as somebody else knows it, or the only one there is.
    pub(super) fn name(&self, id: u64, elsewhere: impl FnOnce() -> Option<Arc<str>>) -> String {
        let known = self.names.get(&id).cloned();
        known
            .or_else(|| elsewhere().map(|name| name.to_string()))
            .or_else(|| self.only_room().map(str::to_owned))
            .unwrap_or_else(|| id.to_string())
    }

    /// The room, where there is but one.
    pub(super) fn only_room(&self) -> Option<&str> {
        let mut rooms = self.rooms.keys();
        rooms.next().filter(|_| rooms.next().is_none()).map(String::as_str)
    }
}

/// What servers are called, by address: as name servers say, who may know them at other addresses than the cluster, and as
/// the cluster says. Names are only for people, so a failure is no news.
pub(super) async fn names(client: Client, search: Arc<Search>) -> BTreeMap<String, String> {
    let nodes = client.status().await.map(|status| status.nodes).unwrap_or_default();
    let mut names = search.names();
    names.extend(nodes.into_iter().map(|node| (node.address, node.name)));
    names
}

/// What the person is told about the connection: nothing, unless it was lost.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// There has been one.
    pub(super) ever: bool,
    node: String,
    names: BTreeMap<String, String>,
    lost: Option<Instant>,
    said: bool,
    back: Option<String>,
}

impl Connection {
    /// What the nodes at these addresses are called.
    pub(super) fn name_nodes(&mut self, names: impl IntoIterator<Item = (String, String)>) {
        self.names.extend(names);
    }

    /// The stream has ended.
    pub(super) fn lost(&mut self, now: Instant) {
        self.lost = self.lost.or(Some(now));
    }

    /// A stream is open.
    pub(super) fn connected(&mut self, node: &str, now: Instant) {
        let before = std::mem::replace(&mut self.node, node.to_owned());
        let lost = self.lost.take();
        let first = !std::mem::replace(&mut self.ever, true);
        self.said = false;
        if let Some(lost) = lost.filter(|_| !first) {
            let gap = took(now.saturating_duration_since(lost));
            self.back = Some(format!("{} lost, on {} after {gap}", self.name(&before), self.name(node)));
        }
    }

    /// `node2 lost, on node3 after 0.03 s, nothing missed`. It is said when the stream has caught up: then every
    /// event's number was checked, and a hole would have ended the command.
    pub(super) fn caught_up(&mut self) -> Option<String> {
        self.back.take().map(|back| format!("{back}, nothing missed"))
    }

    /// Said once when the connection has been missing for a while.
    pub(super) fn missing(&mut self, now: Instant) -> Option<String> {
        let lost = self.lost.filter(|_| self.ever && !self.said)?;
        (now.saturating_duration_since(lost) >= MISSING_AFTER).then(|| {
            self.said = true;
            format!("{} lost, trying the others; what you send is kept", self.name(&self.node))
        })
    }

    fn name<'a>(&'a self, address: &'a str) -> &'a str {
        self.names.get(address).map_or(address, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_never_passed_over() {
        let mut positions = Positions::default();
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
    fn a_linearizable_tail_is_complete_when_it_has_come_far_enough() {
        let mut positions = Positions::default();
        positions.begin("r", Start::After(0), Some(2));
        positions.reached("r", 0);
        assert!(!positions.complete());
        positions.next("r", 1).unwrap();
        positions.next("r", 2).unwrap();
        assert!(positions.complete());
    }

    #[test]
    fn rooms_have_names() {
        let mut positions = Positions::default();
        positions.begin("r", Start::Now, None);
        assert_eq!(positions.name(7, || None), "r");
        positions.begin("s", Start::Now, None);
        assert_eq!(positions.name(7, || None), "7");
        assert_eq!(positions.name(7, || Some("s".into())), "s");
        positions.named(7, "r");
        assert_eq!(positions.name(7, || None), "r");
    }

    #[test]
    fn only_a_lost_connection_is_worth_a_line() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut connection = Connection::default();
        connection.name_nodes([("a:1".to_owned(), "node1".to_owned())]);
        connection.lost(start);
        assert_eq!(connection.missing(after(5_000)), None);
        connection.connected("a:1", start);
        assert_eq!(connection.caught_up(), None);

        connection.lost(start);
        connection.lost(after(1_000));
        assert_eq!(connection.missing(after(999)), None);
        assert!(connection.missing(after(1_000)).is_some_and(|text| text.starts_with("node1 lost")));
        assert_eq!(connection.missing(after(2_000)), None);
        connection.connected("b:2", after(2_030));
        let line = connection.caught_up();
        assert_eq!(line.as_deref(), Some("node1 lost, on b:2 after 2.03 s, nothing missed"));
        assert_eq!(connection.caught_up(), None);
    }
}
