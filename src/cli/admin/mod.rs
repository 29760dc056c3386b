//! Common parts of `status`, `reload` and `drain`: finding the admin listener of a running process, and sending it a
//! request.

mod http;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use http::Answer;

use super::run::{find_configuration, no_configuration};
use super::{Exit, serving, terminal};
use crate::config;
use crate::config::model::{Bind, ControlListener};

/// Where the process is asked.
#[derive(Debug, Args)]
pub struct Target {
    /// Configuration of the running process, to find its admin listener [default: ./tidegate.toml, then
    /// /etc/tidegate/tidegate.toml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address of the admin listener: unix:/path or IP:PORT
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    admin: Option<AdminAddress>,

    /// File with the token for the admin listener [default: from the configuration]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Where an admin listener is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AdminAddress {
    Tcp(String),
    Unix(PathBuf),
}

/// Not an address.
#[derive(Debug, thiserror::Error)]
#[error("expected unix:/path or IP:PORT")]
struct AddressError;

/// A listener that is known, with what it wants to see.
pub struct Door {
    address: AdminAddress,
    token: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody {
    detail: String,
}

impl Target {
    /// Whether an admin listener was named, and not a file.
    pub fn names_listener(&self) -> bool {
        self.admin.is_some()
    }

    /// The file that was named.
    pub fn take_config(&mut self) -> Option<PathBuf> {
        self.config.take()
    }

    /// Finds the listener.
    ///
    /// # Errors
    /// Already reported on stderr: no configuration, no admin listener in it, or no token although one is required.
    pub fn find(self, command: &str) -> Result<Door, Exit> {
        let (address, configured) = match self.admin {
            Some(address) => (address, None),
            None => {
                let path = self.config.or_else(find_configuration).ok_or_else(|| {
                    terminal::print_error(&no_configuration(&format!("{command} --config FILE")));
                    Exit::Usage
                })?;
                let listener = admin_of(&path)?;
                (address_of(&listener.bind)?, listener.token_file.map(|token| token.path))
            }
        };
        let token = self.token_file.or(configured).map(|path| read_token(&path)).transpose()?;
        Ok(Door { address, token })
    }
}

fn admin_of(path: &Path) -> Result<ControlListener, Exit> {
    match config::load_admin(path) {
        Ok(Some(listener)) => Ok(listener),
        Ok(None) => {
            terminal::complain(format_args!("{} has no admin listener", path.display()), NO_ADMIN);
            Err(Exit::Fault)
        }
        Err(faults) => {
            serving::report(&faults);
            Err(Exit::Fault)
        }
    }
}

fn address_of(bind: &Bind) -> Result<AdminAddress, Exit> {
    let address = match bind {
        Bind::Unix(path) => return Ok(AdminAddress::Unix(path.clone())),
        Bind::AnyAddress(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
        Bind::Address(address) if address.ip().is_unspecified() => SocketAddr::new(
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() },
            address.port(),
        ),
        Bind::Address(address) => *address,
    };
    if address.port() == 0 {
        terminal::complain(
            "the system chooses the port of the admin listener",
            "give the address from the log of the process: `--admin ADDR`",
        );
        return Err(Exit::Fault);
    }
    Ok(AdminAddress::Tcp(address.to_string()))
}

fn read_token(path: &Path) -> Result<String, Exit> {
    let told = |what: &dyn fmt::Display, help| {
        terminal::complain(what, help);
        Err(Exit::Fault)
    };
    match std::fs::read_to_string(path) {
        Ok(text) => match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
            Some(line) => Ok(line.to_owned()),
            None => told(&format_args!("{} contains no token", path.display()), ""),
        },
        Err(error) => told(
            &format_args!("cannot read the token file {}: {error}", path.display()),
            "only users who may control the process can read it; name another file with `--token-file`",
        ),
    }
}

impl Door {
    /// Sends one request and reads the answer.
    ///
    /// # Errors
    /// Already reported on stderr: nothing listens there, or it does not answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer, Exit> {
        let answer = http::exchange(&self.address, method, path, self.token.as_deref(), body);
        answer.map_err(|error| {
            terminal::complain(
                format_args!("request to {} failed: {error}", self.address),
                help(&error, &self.address),
            );
            Exit::System
        })
    }
}

impl Answer {
    /// The typed body of an answer.
    ///
    /// # Errors
    /// Already reported on stderr: the body has another format, such as that of another version.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Exit> {
        serde_json::from_slice(&self.body).map_err(|error| {
            terminal::complain(
                format_args!("the response has an unknown format: {error}"),
                "use the same version of `tidegate` as the running process",
            );
            Exit::System
        })
    }

    /// Reports an error response on stderr.
    pub fn complain(&self) -> Exit {
        let detail = serde_json::from_slice::<ErrorBody>(&self.body).map(|body| body.detail).unwrap_or_default();
        let help = match self.status {
            401 => "name the token file with `--token-file FILE`",
            _ => "",
        };
        terminal::complain(format_args!("the process answered with {}: {detail}", self.status), help);
        Exit::Fault
    }
}

fn help(error: &io::Error, address: &AdminAddress) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::PermissionDenied, AdminAddress::Unix(_)) => {
            "only the user that tidegate runs as, and root, may use the socket"
        }
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, _) => {
            "nothing listens there: start it with `tidegate run`; a newly added admin listener needs a reload (SIGHUP)"
        }
        (io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _) => "the process listening there does not answer",
        _ => "",
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
        let named = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0);
        if named { Ok(Self::Tcp(text.to_owned())) } else { Err(AddressError) }
    }
}

const NO_ADMIN: &str = "add these two lines and reload (SIGHUP):\n      [server.admin]\n      bind = \
                        \"unix:/run/tidegate/admin.sock\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_addresses() {
        assert_eq!("unix:/a".parse::<AdminAddress>().unwrap(), AdminAddress::Unix("/a".into()));
        for text in ["127.0.0.1:9", "[::1]:9", "localhost:9"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "/a", "localhost", ":9", "a:0", "a:x"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_asked_over_loopback() {
        for (bind, address) in [
            (Bind::AnyAddress(9), "127.0.0.1:9"),
            (Bind::Address("0.0.0.0:9".parse().unwrap()), "127.0.0.1:9"),
            (Bind::Address("[::]:9".parse().unwrap()), "[::1]:9"),
            (Bind::Address("10.0.0.1:9".parse().unwrap()), "10.0.0.1:9"),
        ] {
            assert_eq!(address_of(&bind).unwrap().to_string(), address);
        }
        assert!(address_of(&Bind::AnyAddress(0)).is_err());
    }
}
