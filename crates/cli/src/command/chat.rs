//! `conclave chat`: an interactive chat.
//!
//! One loop handles everything: typed lines, events of the rooms, and the outcomes of requests. It never waits for the
//! network, so the user can always type.

mod job;
mod rooms;
mod screen;
mod slash;
mod ticks;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use conclave_client::{CallError, Client, Content, Follow, Incoming, SendError, Start, Subscription};
use conclave_proto::chat;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::job::JobResult;
use self::screen::{Input, Inputs, Screen};
use self::slash::{HELP, Typed, typed};
use self::ticks::{TickNotice, Ticks};
use super::follow::{Connection, FollowedRooms};
use super::line_style;
use crate::args::ChatArgs;
use crate::errors::{of_call, of_send};
use crate::exit::{Exit, Failed};
use crate::limits::{CHAT_CLOCK_AFTER, CLI_SENDS_IN_FLIGHT_MAX};
use crate::session;
use crate::settings::Settings;
use crate::view::event::line;
use crate::view::fold::Shown;
use crate::view::paint::{Ink, Tick, paint, tick};
use crate::view::text::{count, safe, took};

/// The number of past events that are shown first.
const LAST: u32 = 20;
/// Two Ctrl-C within this time end the chat.
const TWICE: Duration = Duration::from_secs(2);
/// The longest time that typed lines wait for a room to be joined or left.
const MOVING: Duration = Duration::from_secs(3);
/// Interval at which late acks and a lost connection are checked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Chats until the user leaves.
///
/// # Errors
/// If the chat cannot start, or the cluster breaks a guarantee.
pub(super) async fn run(args: ChatArgs, settings: Settings) -> anyhow::Result<Exit> {
    let client = session::open(&settings).await?;
    let (screen, inputs) = Screen::open()?;
    let mut chat = Chat::new(args.room, settings, client, screen);
    chat.update_prompt();
    let result = chat.run(inputs).await;
    let last = chat.closing_note().await;
    chat.screen.close(last.as_deref());
    let waiting = chat.client.pending_count();
    session::close(chat.client).await;
    result.map(|exit| if waiting > 0 { Exit::Queued } else { exit })
}

struct Chat {
    settings: Settings,
    client: Client,
    screen: Screen,
    /// The room that typed lines are sent to.
    current: Option<String>,
    positions: FollowedRooms,
    subscription: Subscription,
    connection: Connection,
    ticks: Ticks,
    jobs: JoinSet<JobResult>,
    interrupted: Option<Instant>,
    /// Set at the end of the input: the deadline for the answers to earlier lines.
    ends: Option<Instant>,
    begun: Instant,
    /// When a change of room began. Typed lines wait until the change is complete.
    moving_since: Option<Instant>,
    /// The exit code of a refused message.
    refused: Option<Exit>,
}

impl Chat {
    fn new(room: String, settings: Settings, client: Client, screen: Screen) -> Self {
        let mut positions = FollowedRooms::default();
        positions.begin(&room, Start::Last(LAST), None);
        let subscription = client.subscribe(vec![Follow::room(room.clone()).from(Start::Last(LAST)).join()]);
        let mut jobs = JoinSet::new();
        jobs.spawn(job::nodes(client.clone(), Arc::clone(&settings.search)));
        Self {
            settings,
            client,
            screen,
            current: Some(room),
            positions,
            subscription,
            connection: Connection::default(),
            ticks: Ticks::default(),
            jobs,
            interrupted: None,
            ends: None,
            begun: Instant::now(),
            moving_since: None,
            refused: None,
        }
    }

