//! `conclave admin ca`: the certificate authority of a cluster.

use std::path::Path;
use std::time::SystemTime;

use conclave_pki::{Ca, PkiError};
use serde::Serialize;

use crate::args::admin::CaCommand;
use crate::certificates;
use crate::exit::{Exit, Failed};
use crate::output;
use crate::settings::Settings;

#[derive(Debug, Serialize)]
struct Authority {
    id: String,
    made: bool,
}

#[derive(Debug, Serialize)]
struct Issued<'a> {
    issued: Vec<&'a str>,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read or written, or an authority is there already.
pub(super) fn run(command: &CaCommand, settings: &Settings) -> anyhow::Result<Exit> {
    let now = jiff::Timestamp::now().into();
    match command {
        CaCommand::Init { dir, if_missing } => init(dir, *if_missing, now, settings),
        CaCommand::Issue { dir, names } => issue(dir, names, now, settings),
    }
}

fn init(dir: &Path, if_missing: bool, now: SystemTime, settings: &Settings) -> anyhow::Result<Exit> {
    let (ca, made) = if if_missing {
        Ca::read_or_create(dir, now).map_err(|error| failed(&error))?
    } else {
        let ca = Ca::create(now).map_err(|error| failed(&error))?;
        ca.write(dir).map_err(|error| failed(&error))?;
        (ca, true)
    };
    if settings.json {
        output::json(&Authority { id: ca.id().to_string(), made })?;
    } else {
        output::line(&ca.id().to_string())?;
    }
    Ok(Exit::Ok)
}

fn issue(dir: &Path, servers: &[String], now: SystemTime, settings: &Settings) -> anyhow::Result<Exit> {
    let ca = Ca::read(dir).map_err(|error| failed(&error))?;
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut sorted = servers.clone();
    sorted.sort_unstable();
    if let Some(wrong) = servers.iter().find(|name| name.is_empty() || name.contains(['/', '.'])) {
        return Err(Failed::new(Exit::Usage, format!("{wrong:?} is not the name of a server"), "").into());
    }
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failed::new(Exit::Usage, format!("{:?} is named twice", twice[0]), "").into());
    }
    let issued = certificates::issue(dir, &ca, &servers, now)?;
    if settings.json {
        output::json(&Issued { issued })?;
    } else if issued.is_empty() {
        output::line("all certificates have more than 30 days left")?;
    } else {
        output::line(&format!("issued: {}", issued.join(", ")))?;
    }
    Ok(Exit::Ok)
}

fn failed(error: &PkiError) -> Failed {
    let next = match error {
        PkiError::Exists(_) => "add --if-missing to leave it as it is, or give another --dir",
        PkiError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "make an authority first: conclave admin ca init --dir DIR"
        }
        _ => "",
    };
    Failed::new(Exit::Refused, error.to_string(), next)
}
