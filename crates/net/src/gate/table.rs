//! Which connections are let in: a table of counts, without I/O and without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Where connections come from. All addresses of one place share a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// This machine.
    Loopback,
    /// An IPv4 address, also one that is written as an IPv6 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: one customer of a provider usually has all that follow.
    V6([u16; 4]),
}

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback,
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// How many connections a table lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) per_address: usize,
    pub(super) loopback: usize,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All places are taken, and each connection that holds one has made a request.
    Full,
    /// All places for the address are taken, and each connection that holds one has made a request.
    Address,
}

/// A connection that is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Names the connection in this table. Ids rise.
    pub(super) id: u64,
    /// The connection whose place it took: the one that has been silent the longest.
    pub(super) displaced: Option<u64>,
}

/// The connections of a port. A connection is *silent* until it has made a request; a silent one loses its place when
/// another one needs it, so that silent connections cannot shut out others.
#[derive(Debug)]
pub(super) struct Table {
    bounds: Bounds,
    next: u64,
    connections: BTreeMap<u64, Place>,
    silent: BTreeSet<u64>,
    /// Only places that hold connections, so the table is bounded by the connections.
    places: BTreeMap<Place, Held>,
}

/// The connections of one place.
#[derive(Debug, Default)]
struct Held {
    connections: usize,
    silent: BTreeSet<u64>,
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            connections: BTreeMap::new(),
            silent: BTreeSet::new(),
            places: BTreeMap::new(),
        }
    }

    /// The number of connections.
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Lets a connection in, or says why not.
    pub(super) fn admit(&mut self, address: IpAddr) -> Result<Admitted, Full> {
        let place = Place::from(address);
        let most = match place {
            Place::Loopback => self.bounds.loopback,
            Place::V4(_) | Place::V6(_) => self.bounds.per_address,
        };
        let held = self.places.get(&place);
        let displaced = if held.map_or(0, |held| held.connections) >= most {
            // Also where all of the table is full, this makes room.
            let all = self.connections.len() >= self.bounds.connections && self.silent.is_empty();
            let why = if all { Full::Full } else { Full::Address };
            Some(held.and_then(|held| held.silent.first().copied()).ok_or(why)?)
        } else if self.connections.len() >= self.bounds.connections {
            Some(self.silent.first().copied().ok_or(Full::Full)?)
        } else {
            None
        };
        if let Some(displaced) = displaced {
            self.release(displaced);
        }
        let id = self.next;
        self.next += 1;
        self.connections.insert(id, place);
        self.silent.insert(id);
        let held = self.places.entry(place).or_default();
        held.connections += 1;
        held.silent.insert(id);
        Ok(Admitted { id, displaced })
    }

    /// The connection has made a request: it keeps its place until it ends.
    pub(super) fn spoke(&mut self, id: u64) {
        if self.silent.remove(&id)
            && let Some(held) = self.connections.get(&id).and_then(|place| self.places.get_mut(place))
        {
            held.silent.remove(&id);
        }
    }

    /// The connection has ended. Does nothing if it was displaced before.
    pub(super) fn release(&mut self, id: u64) {
        let Some(place) = self.connections.remove(&id) else { return };
        self.silent.remove(&id);
        if let Some(held) = self.places.get_mut(&place) {
            held.connections -= 1;
            held.silent.remove(&id);
            if held.connections == 0 {
                self.places.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { connections: 6, per_address: 3, loopback: 5 };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_cannot_take_more_than_its_places() {
        let mut table = Table::new(BOUNDS);
        let ids = [1, 2, 3].map(|_| table.admit(address("192.0.2.1")).unwrap().id);
        for id in ids {
            table.spoke(id);
        }
        assert_eq!(table.admit(address("192.0.2.1")), Err(Full::Address));
        assert_eq!(table.admit(address("::ffff:192.0.2.1")), Err(Full::Address), "the same address");
        assert_eq!(table.admit(address("192.0.2.2")).unwrap().displaced, None);
        table.release(ids[1]);
        assert_eq!(table.admit(address("192.0.2.1")).unwrap().displaced, None);
    }

    #[test]
    fn ipv6_addresses_share_the_places_of_their_first_64_bits() {
        let mut table = Table::new(BOUNDS);
        for last in 1..=3 {
            let id = table.admit(address(&format!("2001:db8:0:1::{last}"))).unwrap().id;
            table.spoke(id);
        }
        assert_eq!(table.admit(address("2001:db8:0:1:ffff::1")), Err(Full::Address));
        assert!(table.admit(address("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn the_longest_silent_connection_makes_room_and_one_that_spoke_never_does() {
        let mut table = Table::new(BOUNDS);
        let ids: Vec<u64> =
            (0..6).map(|n| table.admit(address(&format!("192.0.2.{n}"))).unwrap().id).collect();
        table.spoke(ids[0]);
        assert_eq!(table.admit(address("198.51.100.1")).unwrap().displaced, Some(ids[1]));
        assert_eq!(table.len(), 6);
        table.release(ids[1]);
        assert_eq!(table.len(), 6, "its place was given away already");
        for id in ids[2..].iter().copied().chain([6]) {
            table.spoke(id);
        }
        assert_eq!(table.admit(address("198.51.100.2")), Err(Full::Full));
    }

    #[test]
    fn a_full_address_displaces_its_own_connections_only() {
        let mut table = Table::new(BOUNDS);
        let other = table.admit(address("192.0.2.9")).unwrap().id;
        let own: Vec<u64> = (0..3).map(|_| table.admit(address("192.0.2.1")).unwrap().id).collect();
        assert_eq!(table.admit(address("192.0.2.1")).unwrap().displaced, Some(own[0]));
        table.release(other);
        assert_eq!(table.len(), 3);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Admit(u8),
        Spoke(u64),
        Release(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..6_u8).prop_map(Step::Admit),
            2 => (0..60_u64).prop_map(Step::Spoke),
            1 => (0..60_u64).prop_map(Step::Release),
        ]
    }

    fn some_address(n: u8) -> IpAddr {
        ["127.0.0.1", "::1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"].map(address)
            [usize::from(n)]
    }

    proptest! {
        /// Whatever connections do, no bound is passed, only silent ones are displaced, the oldest first, and a refusal
        /// has a reason.
        #[test]
        fn bounds_hold_and_only_silent_connections_are_displaced(steps in vec(step(), 1..200)) {
            let mut table = Table::new(BOUNDS);
            // By id: the address, and whether the connection spoke.
            let mut open: BTreeMap<u64, (IpAddr, bool)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Admit(n) => {
                        let from = some_address(n);
                        let same = |other: &IpAddr| Place::from(*other) == Place::from(from);
                        let most = if from.is_loopback() { BOUNDS.loopback } else { BOUNDS.per_address };
                        let here = open.values().filter(|(other, _)| same(other)).count();
                        match table.admit(from) {
                            Ok(admitted) => {
                                if let Some(displaced) = admitted.displaced {
                                    let (other, spoke) = open.remove(&displaced).unwrap();
                                    prop_assert!(!spoke);
                                    prop_assert!(here < most || same(&other));
                                    let older = open.range(..displaced);
                                    let older = older.filter(|(_, (other, spoke))| !spoke && (here < most || same(other)));
                                    prop_assert_eq!(older.count(), 0);
                                } else {
                                    prop_assert!(here < most && open.len() < BOUNDS.connections);
                                }
                                open.insert(admitted.id, (from, false));
                            }
                            Err(Full::Address) => {
                                prop_assert!(here >= most);
                                prop_assert!(open.values().all(|(other, spoke)| *spoke || !same(other)));
                            }
                            Err(Full::Full) => {
                                prop_assert!(open.len() >= BOUNDS.connections);
                                prop_assert!(open.values().all(|(_, spoke)| *spoke));
                            }
                        }
                    }
                    Step::Spoke(id) => {
                        table.spoke(id);
                        open.entry(id).and_modify(|(_, spoke)| *spoke = true);
                    }
                    Step::Release(id) => {
                        table.release(id);
                        open.remove(&id);
                    }
                }
                prop_assert_eq!(table.len(), open.len());
                prop_assert!(table.len() <= BOUNDS.connections);
                prop_assert!(table.places.len() <= table.len());
                prop_assert!(table.places.values().all(|held| held.connections <= BOUNDS.loopback));
            }
        }
    }
}
