//! Tools that a step needs, and the Debian packages that have them.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::site::Site;

/// Installs Debian packages if one of these tools is missing. Needs root, or `sudo` without a password.
pub(super) fn need(site: &Site, tools: &[&str], packages: &[&str]) -> anyhow::Result<()> {
    let folders: Vec<_> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if tools
        .iter()
        .all(|tool| folders.iter().any(|folder: &std::path::PathBuf| is_program(&folder.join(tool))))
    {
        return Ok(());
    }
    site.say(&format!("installing {}", packages.join(" ")))?;
    let install = [&["install", "-y", "-qq", "--no-install-recommends"], packages].concat();
    for arguments in [&["update", "-qq"][..], &install] {
        let mut command = as_root("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        site.run(&mut command, "")?
            .expect(0)
            .with_context(|| format!("install the Debian packages {}", packages.join(" ")))?;
    }
    Ok(())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", program]);
    command
}
