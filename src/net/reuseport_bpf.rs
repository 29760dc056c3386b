//! A classic BPF program (seven instructions) that delivers each QUIC packet to the worker named in its connection ID,
//! even if the client's address changes. The members of the group must have been bound in the order of the workers.
//! Other packets go where hashing leads, and the receiving worker passes them on.

use std::io;
use std::os::fd::AsFd;

use libc::sock_filter;

use super::sys;

/// Has the kernel steer the datagrams of the group that `socket` belongs to, which has that many members.
///
/// # Errors
/// The kernel knows no such programs, or does not permit them.
pub fn attach(socket: impl AsFd, members: usize) -> io::Result<()> {
    let members = u32::try_from(members).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    sys::attach_reuseport_program(socket, &steering(members.max(1)))
}

/// A load past the datagram's end gives the first member.
fn steering(members: u32) -> [sock_filter; 7] {
    let code = |parts: u32| parts as u16;
    let load = |offset| sock_filter { code: code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS), jt: 0, jf: 0, k: offset };
    [
        load(0),
        // RFC 9000 §17.2: a long header has the highest bit set.
        sock_filter { code: code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K), jt: 0, jf: 2, k: 0x80 },
        // The flags, the version and the ID's length stand before the ID. Until it is ours the client chose it at random,
        // and repeats it.
        load(6),
        sock_filter { code: code(libc::BPF_JMP | libc::BPF_JA), jt: 0, jf: 0, k: 1 },
        // RFC 9000 §17.3: only the flags.
        load(1),
        sock_filter { code: code(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K), jt: 0, jf: 0, k: members },
        sock_filter { code: code(libc::BPF_RET | libc::BPF_A), jt: 0, jf: 0, k: 0 },
    ]
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::config::model::Bind;
    use crate::net::bind::bind_datagram;
    use crate::net::testing::plain_options;

    fn members(count: usize) -> (Vec<UdpSocket>, String) {
        let bind = Bind::Address("127.0.0.1:0".parse().unwrap());
        let members = bind_datagram(&bind, &plain_options(), count).unwrap();
        let address = members[0].local_address().to_string();
        (members.into_iter().map(|member| member.into_udp().unwrap()).collect(), address)
    }

    /// Who got the datagram.
    fn sent(members: &[UdpSocket], address: &str, datagram: &[u8]) -> usize {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(datagram, address).unwrap();
        loop {
            if let Some(got) = members.iter().position(|member| member.recv(&mut [0; 64]).is_ok()) {
                return got;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_client_of_a_connection_id_reaches_the_worker_that_stands_in_it() {
        let (members, address) = members(3);
        attach(&members[0], 3).unwrap();
        for byte in 0..=255_u8 {
            let worker = usize::from(byte) % 3;
            assert_eq!(sent(&members, &address, &[0x40, byte, 1, 2, 3]), worker, "a short header, {byte}");
            assert_eq!(sent(&members, &address, &[0xc3, 0, 0, 0, 1, 8, byte, 9, 9]), worker, "a long header, {byte}");
        }
        assert_eq!(sent(&members, &address, &[0x40]), 0, "too short for an ID");
    }

    #[test]
    fn without_a_group_it_says_so() {
        let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(attach(&alone, 2).is_err());
    }
}
