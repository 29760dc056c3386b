//! `tidegate proxy --from ADDRESS --to ADDRESS`: serves without a file. The options become the text of a configuration,
//! which is read like any other, with the same defaults and faults; `--print-config` prints it.

mod destination;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::config;

use self::destination::Destination;
use super::certificate::{Certificate, Keep};
use super::scratch::Scratch;
use super::{Exit, serving, terminal};

/// Arguments of `tidegate proxy`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Proxy {
    /// Address to accept on: `:8080` (all IPv4 and IPv6 addresses), `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`; repeatable
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    from: Vec<String>,

    /// Address to forward to: `127.0.0.1:3000`, `3000` (on this machine), `app.internal:3000`, `https://example.org`,
    /// `unix:/path`; repeatable, used in turn
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<Destination>,

    /// Also serve HTTPS and HTTP/3, with a temporary development certificate for this host; repeatable
    #[arg(long, value_name = "HOST")]
    tls: Vec<String>,

    /// Address for HTTPS and, on the same UDP port, HTTP/3 [default: port 8443 on the address of the first --from]
    #[arg(long, value_name = "ADDRESS", requires = "tls")]
    tls_from: Option<String>,

    /// Host sent to the upstream: `preserve` (the client's), `upstream` (the upstream's own) or a name [default:
    /// preserve; upstream if --to is https:// with a name]
    #[arg(long, value_name = "HOST")]
    host_header: Option<String>,

    /// Accept any certificate of an https:// upstream. Anyone on the path can then read and change the traffic
    #[arg(long)]
    insecure: bool,

    /// Print the equivalent configuration file and exit
    #[arg(long)]
    print_config: bool,
}

impl Proxy {
    /// Serves until a signal.
    pub fn run(&self) -> ExitCode {
        if let Some(exit) = self.contradiction() {
            return exit.into();
        }
        if self.print_config {
            return self.print().into();
        }
        let Some(first) = self.tls.first() else {
            return self.serve(None);
        };
        let scratch = match Scratch::create() {
            Ok(scratch) => scratch,
            Err(error) => {
                terminal::complain(
                    format_args!("cannot make a directory for the development certificate: {error}"),
                    "TMPDIR names the directory of temporary files",
                );
                return Exit::System.into();
            }
        };
        let certificate = Certificate::named(scratch.path(), first);
        match certificate.create(&self.tls, Keep::Nothing) {
            Ok(_) => self.serve(Some(&certificate)),
            Err(error) => error.report().into(),
        }
    }

    /// Options that are right one by one and wrong together.
    fn contradiction(&self) -> Option<Exit> {
        let encrypted = self.to.iter().filter(|to| to.is_tls).count();
        if encrypted != 0 && encrypted != self.to.len() {
            terminal::complain(
                "`--to` mixes https:// with cleartext addresses, but all endpoints of an upstream need the same protocol",
                "use a configuration file with two upstreams and two routes; `--print-config` prints a start",
            );
            return Some(Exit::Usage);
        }
        if self.insecure && encrypted == 0 {
            terminal::complain("`--insecure` requires `--to https://…`", "");
            return Some(Exit::Usage);
        }
        None
    }

    fn print(&self) -> Exit {
        let certificate = self.tls.first().map(|host| Certificate::named(Path::new("certs"), host));
        let mut text = self.configuration(certificate.as_ref());
        if let Err(faults) = config::parse(COMMAND_LINE, &text) {
            serving::report(&faults);
            return Exit::Fault;
        }
        if !self.tls.is_empty() {
            // A star means something to shells.
            let hosts = self.tls.iter().map(|host| if host.contains('*') { format!("'{host}'") } else { host.clone() });
            let hosts: Vec<String> = hosts.collect();
            text.insert_str(0, &format!("# The certificate: tidegate cert {}\n", hosts.join(" ")));
        }
        terminal::print(&text);
        Exit::Done
    }

    fn serve(&self, certificate: Option<&Certificate>) -> ExitCode {
        let text = self.configuration(certificate);
        let config = match config::parse(COMMAND_LINE, &text) {
            Ok(config) => config,
            Err(faults) => {
                serving::report(&faults);
                return Exit::Fault.into();
            }
        };
        let running = match serving::start(config, None) {
            Ok(running) => running,
            Err(exit) => return exit.into(),
        };
        if let Some((files, host)) = certificate.zip(self.tls.first()) {
            let port = serving::address(&running, TLS_LISTENER).map_or(DEFAULT_TLS_PORT, |address| address.port());
            terminal::print(&format!(
                "HTTPS and HTTP/3 with a development certificate. Try:\n  {}\n",
                files.curl(host, port)
            ));
        }
        serving::wait(running)
    }

