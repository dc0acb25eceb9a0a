//! `conclave tail`: follows rooms across servers without a gap.

mod ack;
mod resume;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use conclave_client::{CallError, Client, Follow, HistoryQuery, Incoming, Start, Subscription};
use conclave_proto::chat;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::ack::Acks;
use self::resume::ResumeFile;
use super::follow::{self, Connection, FollowedRooms};
use super::line_style;
use crate::args::TailArgs;
use crate::errors::{full, no_server, of_call};
use crate::exit::{Exit, Failed};
use crate::input::{Line, stdin_lines};
use crate::limits::CLI_LINES_AHEAD_MAX;
use crate::settings::Settings;
use crate::view::event;
use crate::{output, session};

/// The default number of past events to print first.
const LAST_DEFAULT: u32 = 10;

/// Prints events until interrupted, or until the end of past events.
///
/// # Errors
/// If a room does not exist, or no server answers at the start. Later the command waits for a server.
pub(super) async fn run(mut args: TailArgs, settings: &Settings) -> anyhow::Result<Exit> {
    if args.rooms.is_empty() {
        args.rooms.push("general".to_owned());
    }
    args.rooms.sort();
    args.rooms.dedup();
    let client = session::reader(settings).await?;
    let result = Tail::new(args, settings, &client).await?.run(&client).await;
    client.close().await;
    result
}

struct Tail<'a> {
    settings: &'a Settings,
    follow: bool,
    positions: FollowedRooms,
    resume: Option<ResumeFile>,
    /// The ids of the rooms by name.
    rooms: BTreeMap<String, u64>,
    /// The acknowledgements of the consumer, and the lines with them, if there are any.
    acks: Option<(Acks, mpsc::Receiver<std::io::Result<Line>>)>,
    subscription: Subscription,
    connection: Connection,
}

impl<'a> Tail<'a> {
    async fn new(args: TailArgs, settings: &'a Settings, client: &Client) -> anyhow::Result<Self> {
        // With a resume file the command runs unattended, and waits for the cluster.
        let patient = args.resume_file.is_some() && !args.no_follow;
        let rooms = follow::resolve(client, &args.rooms, patient).await?;
        let resume = match &args.resume_file {
            Some(path) => Some(ResumeFile::open(path, &client.session().cluster_id, &rooms)?),
            None => None,
        };
        let acks = if args.ack { Some((Acks::default(), stdin_lines()?)) } else { None };
        let mut positions = FollowedRooms::default();
        let mut follows = Vec::new();
        for (room, &id) in &rooms {
            let newest = if args.linearizable { Some(newest(room, client).await?) } else { None };
            let known = resume.as_ref().and_then(|file| file.position(id));
            let start = start(&args, known, newest);
            positions.begin(room, start, newest);
            positions.named(id, room);
            follows.push(Follow::room(room.clone()).from(start));
        }
        Ok(Self {
            settings,
            follow: !args.no_follow,
            positions,
            resume,
            rooms,
            acks,
            subscription: client.subscribe(follows),
            connection: Connection::default(),
        })
    }

    async fn run(mut self, client: &Client) -> anyhow::Result<Exit> {
        let deadline = Instant::now() + self.settings.timeout;
        let mut names = pin!(follow::names(client.clone(), Arc::clone(&self.settings.search)));
        let mut named = false;
        let mut complete = false;
        loop {
            if complete && self.acks.as_ref().is_none_or(|(acks, _)| acks.complete()) {
                return Ok(Exit::Ok);
            }
            let patient = self.connection.ever || self.follow_alone();
            let incoming = tokio::select! {
                names = &mut names, if !named => {
                    named = true;
                    self.connection.name_nodes(names);
                    continue;
                }
                ack = next_ack(&mut self.acks) => match ack {
                    Some(line) => {
                        self.acknowledged(line?)?;
                        continue;
                    }
                    None => return self.without_consumer(),
                },
                incoming = self.subscription.next(), if !complete => incoming,
                () = tokio::time::sleep_until(deadline), if !patient => {
                    return Err(self.not_opened().into());
                }
            };
            complete = self.take(incoming.map_err(|e| self.refused(&e))?)?;
        }
    }

    /// Takes the acknowledgements that have come: one sync for all of them.
    fn acknowledged(&mut self, first: Line) -> anyhow::Result<()> {
        let Some((acks, lines)) = &mut self.acks else { return Ok(()) };
        let mut taken = BTreeMap::new();
        let mut next = Some(first);
        while let Some(line) = next {
            let Line::Text(line) = line else {
                let what = "an acknowledgement is too long, or no text";
                return Err(Failed::new(Exit::Refused, what, "write ROOM SEQ for each line").into());
            };
            taken.extend(acks.take(&line, &self.rooms)?);
            // The end of the input, and errors, come again with the next wait.
            next = if taken.len() < CLI_LINES_AHEAD_MAX { lines.try_recv().ok().transpose()? } else { None };
        }
        let name = |id: u64| self.positions.name(id, || None);
        let named: Vec<_> = taken.into_iter().map(|(id, seq)| (id, name(id), seq)).collect();
        let named: Vec<_> = named.iter().map(|(id, name, seq)| (*id, name.as_str(), *seq)).collect();
        Ok(self.resume.as_mut().map_or(Ok(()), |file| file.taken(&named))?)
    }

    /// The consumer has closed its end: it takes nothing more. It may choose to while the command follows.
    fn without_consumer(&self) -> anyhow::Result<Exit> {
        if self.follow && self.acks.as_ref().is_some_and(|(acks, _)| acks.any() && acks.complete()) {
            return Ok(Exit::Ok);
        }
        let what = "the consumer has ended before it had acknowledged all lines";
        Err(Failed::new(Exit::Refused, what, "the next run begins with the first of them").into())
    }

