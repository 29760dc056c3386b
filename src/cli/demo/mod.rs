//! `tidegate demo`: an embedded configuration, a built-in origin, a temporary certificate, one real request through
//! every kind of listener, and commands to try next.

mod origin;
mod payload;
mod probe;
mod table;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::app::Running;
use crate::base::addr::Address;
use crate::config::model::{Bind, EndpointAddress, Mode};
use crate::config::{self, Config};
use crate::net::bind::{ensure_datagram_free, ensure_free};

use self::origin::Origin;
use self::probe::{Probe, Way};
use self::table::Row;
use super::certificate::{Certificate, Keep};
use super::scratch::Scratch;
use super::terminal::Palette;
use super::{Exit, serving, terminal};

/// Arguments of `tidegate demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Exit after printing the table, with 0 only if every row succeeded
    #[arg(long)]
    exit: bool,
}

impl Demo {
    /// Serves until a signal, or until the table is printed.
    pub fn run(&self) -> ExitCode {
        match Stage::set() {
            Ok(stage) => self.play(stage),
            Err(exit) => exit.into(),
        }
    }

    fn play(&self, stage: Stage) -> ExitCode {
        let rows = match stage.send_all() {
            Ok(rows) => rows,
            Err(error) => {
                terminal::complain(format_args!("cannot send the demo's requests: {error}"), "");
                return Exit::System.into();
            }
        };
        let colours = Palette::stdout();
        terminal::print(&table::render(&rows, colours));
        terminal::print(&stage.notes());
        if self.exit {
            stage.running.stop();
            let left = serving::wait(stage.running);
            let is_good = rows.iter().all(|row| row.answer.is_ok());
            return if is_good { left } else { Exit::Fault.into() };
        }
        terminal::print(&stage.suggestions(colours));
        serving::wait(stage.running)
    }
}

/// All that a demo needs, running.
struct Stage {
    running: Running,
    cleartext: SocketAddr,
    secure: SocketAddr,
    relayed: SocketAddr,
    streams: SocketAddr,
    /// Where the status page is.
    dashboard: SocketAddr,
    /// Addresses of the embedded configuration that were taken.
    taken: Vec<SocketAddr>,
    certificate: Certificate,
    /// Holds the certificate until the end.
    _scratch: Scratch,
}

impl Stage {
    /// Starts all of it; what fails is said on stderr.
    fn set() -> Result<Self, Exit> {
        let refuse = |what: &str, error: std::io::Error| {
            terminal::complain(format_args!("cannot {what}: {error}"), "");
            Exit::System
        };
        let scratch = Scratch::create().map_err(|error| refuse("make a directory for the certificate", error))?;
        let certificate = Certificate::named(scratch.path(), "localhost");
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        certificate.create(&hosts, Keep::Nothing).map_err(|error| error.report())?;
        let origin = Origin::start().map_err(|error| refuse("start the demo's origin", error))?;

        let mut config = config::parse("demo.toml", CONFIGURATION).map_err(|faults| {
            serving::report(&faults);
            Exit::Fault
        })?;
        let taken = adapt(&mut config, &certificate, origin.address);
        let names = Way::ALL.map(|way| config.listeners.iter().find(|listener| way.leads_through(listener)));
        let names = names.map(|listener| listener.map(|listener| listener.name.clone()));
        let running = serving::start(config, None)?;
        let [cleartext, secure, relayed, streams] =
            names.map(|name| name.and_then(|name| serving::address(&running, &name)));
        let dashboard = match running.own_address("observe") {
            Some(Address::Socket(address)) => Some(address),
            _ => None,
        };
        let (Some(cleartext), Some(secure), Some(relayed), Some(streams), Some(dashboard)) =
            (cleartext, secure, relayed, streams, dashboard)
        else {
            terminal::complain("the demo's configuration lacks a cleartext, TLS, TCP, QUIC or observe listener", "");
            return Err(Exit::Fault);
        };
        Ok(Self { running, cleartext, secure, relayed, streams, dashboard, taken, certificate, _scratch: scratch })
    }

