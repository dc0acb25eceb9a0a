//! The search for servers of one command.
//!
//! A command may need servers several times: to learn which cluster it is, for a client with a session, for clients that
//! send what earlier commands left behind, to say where it looked when nobody answered. Looking takes up to half a second
//! where a name server is silent, so it is done once: everything that begins, begins with what was found last. A client
//! that is stuck later looks again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use conclave_client::find::{Chain, Examined, Finder, Found, NotFound, Options};
use conclave_core::limits::NODES_MAX;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Names that are remembered: those of all members, and of as many that were members once.
const NAMES_MAX: usize = 2 * NODES_MAX;

/// Finds servers, and remembers what was found.
#[derive(Debug)]
pub(crate) struct Search {
    chain: Chain,
    /// Set when the first search is over, which everybody waits for.
    first: OnceCell<()>,
    latest: Mutex<Option<Latest>>,
}

#[derive(Debug)]
struct Latest {
    at: Instant,
    result: Result<Found, NotFound>,
    /// Address to name, also of servers that only earlier searches found.
    names: BTreeMap<String, String>,
}

impl Search {
    /// Nothing is asked yet.
    pub(crate) fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { chain: Chain::new(options), first: OnceCell::new(), latest: Mutex::new(None) })
    }

    /// What was found last. Only the first one who asks waits for a search.
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

    /// Everything that can be asked, and what it said.
    pub(crate) async fn examine(&self) -> Examined {
        self.chain.examine().await
    }

    /// What the servers at these addresses are called, as far as those say who know the addresses.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map(|latest| latest.names.clone()).unwrap_or_default()
    }

    /// What a new client is to find servers with.
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

/// The finder of one client: it begins with what was found last, and whatever it asks for later is looked for.
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

    fn learned(&self, members: Vec<String>) -> BoxFuture<'_, ()> {
        self.search.chain.learned(members)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::time::Duration;

    use conclave_client::find::{Seed, Source};

    use super::*;

    /// A name server that never answers, and how many questions it was asked since.
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
    async fn everything_that_begins_shares_one_search() {
        let (server, options) = silent_name_server();
        let search = Search::new(options);
        assert_eq!(questions(&server), 0, "nobody is asked before somebody wants to know");
        let (one, two) = futures::join!(search.found(), search.found());
        assert!(questions(&server) > 0);
        let one = one.unwrap();
        assert_eq!((one.source, one.addresses()), (Source::Given, vec!["127.0.0.1:1".to_owned()]));
        assert_eq!(two.unwrap(), one);
        let client = search.finder();
        assert_eq!(client.find().await.unwrap(), one);
        assert_eq!(search.finder().find().await.unwrap(), one);
        assert_eq!(questions(&server), 0, "known already");
        client.find().await.unwrap();
        assert!(questions(&server) > 0, "a client that asks again wants to know what is so now");
    }

    #[tokio::test]
    async fn names_stay_known_and_what_was_found_grows_old() {
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
