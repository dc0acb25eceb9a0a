//! What the zone is made of.

use conclave_proto::cluster::NodeRecord;
use hickory_proto::rr::Name;

use crate::config::NameServer;

/// A zone's name may have this many bytes on the wire, so that every name below it fits into the 255 of a DNS name.
const ZONE_NAME_BYTES_MAX: usize = 128;

/// Everything that the zone is a function of. Equal views make equal zones, whichever resolver makes them.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The zone's name: lower case and absolute, as [`zone_name`] makes it.
    pub zone: Name,
    /// The resolvers, for NS and SOA.
    pub name_servers: Vec<NameServer>,
    /// Every member, live or not, in any order.
    pub nodes: Vec<NodeView>,
    /// The resolver is cut off and this is the last good set.
    pub stale: bool,
    /// The zone's serial: the same for the same content.
    pub serial: u32,
}

/// A member as the resolver knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its record, with `ips` filled in if anybody knows them.
    pub record: NodeRecord,
    /// Its lease has not lapsed.
    pub live: bool,
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