    async fn run(&mut self, mut inputs: Inputs) -> anyhow::Result<Exit> {
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        let mut hangup = signal(SignalKind::hangup()).context("listen for signals")?;
        let mut every = tokio::time::interval(LOOK_EVERY);
        if self.screen.is_terminal() {
            self.dim("/help lists the commands, /quit leaves").await?;
        }
        loop {
            let listen = self.ends.is_none()
                && self.moving_since.is_none()
                && (self.screen.is_terminal() || self.takes_piped_input());
            tokio::select! {
                input = inputs.next(), if listen => self.input(input).await?,
                incoming = next(&self.screen, &mut self.subscription) => {
                    let incoming = incoming.map_err(|error| self.broken(&error))?;
                    self.incoming(incoming).await?;
                }
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    self.done(done.context("a task of the chat panicked")?).await?;
                }
                now = every.tick() => self.tick_clock(now).await?,
                _ = terminate.recv() => return Ok(Exit::Ok),
                _ = hangup.recv() => return Ok(Exit::Ok),
            }
            if self.ends.is_some_and(|ends| self.is_settled() || ends <= Instant::now()) {
                return Ok(self.refused.unwrap_or(Exit::Ok));
            }
        }
    }

    /// Whether every typed line has its answer shown.
    fn is_settled(&self) -> bool {
        self.ticks.is_empty() && (self.screen.is_terminal() || self.jobs.is_empty())
    }

    /// Handles the end of the input. A person who leaves does not want to wait; a program that pipes lines in needs
    /// their outcomes.
    fn end(&mut self) {
        let patience = if self.screen.is_terminal() { CHAT_CLOCK_AFTER } else { self.settings.timeout };
        self.ends = Some(Instant::now() + patience);
    }

    /// Whether to read piped input now: once the room is open, and while the cluster keeps up. Typed input is always
    /// read.
    fn takes_piped_input(&self) -> bool {
        let begun = self.connection.ever || self.begun.elapsed() >= self.settings.timeout;
        begun && self.ticks.waiting() < CLI_SENDS_IN_FLIGHT_MAX
    }

    /// The failure of the subscription. Only the first room may not exist; all later ones were joined.
    fn broken(&self, error: &CallError) -> Failed {
        of_call(self.positions.only_room(), error)
    }

    async fn input(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Line(text) => {
                self.interrupted = None;
                self.typed(typed(&text)).await?;
            }
            Input::Wrong(what) => self.bad(what).await?,
            Input::Interrupt => {
                let now = Instant::now();
                if self.interrupted.is_some_and(|before| now.saturating_duration_since(before) < TWICE) {
                    self.end();
                    return Ok(());
                }
                self.interrupted = Some(now);
                self.dim("Ctrl-C again or /quit leaves").await?;
            }
            Input::End => self.end(),
            Input::Broken(why) => {
                self.bad(&format!("the input cannot be read: {why}")).await?;
                self.refused = Some(Exit::Refused);
                self.end();
            }
        }
        Ok(())
    }

    async fn typed(&mut self, typed: Typed) -> anyhow::Result<()> {
        let client = self.client.clone();
        let style = self.settings.style;
        let current = self.current.clone();
        match (typed, current) {
            (Typed::Quit, _) => self.end(),
            (Typed::Nothing, _) => {}
            (Typed::Wrong(what), _) => self.bad(&what).await?,
            (Typed::Help, _) => self.screen.show(HELP.to_owned()).await?,
            (Typed::Rooms, _) => drop(self.jobs.spawn(job::list(client, style))),
            (Typed::Status, _) => drop(self.jobs.spawn(job::status(client, style))),
            (Typed::Join(room), _) if self.positions.rooms().any(|(known, _)| known == room) => {
                self.enter_room(Some(room)).await?;
            }
            (Typed::Join(room), _) => self.start_move(job::join(client, room, false)),
            (Typed::Create(room), _) => self.start_move(job::join(client, room, true)),
            (Typed::Leave(Some(room)), _) | (Typed::Leave(None), Some(room)) => {
                self.start_move(job::leave(client, room));
            }
            (Typed::Message(text), Some(room)) => self.send_message(room, text).await?,
            (Typed::Topic(text), Some(room)) => {
                self.change(room, Content::Topic(text)).await?;
            }
            (Typed::Change(action), Some(room)) => {
                self.change(room, Content::Action(action)).await?;
            }
            (Typed::Members, Some(room)) => drop(self.jobs.spawn(job::members(client, style, room))),
            (Typed::Direct(users), _) => self.start_move(job::direct(client, users)),
            (Typed::History(limit), Some(room)) => drop(self.jobs.spawn(job::history(client, room, limit))),
            (
                Typed::Message(_)
                | Typed::Topic(_)
                | Typed::Change(_)
                | Typed::Members
                | Typed::History(_)
                | Typed::Leave(None),
                None,
            ) => {
                self.bad("you are in no room; /join ROOM").await?;
                self.screen.resume_input();
            }
        }
        Ok(())
    }

    /// Submits a change of the room here, so that it keeps its place among what was typed, and waits for it beside the loop.
    async fn change(&mut self, room: String, content: Content) -> anyhow::Result<()> {
        if self.jobs.len() >= CLI_SENDS_IN_FLIGHT_MAX {
            return self
                .bad("too many requests wait for their acks; try again when the cluster answers")
                .await;
        }
        match self.client.submit(&room, content).await {
            Ok(ticket) => {
                self.jobs.spawn(job::decided(room, ticket));
                Ok(())
            }
            Err(error @ (SendError::Refused { .. } | SendError::Outbox(_))) => {
                self.bad(&of_send(&room, &error).what).await
            }
            Err(error) => Err(of_send(&room, &error).into()),
        }
    }

    async fn send_message(&mut self, room: String, text: String) -> anyhow::Result<()> {
        if self.ticks.waiting() >= CLI_SENDS_IN_FLIGHT_MAX {
            let what =
                format!("{} wait for their acks already; try again when the cluster answers", self.waiting());
            return self.bad(&what).await;
        }
        match self.client.submit(&room, Content::Text(text.clone())).await {
            Ok(ticket) => {
                self.ticks.submitted(&room, ticket.request_no(), text, Instant::now());
                self.jobs.spawn(job::await_outcome(room, ticket));
                Ok(())
            }
            Err(error @ (SendError::Refused { .. } | SendError::Outbox(_))) => {
                self.show_notice(TickNotice::Failed { text, why: of_send(&room, &error).what }).await
            }
            Err(error) => Err(of_send(&room, &error).into()),
        }
    }

    async fn incoming(&mut self, incoming: Incoming) -> anyhow::Result<()> {
        let now = Instant::now();
        match incoming {
            Incoming::Event(event) => self.event(&event).await?,
            Incoming::CaughtUp { rooms, .. } => {
                for room in rooms {
                    self.positions.reached(&room.name, room.seq);
                    self.positions.named(room.room_id, &room.name);
                }
                if let Some(text) = self.connection.caught_up() {
                    self.dim(&text).await?;
                }
            }
            Incoming::Connected { node } => {
                self.connection.name_nodes(self.settings.search.names());
                self.connection.connected(&node, now);
            }
            Incoming::Disconnected { why } => {
                if let Some(text) = self.connection.lost(now, &why) {
                    self.dim(&text).await?;
                }
            }
            Incoming::Truncated { room_id, first_seq } => {
                let room = self.positions.name(room_id, || self.subscription.room_name(room_id));
                self.positions.jump(&room, first_seq.saturating_sub(1));
                self.dim(&format!("the events of #{room} before {first_seq} are not shown: they were deleted, or you were no member then")).await?;
            }
            Incoming::RoomClosed { room_id, .. } => {
                let room = self.positions.name(room_id, || self.subscription.room_name(room_id));
                self.shut_out(room).await?;
            }
            Incoming::Keepalive { quorum, .. } => {
                if let Some(text) = self.connection.quorum(quorum) {
                    self.dim(&text).await?;
                }
            }
            // Items of later versions.
            _ => {}
        }
        Ok(())
    }

    async fn event(&mut self, event: &chat::Event) -> anyhow::Result<()> {
        let room = self.positions.name(event.room_id, || self.subscription.room_name(event.room_id));
        self.positions.next(&room, event.seq)?;
        if let Some(text) = self.connection.event() {
            self.dim(&text).await?;
        }
        let own = event.session_id == self.client.session().id;
        let mut text = self.line(&room, event);
        if own && let Some(after) = self.ticks.arrived(&room, event.request_no, Instant::now()) {
            text.push_str(&paint(self.settings.style, Ink::Dim, &format!(" after {}", took(after))));
        }
        self.screen.show(text).await
    }

    fn line(&self, room: &str, event: &chat::Event) -> String {
        let message = matches!(event.kind, Some(chat::event::Kind::Message(_)));
        let own = message && event.author_id == self.client.session().user_id;
        line(&line_style(&self.settings), room, event, own.then_some(Tick::Committed))
    }

    async fn done(&mut self, done: JobResult) -> anyhow::Result<()> {
        match done {
            JobResult::Settled { room, request_no, outcome: Ok(seq) } => {
                self.ticks.acked(&room, request_no, seq, Instant::now());
            }
            JobResult::Settled { room, request_no, outcome: Err(failed) } => {
                self.refused = Some(failed.exit);
                if let Some(tell) = self.ticks.refused(&room, request_no, failed.what) {
                    self.show_notice(tell).await?;
                }
            }
            JobResult::Joined(room) => self.joined(room).await?,
            JobResult::Left(room) => self.left(room).await?,
            JobResult::History(room, page) => {
                let chat::HistoryResponse { mut events, folds, .. } = page;
                let tails = Shown::default().page(&mut events, &folds);
                let shown = events.iter().zip(tails);
                let line = |(event, tail): (&chat::Event, Option<String>)| {
                    tail.map(|tail| self.line(&room, event) + &tail)
                };
                let lines: Vec<String> = shown.filter_map(line).collect();
                self.screen.show(lines.join("\n")).await?;
            }
            JobResult::Nodes(names) => self.connection.name_nodes(names),
            JobResult::Text(text) if text.is_empty() => {}
            JobResult::Text(text) => self.screen.show(text).await?,
            JobResult::Failed(failed) => {
                if self.moving_since.is_some() {
                    self.resume_input();
                }
                let next = if failed.next.is_empty() { String::new() } else { format!("; {}", failed.next) };
                self.bad(&format!("{}{next}", failed.what)).await?;
            }
        }
        Ok(())
    }

    async fn tick_clock(&mut self, now: Instant) -> anyhow::Result<()> {
        for tell in self.ticks.late(now) {
            self.show_notice(tell).await?;
        }
        if let Some(text) = self.connection.missing(now) {
            self.dim(&text).await?;
        }
        if self.moving_since.is_some_and(|since| now.saturating_duration_since(since) >= MOVING) {
            self.resume_input();
            self.dim("joining or leaving takes longer than usual; you stay in the current room meanwhile")
                .await?;
        }
        Ok(())
    }

    async fn show_notice(&self, tell: TickNotice) -> anyhow::Result<()> {
        let style = self.settings.style;
        let text = match tell {
            TickNotice::Clock { room, text } => {
                format!("#{room}  {} {}", safe(&text, "  "), tick(style, Tick::Queued))
            }
            TickNotice::Ticked { room, seq, after } => {
                let place =
                    paint(style, Ink::Dim, &format!("#{room}:{seq} is on disk, after {}", took(after)));
                format!("{place} {}", tick(style, Tick::Committed))
            }
            TickNotice::Failed { text, why } => {
                format!(
                    "{} {} {}",
                    safe(&text, "  "),
                    tick(style, Tick::Failed),
                    paint(style, Ink::Bad, &why)
                )
            }
        };
        self.screen.show(text).await
    }

    async fn dim(&self, text: &str) -> anyhow::Result<()> {
        self.screen.show(paint(self.settings.style, Ink::Dim, &format!("-- {text}"))).await
    }

    async fn bad(&self, text: &str) -> anyhow::Result<()> {
        self.screen.show(paint(self.settings.style, Ink::Bad, &format!("!! {text}"))).await
    }

    fn waiting(&self) -> String {
        count(self.client.pending_count() as u64, "message")
    }

    fn update_prompt(&self) {
        self.screen
            .prompt(self.current.as_ref().map_or_else(|| "> ".to_owned(), |room| format!("#{room}> ")));
    }

    /// The last note of the chat, about unsent messages. Waits briefly for messages in flight.
    async fn closing_note(&self) -> Option<String> {
        let left = self.client.flush(CHAT_CLOCK_AFTER).await;
        (left > 0).then(|| format!("{} not sent yet, kept, and sent by the next command", self.waiting()))
    }
}

/// Reads from the network only while there is space to print, so that no lines pile up in memory.
async fn next(screen: &Screen, subscription: &mut Subscription) -> Result<Incoming, CallError> {
    screen.room_to_print().await;
    subscription.next().await
}
