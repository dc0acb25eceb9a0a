//! Addresses with the interface of a link-local address, as resolv.conf and people write them: `fe80::1%eth0`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Parses `IP:PORT`, or `IP` if there is a default port. The address may name an interface of this host, or its number:
/// `[fe80::1%eth0]:53`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn socket_address(text: &str, default_port: Option<u16>) -> Result<SocketAddr, String> {
    let text = text.trim();
    let wrong = || match default_port {
        Some(port) => {
            format!("{text:?} is not IP or IP:PORT, for example 192.0.2.1:{port} or [fe80::1%eth0]:{port}")
        }
        None => format!("{text:?} is not IP:PORT, for example 192.0.2.1:53 or [fe80::1%eth0]:53"),
    };
    let split = match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .map(|(host, port)| (host, port.strip_prefix(':').or((!port.is_empty()).then_some(port)))),
        // An IPv6 address has more than one colon.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => Some((host, Some(port))),
            _ => Some((text, None)),
        },
    };
    let (host, port) = split.ok_or_else(wrong)?;
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| wrong())?,
        Some(_) => return Err(wrong()),
        None => default_port.ok_or_else(wrong)?,
    };
    let Some((ip, interface)) = host.split_once('%') else {
        return Ok(SocketAddr::new(host.parse::<IpAddr>().map_err(|_| wrong())?, port));
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| wrong())?;
    let scope = interface_index(interface)
        .ok_or_else(|| format!("{text:?} names {interface:?}, which is no interface of this host"))?;
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

fn interface_index(name: &str) -> Option<u32> {
    match name.parse::<u32>() {
        Ok(index) => Some(index).filter(|index| *index > 0),
        Err(_) => nix::net::if_::if_nametoindex(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_belongs_to_an_address() {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let scoped = SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, lo));
        for text in
            ["fe80::1%lo", "[fe80::1%lo]", "[fe80::1%lo]:53", &format!("fe80::1%{lo}"), &scoped.to_string()]
        {
            assert_eq!(socket_address(text, Some(53)), Ok(scoped), "{text}");
        }
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("fd00::53", "[fd00::53]:53"),
            ("[fd00::53]", "[fd00::53]:53"),
            ("[fd00::53]:5353", "[fd00::53]:5353"),
        ] {
            assert_eq!(socket_address(text, Some(53)), Ok(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in [
            "",
            "ns1",
            "ns1:53",
            "192.0.2.1%lo",
            "fe80::1%",
            "fe80::1%0",
            "[fe80::1%lo",
            "[::1]x",
            "1.2.3.4:x",
            "1.2.3.4:99999",
            "[::1]:+5",
        ] {
            let error = socket_address(text, Some(53)).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{text}: {error}");
        }
        assert!(
            socket_address("fe80::1%no-such", Some(53)).unwrap_err().contains("no interface of this host")
        );
        assert!(socket_address("192.0.2.1", None).is_err(), "no port");
        assert!(socket_address("fe80::1%lo", None).is_err(), "no port");
    }
}
