//! The rooms that a chat follows, and the current room.

use conclave_client::{Follow, Start};
use tokio::time::Instant;

use super::job::JobResult;
use super::{Chat, LAST};

impl Chat {
    /// Starts to change or leave a room: typed lines wait until that is complete.
    pub(super) fn start_move(&mut self, job: impl Future<Output = JobResult> + Send + 'static) {
        self.moving_since = Some(Instant::now());
        self.jobs.spawn(job);
    }

    pub(super) async fn joined(&mut self, room: String) -> anyhow::Result<()> {
        if !self.positions.rooms().any(|(known, _)| known == room) {
            self.positions.begin(&room, Start::Last(LAST), None);
            self.follow();
        }
        if self.moving_since.is_some() {
            return self.enter_room(Some(room)).await;
        }
        // The user went on typing meanwhile, so the current room must not change.
        self.dim(&format!("joined #{room}; /join {room} goes there")).await
    }

    pub(super) async fn left(&mut self, room: String) -> anyhow::Result<()> {
        self.dim(&format!("left #{room}")).await?;
        self.end_room(room).await
    }

    /// Somebody ended the user's membership.
    pub(super) async fn shut_out(&mut self, room: String) -> anyhow::Result<()> {
        self.dim(&format!("you are no longer a member of #{room}")).await?;
        self.end_room(room).await
    }

    async fn end_room(&mut self, room: String) -> anyhow::Result<()> {
        self.positions.end(&room);
        self.follow();
        let next = match &self.current {
            Some(current) if *current != room => Some(current.clone()),
            _ => self.positions.rooms().next().map(|(room, _)| room.to_owned()),
        };
        self.enter_room(next).await
    }

    /// Makes this the current room.
    pub(super) async fn enter_room(&mut self, room: Option<String>) -> anyhow::Result<()> {
        if self.current != room {
            let text = room.as_ref().map_or_else(
                || "in no room; /join ROOM".to_owned(),
                |room| format!("what you type goes to #{room}"),
            );
            self.dim(&text).await?;
        }
        self.current = room;
        self.resume_input();
        Ok(())
    }

    /// Reads typed lines again.
    pub(super) fn resume_input(&mut self) {
        self.moving_since = None;
        self.update_prompt();
        self.screen.resume_input();
    }

    /// Subscribes again to all rooms, each from its position.
    fn follow(&mut self) {
        let follow = |(room, after): (&str, Option<u64>)| {
            Follow::room(room).from(after.map_or(Start::Last(LAST), Start::After))
        };
        self.subscription = self.client.subscribe(self.positions.rooms().map(follow).collect());
    }
}
