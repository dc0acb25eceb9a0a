//! What authorizes a client that only reads.

use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};

use conclave_proto::chat::OpenSessionRequest;
use conclave_proto::status::from_status;

use super::Nodes;
use crate::error::is_auth;
use crate::limits::CLIENT_OPEN_TIMEOUT;
use crate::people::Token;

/// How the token of a session for reading begins. An older node gives a session that all nodes accept, and for ever, so it is
/// asked for one only once.
const OF_ONE_NODE: &str = "cnr1_";

/// A client that only reads. With the token of a log-in it reads with that one. Otherwise each node gives it a session of its
/// own, which needs no majority and is kept nowhere.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) user: String,
    /// Name and version of the program.
    pub(crate) client: String,
    pub(crate) login: Option<Token>,
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
        let Some(Reader { user, client, login }) = self.reader.clone() else { return Ok(None) };
        if let Some(login) = login {
            return Ok(bearer(login.reveal()));
        }
        {
            let mut table = self.table();
            let everywhere = table.reading_everywhere.clone();
            let known = everywhere.or_else(|| table.node(address).and_then(|node| node.reading.clone()));
            if known.is_some() {
                return Ok(known);
            }
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
        let mut table = self.table();
        if opened.token.starts_with(OF_ONE_NODE) {
            if let Some(node) = table.node(address) {
                node.reading.clone_from(&authorization);
            }
        } else {
            table.reading_everywhere.clone_from(&authorization);
        }
        Ok(authorization)
    }

    /// Forgets what authorized a client that only reads at this node, if the node does not accept it any more. Returns whether
    /// something was forgotten.
    pub(crate) fn forget_reading(&self, address: &str, refused: &Status) -> bool {
        // A log-in that has ended is not opened again.
        let has_login = self.reader.as_ref().is_some_and(|reader| reader.login.is_some());
        if has_login || !is_auth(&from_status(refused).code) {
            return false;
        }
        let mut table = self.table();
        let everywhere = table.reading_everywhere.take();
        let here = table.node(address).and_then(|node| node.reading.take());
        everywhere.or(here).is_some()
    }
}

/// The `authorization` metadata with this token; `None` if the token is not printable.
pub(crate) fn bearer(token: &str) -> Option<MetadataValue<Ascii>> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
