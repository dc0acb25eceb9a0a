//! Which rooms the chat follows, and into which of them what is typed goes.

use conclave_client::{Follow, Start};
use tokio::time::Instant;

use super::job::JobResult;
use super::{Chat, LAST};

impl Chat {
    /// The person goes to another room, or leaves one: what is typed next waits until that is done.
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
        // The person went on typing meanwhile, and must not find themselves talking elsewhere.
        self.dim(&format!("joined #{room}; /join {room} goes there")).await
    }

    pub(super) async fn left(&mut self, room: String) -> anyhow::Result<()> {
        self.positions.end(&room);
        self.follow();
        self.dim(&format!("left #{room}")).await?;
        let next = match &self.current {
            Some(current) if *current != room => Some(current.clone()),
            _ => self.positions.rooms().next().map(|(room, _)| room.to_owned()),
        };
        self.enter_room(next).await
    }

    /// What is typed next goes to this room.
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

    /// What is typed next is listened to again.
    pub(super) fn resume_input(&mut self) {
        self.moving_since = None;
        self.update_prompt();
        self.screen.resume_input();
    }

    /// Follows the rooms anew, each from where it stands.
    fn follow(&mut self) {
        let follow = |(room, after): (&str, Option<u64>)| {
            Follow::room(room).from(after.map_or(Start::Last(LAST), Start::After))
        };
        self.subscription = self.client.subscribe(self.positions.rooms().map(follow).collect());
    }
}
