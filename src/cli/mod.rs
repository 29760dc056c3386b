//! The command line, one file per command. [`main`] turns words into one command and its end into an exit code: 0
//! done, 1 the configuration or the request was at fault, 2 usage, 3 the system refused.

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

/// Runs one command. Called by the program, and by nothing else: it may start threads and take over signals.
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
/// It stands in front of services and forwards what arrives: TLS in front, pooled connections behind, routes by host,
/// path, method and header between, with limits and deadlines that are safe on the open internet by default.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100, after_help = START_HERE)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// What the log on stderr says: off, error, warn, info, debug or trace
    ///
    /// Libraries stay at `warn` unless they are named, as in `debug,hyper=trace`. Also taken from TIDEGATE_LOG.
    /// Default: info; for `demo`, whose table tells the same, warn.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<log::Filter>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file says
    ///
    /// HUP reads the file again: a fault in it changes nothing. TERM drains: no new connections, and what is under
    /// way may finish within `server.drain_timeout`.
    Run(run::Run),
    /// See it work: an embedded configuration, an origin of its own, one request through every way in
    ///
    /// Needs nothing and writes nothing but a temporary certificate. Stays up, so that you can try it by hand.
    Demo(demo::Demo),
    /// Serve without a file: --from here --to there
    Proxy(proxy::Proxy),
    /// Read and compile a configuration; print what it would serve, or every fault
    Check(check::Check),
    /// Tell what would become of a request: listener, certificate, route, upstream, and what would be sent
    ///
    /// Why each other route lost, the limits and deadlines in force, and the line of the configuration that decided each.
    /// Exit 1 where the request would be refused.
    Explain(explain::Explain),
    /// Look at what this system grants beside what a configuration asks for, and say what to set
    ///
    /// Descriptors, queues, buffers, ports, cgroups, clock, certificates. Exit 1 where something is bad.
    Doctor(doctor::Doctor),
    /// Tell what the running process is doing: listeners, upstreams and their endpoints, certificates, recent errors
    ///
    /// Asks its admin listener, `[server.admin]`, as `reload` and `drain` do. Exit 3 where nobody listens.
    Status(status::Status),
    /// Have the running process read its configuration again; print what changed, or every fault
    ///
    /// A fault changes nothing: exit 1. HUP does the same without an answer.
    Reload(reload::Reload),
    /// Have the running process take no new work and leave, or take one endpoint out of the picks
    Drain(drain::Drain),
    /// Make a development authority and a certificate for some hosts
    Cert(cert::Cert),
    /// Print the JSON Schema of the configuration, for editors that complete and check it
    ///
    /// Taplo and Even Better TOML use the one that a file names on its first line: `#:schema ./schema.json`.
    Schema(schema::Schema),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print the manual page, or write one for each command
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

    /// The filter where nobody asked for one.
    fn quiet_filter(&self) -> log::Filter {
        match self {
            // The table tells what the log would.
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

/// Help and version are asked for and go to stdout; the rest is a fault of usage.
fn refuse(error: &clap::Error) -> Exit {
    if let Some(name) = later_command(error) {
        let version = env!("CARGO_PKG_VERSION");
        terminal::complain(
            format_args!("`tidegate {name}` is not in this version ({version})"),
            "`tidegate --help` lists what is",
        );
        return Exit::Usage;
    }
    // Fails only where nobody reads it.
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

/// Named in the documentation of later versions; whoever types one here should learn that it is not a typing error.
const LATER_COMMANDS: [&str; 1] = ["upgrade"];

const NO_COMMAND: &str = "\
tidegate: no command. Type one of these:

  tidegate demo                                     see it work on this machine, nothing needed
  tidegate proxy --from :8080 --to 127.0.0.1:3000   stand in front of a service, no file needed
  tidegate run --config tidegate.toml               serve what a file says

`tidegate --help` lists every command.
";

const START_HERE: &str = "\
Start here:
  tidegate demo                                     see it work on this machine, nothing needed
  tidegate proxy --from :8080 --to 127.0.0.1:3000   stand in front of a service, no file needed
  tidegate check tidegate.toml                      every fault of a file, by line and column
  tidegate run --config tidegate.toml               serve what a file says

Signals to a running tidegate: HUP reads the file again, TERM drains and leaves, INT drains and
leaves, at once when sent twice.
Environment: TIDEGATE_LOG as --log-level; NO_COLOR for no colours.
Exit codes: 0 done, 1 the configuration or the request was at fault, 2 usage, 3 the system refused.";
