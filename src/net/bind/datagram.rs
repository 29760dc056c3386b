//! UDP sockets of `mode = "udp"`. One socket for each worker; the kernel delivers all datagrams of a client address to
//! the same one, as long as the group does not change.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::{BindError, BoundSocket, Inner, is_without_ipv6, name};
use crate::base::addr::Address;
use crate::config::model::{Bind, SocketOptions};
use crate::net::socket;

/// Opens `members` sockets for datagrams that share one address (SO_REUSEPORT). With port 0 it is one that nobody has. Of the options only the sizes of the buffers apply.
///
/// # Errors
/// The address is taken, not ours, not permitted or a path, or an option was refused.
pub fn bind_datagram(bind: &Bind, options: &SocketOptions, members: usize) -> Result<Vec<BoundSocket>, BindError> {
    let sockets = match bind {
        Bind::AnyAddress(port) => match open((Ipv6Addr::UNSPECIFIED, *port).into(), false, options, members) {
            Err(error) if is_without_ipv6(&error) => {
                open((Ipv4Addr::UNSPECIFIED, *port).into(), true, options, members)
            }
            sockets => sockets,
        },
        Bind::Address(address) => open(*address, true, options, members),
        Bind::Unix(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "datagrams on a Unix socket")),
    };
    sockets.map_err(|source| BindError { address: name(bind), source, place: None })
}

/// Whether nobody takes datagrams at `bind`; [`ensure_free`](super::ensure_free) says why that is asked.
///
/// # Errors
/// The address is taken, not ours, or not permitted.
pub fn ensure_datagram_free(bind: &Bind) -> Result<(), BindError> {
    let probe = |address: SocketAddr, only_v6| new_socket(address, only_v6)?.bind(&address.into());
    let free = match bind {
        Bind::AnyAddress(0) | Bind::Unix(_) => Ok(()),
        Bind::AnyAddress(port) => match probe((Ipv6Addr::UNSPECIFIED, *port).into(), false) {
            Err(error) if is_without_ipv6(&error) => probe((Ipv4Addr::UNSPECIFIED, *port).into(), true),
            free => free,
        },
        Bind::Address(address) if address.port() == 0 => Ok(()),
        Bind::Address(address) => probe(*address, true),
    };
    free.map_err(|source| BindError { address: name(bind), source, place: None })
}

fn open(
    mut address: SocketAddr,
    only_v6: bool,
    options: &SocketOptions,
    members: usize,
) -> io::Result<Vec<BoundSocket>> {
    let mut picked = None;
    if address.port() == 0 {
        let socket = pick_port(address, only_v6)?;
        address = socket.local_addr()?.as_socket().unwrap_or(address);
        picked = Some(socket);
    }
    let mut sockets = Vec::with_capacity(members);
    for _ in 0..members {
        let socket = new_socket(address, only_v6)?;
        socket.set_reuse_port(true)?;
        socket::prepare_datagrams(&socket, options)?;
        socket.bind(&address.into())?;
        sockets.push(socket);
        // Before there is a second: who leaves a group changes the places of the others.
        drop(picked.take());
    }
    let bound = |socket: Socket| BoundSocket { inner: Inner::Udp(socket.into()), local: Address::Socket(address) };
    Ok(sockets.into_iter().map(bound).collect())
}

