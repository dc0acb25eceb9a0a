//! What a node does beside serving calls, so that the cluster stays in order.
//!
//! * [`leadership`]: who should lead.
//! * [`placement`]: where clients should be.
//! * [`drain`]: giving a node's work away.
//! * [`heard`]: what the other nodes last said.
//! * [`view`]: where else clients can go.
//! * [`health`]: whether clients should come to this node.
//! * [`load_keep`]: measures how busy this node is.

pub(crate) mod drain;
pub(crate) mod health;
pub(crate) mod heard;
pub(crate) mod leadership;
pub(crate) mod load_keep;
pub(crate) mod placement;
pub(crate) mod view;
