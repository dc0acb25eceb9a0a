//! What may go without TLS: what never leaves this machine.

use std::net::{IpAddr, SocketAddr};

/// Whether an address is one of this machine alone. A socket for both families sees IPv4 addresses as mapped ones.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Those of these listening ports that are reached from beyond this machine, each with what it is for; `None` if there is
/// none.
#[must_use]
pub fn beyond_loopback(ports: &[(&str, SocketAddr)]) -> Option<String> {
    let exposed = ports.iter().filter(|(_, address)| !is_loopback(address.ip()));
    let named: Vec<String> = exposed.map(|(purpose, address)| format!("{purpose} at {address}")).collect();
    (!named.is_empty()).then(|| named.join(", "))
}

/// Why a process without TLS does not listen on these ports, if one of them is reached from beyond this machine. `tls_flag`
/// is the one that gives it a certificate.
#[must_use]
pub fn refuse_without_tls(ports: &[(&str, SocketAddr)], tls_flag: &str) -> Option<String> {
    let named = beyond_loopback(ports)?;
    Some(format!(
        "without TLS, everybody on the way can read and change what is said to {named}: give {tls_flag}, listen on a loopback \
         address, or give --listen-insecure if you trust every network on the way"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports<'a>(addresses: &[&str]) -> Vec<(&'a str, SocketAddr)> {
        addresses.iter().map(|address| ("pages", address.parse().unwrap())).collect()
    }

    #[test]
    fn only_what_leaves_this_machine_needs_tls() {
        let here = ports(&["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"]);
        assert_eq!(beyond_loopback(&here), None);
        assert_eq!(refuse_without_tls(&here, "--tls-dir"), None);
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1"] {
            let refused = refuse_without_tls(&ports(&["127.0.0.1:1", address]), "--tls-dir").unwrap();
            assert!(refused.contains(&format!("pages at {address}: give --tls-dir")), "{refused}");
            assert!(!refused.contains("127.0.0.1:1") && refused.contains("--listen-insecure"), "{refused}");
        }
    }
}
