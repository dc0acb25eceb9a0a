//! `conclave bot`: runs a command for each message, and sends its output as replies, exactly once.
//!
//! The outbox of the bot has its position, too. A crash leaves one of these:
//!
//! * before the position and the replies are synced, as one record: the next run gives the message to the command again,
//!   and nothing of the first try was sent;
//! * after that: the next run begins behind the message, and the outbox sends the replies, once, under their numbers.

mod exec;

use std::collections::BTreeMap;

use conclave_client::{Ack, Client, Follow, Incoming, Position, SendError, Start, Subscription};
use conclave_proto::chat;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::follow::{self, FollowedRooms};
use crate::args::BotArgs;
use crate::errors::{of_call, of_send};
use crate::exit::{Exit, Failed};
use crate::limits::CLI_SENDS_IN_FLIGHT_MAX;
use crate::settings::Settings;
use crate::view::event;
use crate::view::text::count;
use crate::{output, session};

/// Answers messages until interrupted, or until the end of past events.
///
/// # Errors
/// If a room does not exist, the command fails, or the state directory cannot be written.
pub(super) async fn run(mut args: BotArgs, settings: &Settings) -> anyhow::Result<Exit> {
    args.rooms.sort();
    args.rooms.dedup();
    let client = session::open_consumer(settings, "bot", &args.name).await?;
    let result = match Bot::new(&args, settings, &client).await {
        Ok(bot) => bot.run().await,
        Err(error) => Err(error),
    };
    session::close(client).await;
    result
}

/// The outcome of a reply in a room.
type Outcome = (String, Result<Ack, SendError>);

struct Bot<'a> {
    args: &'a BotArgs,
    settings: &'a Settings,
    client: &'a Client,
    positions: FollowedRooms,
    subscription: Subscription,
    /// Replies that are on their way.
    replies: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// The exit code of a reply that the cluster has refused.
    refused: Option<Exit>,
}

impl<'a> Bot<'a> {
    async fn new(args: &'a BotArgs, settings: &'a Settings, client: &'a Client) -> anyhow::Result<Self> {
        let rooms = follow::resolve(client, &args.rooms, !args.no_follow).await?;
        let known = client.positions();
        let mut positions = FollowedRooms::default();
        let mut follows = Vec::new();
        for (room, &id) in &rooms {
            let start = start(args, &known, id);
            positions.begin(room, start, None);
            positions.named(id, room);
            follows.push(Follow::room(room.clone()).from(start));
        }
        let subscription = client.subscribe(follows);
        Ok(Self {
            args,
            settings,
            client,
            positions,
            subscription,
            replies: FuturesUnordered::new(),
            refused: None,
        })
    }

    async fn run(mut self) -> anyhow::Result<Exit> {
        loop {
            let incoming = tokio::select! {
                Some(outcome) = self.replies.next(), if !self.replies.is_empty() => {
                    self.replied(outcome);
                    continue;
                }
                incoming = self.subscription.next(), if self.replies.len() < CLI_SENDS_IN_FLIGHT_MAX => incoming,
            };
            match incoming.map_err(|error| of_call(self.positions.only_room(), &error))? {
                Incoming::Event(event) => self.event(&event).await?,
                Incoming::CaughtUp { rooms, .. } => {
                    for room in rooms {
                        let begun = self.positions.reached(&room.name, room.seq);
                        if !begun && !self.client.positions().contains_key(&room.room_id) {
                            // The next run must answer the messages that follow.
                            self.reach(Position { room_id: room.room_id, seq: room.seq }, Vec::new()).await?;
                        }
                    }
                    if self.args.no_follow {
                        return self.finish().await;
                    }
                }
                Incoming::Truncated { room_id, first_seq } => {
                    let room = self.positions.name(room_id, || None);
                    let what = format!(
                        "the events of #{room} before {first_seq} are not shown: they were deleted, or you were no member then"
                    );
                    let failed = Failed::new(Exit::Refused, what, "").with_word("truncated");
                    output::passed_over(self.settings.json, None, &failed);
                    self.positions.jump(&room, first_seq.saturating_sub(1));
                }
                Incoming::RoomClosed { room_id, .. } => {
                    let room = self.positions.name(room_id, || None);
                    output::note(false, &format!("the bot is no longer a member of #{room}"));
                    self.positions.end(&room);
                }
                // The connection, keepalives, and items of later versions.
                _ => {}
            }
        }
    }

