//! Sockets that are bound to all addresses of the host.
//!
//! The system chooses the source of a datagram by its route, so that the answer to a question leaves from another address
//! than the one that was asked, and nobody takes it for an answer. So such a socket asks the system to which address each
//! datagram came (`IP_PKTINFO`, `IPV6_RECVPKTINFO`), and answers from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Binds an address. On a system without IPv6, `[::]` stands for all addresses of IPv4.
pub(crate) async fn bind<S, F>(address: SocketAddr, bind: impl Fn(SocketAddr) -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let everywhere = address.is_ipv6() && address.ip().is_unspecified();
    match bind(address).await {
        Err(error) if everywhere && error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into()).await
        }
        bound => bound,
    }
}

/// Lets the socket report to which address each datagram came.
pub(crate) fn report_destinations(socket: &UdpSocket) -> io::Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// Receives the next datagram: its length, its sender, and the address to which it came, if that can be the source of an
/// answer.
pub(crate) async fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut control = nix::cmsg_space!(in6_pktinfo);
    socket.async_io(Interest::READABLE, || receive_now(socket, buffer, &mut control)).await
}

fn receive_now(
    socket: &UdpSocket,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::empty())?;
    let from = received.address.as_ref().and_then(socket_address);
    let from =
        from.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a datagram without a sender"))?;
    let to = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    Ok((received.bytes, from, to.filter(|to| !to.is_unspecified() && !to.is_multicast())))
}

/// Sends a datagram from this address of the host.
pub(crate) async fn send_from(
    socket: &UdpSocket,
    datagram: &[u8],
    from: IpAddr,
    to: SocketAddr,
) -> io::Result<usize> {
    let to = SockaddrStorage::from(to);
    let parts = [IoSlice::new(datagram)];
    let send = |message: ControlMessage<'_>| {
        Ok(sendmsg(socket.as_raw_fd(), &parts, &[message], MsgFlags::empty(), Some(&to))?)
    };
    // Interface 0: the system takes the one that the route or the scope of the receiver names.
    socket
        .async_io(Interest::WRITABLE, || match from {
            IpAddr::V4(from) => send(ControlMessage::Ipv4PacketInfo(&in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: in_addr { s_addr: 0 },
            })),
            IpAddr::V6(from) => send(ControlMessage::Ipv6PacketInfo(&in6_pktinfo {
                ipi6_addr: in6_addr { s6_addr: from.octets() },
                ipi6_ifindex: 0,
            })),
        })
        .await
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::new(v4.ip(), v4.port()).into());
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_ipv4_on_a_system_without_ipv6() {
        let binds = |address: &'static str, error: i32| {
            let no_ipv6 = move |address: SocketAddr| async move {
                if address.is_ipv6() { Err(io::Error::from_raw_os_error(error)) } else { Ok(address) }
            };
            bind(address.parse().unwrap(), no_ipv6)
        };
        let without_ipv6 = Errno::EAFNOSUPPORT as i32;
        assert_eq!(binds("[::]:7400", without_ipv6).await.unwrap(), "0.0.0.0:7400".parse().unwrap());
        assert!(binds("[::1]:7400", without_ipv6).await.is_err(), "one address stands for itself");
        assert!(binds("[::]:7400", Errno::EADDRINUSE as i32).await.is_err());
    }
}
