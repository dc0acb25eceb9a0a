//! What authorizes a client that only reads.

use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};

use conclave_proto::chat::OpenSessionRequest;

use super::Nodes;
use crate::limits::CLIENT_OPEN_TIMEOUT;

/// A client that only reads. Each node gives it a session of its own, which needs no majority and is kept nowhere.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) user: String,
    /// Name and version of the program.
    pub(crate) client: String,
}

impl Nodes {
    /// The `authorization` metadata of a client that only reads for calls to this node, which is asked for it at first;
    /// `None` for other clients.
    ///
    /// # Errors
    /// If the node does not answer, or belongs to another cluster.
    pub(crate) async fn reading_authorization(
        &self,
        address: &str,
    ) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some(Reader { user, client }) = self.reader.clone() else { return Ok(None) };
        if let Some(known) = self.table().node(address).and_then(|node| node.reading.clone()) {
            return Ok(Some(known));
        }
        let question = OpenSessionRequest { user, client, reads_only: true };
        let mut chat = self.chat(address)?;
        let asked = tokio::time::timeout(CLIENT_OPEN_TIMEOUT, chat.open_session(question)).await;
        let opened = asked.map_err(|_| Status::unavailable("the node did not answer"))??.into_inner();
        let ours = self.check_session(&opened.cluster_id);
        ours.map_err(|error| Status::unavailable(error.to_string()))?;
        self.expect(&opened.cluster_id);
        self.observe_level(opened.feature_level);
        if let Some(view) = &opened.cluster {
            self.observe_view(view);
        }
        let authorization = bearer(&opened.token);
        if let Some(node) = self.table().node(address) {
            node.reading.clone_from(&authorization);
        }
        Ok(authorization)
    }

    /// Forgets what a node gave to a client that only reads: the node does not accept it any more, as after a restart.
    pub(crate) fn forget_reading(&self, address: &str) {
        if let Some(node) = self.table().node(address) {
            node.reading = None;
        }
    }
}

/// The `authorization` metadata with this token; `None` if the token is not printable.
pub(crate) fn bearer(token: &str) -> Option<MetadataValue<Ascii>> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
