//! Sends snapshots.

use std::time::Duration;

use conclave_core::{RoomId, Seq};
use conclave_proto::raft;
use conclave_store::{LocalSnapshot, Snapshot, SnapshotData, StoreError, TypeConfig, Vote, Work, convert};
use openraft::OptionalSend;
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{NetSnapshot, RPCOption};
use openraft::raft::SnapshotResponse;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::{PeerNetwork, read_vote};
use crate::limits::SNAPSHOT_STALL;

/// Snapshot chunks read ahead of the connection.
const SNAPSHOT_CHUNKS_AHEAD: usize = 4;

impl NetSnapshot<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = self.send_snapshot(vote, snapshot);
        tokio::select! {
            result = send => result,
            closed = cancel => Err(closed.into()),
        }
    }
}

impl PeerNetwork {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |error: String| StreamingError::Unreachable(Unreachable::from_string(error));
        let SnapshotData::Local(local) = snapshot.snapshot else {
            return Err(unreachable("only a snapshot built here can be sent".to_owned()));
        };
        let peer =
            self.peer.as_ref().ok_or_else(|| unreachable(format!("node {} is not known", self.target)))?;
        let began = Instant::now();
        let mut client = peer.bulk();
        let offer = client.offer_snapshot(raft::OfferSnapshotRequest { shard: self.shard.0 });
        let offer = tokio::time::timeout(SNAPSHOT_STALL, offer).await;
        let offer = offer.map_err(|_| unreachable("no answer to the offer of a snapshot".to_owned()))?;
        let offer = offer.map_err(|status| unreachable(status.to_string()))?.into_inner();
        let left_out: Vec<_> =
            offer.rooms.iter().map(|prefix| (prefix.room_id.into(), prefix.last_seq.into())).collect();

        let header = raft::SnapshotHeader {
            shard: self.shard.0,
            vote: Some(convert::vote_to_proto(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(convert::log_id_to_proto),
            membership: Some(convert::stored_membership_to_proto(&snapshot.meta.last_membership)),
            left_out: offer.rooms,
            digest: local.digest(),
            feature_level: self.admission.topology.feature_level(),
        };
        let (chunks, queue) = mpsc::channel(SNAPSHOT_CHUNKS_AHEAD);
        let (progress, taken) = watch::channel(());
        let reading = match self.admission.store.work() {
            Work::Threads => spawn_blocking(move || read(local, left_out, header, &chunks, &progress)),
            Work::Tasks => tokio::spawn(read_as_task(local, left_out, header, chunks, progress)),
        };
        // When the transfer is abandoned, this drops the queue, and reading ends with it.
        let answer = tokio::select! {
            answer = client.install_snapshot(tokio_stream::wrappers::ReceiverStream::new(queue)) => answer,
            () = stalled(taken, SNAPSHOT_STALL) => {
                return Err(unreachable(format!("the receiver has taken no chunk of the snapshot for {SNAPSHOT_STALL:?}")));
            }
        };
        match reading.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(unreachable(format!("read the snapshot: {error}"))),
            Err(error) => return Err(unreachable(format!("read the snapshot: {error}"))),
        }
        let answer = answer.map_err(|status| unreachable(status.to_string()))?.into_inner();
        let vote = read_vote(answer.vote).map_err(|error| unreachable(error.to_string()))?;
        self.metrics.raft_snapshot_send.observe(began.elapsed().as_secs_f64());
        tracing::info!(
            shard = self.shard.0,
            peer = self.target,
            took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "snapshot sent"
        );
        Ok(SnapshotResponse::new(vote))
    }
}

/// Reads the snapshot's chunks as the connection takes them. Blocking.
fn read(
    snapshot: LocalSnapshot,
    left_out: Vec<(RoomId, Seq)>,
    header: raft::SnapshotHeader,
    chunks: &mpsc::Sender<raft::SnapshotChunk>,
    progress: &watch::Sender<()>,
) -> Result<(), StoreError> {
    let mut header = Some(header);
    for chunk in snapshot.chunks(left_out) {
        let mut chunk = chunk?;
        chunk.header = header.take();
        if chunks.blocking_send(chunk).is_err() {
            break;
        }
        progress.send_replace(());
    }
    Ok(())
}

/// The same as [`read`], as an async task.
async fn read_as_task(
    snapshot: LocalSnapshot,
    left_out: Vec<(RoomId, Seq)>,
    header: raft::SnapshotHeader,
    chunks: mpsc::Sender<raft::SnapshotChunk>,
    progress: watch::Sender<()>,
) -> Result<(), StoreError> {
    let mut header = Some(header);
    for chunk in snapshot.chunks(left_out) {
        let mut chunk = chunk?;
        chunk.header = header.take();
        if chunks.send(chunk).await.is_err() {
            break;
        }
        progress.send_replace(());
    }
    Ok(())
}

/// Waits until the receiver has taken nothing for `after`. A snapshot that is being sent keeps the state file from
/// reusing old pages, so a stalled transfer must end. Once all chunks are taken, no pages are kept any more, and the
/// installation may take any time.
async fn stalled(mut taken: watch::Receiver<()>, after: Duration) {
    loop {
        match tokio::time::timeout(after, taken.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stalled_transfer_is_abandoned() {
        let after = Duration::from_secs(30);
        let (progress, taken) = watch::channel(());
        let begun = Instant::now();
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(after - Duration::from_secs(1)).await;
                progress.send_replace(());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stalled(taken, after) => {}
            () = slow => {}
        }
        assert_eq!(begun.elapsed(), (after - Duration::from_secs(1)) * 10 + after, "slow is not stalled");
    }

    #[tokio::test(start_paused = true)]
    async fn an_installation_has_no_deadline() {
        let (progress, taken) = watch::channel(());
        progress.send_replace(());
        drop(progress);
        let waited =
            tokio::time::timeout(Duration::from_secs(86_400), stalled(taken, Duration::from_secs(30)));
        assert!(waited.await.is_err());
    }
}
