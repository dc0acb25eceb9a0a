//! What a node does beside serving calls, so that the cluster stays in order.
//!
//! * [`load_keep`]: measures how busy this node is.

pub(crate) mod load_keep;
