//! Reads passwords from the terminal without an echo, or from stdin. They are never arguments, and never printed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::exit::{Exit, Failed};
use crate::limits::PASSWORD_BYTES;
use crate::output;

/// The exit code after Ctrl-C, as shells report it.
const INTERRUPTED: i32 = 130;
/// White space and line ending behind a password on stdin, bytes.
const BEHIND: usize = 2;

/// A password. Never printed by [`fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    /// The password as text. Callers must not log it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// Where passwords come from.
#[derive(Debug)]
pub(crate) enum Passwords {
    Terminal,
    /// One password a line.
    Stdin(io::BufReader<io::Stdin>),
}

impl Passwords {
    pub(crate) fn of(stdin: bool) -> Self {
        if stdin { Self::Stdin(io::BufReader::new(io::stdin())) } else { Self::Terminal }
    }

    /// An existing password. `whose` is shown before it is typed.
    ///
    /// # Errors
    /// If there is no terminal, or stdin has no further line.
    pub(crate) async fn old(&mut self, whose: &str) -> Result<Password, Failed> {
        match self {
            Self::Terminal => prompt(format!("{whose}: ")).await,
            Self::Stdin(lines) => line(lines),
        }
    }

    /// A new password. A terminal asks for it twice.
    ///
    /// # Errors
    /// As [`Passwords::old`], or if the password cannot be one.
    pub(crate) async fn new_one(&mut self, whose: &str) -> Result<Password, Failed> {
        let password = self.old(whose).await?;
        check(&password)?;
        if matches!(self, Self::Terminal) && self.old("The same again").await? != password {
            return Err(Failed::new(Exit::Usage, "the two passwords differ", "start again"));
        }
        Ok(password)
    }
}

fn check(password: &Password) -> Result<(), Failed> {
    if PASSWORD_BYTES.contains(&password.0.len()) {
        return Ok(());
    }
    let (least, most) = (PASSWORD_BYTES.start(), PASSWORD_BYTES.end());
    let what = format!("a password has {least} to {most} bytes");
    Err(Failed::new(Exit::Refused, what, "choose another one").with_word("password_length"))
}

/// Reads a password from the terminal. Ctrl-C ends the program, and leaves a terminal with an echo.
async fn prompt(text: String) -> Result<Password, Failed> {
    let before = Echo::of_terminal();
    let asked = tokio::task::spawn_blocking(move || rpassword::prompt_password(text));
    let answer = tokio::select! {
        answer = asked => answer.map_err(io::Error::other).and_then(|answer| answer),
        // The thread that reads stays where it is, and its guard would restore the terminal too late.
        _ = tokio::signal::ctrl_c() => {
            if let Some(before) = before {
                before.restore();
            }
            output::error("");
            conclave_telemetry::log::finish();
            std::process::exit(INTERRUPTED);
        }
    };
    answer.map(Password).map_err(|error| {
        let what = format!("no terminal can be asked for a password: {error}");
        Failed::new(Exit::Usage, what, "give --password-stdin, and the password on stdin")
    })
}

/// The settings of the terminal before a password is typed.
struct Echo {
    terminal: File,
    settings: Termios,
}

impl Echo {
    fn of_terminal() -> Option<Self> {
        let terminal = File::open("/dev/tty").ok()?;
        let settings = tcgetattr(&terminal).ok()?;
        Some(Self { terminal, settings })
    }

    fn restore(&self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.settings);
    }
}

/// The next line, without its ending.
fn line(input: &mut impl BufRead) -> Result<Password, Failed> {
    let most = PASSWORD_BYTES.end() + BEHIND;
    let mut bytes = Vec::new();
    let read = input.take(most as u64 + 1).read_until(b'\n', &mut bytes);
    let unusable = |why: &str| {
        let next = "give one password a line, in the order in which a terminal is asked for them";
        Failed::new(Exit::Usage, format!("stdin {why}"), next)
    };
    match read {
        Err(error) => return Err(unusable(&format!("cannot be read: {error}"))),
        Ok(0) => return Err(unusable("has no password")),
        Ok(read) if read > most => return Err(unusable("has a longer line than any password")),
        Ok(_) => {}
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    String::from_utf8(bytes).map(Password).map_err(|_| unusable("is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_has_one_password_a_line() {
        let mut input = "old one\nnew one\r\n \nlast".as_bytes();
        let mut next = || line(&mut input).map(|password| password.0);
        assert_eq!(next().unwrap(), "old one");
        assert_eq!(next().unwrap(), "new one");
        assert_eq!(next().unwrap(), " ", "white space belongs to a password");
        assert_eq!(next().unwrap(), "last");
        assert_eq!(next().unwrap_err().exit, Exit::Usage);
        let long = "x".repeat(PASSWORD_BYTES.end() + 3);
        let failed = line(&mut long.as_bytes()).unwrap_err();
        assert!(!failed.to_string().contains("xxx"), "{failed}");
        assert!(line(&mut [0xff, b'\n'].as_slice()).is_err());
    }

    #[test]
    fn a_password_is_never_printed_and_has_bounds() {
        let password = Password("hunter2".to_owned());
        assert_eq!(format!("{password:?}"), "Password");
        let refused = check(&password).unwrap_err();
        assert!(refused.what.contains("8 to 1024") && !refused.to_string().contains("hunter2"), "{refused}");
        assert!(check(&Password("hunter22".to_owned())).is_ok());
    }
}
