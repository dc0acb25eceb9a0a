//! The plan of a cluster, derived from the list of its initial nodes.
//!
//! Every initial node is given the same list. Ids follow from the order of the names, the cluster's id from the list
//! and the cluster's name, and the layout from the ring: so all nodes bootstrap identically without any communication.
//! None of this is computed again for a data dir that already has an identity.

use std::collections::BTreeMap;

use conclave_core::NodeId;
use conclave_core::ring::{Layout, RingNode, layout};
use xxhash_rust::xxh3::xxh3_128;

use crate::config::{Config, Member};

/// The plan that follows from the configuration of the initial nodes.
#[derive(Debug)]
pub(crate) struct ClusterPlan {
    pub(crate) me: NodeId,
    pub(crate) cluster: u128,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) layout: Layout,
}

impl ClusterPlan {
    /// Derives the plan. The configuration must be valid.
    pub(crate) fn new(config: &Config) -> Self {
        let mut initial = config.initial.clone();
        initial.sort_by(|a, b| a.name.cmp(&b.name));
        let members: BTreeMap<_, _> = (1..).map(NodeId).zip(initial).collect();
        let names: Vec<&str> = members.values().map(|member| member.name.as_str()).collect();
        let genesis = format!("{}\0{}\0{}", config.cluster_name, names.join("\0"), config.shards);
        let nodes: Vec<RingNode> = members.keys().copied().map(RingNode::from).collect();
        Self {
            me: NodeId(config.node_id()),
            cluster: xxh3_128(genesis.as_bytes()),
            layout: layout(&nodes, config.shards, config.replicas(), None),
            members,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, order: [&str; 3]) -> Config {
        let member = |name: &&str| Member {
            name: (*name).to_owned(),
            peer: format!("{name}:1"),
            client: format!("{name}:2"),
            http: format!("{name}:3"),
        };
        let any = "127.0.0.1:0".parse().unwrap();
        Config::new(name.to_owned(), "unused".into(), order.iter().map(member).collect(), [any; 3])
    }

    #[test]
    fn all_nodes_derive_the_same_plan() {
        let one = ClusterPlan::new(&config("a", ["a", "b", "c"]));
        let two = ClusterPlan::new(&config("b", ["c", "b", "a"]));
        assert_eq!((one.cluster, &one.layout, &one.members), (two.cluster, &two.layout, &two.members));
        assert_eq!((one.me, two.me), (NodeId(1), NodeId(2)));
        assert_eq!(one.layout.shards.len(), 9);
        let other = ClusterPlan::new(&Config { shards: 4, ..config("a", ["a", "b", "c"]) });
        assert_ne!(other.cluster, one.cluster, "another number of shards is another cluster");
    }
}
