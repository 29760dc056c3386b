//! The `tidegate` program: the allocator and the exit code; everything else is in the library.

use std::process::ExitCode;

// Measured against the system's allocator on the request path; see docs/ARCHITECTURE.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main(std::env::args_os())
}
