//! Identities and numbers, as newtypes: the compiler finds one that is passed for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// A node: one server process and its data dir. Permanent, never 0, never reused.
    NodeId(u64)
);
number!(
    /// A shard: a fixed part of the rooms, served by one Raft group. 0 is the meta shard.
    ShardId(u32)
);
number!(
    /// A room. Given out by the meta shard from 1, never reused.
    RoomId(u64)
);
number!(
    /// A user. Given out by the meta shard from 1, never reused.
    UserId(u64)
);
number!(
    /// A session: one client installation with its own request numbers. Given out by the meta shard from 1.
    SessionId(u64)
);
number!(
    /// The number of a session's request in one room: 1, 2, 3 … without gaps. 0 means "not numbered".
    RequestNo(u64)
);
number!(
    /// An event's position in its room: dense, from 1. 0 means "before the first".
    Seq(u64)
);

impl ShardId {
    /// The meta shard, which holds nodes, users, the room directory, the layout and the feature level.
    pub const META: Self = Self(0);

    /// Whether this is the meta shard.
    #[must_use]
    pub fn is_meta(self) -> bool {
        self == Self::META
    }
}

impl Seq {
    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl RequestNo {
    /// The next number.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether the request has a number, which is any value but 0.
    #[must_use]
    pub fn is_numbered(self) -> bool {
        self.0 != 0
    }
}

/// The random identity of a data dir, chosen when the data dir is created. A node id belongs to one
/// data dir for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataDirId(pub u128);

impl fmt::Display for DataDirId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
