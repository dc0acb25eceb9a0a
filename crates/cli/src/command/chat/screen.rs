//! Where a chat is typed and shown: a terminal with a line editor, or plain input and output.
//!
//! On a terminal, what comes in is printed above the line that is being typed. A thread edits lines and another one
//! prints; the loop never waits for either, and so never stops reading from the network for a person who thinks.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor, ExternalPrinter};
use tokio::sync::mpsc;

use super::slash::{Typed, typed};
use crate::input::{Line, stdin_lines};
use crate::limits::{CHAT_LINES_UNPRINTED_MAX, CLI_LINES_AHEAD_MAX};
use crate::output;
use crate::view::text::width;

/// Lines that the loop may print while it does not read from the network.
const HEADROOM: usize = CHAT_LINES_UNPRINTED_MAX / 4;

/// A terminal takes this long at most to show what is left at the end.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(1);

/// How wide a terminal is taken to be that does not say.
const COLUMNS: usize = 80;

/// What the person did.
#[derive(Debug)]
pub(super) enum Input {
    Line(String),
    /// Not a line: too long, or not text.
    Wrong(&'static str),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of what was piped in.
    End,
}

/// The person's hands.
pub(super) struct Inputs(mpsc::Receiver<Input>);

impl Inputs {
    /// The next thing that the person does.
    pub(super) async fn next(&mut self) -> Input {
        self.0.recv().await.unwrap_or(Input::End)
    }
}

/// The person's eyes.
pub(super) struct Screen {
    print: mpsc::Sender<String>,
    /// Ends when the printer has printed everything; nothing is ever sent.
    printed: std::sync::mpsc::Receiver<()>,
    prompt: Arc<Mutex<String>>,
    terminal: Option<Termios>,
    /// Lets the editor go on after a line that decides where the next one goes.
    resume_input: SyncSender<()>,
}

impl Screen {
    /// A line editor where there is a terminal that can do it, otherwise plain lines.
    pub(super) fn open() -> anyhow::Result<(Self, Inputs)> {
        let dumb = std::env::var("TERM").map_or(true, |term| term.is_empty() || term == "dumb");
        if dumb || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Self::plain();
        }
        Self::editor()
    }

