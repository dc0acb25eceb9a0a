//! The step `units`: systemd understands the units, and finds them confined as they are meant to be. Needs systemd's
//! programs, and none of them running.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::packages;
use super::site::{Site, read};

/// The exposure that is accepted, of 100: the network, and for the name server its port.
const EXPOSURE_MAX: &str = "20";
/// The installed program, which this machine does not have, and what stands in for it.
const PROGRAM: (&str, &str) = ("ExecStart=/usr/local/bin/conclave", "ExecStart=/bin/true");

pub(super) fn check(site: &Site) -> anyhow::Result<()> {
    packages::need(site, &["systemd-analyze"], &["systemd"])?;
    let folder = site.context.root.join("packaging/systemd");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut units: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    units.retain(|unit| unit.extension().is_some_and(|end| end == "service"));
    units.sort();
    if units.is_empty() {
        bail!("{} has no units", folder.display());
    }
    for unit in units {
        let name = unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let copy = site.dir.join(&name);
        fs::write(
            &copy,
            with_installed_program(&read(&unit)?).with_context(|| format!("{name} starts no program"))?,
        )?;
        let ran = site.run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy), "")?;
        // A warning is no failure for systemd, but it is one here.
        if ran.code != Some(0) || !ran.out.is_empty() || !ran.err.is_empty() {
            bail!("systemd does not like {name}: {}{}", ran.out, ran.err);
        }
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]);
        command.arg(format!("--threshold={EXPOSURE_MAX}")).arg(&copy);
        let ran = site.run(&mut command, "")?;
        let overall = ran.out.trim_end().lines().last().unwrap_or_default().to_owned();
        site.say(&overall)?;
        ran.expect(0)
            .with_context(|| format!("{name} is exposed by more than {EXPOSURE_MAX} of 100: {overall}"))?;
    }
    Ok(())
}

/// The unit with a program that exists everywhere; `None` if it starts another one.
fn with_installed_program(unit: &str) -> Option<String> {
    let at = |line: &str| line.starts_with(PROGRAM.0);
    let lines = unit.lines().map(|line| match line.strip_prefix(PROGRAM.0) {
        Some(rest) => format!("{}{rest}\n", PROGRAM.1),
        None => format!("{line}\n"),
    });
    unit.lines().any(at).then(|| lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_of_conclave_is_replaced() {
        let unit = "[Service]\nExecStart=/usr/local/bin/conclave server --node n1\nExecReload=/bin/kill\n";
        let copy = with_installed_program(unit).unwrap();
        assert_eq!(copy, "[Service]\nExecStart=/bin/true server --node n1\nExecReload=/bin/kill\n");
        assert_eq!(with_installed_program("[Service]\nExecStart=/bin/sh\n"), None);
    }
}
