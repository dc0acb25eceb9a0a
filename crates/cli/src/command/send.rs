//! `conclave send`: sends messages and prints their acks.

use conclave_client::{Ack, Client, Content, SendError, Ticket};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::SendArgs;
use crate::errors::{of_call, of_send, of_send_at};
use crate::exit::{Exit, Failed};
use crate::input::{Line, stdin_lines};
use crate::limits::CLI_SENDS_IN_FLIGHT_MAX;
use crate::settings::Settings;
use crate::view::text::count;
use crate::{output, session};

#[derive(Debug, Serialize)]
struct Json<'a> {
    room: &'a str,
    seq: u64,
    time_ms: i64,
    request_no: u64,
    duplicate: bool,
}

/// Sends one message, or each line of stdin.
///
/// # Errors
/// If a message is refused, or not committed before the timeout; in the latter case it stays in the outbox.
pub(super) async fn run(args: SendArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::open(settings).await?;
    let result = send(&args, settings, &client).await;
    session::close(client).await;
    result
}

async fn send(args: &SendArgs, settings: &Settings, client: &Client) -> anyhow::Result<Exit> {
    if args.create {
        client.create_room(&args.room).await.map_err(|e| of_call(Some(&args.room), &e))?;
    }
    if args.text == ["-"] {
        return send_lines(args, settings, client).await;
    }
    let content = Content::Text(args.text.join(" "));
    let ticket = client.submit(&args.room, content).await.map_err(|e| of_send(&args.room, &e))?;
    if args.no_wait {
        note_queued(args, settings, client, 1)?;
        return Ok(Exit::Ok);
    }
    print_ack(args, settings, client, ticket).await?;
    Ok(Exit::Ok)
}

/// Waits for the ack and prints room and seq.
async fn print_ack(
    args: &SendArgs,
    settings: &Settings,
    client: &Client,
    mut ticket: Ticket,
) -> anyhow::Result<()> {
    let ack = ticket.wait_for(settings.timeout).await.map_err(|e| of_send_at(client, &args.room, &e))?;
    let json = Json {
        room: &args.room,
        seq: ack.seq,
        time_ms: ack.time_ms,
        request_no: ack.request_no,
        duplicate: ack.duplicate,
    };
    output::done(settings.json, &json, &place(&args.room, &ack));
    Ok(())
}

/// `#room:seq`, or `#room:?` if the cluster no longer keeps the reply; the message was decided in either case.
fn place(room: &str, ack: &Ack) -> String {
    if ack.forgotten { format!("#{room}:?") } else { format!("#{room}:{}", ack.seq) }
}

fn note_queued(args: &SendArgs, settings: &Settings, client: &Client, taken: u64) -> anyhow::Result<()> {
    if settings.json {
        let pending = client.pending_count();
        output::json(&serde_json::json!({ "room": args.room, "queued": taken, "pending": pending }))?;
    } else {
        let text = format!("{} queued for #{}", count(taken, "message"), args.room);
        output::note(settings.quiet, &text);
    }
    Ok(())
}

/// The results of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    taken: u64,
    refused: Option<Exit>,
}

/// Reads lines and prints acks concurrently, both in order, with many messages in flight.
async fn send_lines(args: &SendArgs, settings: &Settings, client: &Client) -> anyhow::Result<Exit> {
    // One less than may be in flight, because the message that is being awaited is no longer in the queue.
    let (tickets, settled) = mpsc::channel(CLI_SENDS_IN_FLIGHT_MAX - 1);
    let (tally, refused) = tokio::try_join!(
        submit_lines(args, settings, client, tickets),
        print_acks(args, settings, client, settled)
    )?;
    if args.no_wait {
        note_queued(args, settings, client, tally.taken)?;
    }
    Ok(tally.refused.or(refused).unwrap_or(Exit::Ok))
}

async fn submit_lines(
    args: &SendArgs,
    settings: &Settings,
    client: &Client,
    tickets: mpsc::Sender<(u64, Ticket)>,
) -> anyhow::Result<Tally> {
    let mut lines = stdin_lines()?;
    let mut tally = Tally::default();
    let mut number = 0_u64;
    while let Some(line) = lines.recv().await.transpose()? {
        number += 1;
        let refused = match line {
            // Empty lines are skipped.
            Line::Text(text) if text.is_empty() => continue,
            Line::Text(text) => match submit(args, settings, client, text).await? {
                Ok(ticket) => {
                    tally.taken += 1;
                    if !args.no_wait && tickets.send((number, ticket)).await.is_err() {
                        break;
                    }
                    continue;
                }
                Err(failed) => failed,
            },
            Line::TooLong => Failed::new(Exit::Refused, "longer than 16 KiB; split it", ""),
            Line::NotText => Failed::new(Exit::Refused, "not UTF-8", ""),
        };
        output::passed_over(settings.json, Some(number), &refused);
        tally.refused = Some(refused.exit);
    }
    Ok(tally)
}

/// Submits a line. A line that cannot be a message does not stop the others; any other error does. The wait for space
/// in the outbox ends after the timeout as well.
async fn submit(
    args: &SendArgs,
    settings: &Settings,
    client: &Client,
    text: String,
) -> anyhow::Result<Result<Ticket, Failed>> {
    let submitted =
        tokio::time::timeout(settings.timeout, client.submit(&args.room, Content::Text(text))).await;
    match submitted {
        Ok(Ok(ticket)) => Ok(Ok(ticket)),
        Ok(Err(error @ SendError::Refused { .. })) => Ok(Err(of_send(&args.room, &error))),
        Ok(Err(error)) => Err(of_send(&args.room, &error).into()),
        Err(_) => {
            let what = format!(
                "{} wait in the outbox and the cluster does not take them; they are sent by the next command",
                count(client.pending_count() as u64, "message")
            );
            Err(Failed::new(Exit::Queued, what, "conclave status; the current line was not submitted").into())
        }
    }
}

/// Prints room and seq of each message in order. A refused message does not stop the others, unless none can succeed.
async fn print_acks(
    args: &SendArgs,
    settings: &Settings,
    client: &Client,
    mut tickets: mpsc::Receiver<(u64, Ticket)>,
) -> anyhow::Result<Option<Exit>> {
    let mut refused = None;
    while let Some((number, ticket)) = tickets.recv().await {
        let Err(error) = print_ack(args, settings, client, ticket).await else { continue };
        match error.downcast::<Failed>() {
            Ok(failed) if failed.exit == Exit::Refused => {
                output::passed_over(settings.json, Some(number), &failed);
                refused = Some(failed.exit);
            }
            Ok(failed) => return Err(failed.into()),
            Err(other) => return Err(other),
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_room_and_seq() {
        let ack = Ack { seq: 1042, ..Ack::default() };
        assert_eq!(place("general", &ack), "#general:1042");
        assert_eq!(place("general", &Ack { forgotten: true, ..ack }), "#general:?");
    }
}
