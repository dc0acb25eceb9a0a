//! A node's knowledge of itself: values only, no loops and no calls to other nodes.
//!
//! * [`diverged`]: replicas that have applied something else than this node's.
//! * [`duty`]: whether the node works, or gives its work away.
//! * [`info`]: the node's identity and state, which nearly all modules above use.
//! * [`load`]: how busy the node is.
//! * [`own_record`]: the node's record.

pub(crate) mod diverged;
pub(crate) mod duty;
pub(crate) mod info;
pub(crate) mod load;
pub(crate) mod own_record;

pub(crate) use info::NodeInfo;
