//! The bounds of a public gRPC port.

/// HTTP/2 streams that one client connection may have open.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
