//! `tidegate drain`: drains the running process, or one endpoint.

use std::str::FromStr;

use clap::Args;

use crate::control::admin::orders::{DrainOrder, EndpointsDrained};

use super::admin::Target;
use super::{Exit, terminal};

/// Arguments of `tidegate drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// Drain only this endpoint: it gets no new requests, also after reloads, until it is resumed
    ///
    /// ADDRESS is as shown by `tidegate status`, or dns:NAME:PORT for all addresses of a name.
    #[arg(long, value_name = "UPSTREAM/ADDRESS")]
    endpoint: Option<EndpointName>,

    /// Resume the endpoint
    #[arg(long, requires = "endpoint")]
    resume: bool,

    #[command(flatten)]
    target: Target,
}

/// An endpoint of an upstream.
#[derive(Clone, Debug)]
struct EndpointName {
    upstream: String,
    endpoint: String,
}

#[derive(Debug, thiserror::Error)]
#[error("expected UPSTREAM/ADDRESS, such as api/10.0.0.3:8080")]
struct EndpointNameError;

impl Drain {
    /// Prints what is drained.
    pub fn run(self) -> Exit {
        self.ask().unwrap_or_else(|exit| exit)
    }

    fn ask(self) -> Result<Exit, Exit> {
        let door = self.target.find("drain")?;
        let Some(EndpointName { upstream, endpoint }) = self.endpoint else {
            let answer = door.ask("POST", "/drain", None)?;
            if answer.status != 202 {
                return Err(answer.complain());
            }
            terminal::print("draining: no new connections are accepted; the process exits when open ones have ended\n");
            return Ok(Exit::Done);
        };
        let order = DrainOrder { upstream: Some(upstream), endpoint: Some(endpoint), resume: self.resume };
        // Strings and a flag: this does not fail.
        let body = serde_json::to_string(&order).unwrap_or_default();
        let answer = door.ask("POST", "/drain", Some(&body))?;
        if answer.status != 200 {
            return Err(answer.complain());
        }
        let EndpointsDrained { upstream, endpoints, state } = answer.read()?;
        endpoints.iter().for_each(|endpoint| terminal::print(&format!("{state}  {upstream}/{endpoint}\n")));
        Ok(Exit::Done)
    }
}

impl FromStr for EndpointName {
    type Err = EndpointNameError;

    fn from_str(text: &str) -> Result<Self, EndpointNameError> {
        match text.split_once('/') {
            Some((upstream, endpoint)) if !upstream.is_empty() && !endpoint.is_empty() => {
                Ok(Self { upstream: upstream.to_owned(), endpoint: endpoint.to_owned() })
            }
            _ => Err(EndpointNameError),
        }
    }
}