    async fn event(&mut self, event: &chat::Event) -> anyhow::Result<()> {
        let room = self.positions.name(event.room_id, || self.subscription.room_name(event.room_id));
        self.positions.next(&room, event.seq)?;
        let message = matches!(event.kind, Some(chat::event::Kind::Message(_)));
        let own = event.author_id == self.client.session().user_id;
        if !self.args.all_events && (own || !message) {
            // Nobody answers it, so it does no harm if the next run passes it again.
            return Ok(());
        }
        let line = serde_json::to_string(&event::json(&room, event))?;
        let answered = exec::run(&self.args.exec, &line, self.args.exec_timeout).await;
        let replies = answered.and_then(|printed| exec::replies(&printed, &room, self.args.json_replies));
        let replies = match replies {
            Ok(replies) => replies,
            Err(why) => {
                let what = format!("the command failed for #{room}:{}: {why}", event.seq);
                if !self.args.skip_failed {
                    // What was answered before is sent, as far as the cluster takes it now.
                    self.client.flush(self.settings.timeout).await;
                    let next = "the next run begins with this message; --skip-failed passes over it";
                    return Err(Failed::new(Exit::Refused, what, next).into());
                }
                let failed = Failed::new(Exit::Refused, what, "");
                output::passed_over(self.settings.json, None, &failed);
                Vec::new()
            }
        };
        self.reach(Position { room_id: event.room_id, seq: event.seq }, replies).await
    }

    /// Writes the position and the replies as one.
    async fn reach(
        &mut self,
        position: Position,
        replies: Vec<(String, conclave_client::Content)>,
    ) -> anyhow::Result<()> {
        let rooms: Vec<String> = replies.iter().map(|(room, _)| room.clone()).collect();
        let first = rooms.first().cloned().unwrap_or_default();
        let tickets = self.client.reply(position, replies).await.map_err(|error| of_send(&first, &error))?;
        for (room, ticket) in rooms.into_iter().zip(tickets) {
            self.replies.push(Box::pin(async move { (room, ticket.wait().await) }));
        }
        Ok(())
    }

    fn replied(&mut self, (room, outcome): Outcome) {
        if let Err(error) = outcome {
            let failed = of_send(&room, &error);
            let what = format!("a reply to #{room} was not taken: {}", failed.what);
            self.refused = Some(failed.exit);
            output::passed_over(self.settings.json, None, &failed.saying(what));
        }
    }

    /// Waits for the replies that are on their way.
    async fn finish(mut self) -> anyhow::Result<Exit> {
        let left = self.client.flush(self.settings.timeout).await;
        if left > 0 {
            let what = format!("{} wait in the outbox", count(left as u64, "message"));
            return Err(Failed::new(Exit::Queued, what, "the next run sends them").into());
        }
        while let Some(outcome) = self.replies.next().await {
            self.replied(outcome);
        }
        Ok(self.refused.unwrap_or(Exit::Ok))
    }
}

/// Where to begin in a room: behind what is answered, else where the flags say, else at the first event.
fn start(args: &BotArgs, known: &BTreeMap<u64, u64>, room_id: u64) -> Start {
    match (known.get(&room_id), args.since, args.last) {
        (Some(&seq), ..) | (None, Some(seq), _) => Start::After(seq),
        (None, None, Some(last)) => Start::Last(last),
        (None, None, None) => Start::After(0),
    }
}