    fn plain() -> anyhow::Result<(Self, Inputs)> {
        let (to_loop, input) = mpsc::channel(CLI_LINES_AHEAD_MAX);
        let mut lines = stdin_lines().context("read stdin")?;
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            loop {
                let next = match lines.blocking_recv() {
                    Some(Ok(Line::Text(text))) => Input::Line(text),
                    Some(Ok(Line::TooLong)) => Input::Wrong("the line is longer than 16 KiB; split it"),
                    Some(Ok(Line::NotText)) => Input::Wrong("the line is not UTF-8"),
                    Some(Err(_)) | None => Input::End,
                };
                let end = matches!(next, Input::End);
                if to_loop.blocking_send(next).is_err() || end {
                    return;
                }
            }
        })?;
        let (resume_input, _) = sync_channel(1);
        let screen =
            Self::with_printer(Arc::default(), None, resume_input, |text| output::line(&text).is_ok())?;
        Ok((screen, Inputs(input)))
    }

    fn editor() -> anyhow::Result<(Self, Inputs)> {
        let (to_loop, input) = mpsc::channel(CLI_LINES_AHEAD_MAX);
        let prompt = Arc::<Mutex<String>>::default();
        let config = Config::builder().auto_add_history(true).build();
        let mut editor =
            Editor::<(), MemHistory>::with_history(config, MemHistory::new()).context("use the terminal")?;
        let mut above = editor.create_external_printer().context("use the terminal")?;
        let terminal = tcgetattr(io::stdin()).ok();
        let shared = Arc::clone(&prompt);
        let (resume_input, moved) = sync_channel(1);
        std::thread::Builder::new().name("editor".to_owned()).spawn(move || {
            loop {
                let prompt = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let next = match editor.readline(&prompt) {
                    Ok(line) => {
                        // The message shows in its place among the others, with its tick.
                        erase(&prompt, &line);
                        Input::Line(line)
                    }
                    Err(ReadlineError::Interrupted) => Input::Interrupt,
                    Err(_) => Input::End,
                };
                // After this the terminal is not to be touched again.
                let (moves, end) = match &next {
                    Input::Line(line) => (typed(line).moves(), typed(line) == Typed::Quit),
                    Input::End => (false, true),
                    Input::Interrupt | Input::Wrong(_) => (false, false),
                };
                if to_loop.blocking_send(next).is_err() || end || (moves && moved.recv().is_err()) {
                    return;
                }
            }
        })?;
        let show = move |text: String| above.print(format!("{text}\n")).is_ok();
        Ok((Self::with_printer(prompt, terminal, resume_input, show)?, Inputs(input)))
    }

    fn with_printer(
        prompt: Arc<Mutex<String>>,
        terminal: Option<Termios>,
        resume_input: SyncSender<()>,
        mut show: impl FnMut(String) -> bool + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (print, mut lines) = mpsc::channel(CHAT_LINES_UNPRINTED_MAX);
        let (prints, printed) = sync_channel(0);
        std::thread::Builder::new().name("printer".to_owned()).spawn(move || {
            let _prints: SyncSender<()> = prints;
            while let Some(text) = lines.blocking_recv() {
                // Nobody reads any more; the loop notices by the closed channel.
                if !show(text) {
                    return;
                }
            }
        })?;
        Ok(Self { print, printed, prompt, terminal, resume_input })
    }

    /// Whether lines are edited, and not piped.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// What stands before the line that is typed next.
    pub(super) fn prompt(&self, text: String) {
        *self.prompt.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The line that decided where the next one goes is done with, and the prompt is right.
    pub(super) fn resume_input(&self) {
        // Without an editor nobody waits.
        let _ = self.resume_input.try_send(());
    }

    /// Waits until there is room to print what comes from the network.
    pub(super) async fn room_to_print(&self) {
        // An error means that nobody reads, which printing reports.
        drop(self.print.reserve_many(HEADROOM).await);
    }

    /// Prints, above the line that is being typed.
    ///
    /// # Errors
    /// If nobody reads any more.
    pub(super) async fn show(&self, text: String) -> anyhow::Result<()> {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        self.print.send(text).await.map_err(|_| closed).context("write to stdout")
    }

    /// Prints what is left and gives the terminal back as it was.
    pub(super) fn close(self, last: Option<&str>) {
        drop(self.print);
        // Whoever reads a pipe may be slow, and gets everything. A terminal that takes nothing more may never do again.
        let patience = if self.terminal.is_some() { TERMINAL_PATIENCE } else { Duration::MAX };
        // An error either way: it has ended, or it takes too long.
        let _ = self.printed.recv_timeout(patience);
        if let Some(before) = &self.terminal {
            // A thread may still be editing a line; it ends with the process.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
        if let Some(last) = last {
            output::error(last);
        }
    }
}

/// Takes the line that was typed off the screen. What the editor left is the prompt, the line and a line feed.
fn erase(prompt: &str, line: &str) {
    // A terminal that nobody looks at may not know how wide it is.
    let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    let columns = if columns == 0 { COLUMNS } else { columns };
    let mut out = io::stdout().lock();
    // It is only less tidy if that fails.
    let _ = write!(out, "\x1b[{}A\r\x1b[J", rows(width(prompt) + width(line), columns))
        .and_then(|()| out.flush());
}

/// Rows that text of this width takes; there is at least one column.
fn rows(width: usize, columns: usize) -> usize {
    width.div_ceil(columns).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_take_several_rows() {
        assert_eq!(rows(0, 80), 1);
        assert_eq!(rows(80, 80), 1);
        assert_eq!(rows(81, 80), 2);
    }
}
