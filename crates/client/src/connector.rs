//! How a client reaches a node: over TCP, or by whatever its program connects with.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// What carries a connection's bytes.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for T {}

type Connect = dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> + Send + Sync;

/// Connects to nodes some other way than by TCP: through a tunnel, or in a simulation. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Connect>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Connects by this function, which gets `host:port`. It is called again whenever a connection is lost.
    #[must_use]
    pub fn new(
        connect: impl Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(connect))
    }

    /// A channel to `host:port`, connected at first use and again whenever the connection is lost.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint, address: &str) -> Channel {
        let (connect, address) = (Arc::clone(&self.0), address.to_owned());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connecting = connect(address.clone());
            async move { connecting.await.map(TokioIo::new) }
        }))
    }
}
