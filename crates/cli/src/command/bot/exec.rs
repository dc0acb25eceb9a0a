//! Runs the command of a bot, and reads its replies.

use std::process::Stdio;
use std::time::Duration;

use conclave_client::Content;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::limits::{BOT_OUTPUT_BYTES_MAX, BOT_REPLIES_MAX};
use crate::parse;

/// A reply with --json-replies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    text: String,
    room: Option<String>,
}

/// Runs a command with one line on its stdin. Returns what it has printed.
///
/// # Errors
/// If it cannot be started, does not end with 0 in time, or prints too much.
pub(super) async fn run(command: &str, line: &str, limit: Duration) -> Result<Vec<u8>, String> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("/bin/sh cannot be started: {error}"))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no pipes".to_owned());
    };
    let write = async move {
        // A command may end without reading its input.
        let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
    };
    let read = async move {
        let mut printed = Vec::new();
        stdout.take(BOT_OUTPUT_BYTES_MAX + 1).read_to_end(&mut printed).await.map(|_| printed)
    };
    let ended = async {
        let ((), printed) = tokio::join!(write, read);
        let printed = printed.map_err(|error| format!("its output cannot be read: {error}"))?;
        if printed.len() as u64 > BOT_OUTPUT_BYTES_MAX {
            return Err(format!("it printed more than {BOT_OUTPUT_BYTES_MAX} bytes"));
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(printed) } else { Err(format!("it ended with {status}")) }
    };
    tokio::time::timeout(limit, ended).await.map_err(|_| format!("it did not end within {limit:?}"))?
}

/// The replies among the printed lines. Empty lines are none.
///
/// # Errors
/// If a line is no reply, or there are too many.
pub(super) fn replies(printed: &[u8], room: &str, json: bool) -> Result<Vec<(String, Content)>, String> {
    let text = str::from_utf8(printed).map_err(|_| "its output is not UTF-8".to_owned())?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let reply = |line: &str| -> Result<(String, Content), String> {
        if !json {
            return Ok((room.to_owned(), Content::Text(line.to_owned())));
        }
        let reply: Reply =
            serde_json::from_str(line).map_err(|error| format!("{line:?} is no reply: {error}"))?;
        let room = reply.room.map_or_else(|| Ok(room.to_owned()), |room| parse::room(&room))?;
        Ok((room, Content::Text(reply.text)))
    };
    let replies: Vec<_> = lines.map(reply).collect::<Result<_, _>>()?;
    if replies.len() > BOT_REPLIES_MAX {
        return Err(format!("it printed {} replies; at most {BOT_REPLIES_MAX} are taken", replies.len()));
    }
    Ok(replies)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn text(room: &str, text: &str) -> (String, Content) {
        (room.to_owned(), Content::Text(text.to_owned()))
    }

    #[test]
    fn each_line_is_a_reply_to_the_room_of_the_message() {
        assert_eq!(
            replies(b"one\n\n two\r\n", "ops", false),
            Ok(vec![text("ops", "one"), text("ops", " two")])
        );
        assert_eq!(replies(b"", "ops", false), Ok(vec![]));
        // What somebody said and a bot repeats never names another room.
        let line = br#"{"text":"x","room":"ci"}"#;
        assert_eq!(replies(line, "ops", false), Ok(vec![text("ops", r#"{"text":"x","room":"ci"}"#)]));
        assert_eq!(replies(line, "ops", true), Ok(vec![text("ci", "x")]));
        assert_eq!(replies(br#"{"text":"a\nb"}"#, "ops", true), Ok(vec![text("ops", "a\nb")]));
        for bad in [&b"x"[..], br#"{"txt":"x"}"#, br#"{"text":"x","room":"No"}"#, b"\xff"] {
            assert!(replies(bad, "ops", true).is_err(), "{bad:?}");
        }
        assert!(replies("x\n".repeat(BOT_REPLIES_MAX + 1).as_bytes(), "ops", false).is_err());
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_well_has_no_replies() {
        assert_eq!(run("cat", "hello", LIMIT).await.as_deref(), Ok(&b"hello\n"[..]));
        assert_eq!(run("echo hi", &"x".repeat(200_000), LIMIT).await.as_deref(), Ok(&b"hi\n"[..]));
        assert!(run("echo hi; exit 3", "x", LIMIT).await.unwrap_err().contains('3'));
        assert!(run("kill -9 $$", "x", LIMIT).await.is_err());
        assert!(
            run("exec sleep 600", "x", Duration::from_millis(50)).await.unwrap_err().contains("did not end")
        );
        assert!(run("head -c 2000000 /dev/zero", "x", LIMIT).await.unwrap_err().contains("more than"));
    }
}
