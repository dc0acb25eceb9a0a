//! Metrics, health pages and gRPC reflection, the same in every long-running process of conclave.
//!
//! * [`metrics`]: a registry of metrics, with those of the process itself.
//! * [`web`]: `/livez`, `/readyz`, `/startupz` and `/metrics` over HTTP.
//! * [`calls`]: the standard metrics of gRPC servers.
//! * [`certificate`]: when the certificate in use expires.
//! * [`connections`]: metrics of the connections at each port.
//! * [`door`]: the port of a program that is asked over HTTP, with TLS beyond loopback.
//! * [`grpc`]: the limits of a public gRPC port, and reflection.
//! * [`operators`]: who may make the calls of operators.
//! * [`log`]: the log on stderr, which never holds a process up.
//! * [`process`]: processor time, memory and files of this process.

pub mod calls;
pub mod certificate;
pub mod connections;
pub mod door;
pub mod grpc;
mod limits;
pub mod log;
pub mod metrics;
pub mod operators;
pub mod process;
pub mod web;
