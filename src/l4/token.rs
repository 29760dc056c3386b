//! § A token of the event loop (sans-io): a kind and the number of an entry, packed into one word. A token may outlive
//! its entry within one batch of events; the resulting spurious wake-up is harmless.

use mio::Token;

/// Who is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The queue of orders.
    Orders,
    /// A socket that listens for TCP.
    Listener(u32),
    /// The client's end of a session.
    Client(u32),
    /// The endpoint's end of a session.
    Endpoint(u32),
    /// A socket that takes datagrams from clients.
    Datagrams(u32),
    /// The endpoint's end of a flow.
    Flow(u32),
}

/// Bits of the kind.
const KIND_BITS: u32 = 3;

impl Source {
    /// Its token. Numbers stay below 2²⁹, more than there are descriptors.
    pub const fn token(self) -> Token {
        let (kind, number) = match self {
            Self::Orders => (0, 0),
            Self::Listener(number) => (1, number),
            Self::Client(number) => (2, number),
            Self::Endpoint(number) => (3, number),
            Self::Datagrams(number) => (4, number),
            Self::Flow(number) => (5, number),
        };
        Token((number as usize) << KIND_BITS | kind)
    }

    /// What `token` stands for; `None`: it is none of ours.
    pub const fn of(token: Token) -> Option<Self> {
        let number = (token.0 >> KIND_BITS) as u32;
        Some(match token.0 & ((1 << KIND_BITS) - 1) {
            0 => Self::Orders,
            1 => Self::Listener(number),
            2 => Self::Client(number),
            3 => Self::Endpoint(number),
            4 => Self::Datagrams(number),
            5 => Self::Flow(number),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for number in [0, 1, 77, (1 << 29) - 1] {
            let sources = [
                Source::Listener(number),
                Source::Client(number),
                Source::Endpoint(number),
                Source::Datagrams(number),
                Source::Flow(number),
            ];
            for source in sources {
                assert_eq!(Source::of(source.token()), Some(source));
            }
        }
        assert_eq!(Source::of(Source::Orders.token()), Some(Source::Orders));
        assert_eq!(Source::of(Token(7)), None);
    }
}