    /// One request after the other, so that no row's time holds another's work.
    fn send_all(&self) -> std::io::Result<Vec<Row>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // What drives an HTTP/3 connection stays on its thread.
        Ok(tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut rows = Vec::new();
            for probe in Probe::ALL {
                let address = match probe.way {
                    Way::Cleartext => self.cleartext,
                    Way::Tls => self.secure,
                    Way::Relayed => self.relayed,
                    Way::Stream => self.streams,
                };
                rows.push(probe.send(address, &self.certificate.ca).await);
            }
            rows
        }))
    }

    fn notes(&self) -> String {
        let note = |taken: &SocketAddr| format!("note: {taken} is in use; using a free port instead\n");
        self.taken.iter().map(note).collect()
    }

    fn suggestions(&self, colours: Palette) -> String {
        let Self { cleartext, secure, relayed, dashboard, certificate, .. } = self;
        let ca = certificate.ca.display();
        let commands = [
            (format!("curl http://{cleartext}/anything"), "shows what the origin received"),
            (format!("curl --http2-prior-knowledge http://{cleartext}/anything"), "the same over HTTP/2"),
            (format!("curl --cacert {ca} https://{secure}/anything"), "the same over TLS"),
            (format!("curl http://{relayed}/anything"), "the same through the TCP relay"),
            (format!("curl --http3 --cacert {ca} https://{secure}/anything"), "over HTTP/3, if your curl supports it"),
            (format!("curl -N http://{cleartext}/events"), "one event per second"),
            (format!("curl -o /dev/null http://{cleartext}/bytes/1000000000"), "downloads one gigabyte"),
        ];
        let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
        let mut text = format!("\n{}\n", colours.bold("Try it:"));
        for (command, what) in &commands {
            let _ = writeln!(text, "  {command:width$}  {}", colours.dim(what));
        }
        let _ = writeln!(text, "\n{}  http://{dashboard}/", colours.bold("Dashboard:"));
        let _ = writeln!(text, "Or open http://{cleartext}/ in a browser. Ctrl-C ends the demo.");
        text
    }
}

/// Puts this run's certificate, origin and free ports into the embedded configuration; returns the addresses that
/// were taken.
fn adapt(config: &mut Config, files: &Certificate, origin: SocketAddr) -> Vec<SocketAddr> {
    // Nothing of a demo is worth waiting for.
    config.server.drain_timeout = Duration::from_secs(1);
    let mut taken = Vec::new();
    let mut free = |bind: &mut Bind, takes_connections: bool, takes_datagrams: bool| {
        if let Bind::Address(address) = bind {
            let bind = Bind::Address(*address);
            let is_taken = takes_connections && ensure_free(&bind).is_err()
                || takes_datagrams && ensure_datagram_free(&bind).is_err();
            if is_taken {
                taken.push(*address);
                address.set_port(0);
            }
        }
    };
    config.server.observe.iter_mut().for_each(|observe| free(&mut observe.bind, true, false));
    for listener in &mut config.listeners {
        let is_quic = matches!(listener.mode, Mode::Quic(_));
        let speaks_http3 = listener.protocols.http3;
        listener.binds.iter_mut().for_each(|bind| free(bind, !is_quic, is_quic || speaks_http3));
        for pair in listener.tls.iter_mut().flat_map(|tls| &mut tls.certificates) {
            pair.cert.clone_from(&files.cert);
            pair.key.clone_from(&files.key);
        }
    }
    for endpoint in config.upstreams.iter_mut().flat_map(|upstream| &mut upstream.endpoints) {
        endpoint.address = EndpointAddress::Socket(origin);
    }
    taken
}

const CONFIGURATION: &str = include_str!("../../../config/demo.toml");
