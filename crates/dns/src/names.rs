//! Names as the configuration, the nodes' records and the zone all have them: labels, addresses, the zone's own name.

use std::net::IpAddr;

use hickory_proto::rr::Name;

/// A zone's name may have this many bytes on the wire, so that every name below it fits into the 255 of a DNS name.
const ZONE_NAME_BYTES_MAX: usize = 128;

/// One resolver, for the NS records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its label, such as `ns1`.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// The name of a zone, such as `conclave.internal`: lower case and absolute.
///
/// # Errors
/// A sentence that says what is wrong with it.
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

/// Whether it can be a host's label: 1 to 63 of `a-z 0-9 -`, with no `-` at its ends.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Host and port of an address, if it is one.
pub(crate) fn host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    // Longer ones are no host's name, RFC 1035.
    ((1..=253).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_names_are_checked() {
        assert_eq!(zone_name("Conclave.Internal.").unwrap().to_ascii(), "conclave.internal.");
        for wrong in ["", ".", "a..b", "-a.b", "a b", "ä.internal", &"a.".repeat(80), &"a".repeat(64)] {
            assert!(zone_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
