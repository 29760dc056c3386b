//! `tidegate explain`: what would become of a request, by the configuration or, with `--live`, by the running process.

mod text;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::base::id::Generation;
use crate::config::{self, Faults};
use crate::control::compile::compile_untried;
use crate::explain::Explainer;
use crate::explain::explanation::Explanation;
use crate::explain::question::Question;
use crate::upstream::registry::Registry;

use super::admin::Target;
use super::run::{find_configuration, no_configuration};
use super::terminal::{self, Palette};
use super::{Exit, serving};

/// Arguments of `tidegate explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Request: an optional method (default: GET) and a URL
    ///
    /// http:// and https:// for requests, ws:// and wss:// for WebSocket; tcp://, tls://, udp:// and quic:// for connections
    /// to layer 4 and QUIC listeners.
    #[arg(value_name = "[METHOD] URL", num_args = 1..=2, required = true)]
    request: Vec<String>,

    /// Request header; repeatable
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,

    /// Client address [default: 192.0.2.1, which stands for a client on the internet]
    #[arg(long, value_name = "IP")]
    client: Option<String>,

    /// HTTP version: 1.0, 1.1, 2 or 3 [default: 2 over TLS, otherwise 1.1, if the listener supports it]
    #[arg(long, value_name = "VERSION")]
    http: Option<String>,

    /// Protocol to switch to, by Upgrade, or by extended CONNECT on HTTP/2 and 3 [default: websocket for ws:// and wss://]
    #[arg(long, value_name = "PROTOCOL")]
    upgrade: Option<String>,

    /// Listener that receives the request [default: chosen by the port of the URL]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,

    /// Server name (SNI) of the TLS handshake [default: the host of the URL]
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,

    /// ALPN protocol offered by the client, for tls:// and quic://; repeatable
    #[arg(long, value_name = "PROTOCOL")]
    alpn: Vec<String>,

    /// Ask the running process, which knows the health of its endpoints
    #[arg(long)]
    live: bool,

    /// Print everything as JSON; docs/explain.md describes the fields
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

impl Explain {
    /// Prints it.
    pub fn run(self) -> Exit {
        self.ask().unwrap_or_else(|exit| exit)
    }

    fn ask(mut self) -> Result<Exit, Exit> {
        let question = self.question()?;
        // Said here in either case, before anybody is asked.
        let asked = question.asked().map_err(|bad| {
            terminal::complain(&bad, bad.help());
            Exit::Usage
        })?;
        let told: Explanation = if self.live || self.target.names_listener() {
            let body = serde_json::to_string(&question).unwrap_or_default();
            let answer = self.target.find("explain --live")?.ask("POST", "/explain", Some(&body))?;
            if answer.status != 200 {
                return Err(answer.complain());
            }
            answer.read()?
        } else {
            let path = self.target.take_config().or_else(find_configuration).ok_or_else(|| {
                terminal::print_error(&no_configuration("explain --config FILE URL"));
                Exit::Usage
            })?;
            of_file(path, &asked).map_err(|faults| {
                serving::report(&faults);
                Exit::Fault
            })?
        };
        if self.json {
            terminal::print(&(serde_json::to_string_pretty(&told).unwrap_or_default() + "\n"));
        } else {
            terminal::print(&text::render(&told, Palette::stdout(), terminal::width()));
        }
        Ok(if told.served { Exit::Done } else { Exit::Fault })
    }

    fn question(&self) -> Result<Question, Exit> {
        let headers = self.header.iter().map(|header| {
            let pair = header.split_once(':').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
            pair.ok_or_else(|| {
                terminal::complain(format_args!("`{header}` is not a header"), "write -H 'name: value'");
                Exit::Usage
            })
        });
        let (method, url) = match self.request.as_slice() {
            [method, url] => (Some(method.clone()), url.clone()),
            words => (None, words.concat()),
        };
        Ok(Question {
            method,
            url,
            headers: headers.collect::<Result<_, _>>()?,
            client: self.client.clone(),
            listener: self.listener.clone(),
            http: self.http.clone(),
            upgrade: self.upgrade.clone(),
            sni: self.sni.clone(),
            alpn: self.alpn.clone(),
        })
    }
}

/// By a file. What it expects of itself is not tried: why an expectation does not hold is a good question.
fn of_file(path: PathBuf, asked: &config::model::Asked) -> Result<Explanation, Faults> {
    let config = config::load(&path)?;
    let snapshot = Arc::new(compile_untried(&config, None, &Registry::new(), Generation(1))?);
    Ok(Explainer::new(&snapshot, &config, false).explain(asked))
}
