//! The input and output of a chat: a terminal with a line editor, or plain stdin and stdout.
//!
//! On a terminal, incoming text is printed above the line that is being typed. One thread edits lines and another
//! prints; the loop waits for neither, so it reads from the network while the user is typing.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor, ExternalPrinter};
use tokio::sync::mpsc;

use super::slash::{Typed, typed};
use crate::input::{Line, stdin_lines};
use crate::limits::{CHAT_LINES_UNPRINTED_MAX, CLI_LINES_AHEAD_MAX};
use crate::output;
use crate::view::text::width;

/// Lines that are reserved for the loop's own output while the network is not read.
const HEADROOM: usize = CHAT_LINES_UNPRINTED_MAX / 4;

/// Timeout for printing the remaining lines to a terminal at the end.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that are no UTF-8 one after the other, with which the input counts as broken.
const WRONG_BYTES_MAX: usize = 1_024;

/// One input of the user.
#[derive(Debug)]
pub(super) enum Input {
    Line(String),
    /// A line that is too long or not UTF-8, with the reason.
    Wrong(&'static str),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of piped input.
    End,
    /// The input cannot be read any more, with the reason.
    Broken(String),
}

/// The inputs of the user.
pub(super) struct Inputs(mpsc::Receiver<Input>);

impl Inputs {
    /// Waits for the next input.
    pub(super) async fn next(&mut self) -> Input {
        self.0.recv().await.unwrap_or(Input::End)
    }
}

/// The output of the chat.
pub(super) struct Screen {
    print: mpsc::Sender<String>,
    /// Closes when the printer has printed everything; nothing is ever sent.
    printed: std::sync::mpsc::Receiver<()>,
    prompt: Arc<Mutex<String>>,
    terminal: Option<Termios>,
    /// Resumes the editor after a line that changes the room.
    resume_input: SyncSender<()>,
}

impl Screen {
    /// Opens a line editor on a capable terminal, otherwise plain lines.
    pub(super) fn open() -> anyhow::Result<(Self, Inputs)> {
        let dumb = std::env::var("TERM").map_or(true, |term| term.is_empty() || term == "dumb");
        if dumb || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Self::plain();
        }
        Self::editor()
    }

    fn plain() -> anyhow::Result<(Self, Inputs)> {
        let (to_loop, input) = mpsc::channel(CLI_LINES_AHEAD_MAX);
        let mut lines = stdin_lines().context("failed to read stdin")?;
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
            loop {
                let next = match lines.blocking_recv() {
                    Some(Ok(Line::Text(text))) => Input::Line(text),
                    Some(Ok(Line::TooLong)) => Input::Wrong("the line is longer than 16 KiB; split it"),
                    Some(Ok(Line::NotText)) => Input::Wrong("the line is not UTF-8"),
                    Some(Err(error)) => Input::Broken(error.to_string()),
                    None => Input::End,
                };
                let end = matches!(next, Input::End | Input::Broken(_));
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
        let mut editor = Editor::<(), MemHistory>::with_history(config, MemHistory::new())
            .context("the terminal cannot be used")?;
        let mut above = editor.create_external_printer().context("the terminal cannot be used")?;
        let terminal = tcgetattr(io::stdin()).ok();
        let shared = Arc::clone(&prompt);
        let (resume_input, moved) = sync_channel(1);
        std::thread::Builder::new().name("editor".to_owned()).spawn(move || {
            let mut wrong = 0;
            loop {
                let prompt = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let next = match editor.readline(&prompt) {
                    Ok(line) => {
                        // The message will be shown among the others, with its tick.
                        erase(&prompt, &line);
                        Input::Line(line)
                    }
                    Err(ReadlineError::Interrupted) => Input::Interrupt,
                    Err(ReadlineError::Eof) => Input::End,
                    // A byte that is no UTF-8 was typed or pasted. The editor has dropped the line.
                    Err(ReadlineError::Io(error))
                        if error.kind() == io::ErrorKind::InvalidData && wrong < WRONG_BYTES_MAX =>
                    {
                        Input::Wrong("what was typed is not UTF-8; the line is dropped, type it again")
                    }
                    Err(error) => Input::Broken(error.to_string()),
                };
                wrong = if matches!(next, Input::Wrong(_)) { wrong + 1 } else { 0 };
                // After this the terminal must not be used again.
                let (moves, end) = match &next {
                    Input::Line(line) => (typed(line).moves(), typed(line) == Typed::Quit),
                    Input::End | Input::Broken(_) => (false, true),
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
                // Stdout is closed; the loop notices it by the closed channel.
                if !show(text) {
                    return;
                }
            }
        })?;
        Ok(Self { print, printed, prompt, terminal, resume_input })
    }

    /// Whether this is a terminal with a line editor.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Sets the prompt of the next line.
    pub(super) fn prompt(&self, text: String) {
        *self.prompt.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Resumes the editor: the change of room is complete, and the prompt is set.
    pub(super) fn resume_input(&self) {
        // Without an editor there is no receiver.
        let _ = self.resume_input.try_send(());
    }

    /// Waits until there is space to print events.
    pub(super) async fn room_to_print(&self) {
        // The channel is closed if stdout is; the next print reports that.
        drop(self.print.reserve_many(HEADROOM).await);
    }

    /// Prints text above the line that is being typed.
    ///
    /// # Errors
    /// If stdout is closed.
    pub(super) async fn show(&self, text: String) -> anyhow::Result<()> {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        self.print.send(text).await.map_err(|_| closed).context("write to stdout")
    }

    /// Prints the remaining lines and restores the terminal.
    pub(super) fn close(self, last: Option<&str>) {
        drop(self.print);
        // A slow reader of a pipe gets everything. A terminal that is stuck may stay so, hence the timeout.
        let patience = if self.terminal.is_some() { TERMINAL_PATIENCE } else { Duration::MAX };
        // Both results are fine: the printer has ended, or the timeout is over.
        let _ = self.printed.recv_timeout(patience);
        if let Some(before) = &self.terminal {
            // The editor thread may still wait for input; it ends with the process.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
        if let Some(last) = last {
            output::error(last);
        }
    }
}

/// Erases a typed line from the screen. The editor has left the prompt, the line and a line feed.
fn erase(prompt: &str, line: &str) {
    let columns = output::terminal_columns();
    let mut out = io::stdout().lock();
    // A failure only leaves the line on the screen.
    let _ =
        write!(out, "\x1b[{}A\r\x1b[J", rows(&format!("{prompt}{line}"), columns)).and_then(|()| out.flush());
}

/// The number of rows that text takes, which may have several lines.
fn rows(text: &str, columns: usize) -> usize {
    text.split('\n').map(|line| width(line).div_ceil(columns).max(1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_take_several_rows() {
        assert_eq!(rows("", 80), 1);
        assert_eq!(rows(&"x".repeat(80), 80), 1);
        assert_eq!(rows(&"x".repeat(81), 80), 2);
        assert_eq!(rows("#ops> first\nsecond\nthird", 80), 3);
        assert_eq!(rows(&format!("> \n{}", "x".repeat(81)), 80), 3);
    }
}
