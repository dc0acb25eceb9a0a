//! What every long-running process of conclave shows of itself, in the same way.
//!
//! * [`metrics`]: metrics that are registered as they are made, and the process' own.
//! * [`web`]: `/livez`, `/readyz`, `/startupz` and `/metrics` over HTTP.
//! * [`grpc`]: a public gRPC port: its limits, and reflection.
//! * [`process`]: what the kernel knows of this process.

pub mod grpc;
mod limits;
pub mod metrics;
pub mod process;
pub mod web;
