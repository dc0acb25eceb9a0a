//! Accounts and sessions beside the log: what needs time, chance or a processor, which applying a command must not.
//!
//! * [`password`]: hashing and checking passwords.
//! * [`attempts`]: slowing down those who guess passwords.
//! * [`seen`]: on which day sessions were seen.
//! * [`endings`]: the end of sessions, on every shard and in the streams of this node.

pub(crate) mod attempts;
pub(crate) mod endings;
pub(crate) mod password;
pub(crate) mod seen;
