//! The address of this machine at which all processes of `conclave up` listen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The loopback address: 127.0.0.1, or `::1` on a machine without it.
pub(super) fn loopback() -> IpAddr {
    chosen(|ip| UdpSocket::bind(SocketAddr::new(ip, 0)).map(drop))
}

fn chosen(bind: impl Fn(IpAddr) -> io::Result<()>) -> IpAddr {
    let (ipv4, ipv6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    // Where both fail, the error of the usual address is told.
    if bind(ipv4).is_err() && bind(ipv6).is_ok() { ipv6 } else { ipv4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_chosen_only_where_it_alone_works() {
        for (ipv4_works, ipv6_works, wanted) in [
            (true, true, "127.0.0.1"),
            (true, false, "127.0.0.1"),
            (false, true, "::1"),
            (false, false, "127.0.0.1"),
        ] {
            let bind = |ip: IpAddr| {
                let works = if ip.is_ipv4() { ipv4_works } else { ipv6_works };
                if works { Ok(()) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
            };
            assert_eq!(chosen(bind), wanted.parse::<IpAddr>().unwrap(), "{ipv4_works} {ipv6_works}");
        }
    }
}
