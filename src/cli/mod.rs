//! The command line, one file per command. [`main`] parses the arguments, runs one command and returns its exit code:
//! 0 success, 1 fault in the configuration or the request, 2 wrong usage, 3 error from the operating system.

mod admin;
mod cert;
mod certificate;
mod check;
mod completions;
mod demo;
mod doctor;
mod drain;
mod explain;
mod man;
mod proxy;
mod reload;
mod run;
mod schema;
mod scratch;
mod serving;
mod status;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::telemetry::log;

use self::terminal::Palette;

/// Runs one command. Only the program's `main` may call it, because it starts threads and installs signal handlers.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error).into(),
    };
    let Some(command) = cli.command else {
        terminal::print_error(NO_COMMAND);
        return Exit::Usage.into();
    };
    let filter = match cli.log_level.map_or_else(filter_of_environment, |filter| Ok(Some(filter))) {
        Ok(filter) => filter,
        Err(error) => {
            terminal::complain(format_args!("{LOG_VARIABLE}: {error}"), "");
            return Exit::Usage.into();
        }
    };
    log::init(filter, command.quiet_filter(), Palette::stderr().is_coloured());
    command.run()
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// 0.
    Done,
    /// 1: the configuration or the request was at fault.
    Fault,
    /// 2: the command line was.
    Usage,
    /// 3: the system refused (bind, permission, disk).
    System,
}

/// A forwarding proxy for HTTP/1.1, HTTP/2, HTTP/3, QUIC streams, TCP and UDP
///
/// It accepts connections with or without TLS, routes requests by host, path, method and header, and forwards them over
/// pooled connections. The default limits and timeouts are safe on the open internet.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100, after_help = START_HERE)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Level of the log on stderr: off, error, warn, info, debug or trace
    ///
    /// Libraries stay at `warn` unless they are named, as in `debug,hyper=trace`. Can also be set by TIDEGATE_LOG.
    /// Default: info; for `demo`, which prints a table instead, warn.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<log::Filter>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration file
    ///
    /// SIGHUP reloads the file; if it has a fault, nothing changes. SIGTERM drains: no new connections are accepted, and
    /// requests in progress may finish within `server.drain_timeout`.
    Run(run::Run),
    /// Serve a built-in demonstration on loopback and send one request through each kind of listener
    ///
    /// Needs no files and no installed server; writes only a temporary certificate. Keeps running, so that you can try it
    /// by hand.
    Demo(demo::Demo),
    /// Serve without a configuration file: --from ADDRESS --to ADDRESS
    Proxy(proxy::Proxy),
    /// Validate a configuration; print what it would serve, or all its faults
    Check(check::Check),
    /// Show how a request would be handled: listener, certificate, route, upstream, and the forwarded request
    ///
    /// Also shows why the other routes did not match, which limits and timeouts apply, and the configuration line behind
    /// each decision. Exits with 1 if the request would be refused.
    Explain(explain::Explain),
    /// Compare the limits of this system with what a configuration needs, and suggest settings
    ///
    /// Checks file descriptors, queues, buffers, ports, cgroups, clock and certificates. Exits with 1 if a check fails.
    Doctor(doctor::Doctor),
    /// Show the state of the running process: listeners, upstreams and endpoints, certificates, recent errors
    ///
    /// Connects to its admin listener (`[server.admin]`), as `reload` and `drain` do. Exits with 3 if nothing listens
    /// there.
    Status(status::Status),
    /// Reload the configuration of the running process; print what changed, or all faults
    ///
    /// If there is a fault, nothing changes and the exit code is 1. SIGHUP does the same, with the result in the log.
    Reload(reload::Reload),
    /// Drain the running process and stop it, or drain a single endpoint
    Drain(drain::Drain),
    /// Create a development CA and a certificate for the given hosts
    Cert(cert::Cert),
    /// Print the JSON Schema of the configuration, for completion and validation in editors
    ///
    /// Taplo and Even Better TOML use the schema named on the first line of a file: `#:schema ./schema.json`.
    Schema(schema::Schema),
    /// Print a shell completion script
    Completions(completions::Completions),
    /// Print the manual page, or write one page for each command
    #[command(hide = true)]
    Man(man::Man),
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Self::Run(command) => command.run(),
            Self::Demo(command) => command.run(),
            Self::Proxy(command) => command.run(),
            Self::Check(command) => command.run().into(),
            Self::Explain(command) => command.run().into(),
            Self::Doctor(command) => command.run().into(),
            Self::Status(command) => command.run().into(),
            Self::Reload(command) => command.run().into(),
            Self::Drain(command) => command.run().into(),
            Self::Cert(command) => command.run().into(),
            Self::Schema(command) => command.run().into(),
            Self::Completions(command) => command.run().into(),
            Self::Man(command) => command.run().into(),
        }
    }

    /// The filter to use when none is set.
    fn quiet_filter(&self) -> log::Filter {
        match self {
            // The table shows what the log would repeat.
            Self::Demo(_) => log::Filter::level(LevelFilter::WARN),
            _ => log::Filter::default(),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Fault => 1,
            Exit::Usage => 2,
            Exit::System => 3,
        })
    }
}

/// Prints what clap reports. Help and version are not errors; anything else is wrong usage.
fn refuse(error: &clap::Error) -> Exit {
    if let Some(name) = later_command(error) {
        let version = env!("CARGO_PKG_VERSION");
        terminal::complain(
            format_args!("`tidegate {name}` is not in this version ({version})"),
            "`tidegate --help` lists the commands",
        );
        return Exit::Usage;
    }
    // Fails only if the stream is closed, and then there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

fn later_command(error: &clap::Error) -> Option<&str> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) if LATER_COMMANDS.contains(&name.as_str()) => Some(name),
        _ => None,
    }
}

fn filter_of_environment() -> Result<Option<log::Filter>, log::FilterError> {
    match std::env::var_os(LOG_VARIABLE) {
        Some(text) if !text.is_empty() => text.to_string_lossy().parse().map(Some),
        _ => Ok(None),
    }
}

const LOG_VARIABLE: &str = "TIDEGATE_LOG";

/// Commands of later versions: using one here is reported as unsupported, not as a typing error.
const LATER_COMMANDS: [&str; 1] = ["upgrade"];

const NO_COMMAND: &str = "\
tidegate: no command given. Try one of these:

  tidegate demo                                     see it work on this machine; needs nothing else
  tidegate proxy --from :8080 --to 127.0.0.1:3000   put it in front of a service, without a file
  tidegate run --config tidegate.toml               serve a configuration file

`tidegate --help` lists every command.
";

const START_HERE: &str = "\
Start here:
  tidegate demo                                     see it work on this machine; needs nothing else
  tidegate proxy --from :8080 --to 127.0.0.1:3000   put it in front of a service, without a file
  tidegate check tidegate.toml                      list all faults of a file, with line and column
  tidegate run --config tidegate.toml               serve a configuration file

Signals: SIGHUP reloads the configuration; SIGTERM drains and exits; SIGINT does the same, and exits
at once when sent twice.
Environment: TIDEGATE_LOG sets the log level, as --log-level does; NO_COLOR turns colours off.
Exit codes: 0 success, 1 fault in the configuration or the request, 2 wrong usage, 3 system error
(bind, permission, disk).";
