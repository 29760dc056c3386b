//! From a validated configuration to a running proxy and to an exit code; used by `run`, `proxy`, `demo` and `check`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use tracing::info;

use crate::app::{self, Options, Running};
use crate::base::addr::Address;
use crate::base::id::Generation;
use crate::config::{Config, Faults};
use crate::control::compile;
use crate::control::reload::Refused;
use crate::control::supervision::Supervision;
use crate::upstream::registry::Registry;

use super::terminal::Palette;
use super::{Exit, terminal};

/// Starts every listener of `config`; `path` is what a reload reads again.
///
/// # Errors
/// Said on stderr already: certificates that do not do, addresses that the system refuses.
pub fn start(config: Config, path: Option<PathBuf>) -> Result<Running, Exit> {
    let file = path.as_deref().map_or_else(|| "none".into(), |path| path.display().to_string());
    info!(version = env!("CARGO_PKG_VERSION"), file, "tidegate");
    app::start(config, Options { config_path: path, install_signals: true, supervision: Supervision::of_environment() })
        .map_err(|refused| match refused {
            Refused::Faults(faults) => {
                report(&faults);
                Exit::Fault
            }
            system => {
                terminal::complain(system, "");
                Exit::System
            }
        })
}

/// Serves until the process is told to leave.
pub fn wait(running: Running) -> ExitCode {
    running.wait().exit_code()
}

/// Where the listener of this name accepts, its first address.
pub fn address(running: &Running, listener: &str) -> Option<SocketAddr> {
    match running.address_of(listener)? {
        Address::Socket(address) => Some(address),
        Address::Unix(_) => None,
    }
}

/// Compiles `config` as a start would, certificates and all, and throws the result away.
///
/// # Errors
/// Every certificate, key or authority that does not do.
pub fn compile(config: &Config) -> Result<(), Faults> {
    compile::compile(config, None, &Registry::new(), Generation(1)).map(drop)
}

/// Every fault of a configuration, on stderr.
pub fn report(faults: &Faults) {
    let count = match faults.len() {
        1 => "1 fault".to_owned(),
        many => format!("{many} faults"),
    };
    terminal::print_error(&format!("{}\n{count}\n", faults.render(Palette::stderr().is_coloured())));
}