    /// Whether to wait for the cluster without a timeout: with a resume file the command runs unattended.
    fn follow_alone(&self) -> bool {
        self.follow && self.resume.is_some()
    }

    /// The failure to open a stream in time.
    fn not_opened(&self) -> Failed {
        match &self.connection.refused {
            Some(why) => full(why),
            None => no_server(&"no stream could be opened".to_owned().into()),
        }
    }

    fn refused(&self, error: &CallError) -> Failed {
        of_call(self.positions.only_room(), error)
    }

    /// Handles an item. Returns whether the command is complete.
    fn take(&mut self, incoming: Incoming) -> anyhow::Result<bool> {
        match incoming {
            Incoming::Event(event) => self.show(&event)?,
            Incoming::CaughtUp { rooms, .. } => {
                for room in rooms {
                    let printed = self.positions.reached(&room.name, room.seq);
                    if let Some(file) =
                        self.resume.as_mut().filter(|file| !printed && file.position(room.room_id).is_none())
                    {
                        // Records the position although nothing was printed: the next run must print the events that
                        // follow.
                        file.taken(&[(room.room_id, &room.name, room.seq)])?;
                    }
                }
                if let Some(text) = self.connection.caught_up() {
                    output::note(self.settings.quiet, &text);
                }
                return Ok(!self.follow && self.positions.complete());
            }
            Incoming::Connected { node } => {
                self.connection.name_nodes(self.settings.search.names());
                self.connection.connected(&node, Instant::now());
            }
            Incoming::Disconnected { why } => {
                let note = self.connection.lost(Instant::now(), &why);
                if let Some(text) = note.filter(|_| self.follow_alone()) {
                    output::note(self.settings.quiet, &text);
                }
            }
            Incoming::Truncated { room_id, first_seq } => {
                let room = self.room(room_id);
                let what = format!(
                    "the events of #{room} before {first_seq} are not shown: they were deleted, or you were no member then"
                );
                let failed = Failed::new(Exit::Refused, what, "").with_word("truncated");
                output::passed_over(self.settings.json, None, &failed);
                self.positions.jump(&room, first_seq.saturating_sub(1));
            }
            Incoming::RoomClosed { room_id, .. } => {
                let room = self.room(room_id);
                output::note(self.settings.quiet, &format!("you are no longer a member of #{room}"));
                self.positions.end(&room);
            }
            Incoming::Keepalive { quorum, .. } => {
                if let Some(text) = self.connection.quorum(quorum) {
                    output::note(self.settings.quiet, &text);
                }
            }
            // Items of later versions.
            _ => {}
        }
        Ok(false)
    }

    fn show(&mut self, event: &chat::Event) -> anyhow::Result<()> {
        let room = self.room(event.room_id);
        self.positions.next(&room, event.seq)?;
        if let Some(text) = self.connection.event() {
            output::note(self.settings.quiet, &text);
        }
        if self.settings.json {
            output::json(&event::json(&room, event))?;
        } else {
            output::line(&event::line(&line_style(self.settings), &room, event, None))?;
        }
        if let Some((acks, _)) = &mut self.acks {
            acks.printed(event.room_id, event.seq);
        } else if let Some(file) = &mut self.resume {
            // Recorded after the line is printed: a kill of this command in between repeats the line and never skips it.
            file.taken(&[(event.room_id, &room, event.seq)])?;
        }
        Ok(())
    }

    fn room(&self, id: u64) -> String {
        self.positions.name(id, || self.subscription.room_name(id))
    }
}

/// The next line of the consumer; `None` at its end, and never without acknowledgements.
async fn next_ack(
    acks: &mut Option<(Acks, mpsc::Receiver<std::io::Result<Line>>)>,
) -> Option<std::io::Result<Line>> {
    match acks {
        Some((_, lines)) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// The seq of the room's last event, read linearizably.
async fn newest(room: &str, client: &Client) -> anyhow::Result<u64> {
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest(room, 1) };
    Ok(client.history(query).await.map_err(|e| of_call(Some(room), &e))?.last_seq)
}

/// Where to start in a room. The position of the resume file takes precedence, because it records what was printed. If
/// the newest seq is known, "the last n" is converted to a seq, because the connected server may be behind.
fn start(args: &TailArgs, known: Option<u64>, newest: Option<u64>) -> Start {
    let last = args.last.unwrap_or(LAST_DEFAULT);
    match (known.or(args.since), newest) {
        (Some(seq), _) => Start::After(seq),
        // With a resume file, the first run starts at the first event; otherwise events before the second run would be
        // missed.
        (None, _) if args.resume_file.is_some() && args.last.is_none() => Start::After(0),
        (None, Some(newest)) => Start::After(newest.saturating_sub(u64::from(last))),
        (None, None) => Start::Last(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> TailArgs {
        TailArgs {
            rooms: vec!["r".into()],
            last: None,
            since: None,
            follow: false,
            no_follow: false,
            resume_file: None,
            ack: false,
            linearizable: false,
        }
    }

    #[test]
    fn the_start_follows_from_flags_file_and_newest_seq() {
        assert_eq!(start(&args(), None, None), Start::Last(10));
        assert_eq!(start(&TailArgs { last: Some(0), ..args() }, None, None), Start::Last(0));
        assert_eq!(start(&TailArgs { since: Some(7), ..args() }, None, None), Start::After(7));
        assert_eq!(start(&args(), None, Some(4)), Start::After(0));
        assert_eq!(start(&args(), None, Some(40)), Start::After(30));
        let robot = TailArgs { resume_file: Some("f".into()), ..args() };
        assert_eq!(start(&robot, None, None), Start::After(0));
        assert_eq!(start(&robot, Some(12), Some(40)), Start::After(12));
    }
}
