//! Builds a client: finds nodes, opens the outbox, opens or restores the session.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_core::name::check_user_name;
use conclave_net::{CaId, Net};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::calls::Caller;
use crate::client::Client;
use crate::error::{CallError, ConnectError};
use crate::find::{Chain, Finder, Options, Seed};
use crate::handle::Handle;
use crate::limits::{CALL_TIMEOUT, FIRST_SESSION_PATIENCE, SESSION_CHECK_PATIENCE};
use crate::nodes::{Nodes, Reader};
use crate::people::{Opener, Token};
use crate::sender::Supervisor;
use crate::shared::SharedState;
use crate::state::{ClientState, Identity};
use crate::storage::{self, OutboxDir, blocking};
use crate::types::{Outbox, Route, Session};

impl Client {
    /// Starts to build a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Builds a [`Client`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    servers: Vec<String>,
    finder: Option<Arc<dyn Finder>>,
    user: String,
    name: String,
    login: Option<Token>,
    outbox: Outbox,
    route: Route,
    patience: Option<Duration>,
    net: Net,
    authority: Option<CaId>,
    cluster: Option<String>,
}

impl Builder {
    /// Some nodes, as `host:port`, `conclave://HOST:PORT/CLUSTER-ID` or `conclave+srv://ZONE`. The client learns the others
    /// from them. A cluster id has the effect of [`Builder::authority`].
    #[must_use]
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// Finds nodes with `finder`. The addresses of [`Builder::servers`] are then ignored.
    #[must_use]
    pub fn finder(mut self, finder: Arc<dyn Finder>) -> Self {
        self.finder = Some(finder);
        self
    }

    /// The user's name.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// Name and version of the program, shown to operators.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The token of the user's log-in. The session of a new outbox is then opened with it (as by
    /// [`create_token`](crate::People::create_token)), in place of one that was ended, too, and a client that only reads uses it
    /// as it is. Without it, sessions are opened by the user's name alone, which is refused for a name with a password.
    #[must_use]
    pub fn login(mut self, token: impl Into<String>) -> Self {
        self.login = Some(Token::new(token.into()));
        self
    }

    /// Where requests are kept. The default is memory.
    #[must_use]
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// The node that a room's requests are sent to.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Timeout for a call, and for opening a session, over all attempts. The default is 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Connects to nodes and name servers over this network instead of the system's.
    #[must_use]
    pub fn network(mut self, net: Net) -> Self {
        self.net = net;
        self
    }

    /// Speaks TLS only, and only to servers that prove that they belong to the cluster whose certificate authority has this
    /// id; for a cluster that began with TLS that is the cluster's id. It holds for every server, however the client
    /// learned of it. A durable outbox keeps the id, so its session is never used in plain text afterwards.
    #[must_use]
    pub fn authority(mut self, authority: CaId) -> Self {
        self.authority = Some(authority);
        self
    }

    /// Uses only nodes of the cluster with this id. Without TLS a node is asked for its cluster before anything else is said
    /// to it; that is no proof, but keeps clusters apart that share addresses over time. A durable outbox keeps the id. A
    /// session of another cluster is neither opened nor restored.
    #[must_use]
    pub fn cluster(mut self, id: impl Into<String>) -> Self {
        self.cluster = Some(id.into());
        self
    }

    /// Builds a client without a session and without contacting a server: for [`Client::status`] and [`Client::ping`],
    /// which work without a majority.
    ///
    /// # Errors
    /// If no node was found.
    pub async fn observe(self) -> Result<Client, ConnectError> {
        let (finder, authority) = self.search()?;
        let nodes = self.nodes(authority)?;
        let found = finder.find().await?;
        nodes.add_found(&found);
        Ok(self.start_without_session(nodes, finder, found.fresh_for))
    }

