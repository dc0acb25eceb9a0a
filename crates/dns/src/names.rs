//! Checked names: labels, addresses, the name of the zone, and the name servers of the NS records.

use std::net::IpAddr;

use hickory_proto::rr::Name;

/// Longest name of a zone on the wire, bytes: every name below it must fit into the 255 bytes of a DNS name.
const ZONE_NAME_BYTES_MAX: usize = 128;

/// One name server of the zone, for the NS records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// The label below the zone, such as `ns1`.
    pub name: String,
    /// The addresses for its A and AAAA records.
    pub ips: Vec<IpAddr>,
}

/// Parses the name of a zone, such as `conclave.internal`. The result is lower case and absolute.
///
/// # Errors
/// A sentence that names the mistake.
pub fn zone_name(zone: &str) -> Result<Name, String> {
    let trimmed = zone.strip_suffix('.').unwrap_or(zone);
    for label in trimmed.split('.') {
        if !is_label(&label.to_ascii_lowercase()) {
            return Err(format!(
                "zone `{zone}`: each part between dots must be 1 to 63 of a-z, 0-9 and -, and not begin or end with -"
            ));
        }
    }
    let mut name =
        Name::from_ascii(trimmed.to_ascii_lowercase()).map_err(|error| format!("zone `{zone}`: {error}"))?;
    name.set_fqdn(true);
    if name.len() > ZONE_NAME_BYTES_MAX {
        return Err(format!("zone `{zone}` is too long: at most {ZONE_NAME_BYTES_MAX} bytes"));
    }
    Ok(name)
}

/// Whether the text is a host label: 1 to 63 of `a-z 0-9 -`, without `-` at either end.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Splits `host:port`. `None` if the host is no host name or the port is 0.
pub(crate) fn host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    // A host name has at most 253 characters (RFC 1035).
    ((1..=253).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_name_is_normalized_or_rejected() {
        assert_eq!(zone_name("Conclave.Internal.").unwrap().to_ascii(), "conclave.internal.");
        for wrong in ["", ".", "a..b", "-a.b", "a b", "ä.internal", &"a.".repeat(80), &"a".repeat(64)] {
            assert!(zone_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
