//! The network of the simulation, as nodes and clients see it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use conclave_client::Connector;
use conclave_server::net::{Connection, Incoming, Network};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use turmoil::net::{TcpListener, TcpStream};

/// Which way nothing gets through: from the first to the second. Shared by all hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cuts(Arc<Mutex<BTreeSet<(IpAddr, IpAddr)>>>);

impl Cuts {
    pub(crate) fn set(&self, cuts: BTreeSet<(IpAddr, IpAddr)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cuts;
    }

    fn between(&self, a: IpAddr, b: IpAddr) -> bool {
        let cuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.contains(&(a, b)) || cuts.contains(&(b, a))
    }
}

/// The network of one host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) me: IpAddr,
    pub(crate) cuts: Cuts,
}

impl Host {
    async fn dial(self, address: String) -> io::Result<Box<dyn Connection>> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        match TcpStream::connect(address).await {
            Ok(stream) => Ok(Box::new(stream)),
            // The simulated network refuses what it loses. A real one says nothing, and whoever connects gives up.
            Err(_) if self.cuts.between(self.me, address.ip()) => std::future::pending().await,
            Err(error) => Err(error),
        }
    }

    /// The same for a client.
    pub(crate) fn connector(&self) -> Connector {
        let host = self.clone();
        Connector::new(move |address| {
            let dialing = host.clone().dial(address);
            Box::pin(async move {
                dialing.await.map(|stream| Box::new(stream) as Box<dyn conclave_client::Connection>)
            })
        })
    }
}

impl Network for Host {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Incoming>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let accepted = stream::unfold(listener, |listener| async move {
                let made = listener.accept().await.map(|(stream, _)| Box::new(stream) as Box<dyn Connection>);
                Some((made, listener))
            });
            Ok(accepted.boxed())
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        Box::pin(self.clone().dial(address))
    }
}
