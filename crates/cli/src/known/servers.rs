//! What `conclave up` said about servers by their addresses.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use conclave_client::CaId;

use super::{Known, read, replace};
use crate::exit::{Exit, Failed};
use crate::limits::KNOWN_SERVERS_MAX;
use crate::private;

const SERVERS: &str = "known-servers";
/// What stands in place of the authority of a server without TLS.
const PLAIN: &str = "plain";

impl Known {
    /// What `conclave up` said about the servers at these addresses: their authority, or that they speak no TLS. `None` if
    /// nothing is known, or they differ.
    ///
    /// # Errors
    /// If the file is there and cannot be read: then nothing says whom to believe.
    pub(crate) fn of_servers(&self, addresses: &[String]) -> Result<Option<Option<CaId>>, Failed> {
        let path = self.servers_file();
        let failed = |why: String| {
            let what = format!("the identities of servers in {} cannot be read: {why}", path.display());
            let next = "mend it, or remove it: then each cluster is met for the first time again, unless it was used before";
            Failed::new(Exit::Refused, what, next)
        };
        let text = read(&path).map_err(|error| failed(error.to_string()))?.unwrap_or_default();
        let mut found = BTreeSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let (address, says) = entry(line).ok_or_else(|| failed(format!("line {number} is damaged")))?;
            if addresses.iter().any(|other| same_place(other, address)) {
                found.insert(says);
            }
        }
        Ok(found.first().copied().filter(|_| found.len() == 1))
    }

    /// The file with the authorities of servers.
    pub(super) fn servers_file(&self) -> PathBuf {
        self.state_dir.join(SERVERS)
    }

    /// Forgets what was said about the servers at these addresses.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn forget_servers(&self, addresses: &[String]) -> io::Result<()> {
        let Some(before) = read(&self.servers_file())? else { return Ok(()) };
        let text = others(&before, addresses);
        if text == before { Ok(()) } else { replace(&self.servers_file(), &text) }
    }

    /// Keeps the authority of the servers at these addresses, in place of what was known about them; `None` says that they
    /// speak no TLS.
    pub(crate) fn set_servers(&self, addresses: &[String], authority: Option<CaId>) -> io::Result<()> {
        let path = self.servers_file();
        let before = read(&path)?.unwrap_or_default();
        let mut text = String::new();
        let says = authority.map_or_else(|| PLAIN.to_owned(), |authority| authority.to_string());
        addresses.iter().for_each(|address| text.push_str(&format!("{address} {says}\n")));
        text.push_str(&others(&before, addresses));
        if text == before {
            return Ok(());
        }
        private::create_dir(&self.state_dir)?;
        replace(&path, &text)
    }

    /// Where it is said whose servers are at these addresses.
    pub(crate) fn says_servers(&self, addresses: &[String]) -> String {
        let is = |address: &str| addresses.iter().any(|other| same_place(other, address));
        self.place_of(SERVERS, |line| line.split_once(' ').is_some_and(|(address, _)| is(address)))
    }
}

/// A line of the file with servers: an address, and its authority or that it speaks no TLS.
fn entry(line: &str) -> Option<(&str, Option<CaId>)> {
    let (address, says) = line.split_once(' ')?;
    let says = if says == PLAIN { None } else { Some(says.parse().ok()?) };
    Some((address, says))
}

/// The lines about other servers than those at these addresses.
fn others(text: &str, addresses: &[String]) -> String {
    let other = |line: &&str| {
        line.split_once(' ').is_some_and(|(address, _)| !addresses.iter().any(|own| same_place(own, address)))
    };
    text.lines().filter(other).take(KNOWN_SERVERS_MAX).map(|line| format!("{line}\n")).collect()
}

/// Whether two addresses are the same place: this machine has several names.
fn same_place(one: &str, other: &str) -> bool {
    place(one) == place(other)
}

/// The address, with 127.0.0.1 for each usual name of this machine.
fn place(address: &str) -> Cow<'_, str> {
    let here = |port: &str| Cow::Owned(format!("{}:{port}", Ipv4Addr::LOCALHOST));
    if let Ok(socket) = address.parse::<SocketAddr>() {
        let ip = socket.ip().to_canonical();
        let usual = ip.is_loopback() && (ip.is_ipv6() || ip == Ipv4Addr::LOCALHOST);
        return if usual { here(&socket.port().to_string()) } else { Cow::Borrowed(address) };
    }
    match address.rsplit_once(':') {
        Some((host, port)) if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") => here(port),
        _ => Cow::Borrowed(address),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn addresses(ports: &[u16]) -> Vec<String> {
        ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    #[test]
    fn servers_have_the_authority_that_was_set_last() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        known.set_servers(&addresses(&[1, 2]), Some(CaId(7))).unwrap();
        known.set_servers(&addresses(&[3]), Some(CaId(8))).unwrap();
        let of = |ports: &[u16]| known.of_servers(&addresses(ports)).unwrap();
        assert_eq!(of(&[2, 9]), Some(Some(CaId(7))));
        assert_eq!(of(&[2, 3]), None, "two clusters");
        known.set_servers(&addresses(&[2]), Some(CaId(8))).unwrap();
        assert_eq!(of(&[2, 3]), Some(Some(CaId(8))));
        known.set_servers(&addresses(&[3, 2]), None).unwrap();
        assert_eq!(of(&[2, 3]), Some(None), "they speak no TLS now");
        assert_eq!(of(&[1]), Some(Some(CaId(7))));
    }

    #[test]
    fn a_damaged_file_of_servers_is_an_error_and_not_a_first_contact() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let good = format!("127.0.0.1:1 {}\n", CaId(7));
        for (bad, line) in [("noise", "line 2"), ("127.0.0.1:1 7", "line 2"), ("127.0.0.1:2", "line 2")] {
            fs::write(known.servers_file(), format!("{good}{bad}\n")).unwrap();
            let failed = known.of_servers(&addresses(&[1])).unwrap_err();
            assert!(failed.what.contains(line) && failed.next.contains("remove it"), "{failed}");
        }
        fs::write(known.servers_file(), [good.as_bytes(), b"\xff\n"].concat()).unwrap();
        assert!(known.of_servers(&addresses(&[1])).is_err());
        fs::write(known.servers_file(), good).unwrap();
        assert_eq!(known.of_servers(&addresses(&[1])).unwrap(), Some(Some(CaId(7))));
    }

    #[test]
    fn the_names_of_this_machine_are_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        known.set_servers(&addresses(&[1]), Some(CaId(7))).unwrap();
        for name in ["127.0.0.1:1", "localhost:1", "LocalHost.:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(known.of_servers(&[name.to_owned()]).unwrap(), Some(Some(CaId(7))), "{name}");
        }
        for other in ["localhost:2", "127.0.0.2:1", "[::2]:1", "localhost.example.org:1", "10.0.0.1:1"] {
            assert_eq!(known.of_servers(&[other.to_owned()]).unwrap(), None, "{other}");
        }
        known.set_servers(&["localhost:1".to_owned()], None).unwrap();
        assert_eq!(known.of_servers(&addresses(&[1])).unwrap(), Some(None), "in place of what was known");
    }
}
