//! Resolves host names to addresses with the system's resolver.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Resolves one host repeatedly. The system's resolver blocks a thread and cannot be interrupted, so a lookup that
/// hangs is waited for; no second lookup is started beside it.
#[derive(Debug)]
pub(crate) struct Lookup {
    address: String,
    in_flight: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Lookup {
    /// For an address of the form `host:port`.
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), in_flight: None }
    }

    /// The host's current addresses, at least one. A literal IP address needs no lookup.
    pub(crate) async fn addresses(&mut self, at_most: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(literal) = self.address.parse() {
            return Ok(vec![literal]);
        }
        let mut asked = self.in_flight.take().unwrap_or_else(|| {
            let address = self.address.clone();
            tokio::task::spawn_blocking(move || Ok(address.to_socket_addrs()?.collect()))
        });
        let Ok(answer) = tokio::time::timeout(at_most, &mut asked).await else {
            self.in_flight = Some(asked);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the system's resolver does not answer"));
        };
        let addresses = answer.map_err(io::Error::other)??;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_need_no_lookup_and_names_are_resolved() {
        let at_most = Duration::from_secs(10);
        for (address, expected) in [("127.0.0.1:7", "127.0.0.1:7"), ("[::1]:7", "[::1]:7")] {
            let addresses = Lookup::new(address).addresses(Duration::ZERO).await.unwrap();
            assert_eq!(addresses, [expected.parse().unwrap()]);
        }
        let local = Lookup::new("localhost:7").addresses(at_most).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{local:?}");
        assert!(Lookup::new("no port").addresses(at_most).await.is_err());
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_is_not_started_twice() {
        let (answer, hanging) = std::sync::mpsc::channel();
        let mut lookup = Lookup::new("elsewhere:1");
        lookup.in_flight = Some(tokio::task::spawn_blocking(move || Ok(vec![hanging.recv().unwrap()])));
        let error = lookup.addresses(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        answer.send("10.0.0.1:1".parse().unwrap()).unwrap();
        let addresses = lookup.addresses(Duration::from_secs(10)).await.unwrap();
        assert_eq!(addresses, ["10.0.0.1:1".parse().unwrap()]);
    }
}
