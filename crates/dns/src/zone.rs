//! The zone: names and records as a pure function of what is known of the nodes.

pub mod view;

pub use view::{NodeView, View, zone_name};
