//! The setup of a public gRPC port.

use std::time::Duration;

use tonic::transport::Server;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::{Builder, v1alpha};

use crate::limits::STREAMS_PER_CONNECTION_MAX;

/// A server with the limits of a public port: a bound on streams for each connection, and keepalive pings every 10 s,
/// with 10 s for the answer, so that connections of clients that are gone are closed.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// The reflection service for tools such as grpcurl: describes all of conclave's services and the gRPC health service.
#[must_use]
pub fn reflection() -> ServerReflectionServer<impl ServerReflection> {
    descriptions().build_v1().expect(VALID)
}

/// The same for tools that know only the older version of the reflection service, such as grpcurl before 1.8.8 and the
/// reflection client of gRPC for Python.
#[must_use]
pub fn reflection_v1alpha() -> v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection> {
    descriptions().build_v1alpha().expect(VALID)
}

const VALID: &str = "the descriptors come from the build, and a test parses them";

fn descriptions() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(conclave_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_descriptors_are_valid() {
        drop((super::reflection(), super::reflection_v1alpha()));
    }
}
