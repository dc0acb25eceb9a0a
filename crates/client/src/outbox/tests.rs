//! The outbox against a model of the cluster.
