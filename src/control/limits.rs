//! The maximum number of connections of the process: the file descriptor limit, raised as far as possible, and divided.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of descriptors to the hard one and says what is in force; `None`: unlimited.
///
/// # Errors
/// The system refused, which leaves the soft limit as it was.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(limit.current);
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum)
}

/// Descriptors this process may have open; `None`: unlimited.
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The connections that `descriptors` allow: two each, one for the client and one for the endpoint, after
/// [`RESERVED_DESCRIPTORS`]. Never fewer than [`FEWEST_CONNECTIONS`]: with so small a limit accepting may fail, and
/// accepting backs off by itself.
pub fn connections_within(descriptors: Option<u64>) -> u32 {
    let Some(descriptors) = descriptors else { return u32::MAX };
    let connections = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2;
    u32::try_from(connections).unwrap_or(u32::MAX).max(FEWEST_CONNECTIONS)
}

/// Kept back for listening sockets, runtimes, files that are read at a reload, and name resolution.
pub const RESERVED_DESCRIPTORS: u64 = 256;
/// What is allowed however small the descriptor limit is.
pub const FEWEST_CONNECTIONS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_two_descriptors_after_the_reserve() {
        assert_eq!(connections_within(Some(20_000)), 9_872);
        assert_eq!(connections_within(Some(100)), FEWEST_CONNECTIONS);
        assert_eq!(connections_within(None), u32::MAX);
        assert_eq!(connections_within(Some(u64::MAX)), u32::MAX);
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_one() {
        let raised = raise_descriptor_limit().unwrap();
        assert_eq!(raised, getrlimit(Resource::Nofile).maximum);
        assert_eq!(raised, descriptor_limit());
    }
}