    /// The text that the options stand for.
    fn configuration(&self, certificate: Option<&Certificate>) -> String {
        let mut text = String::new();
        let from: Vec<String> = self.from.iter().map(|from| quoted(from)).collect();
        let _ = writeln!(text, "[[listener]]\nbind = [{}]", from.join(", "));
        if let Some(Certificate { cert, key, .. }) = certificate {
            let bind = quoted(&self.tls_from.clone().unwrap_or_else(|| self.beside_first(DEFAULT_TLS_PORT)));
            let [cert, key] = [cert, key].map(|path| quoted(&path.to_string_lossy()));
            let _ = writeln!(text, "\n[[listener]]\nname = \"{TLS_LISTENER}\"\nbind = [{bind}]");
            let _ = writeln!(text, "tls.certificates = [{{ cert = {cert}, key = {key} }}]");
        }
        let _ = writeln!(text, "\n[[route]]\nupstream = \"app\"");
        if let Some(host) = self.host_header() {
            let _ = writeln!(text, "host_header = {}", quoted(host));
        }
        let endpoints: Vec<String> = self.to.iter().map(|to| quoted(&to.endpoint)).collect();
        let _ = writeln!(text, "\n[upstream.app]\nendpoints = [{}]", endpoints.join(", "));
        if self.to.iter().any(|to| to.is_tls) {
            let _ = writeln!(text, "tls = {}", if self.insecure { "{ insecure = true }" } else { "true" });
        }
        text
    }

    fn host_header(&self) -> Option<&str> {
        let is_foreign_name = self.to.iter().any(|to| to.is_tls && to.is_name);
        self.host_header.as_deref().or(is_foreign_name.then_some("upstream"))
    }

    /// The address of the first `--from` with another port.
    fn beside_first(&self, port: u16) -> String {
        let first = self.from.iter().find(|from| !from.starts_with("unix:"));
        let address = first.and_then(|from| from.rsplit_once(':')).map_or("127.0.0.1", |(address, _)| address);
        format!("{address}:{port}")
    }
}

/// A TOML basic string that means `text` and nothing else, environment included.
fn quoted(text: &str) -> String {
    let mut toml = String::with_capacity(text.len() + 2);
    toml.push('"');
    for letter in text.replace("${", "$${").chars() {
        match letter {
            '"' | '\\' => toml.extend(['\\', letter]),
            control if control.is_control() => {
                let _ = write!(toml, "\\u{:04X}", u32::from(control));
            }
            other => toml.push(other),
        }
    }
    toml.push('"');
    toml
}

/// Where faults say that they are.
const COMMAND_LINE: &str = "<command line>";

const TLS_LISTENER: &str = "https";

const DEFAULT_TLS_PORT: u16 = 8443;

const EXAMPLES: &str = "\
Examples:
  tidegate proxy --to 3000                                  http://127.0.0.1:8080 to port 3000 here
  tidegate proxy --from :8080 --to 10.0.0.1:80 --to 10.0.0.2:80
  tidegate proxy --to 3000 --tls localhost                  and https://127.0.0.1:8443, HTTP/3 included
  tidegate proxy --to https://example.org
  tidegate proxy --to 3000 --print-config > tidegate.toml   a file to grow; then: tidegate run";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        proxy: Proxy,
    }

    fn text(words: &str) -> String {
        let proxy = Words::parse_from(words.split_whitespace()).proxy;
        let certificate = proxy.tls.first().map(|host| Certificate::named(Path::new("certs"), host));
        proxy.configuration(certificate.as_ref())
    }

    #[test]
    fn the_smallest_command_is_the_smallest_file() {
        assert_eq!(
            text("proxy --from :8080 --to 127.0.0.1:3000"),
            "[[listener]]\nbind = [\":8080\"]\n\n\
             [[route]]\nupstream = \"app\"\n\n\
             [upstream.app]\nendpoints = [\"127.0.0.1:3000\"]\n"
        );
    }

    #[test]
    fn tls_is_a_second_listener_beside_the_first() {
        let text = text("proxy --from [::1]:80 --to 3000 --tls example.org --tls www.example.org");
        assert!(text.contains(
            "bind = [\"[::1]:8443\"]\n\
             tls.certificates = [{ cert = \"certs/example.org.pem\", key = \"certs/example.org.key\" }]\n"
        ));
        assert!(super::tests::text("proxy --to 1 --tls a --tls-from :443").contains("bind = [\":443\"]\ntls"));
    }

    #[test]
    fn a_foreign_name_over_tls_is_asked_for_by_its_name() {
        let text = text("proxy --to https://example.org");
        assert!(text.contains("host_header = \"upstream\"\n"));
        assert!(text.contains("endpoints = [\"dns:example.org:443\"]\ntls = true\n"));
    }

    #[test]
    fn an_option_wins_over_what_is_guessed() {
        let text = text("proxy --to https://example.org --host-header preserve --insecure");
        assert!(text.contains("host_header = \"preserve\"\n"));
        assert!(text.contains("tls = { insecure = true }\n"));
    }

    #[test]
    fn what_is_typed_cannot_break_out_of_its_string() {
        assert_eq!(quoted("a\"\\\n${HOME}"), "\"a\\\"\\\\\\u000A$${HOME}\"");
    }
}
