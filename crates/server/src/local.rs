//! What a node knows of itself: values only, no loops and no calls to other nodes.
//!
//! * [`info`]: who it is, and how it is: what nearly everything above holds.
//! * [`load`]: how busy it is.
//! * [`own`]: what it says of itself.

pub(crate) mod info;
pub(crate) mod load;
pub(crate) mod own;

pub(crate) use info::NodeInfo;
