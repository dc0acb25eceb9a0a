//! `conclave history`: prints past events of a room, page by page.

use conclave_client::{Client, HistoryQuery, Window};
use conclave_core::limits::HISTORY_EVENTS_MAX;
use conclave_proto::chat::{self, HistoryResponse, MessageFold};
use serde::Serialize;

use super::line_style;
use crate::args::HistoryArgs;
use crate::errors::of_call;
use crate::exit::{Exit, Failed};
use crate::settings::Settings;
use crate::view::event;
use crate::view::fold::{self, Shown};
use crate::{output, session};

/// Prints events, oldest first.
///
/// # Errors
/// If the room does not exist or no server answers.
pub(super) async fn run(args: &HistoryArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::reader(settings).await?;
    let result = print(args, settings, &client).await;
    client.close().await;
    result
}

async fn print(args: &HistoryArgs, settings: &Settings, client: &Client) -> anyhow::Result<Exit> {
    let (first, last) = range(args, client).await?;
    let mut after = first;
    let mut shown = Shown::default();
    while after < last {
        let query = HistoryQuery { window: Window::After(after), limit: page(last - after), ..query(args) };
        let page = client.history(query).await.map_err(|e| of_call(Some(&args.room), &e))?;
        let HistoryResponse { mut events, folds, .. } = page;
        check(&args.room, after, &events)?;
        events.retain(|event| event.seq <= last);
        if settings.json {
            show_json(&args.room, &events, &folds)?;
        } else {
            let folds = if args.events { Vec::new() } else { folds };
            let tails = shown.page(&mut events, &folds);
            for (event, tail) in events.iter().zip(tails) {
                if let Some(tail) = tail {
                    let line = event::line(&line_style(settings), &args.room, event, None);
                    output::line(&format!("{line}{tail}"))?;
                }
            }
        }
        match events.last() {
            Some(event) => after = event.seq,
            // This server has not applied the events that another one reported: they cannot be read here now.
            None => break,
        }
    }
    Ok(Exit::Ok)
}

fn query(args: &HistoryArgs) -> HistoryQuery {
    HistoryQuery { linearizable: args.linearizable, ..HistoryQuery::newest(args.room.clone(), 1) }
}

fn page(events: u64) -> u32 {
    u32::try_from(events.min(HISTORY_EVENTS_MAX as u64)).unwrap_or(u32::MAX)
}

/// The range of events to print: after the first seq, up to the second. Seqs have no gaps, so the newest page
/// determines it.
async fn range(args: &HistoryArgs, client: &Client) -> anyhow::Result<(u64, u64)> {
    let newest = client.history(query(args)).await.map_err(|e| of_call(Some(&args.room), &e))?.last_seq;
    Ok(window(args, newest))
}

fn window(args: &HistoryArgs, newest: u64) -> (u64, u64) {
    match (args.before, args.after) {
        (Some(before), _) => {
            let last = before.saturating_sub(1).min(newest);
            (last.saturating_sub(args.limit), last)
        }
        (None, Some(after)) => (after, after.saturating_add(args.limit).min(newest)),
        (None, None) => (newest.saturating_sub(args.limit), newest),
    }
}

/// Checks that the events of a page follow each other. A gap breaks a guarantee and is an error. A page may begin behind
/// what was asked for: the events between are not the user's to see, who was no member then.
fn check(room: &str, after: u64, events: &[chat::Event]) -> Result<(), Failed> {
    let first = events.first().map_or(0, |event| event.seq).max(after.saturating_add(1));
    for (expected, event) in (first..).zip(events) {
        if event.seq != expected {
            let what = format!("#{room}:{expected} was expected, but the server gave #{room}:{}", event.seq);
            return Err(Failed::new(Exit::Verification, what, "conclave status"));
        }
    }
    Ok(())
}

/// An event, and what people made of it if it is a message.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    event: event::Json<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fold: Option<fold::Json<'a>>,
}

fn show_json(room: &str, events: &[chat::Event], folds: &[MessageFold]) -> anyhow::Result<()> {
    for event in events {
        let fold = folds.binary_search_by_key(&event.seq, |fold| fold.seq).ok();
        let fold = fold.map(|at| fold::json(&folds[at]));
        output::json(&Json { event: event::json(room, event), fold })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(before: Option<u64>, after: Option<u64>, limit: u64) -> HistoryArgs {
        HistoryArgs { room: "r".into(), before, after, limit, linearizable: false, events: false }
    }

    #[test]
    fn windows_stay_within_what_there_is() {
        assert_eq!(window(&args(None, None, 100), 250), (150, 250));
        assert_eq!(window(&args(None, None, 100), 50), (0, 50));
        assert_eq!(window(&args(Some(42), None, 10), 250), (31, 41));
        assert_eq!(window(&args(Some(1), None, 10), 250), (0, 0));
        assert_eq!(window(&args(Some(999), None, 10), 250), (240, 250));
        assert_eq!(window(&args(None, Some(245), 10), 250), (245, 250));
        assert_eq!(window(&args(None, Some(u64::MAX), 10), 250), (u64::MAX, 250));
    }

    #[test]
    fn a_hole_is_an_error() {
        let events = |seqs: &[u64]| -> Vec<chat::Event> {
            seqs.iter().map(|seq| chat::Event { seq: *seq, ..chat::Event::default() }).collect()
        };
        assert!(check("r", 4, &events(&[5, 6, 7])).is_ok());
        assert_eq!(check("r", 4, &events(&[5, 7])).unwrap_err().exit, Exit::Verification);
        assert!(check("r", 4, &events(&[7, 8])).is_ok(), "5 and 6 are not the user's to see");
        assert_eq!(check("r", 4, &events(&[4])).unwrap_err().exit, Exit::Verification);
    }
}
