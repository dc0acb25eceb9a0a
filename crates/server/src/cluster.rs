//! Background tasks of a node that keep the cluster in order.
//!
//! * [`leadership`]: elects and transfers leaders.
//! * [`placement`]: spreads clients over the nodes.
//! * [`drain`]: drains a node.
//! * [`peer_statuses`]: the last reported status of each other node.
//! * [`view`]: the cluster view that clients get.
//! * [`health`]: liveness and readiness.
//! * [`load_sampler`]: measures this node's load.

pub(crate) mod drain;
pub(crate) mod election_waits;
pub(crate) mod health;
pub(crate) mod leadership;
pub(crate) mod load_sampler;
pub(crate) mod peer_statuses;
pub(crate) mod placement;
pub(crate) mod view;
