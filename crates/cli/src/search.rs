//! The search for servers, shared by all clients of one command.
//!
//! A command needs servers several times: to identify the cluster, for the client with the session, for clients that
//! send the unsent messages of earlier commands, and to list the searched sources in an error. A search takes up to
//! half a second if a name server is silent, so it runs once and every client starts with its result. A client that
//! later cannot reach a server searches again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use conclave_client::find::{Chain, Examined, Finder, Found, NotFound, Options};
use conclave_core::limits::NODES_MAX;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// The maximum number of cached names: those of all members, and of as many former members.
const NAMES_MAX: usize = 2 * NODES_MAX;

/// Finds servers, and caches the result.
#[derive(Debug)]
pub(crate) struct Search {
    chain: Chain,
    /// Set when the first search is complete. All clients wait for it.
    first: OnceCell<()>,
    latest: Mutex<Option<Latest>>,
}

#[derive(Debug)]
struct Latest {
    at: Instant,
    result: Result<Found, NotFound>,
    /// Names by address, also of servers that only earlier searches have found.
    names: BTreeMap<String, String>,
}

impl Search {
    /// A search that has not started.
    pub(crate) fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { chain: Chain::new(options), first: OnceCell::new(), latest: Mutex::new(None) })
    }

    /// The latest result. The first call runs the search.
    pub(crate) async fn found(&self) -> Result<Found, NotFound> {
        self.first.get_or_init(async || drop(self.search_again().await)).await;
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = latest.as_ref() else { return Err(NotFound::default()) };
        let mut result = latest.result.clone();
        if let Ok(found) = &mut result {
            let age = latest.at.elapsed();
            found.fresh_for = found.fresh_for.map(|fresh| fresh.saturating_sub(age));
        }
        result
    }

    /// Asks all sources and returns their answers.
    pub(crate) async fn examine(&self) -> Examined {
        self.chain.examine().await
    }

    /// The names of servers by address, as far as the sources have named them.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map(|latest| latest.names.clone()).unwrap_or_default()
    }

    /// The finder for a new client.
    pub(crate) fn finder(self: &Arc<Self>) -> Arc<dyn Finder> {
        Arc::new(ClientFinder { search: Arc::clone(self), begun: AtomicBool::new(false) })
    }

    async fn search_again(&self) -> Result<Found, NotFound> {
        let result = self.chain.find().await;
        let at = Instant::now();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = latest.take().map(|latest| latest.names).unwrap_or_default();
        for one in result.iter().flat_map(|found| &found.candidates).filter(|one| !one.name.is_empty()) {
            if names.len() < NAMES_MAX || names.contains_key(&one.address) {
                names.insert(one.address.clone(), one.name.clone());
            }
        }
        *latest = Some(Latest { at, result: result.clone(), names });
        result
    }
}

/// The finder of one client: the first call returns the latest result, and each later one searches again.
#[derive(Debug)]
struct ClientFinder {
    search: Arc<Search>,
    begun: AtomicBool,
}

impl Finder for ClientFinder {
    fn find(&self) -> BoxFuture<'_, Result<Found, NotFound>> {
        if self.begun.swap(true, Ordering::Relaxed) {
            return Box::pin(self.search.search_again());
        }
        Box::pin(self.search.found())
    }

    fn save_members(&self, members: Vec<String>) -> BoxFuture<'_, ()> {
        self.search.chain.save_members(members)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::time::Duration;

    use conclave_client::find::{Seed, Source};

    use super::*;

    /// A name server that never answers, and options that use it.
    fn silent_name_server() -> (UdpSocket, Options) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let zone = format!("conclave+srv://z.test?ns={}", socket.local_addr().unwrap());
        let seeds = vec![zone.parse().unwrap(), Seed::Node("127.0.0.1:1".to_owned())];
        (socket, Options { seeds, mdns: false, ..Options::default() })
    }

    fn questions(socket: &UdpSocket) -> usize {
        let mut buffer = [0; 512];
        let mut count = 0;
        loop {
            match socket.recv_from(&mut buffer) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn all_clients_share_the_first_search() {
        let (server, options) = silent_name_server();
        let search = Search::new(options);
        assert_eq!(questions(&server), 0, "no query before the first call");
        let (one, two) = futures::join!(search.found(), search.found());
        assert!(questions(&server) > 0);
        let one = one.unwrap();
        assert_eq!((one.source, one.addresses()), (Source::Given, vec!["127.0.0.1:1".to_owned()]));
        assert_eq!(two.unwrap(), one);
        let client = search.finder();
        assert_eq!(client.find().await.unwrap(), one);
        assert_eq!(search.finder().find().await.unwrap(), one);
        assert_eq!(questions(&server), 0, "the result is cached");
        client.find().await.unwrap();
        assert!(questions(&server) > 0, "a second call of the same client searches again");
    }

    #[tokio::test]
    async fn names_stay_cached_and_freshness_decreases() {
        let search = Search::new(Options::default());
        let found = Found {
            candidates: vec![],
            fresh_for: Some(Duration::from_secs(1)),
            source: Source::Srv,
            notes: vec![],
        };
        let names = BTreeMap::from([("a:1".to_owned(), "node1".to_owned())]);
        search.first.set(()).unwrap();
        let at = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        *search.latest.lock().unwrap() = Some(Latest { at, result: Ok(found), names });
        assert_eq!(search.found().await.unwrap().fresh_for, Some(Duration::ZERO));
        assert_eq!(search.names().get("a:1").map(String::as_str), Some("node1"));
    }
}
