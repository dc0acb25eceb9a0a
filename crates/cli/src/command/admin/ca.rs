//! `conclave admin ca`: the certificate authority of a cluster.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use conclave_net::{CA_FILE, CERTIFICATE_FILE, Identity};
use conclave_pki::limits::REQUEST_BYTES_MAX;
use conclave_pki::{Ca, PkiError, Request};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::admin::{CaCommand, Owners};
use crate::certificates::{self, Owner, Renewed};
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

#[derive(Debug, Serialize)]
struct Renewal<'a> {
    renewed: &'a [String],
    failed: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Requested<'a> {
    request: &'a str,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read or written.
pub(super) async fn run(command: CaCommand, settings: &Settings) -> anyhow::Result<Exit> {
    let every = match &command {
        CaCommand::Renew { every, .. } => *every,
        _ => None,
    };
    let (json, quiet) = (settings.json, settings.quiet);
    // A signal never ends a renewal halfway, also not the first one.
    let listen = |_| anyhow::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
    let signals = every.map(listen).transpose()?;
    // The first time tells whether the directory is right. A later failure is reported each time, and may end by itself.
    let first = blocking(&command, json, quiet).await?;
    let (Some(every), Some((mut terminate, mut interrupt))) = (every, signals) else { return Ok(first) };
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = terminate.recv() => return Ok(Exit::Ok),
            _ = interrupt.recv() => return Ok(Exit::Ok),
        }
        if let Err(error) = blocking(&command, json, quiet).await {
            output::failure(json, &error);
        }
    }
}

async fn blocking(command: &CaCommand, json: bool, quiet: bool) -> anyhow::Result<Exit> {
    let command = command.clone();
    tokio::task::spawn_blocking(move || once(&command, &Form { json, quiet })).await?
}

/// The form of the output.
struct Form {
    json: bool,
    quiet: bool,
}

fn once(command: &CaCommand, form: &Form) -> anyhow::Result<Exit> {
    let now = jiff::Timestamp::now().into();
    match command {
        CaCommand::Init { dir } => init(dir, now, form),
        CaCommand::Issue { dir, owners } => issue(dir, &all(owners)?, now, form),
        CaCommand::Renew { dir, every } => renew(dir, every.is_some(), now, form),
        CaCommand::Request { dir } => request(dir, form),
        CaCommand::Sign { dir, request, name, owners } => {
            let owners = all(owners)?;
            let owner = owners.iter().find(|owner| owner.name == *name).ok_or_else(|| {
                let what = format!("{name:?} is none of the names");
                Failed::new(
                    Exit::Usage,
                    what,
                    "give all names that `conclave admin ca issue` is given, and one of them by --for",
                )
            })?;
            sign(dir, owner, request, now, form)
        }
    }
}

fn all(owners: &Owners) -> Result<Vec<Owner>, Failed> {
    let others = [(&owners.chaos[..], Identity::Chaos), (&owners.alerts[..], Identity::Alerts)];
    certificates::owners(&owners.names, &owners.dns, &others)
        .map_err(|what| Failed::new(Exit::Usage, what, ""))
}

fn init(dir: &Path, now: SystemTime, form: &Form) -> anyhow::Result<Exit> {
    let (ca, made) = Ca::read_or_create(dir, now).map_err(|error| failed(&error))?;
    if form.json {
        output::json(&Authority { id: ca.id().to_string(), made })?;
        return Ok(Exit::Ok);
    }
    if !made {
        let note = format!("{} has an authority already; it stays as it is", dir.display());
        output::note(form.quiet, &note);
    }
    output::line(&ca.id().to_string())?;
    Ok(Exit::Ok)
}

fn issue(dir: &Path, owners: &[Owner], now: SystemTime, form: &Form) -> anyhow::Result<Exit> {
    let ca = Ca::read(dir).map_err(|error| failed(&error))?;
    let issued = certificates::issue(dir, &ca, owners, now)?;
    if form.json {
        output::json(&Issued { issued })?;
    } else if issued.is_empty() {
        output::line("all certificates have more than 30 days left")?;
    } else {
        output::line(&format!("issued: {}", issued.join(", ")))?;
    }
    Ok(Exit::Ok)
}

/// `repeats`: says nothing where there is nothing to do.
fn renew(dir: &Path, repeats: bool, now: SystemTime, form: &Form) -> anyhow::Result<Exit> {
    let ca = Ca::read(dir).map_err(|error| failed(&error))?;
    let Renewed { names, failed: not_renewed } = certificates::renew(dir, &ca, now)?;
    if form.json {
        let failed = not_renewed.iter().map(|(name, _)| name.as_str()).collect();
        output::json(&Renewal { renewed: &names, failed })?;
    } else if !names.is_empty() {
        output::line(&format!("renewed: {}", names.join(", ")))?;
    } else if !repeats && not_renewed.is_empty() {
        output::line("all certificates have more than 30 days left")?;
    }
    for (name, why) in &not_renewed {
        let what = format!("the certificate of {name} is not renewed: {why}");
        output::passed_over(form.json, None, &Failed::new(Exit::Refused, what, ""));
    }
    Ok(if not_renewed.is_empty() { Exit::Ok } else { Exit::Refused })
}

fn request(dir: &Path, form: &Form) -> anyhow::Result<Exit> {
    let request = Request::in_dir(dir).map_err(|error| failed(&error))?;
    if form.json {
        output::json(&Requested { request: request.pem() })?;
    } else {
        output::line(request.pem().trim_end())?;
    }
    Ok(Exit::Ok)
}

fn sign(dir: &Path, owner: &Owner, request: &Path, now: SystemTime, form: &Form) -> anyhow::Result<Exit> {
    let ca = Ca::read(dir).map_err(|error| failed(&error))?;
    let pem = read_request(request).map_err(|error| {
        let what = format!("the signing request {} cannot be read: {error}", request.display());
        Failed::new(Exit::Usage, what, "make it where the server runs: conclave admin ca request --dir DIR")
    })?;
    certificates::sign(dir, &ca, owner, &pem, now).map_err(|error| failed(&error))?;
    if form.json {
        output::json(&Issued { issued: vec![&owner.name] })?;
    } else {
        let own_dir = dir.join(&owner.name);
        output::line(&format!(
            "signed: {}; put {CA_FILE} and {CERTIFICATE_FILE} of {} beside its key",
            owner.name,
            own_dir.display()
        ))?;
    }
    Ok(Exit::Ok)
}

/// The text of a file, or of stdin for `-`.
fn read_request(path: &Path) -> std::io::Result<String> {
    let mut pem = String::new();
    // One byte more than is accepted, so that a longer request is refused as such.
    let most = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_string(&mut pem)?;
    } else {
        File::open(path)?.take(most).read_to_string(&mut pem)?;
    }
    Ok(pem)
}

fn failed(error: &PkiError) -> Failed {
    let next = match error {
        PkiError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "make an authority first: conclave admin ca init --dir DIR"
        }
        _ => "",
    };
    Failed::new(Exit::Refused, error.to_string(), next)
}
