//! The types shared by a session and the executor of its steps.

#[cfg(doc)]
use super::Session;

/// The two ends of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    #[default]
    Client,
    /// Whom we connected to.
    Endpoint,
}

/// How bytes get from one socket to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Through a buffer of ours: the least work for a little.
    #[default]
    Copy,
    /// Through a pipe, inside the kernel: bytes are passed on, not copied.
    Splice,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Endpoint];

    /// The opposite one.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Endpoint,
            Self::Endpoint => Self::Client,
        }
    }

    pub(super) const fn place(self) -> usize {
        self as usize
    }
}

/// What is to be done next. Each is answered by the call that is named with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read: [`Session::read`], or [`Session::without_pipe`].
    Read {
        /// From whom.
        from: Side,
        /// Into what.
        by: Method,
    },
    /// Write what was read from the other side: [`Session::wrote`].
    Write {
        /// To whom.
        to: Side,
        /// Out of what.
        by: Method,
    },
    /// The other side has ended its bytes, and all were written: say so. [`Session::finished`].
    Finish {
        /// To whom.
        to: Side,
    },
    /// Look for an error that no read would show: [`Session::inspected`].
    Inspect {
        /// Whose.
        side: Side,
    },
    /// Have the socket's readiness reported from now on, what it is ready for already included: [`Session::watched`].
    Watch {
        /// Whose.
        side: Side,
        /// Room for writes too; never taken back.
        writes: bool,
    },
    /// Nothing can be done before one of the sockets is ready.
    Wait,
    /// More could be done, but it is the turn of others.
    Yield,
    /// The session has ended.
    Over(Over),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Both sides ended their bytes and got all of the other's: both sockets are to be closed.
    Closed,
    /// A side broke off: the other is to be reset.
    Reset {
        /// Who broke off.
        by: Side,
    },
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes. `drained`: the socket had no more than these.
    Bytes {
        /// At least 1.
        count: u32,
        /// Whether the buffer had room for more.
        drained: bool,
    },
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
    /// The connection is broken.
    Failed,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// So many bytes were taken. `full`: the socket is known to take no more now.
    Bytes {
        /// At least 1.
        count: u32,
        /// Whether it stopped for want of room.
        full: bool,
    },
    /// There is no room now.
    Nothing,
    /// The connection is broken.
    Failed,
}

/// What an event said of a socket. Any of it may be untrue by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes or an end wait.
    pub readable: bool,
    /// There is room.
    pub writable: bool,
    /// More waits behind the bytes than a short read would show: the end, or an urgent mark.
    pub drains: bool,
    /// The connection is broken.
    pub fault: bool,
}