    /// Builds a client that only reads: [`Client::history`], [`Client::rooms`], [`Client::subscribe`], [`Client::status`]. It needs no
    /// majority: each node gives it a session of its own, which is kept nowhere, neither there nor here, unless the client has a
    /// log-in ([`Builder::login`]). If no node is found, and the cluster's id is given, the client starts and goes on to search.
    ///
    /// # Errors
    /// If an argument is invalid, or no node was found. See [`ConnectError`].
    pub async fn read(self) -> Result<Client, ConnectError> {
        if self.login.is_none() {
            check_user_name(&self.user).map_err(|refusal| ConnectError::Invalid(refusal.to_string()))?;
        }
        let (finder, authority) = self.search()?;
        let login = self.login.clone();
        let reader = Reader { user: self.user.clone(), client: self.name.clone(), login };
        let nodes = Arc::new(self.table(authority)?.reading(reader));
        let fresh_for = match finder.find().await {
            Ok(found) => {
                nodes.add_found(&found);
                found.fresh_for
            }
            Err(error) if nodes.cluster().is_some() => {
                tracing::warn!(%error, "no server found, searching again");
                Some(Duration::ZERO)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(self.start_without_session(nodes, finder, fresh_for))
    }

    fn start_without_session(
        self,
        nodes: Arc<Nodes>,
        finder: Arc<dyn Finder>,
        fresh_for: Option<Duration>,
    ) -> Client {
        let state = ClientState::new(self.route, Arc::clone(&nodes), false);
        self.start(Arc::new(SharedState::new(state, nodes)), None, finder, fresh_for)
    }

    /// Opens a session, or restores the session of the durable outbox. To restore one, no server needs to be reachable. Where
    /// none can be opened for now, a client with a durable outbox whose cluster is known ([`Builder::cluster`]) starts without:
    /// it keeps requests, and sends them once it has a session.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let (finder, mut authority) = self.search()?;
        let mut outbox = None;
        if let Outbox::Durable(path) = &self.outbox {
            let path = path.clone();
            let (opened, recovered) = blocking(move || OutboxDir::open(&path)).await??;
            authority = the_one(storage::stored_authority(&recovered)?, authority)?;
            outbox = Some((opened, recovered));
        }
        let nodes = self.nodes(authority)?;
        let mut state = ClientState::new(self.route, Arc::clone(&nodes), outbox.is_some());
        let mut directory = None;
        if let Some((opened, recovered)) = outbox {
            let identity = storage::restore(recovered, authority, &mut state.requests);
            if let Some(identity) = &identity
                && !self.user.is_empty()
                && identity.session.user != self.user
            {
                return Err(opened.other_user(&identity.session.user).into());
            }
            if let Some(identity) = &identity {
                if !identity.session.cluster_id.is_empty() {
                    nodes.check_session(&identity.session.cluster_id)?;
                }
                nodes.expect(&identity.session.cluster_id);
            }
            if identity.as_ref().is_some_and(|identity| !identity.is_open()) {
                state.requests.await_session();
                if let Some(queue) = &mut state.queue {
                    queue.rewrite = true;
                }
            }
            state.session = identity.map(Arc::new);
            directory = Some(opened);
        }
        let found = finder.find().await;
        let fresh_for = match found {
            Ok(found) => {
                nodes.add_found(&found);
                found.fresh_for
            }
            // The client can accept requests without a server.
            Err(error) if state.session.is_some() => {
                tracing::warn!(%error, "no server found, starting offline; sends stay queued");
                Some(Duration::ZERO)
            }
            Err(error) => return Err(error.into()),
        };
        let shared = Arc::new(SharedState::new(state, nodes));
        if let Some(directory) = &directory {
            self.check_restored(&shared, directory).await?;
        }
        if shared.lock().session.is_none() {
            let identity = self.first_session(&shared, directory.is_some()).await?;
            if let Some(mut opened) = directory.take() {
                shared.nodes.expect(&identity.session.cluster_id);
                let first = storage::snapshot(&identity, &shared.lock().requests);
                directory = Some(blocking(move || opened.begin(first).map(|()| opened)).await??);
            }
            shared.lock().session = Some(Arc::new(identity));
        }
        Ok(self.start(shared, directory, finder, fresh_for))
    }

    /// Gives up the restored session if it was ended: the log-in opens another one in its place.
    ///
    /// # Errors
    /// If requests wait in the outbox. The ended session may have decided them, so no other one sends them.
    async fn check_restored(
        &self,
        shared: &Arc<SharedState>,
        directory: &OutboxDir,
    ) -> Result<(), ConnectError> {
        let restored = shared.lock().session.clone().filter(|identity| identity.is_open());
        let (Some(identity), Some(_)) = (restored, &self.login) else { return Ok(()) };
        let patience = self.time_for_calls().min(SESSION_CHECK_PATIENCE);
        let caller = Caller { shared: Arc::clone(shared) };
        if !caller.has_ended(&identity.token, patience).await {
            return Ok(());
        }
        let mut state = shared.lock();
        let waiting = state.requests.unsettled_count();
        if waiting > 0 {
            return Err(ConnectError::SessionEnded { path: directory.dir().to_owned(), waiting });
        }
        tracing::info!(session_id = identity.session.id, "the session of the outbox was ended");
        state.session = None;
        state.requests.session_changed();
        Ok(())
    }

    /// Opens the first session of a client. With an outbox on disk the client may start without one.
    async fn first_session(
        &self,
        shared: &Arc<SharedState>,
        is_durable: bool,
    ) -> Result<Identity, ConnectError> {
        check_user_name(&self.user).map_err(|refusal| ConnectError::Invalid(refusal.to_string()))?;
        let caller = Caller { shared: Arc::clone(shared) };
        let mut patience = self.time_for_calls();
        // Without the cluster's id, the requests could reach another cluster.
        let can_wait = is_durable && shared.nodes.cluster().is_some();
        if can_wait {
            patience = patience.min(FIRST_SESSION_PATIENCE);
        }
        match caller.open_session(&self.opener(), patience).await {
            Err(error @ (CallError::Unavailable { .. } | CallError::NoServer { .. })) if can_wait => {
                tracing::warn!(%error, "no session opened yet; sends stay queued");
                shared.lock().requests.await_session();
                Ok(self.without_session(&shared.nodes))
            }
            opened => Ok(opened?),
        }
    }

    fn opener(&self) -> Opener {
        Opener { user: self.user.clone(), client: self.name.clone(), login: self.login.clone() }
    }

    /// The identity of a user who has no session yet.
    fn without_session(&self, nodes: &Nodes) -> Identity {
        let session = Session {
            user: self.user.clone(),
            cluster_id: nodes.cluster().unwrap_or_default().to_owned(),
            ..Session::default()
        };
        Identity { session, token: String::new(), authority: nodes.authority() }
    }

    fn time_for_calls(&self) -> Duration {
        self.patience.unwrap_or(CALL_TIMEOUT)
    }

    /// Where nodes are found, and the certificate authority that they must prove to belong to.
    fn search(&self) -> Result<(Arc<dyn Finder>, Option<CaId>), ConnectError> {
        if let Some(finder) = &self.finder {
            return Ok((Arc::clone(finder), self.authority));
        }
        let seeds: Result<Vec<Seed>, _> = self.servers.iter().map(|server| server.parse()).collect();
        let seeds = seeds.map_err(|error| ConnectError::Invalid(error.to_string()))?;
        if seeds.is_empty() {
            let what = "no server is given; give the address of at least one";
            return Err(ConnectError::Invalid(what.to_owned()));
        }
        let mut authority = self.authority;
        for seed in &seeds {
            if let Seed::Pinned { authority: other, .. } = seed {
                authority = the_one(authority, Some(*other))?;
            }
        }
        Ok((Arc::new(Chain::new(Options { seeds, net: self.net.clone(), ..Options::default() })), authority))
    }

    fn nodes(&self, authority: Option<CaId>) -> Result<Arc<Nodes>, ConnectError> {
        self.table(authority).map(Arc::new)
    }

    fn table(&self, authority: Option<CaId>) -> Result<Nodes, ConnectError> {
        let nodes = match self.route {
            Route::Leader => Nodes::spread(),
            Route::Pinned => Nodes::in_order(),
        };
        let nodes = nodes.on(self.net.clone(), authority);
        let nodes = nodes.map_err(|error| ConnectError::Invalid(error.to_string()))?;
        nodes.expect(self.cluster.as_deref().unwrap_or_default());
        Ok(nodes)
    }

    fn start(
        self,
        shared: Arc<SharedState>,
        directory: Option<OutboxDir>,
        finder: Arc<dyn Finder>,
        fresh_for: Option<Duration>,
    ) -> Client {
        let tracker = TaskTracker::new();
        let caller = Caller { shared: Arc::clone(&shared) };
        let (progress_sender, progress) = watch::channel(0);
        let writer = directory.and_then(|directory| {
            let shared = Arc::clone(&shared);
            let write = move || storage::run(&shared, directory, &progress_sender);
            std::thread::Builder::new().name("conclave-outbox".to_owned()).spawn(write).ok()
        });
        let (patience, opener) = (self.time_for_calls(), self.opener());
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            tracker: tracker.clone(),
            caller: caller.clone(),
            finder,
            fresh_for,
            route: self.route,
            opener,
        };
        shared.resume();
        tracker.spawn(supervisor.run());
        let writer = Mutex::new(writer);
        Client { handle: Arc::new(Handle { shared, caller, tracker, patience, progress, writer }) }
    }
}

/// The one certificate authority of two statements of which either may be missing.
fn the_one(known: Option<CaId>, other: Option<CaId>) -> Result<Option<CaId>, ConnectError> {
    match (known, other) {
        (Some(known), Some(other)) if known != other => Err(ConnectError::Invalid(format!(
            "two clusters are named, {known} and {other}; a client and its session belong to one"
        ))),
        (known, other) => Ok(known.or(other)),
    }
}
