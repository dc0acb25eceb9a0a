//! Polls every server's status for as long as a run lasts.

use std::sync::Arc;

use conclave_client::Net;
use conclave_proto::chat::chat_service_client::ChatServiceClient;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendError, Target};
use crate::engine::RunError;
use crate::server_states::{self, Observed};
use crate::workload::ClientView;

/// The tasks that poll the servers, one per server.
pub(super) struct Watching {
    pub(super) observed: Arc<Observed>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Watching {
    pub(super) fn start(servers: &[Target], seen: &Arc<ClientView>, net: &Net) -> Result<Self, RunError> {
        let watching =
            Self { observed: Arc::default(), tasks: JoinSet::new(), stop: CancellationToken::new() };
        servers.iter().try_fold(watching, |mut watching, server| {
            let endpoint = net.endpoint(&server.client);
            let endpoint = endpoint.map_err(|error| BackendError::Failed {
                what: format!("watch {}", server.name),
                why: error.to_string(),
            })?;
            let client = ChatServiceClient::new(net.channel(&endpoint, &server.client));
            let (observed, seen) = (Arc::clone(&watching.observed), Arc::clone(seen));
            let watch =
                server_states::watch(client, server.name.clone(), observed, seen, watching.stop.clone());
            watching.tasks.spawn(watch);
            Ok(watching)
        })
    }

    pub(super) async fn stop(mut self) -> Arc<Observed> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.observed
    }
}
