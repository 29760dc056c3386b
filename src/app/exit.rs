//! How a proxy ended, and the exit code of the process.

use std::process::ExitCode;

/// Why a proxy left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to, and every connection had ended.
    Drained,
    /// It was asked to, and these connections had not ended within `drain_timeout`.
    DrainTimeout {
        /// How many were cut.
        connections: u64,
    },
    /// It was told to leave at once.
    Stopped,
    /// A worker was gone that nobody had asked to leave: a fault of ours.
    WorkerGone,
}

impl ExitReason {
    /// 0, also where a drain ran out of time; 3 where a worker was gone.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(if self == ExitReason::WorkerGone { 3 } else { 0 })
    }
}
