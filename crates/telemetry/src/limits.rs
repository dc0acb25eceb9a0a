//! The bounds of a public gRPC port.

/// Open HTTP/2 streams on one client connection.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