/// A socket on a port that nobody has. Of one that is bound with SO_REUSEPORT the kernel takes any port for free that others of
/// the same user have with it, and datagrams for one of them would come to the other.
fn pick_port(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = new_socket(address, only_v6)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// Without SO_REUSEADDR: on a UDP socket that means that others may take its datagrams.
fn new_socket(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::net::testing::plain_options;

    fn loopback() -> Bind {
        Bind::Address("127.0.0.1:0".parse().unwrap())
    }

    fn port(socket: &BoundSocket) -> u16 {
        match socket.local_address() {
            Address::Socket(address) => address.port(),
            Address::Unix(_) => panic!("not UDP"),
        }
    }

    fn waiting(socket: BoundSocket) -> UdpSocket {
        let socket = socket.into_udp().unwrap();
        let mut byte = [0];
        assert_eq!(socket.recv(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock, "not nonblocking");
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    #[test]
    fn a_client_reaches_one_member_and_clients_reach_all() {
        let members = bind_datagram(&loopback(), &plain_options(), 3).unwrap();
        let address = members[0].local_address().to_string();
        assert!(members.iter().all(|member| member.local_address() == members[0].local_address()));
        let sockets: Vec<_> = members.into_iter().map(|member| member.into_udp().unwrap()).collect();
        let mut reached = [0; 3];
        for _ in 0..500 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(&address).unwrap();
            client.send(b"one").unwrap();
            client.send(b"two").unwrap();
            let mut bytes = [0; 8];
            let took: Vec<_> =
                sockets.iter().map(|socket| std::iter::from_fn(|| socket.recv(&mut bytes).ok()).count()).collect();
            assert!(took.contains(&2), "the datagrams of one client were torn apart: {took:?}");
            reached.iter_mut().zip(took).for_each(|(all, one)| *all += one);
            if reached.iter().all(|count| *count > 0) {
                return;
            }
        }
        panic!("a member got nothing: {reached:?}");
    }

    #[test]
    fn no_port_is_picked_that_others_have() {
        let groups: Vec<_> = (0..300).map(|_| bind_datagram(&loopback(), &plain_options(), 1).unwrap()).collect();
        let ports: HashSet<u16> = groups.iter().map(|group| port(&group[0])).collect();
        assert_eq!(ports.len(), groups.len());
    }

    #[test]
    fn a_port_without_address_takes_both_families() {
        let bound = bind_datagram(&Bind::AnyAddress(0), &plain_options(), 1).unwrap().remove(0);
        let port = port(&bound);
        let socket = waiting(bound);
        let mut bytes = [0; 8];
        let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        v4.send_to(b"four", ("127.0.0.1", port)).unwrap();
        assert_eq!(socket.recv(&mut bytes).unwrap(), 4);
        if let Ok(v6) = UdpSocket::bind("[::1]:0") {
            v6.send_to(b"six", ("::1", port)).unwrap();
            assert_eq!(socket.recv(&mut bytes).unwrap(), 3);
        }
    }

    #[test]
    fn an_address_that_somebody_has_is_not_free() {
        let members = bind_datagram(&loopback(), &plain_options(), 2).unwrap();
        let taken = Bind::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port(&members[0]))));
        assert_eq!(ensure_datagram_free(&taken).unwrap_err().source.kind(), io::ErrorKind::AddrInUse);
        assert!(ensure_datagram_free(&Bind::AnyAddress(port(&members[0]))).is_err());
        assert!(super::super::ensure_free(&taken).is_ok(), "the port is another one for TCP");
        drop(members);
        assert!(ensure_datagram_free(&taken).is_ok());
    }

    #[test]
    fn buffers_are_granted_and_changed_and_nothing_of_tcp_is_told() {
        let options = SocketOptions { recv_buffer: Some(70_000), send_buffer: Some(1_000_000_000), ..plain_options() };
        let bound = bind_datagram(&loopback(), &options, 1).unwrap().remove(0);
        let told = bound.granted(&options).unwrap().to_string();
        assert!(told.starts_with("recv buffer 140000 (asked 70000), send buffer "), "{told}");
        assert!(told.ends_with("(asked 1000000000, capped by the kernel)"), "{told}");
        let changed = SocketOptions { recv_buffer: Some(90_000), ..plain_options() };
        bound.change_options(&changed).unwrap();
        assert!(bound.granted(&changed).unwrap().to_string().starts_with("recv buffer 180000 (asked 90000)"));
    }

    #[test]
    fn a_socket_is_what_it_was_bound_as() {
        let udp = || bind_datagram(&loopback(), &plain_options(), 1).unwrap().remove(0);
        assert!(udp().into_tcp().is_err() && udp().into_unix().is_err() && udp().into_listener().is_err());
        let tcp = || super::super::bind(&loopback(), &plain_options(), 1).unwrap().remove(0);
        assert!(tcp().into_udp().is_err() && tcp().into_unix().is_err());
        let listener = tcp().into_tcp().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(bind_datagram(&Bind::Unix("/nowhere".into()), &plain_options(), 1).is_err());
    }
}
