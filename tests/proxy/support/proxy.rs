//! The proxy under test, started in this process from the text of a configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use tidegate::app::{self, ExitReason, Options, Running};
use tidegate::base::addr::Address;
use tidegate::config;

use super::certificates::Files;

/// A proxy that runs. Dropping it stops it.
pub struct Proxy {
    running: Option<Running>,
    files: Files,
}

/// The parts of a configuration that tests vary; the rest is the smallest that works, with one worker.
#[derive(Clone, Default)]
pub struct Plan {
    server: String,
    listener: String,
    route: String,
    upstream: String,
    routes: Option<String>,
    more: String,
    tls: bool,
    endpoints: String,
}

impl Plan {
    /// One listener, one route and one upstream with these endpoints.
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        Self { endpoints: endpoints.join(", "), ..Self::default() }
    }

    /// Keys of `[server]`.
    pub fn server(mut self, keys: &str) -> Self {
        self.server += &format!("{keys}\n");
        self
    }

    /// Keys of the listener.
    pub fn listener(mut self, keys: &str) -> Self {
        self.listener += &format!("{keys}\n");
        self
    }

    /// Has the listener speak TLS.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Keys of the route.
    pub fn route(mut self, keys: &str) -> Self {
        self.route += &format!("{keys}\n");
        self
    }

    /// Routes in the place of the one to the upstream.
    pub fn routes(mut self, tables: &str) -> Self {
        self.routes = Some(tables.to_owned());
        self
    }

    /// Keys of the upstream.
    pub fn upstream(mut self, keys: &str) -> Self {
        self.upstream += &format!("{keys}\n");
        self
    }

    /// Further tables.
    pub fn more(mut self, tables: &str) -> Self {
        self.more += &format!("{tables}\n");
        self
    }

    /// The text; `@` stands for the folder of the certificates.
    pub fn text(&self) -> String {
        let Self { server, listener, route, upstream, routes, more, tls, endpoints } = self;
        let tls = match tls {
            true => "tls.certificates = [{ cert = \"@/site.pem\", key = \"@/site.key\" }]",
            false => "",
        };
        let routes = routes.clone().unwrap_or_else(|| format!("[[route]]\nupstream = \"origin\"\n{route}"));
        let upstream = match endpoints.is_empty() {
            true => String::new(),
            false => format!("[upstream.origin]\nendpoints = [{endpoints}]\n{upstream}"),
        };
        format!(
            "[server]\n{WORKERS}{server}\n[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n{tls}\n{listener}\n\
             {routes}\n{upstream}\n{more}\n"
        )
    }

    pub fn start(&self) -> Proxy {
        Proxy::start(&self.text())
    }
}

const WORKERS: &str = "workers = 1\n";

impl Proxy {
    /// Starts one; `@` in the text stands for the folder of the certificates.
    pub fn start(text: &str) -> Self {
        let files = Files::write();
        let options = Options::default();
        match app::start(parse(text, &files), options) {
            Ok(running) => Self { running: Some(running), files },
            Err(refused) => panic!("not started: {refused}"),
        }
    }

    /// Where the listener accepts.
    pub fn address(&self) -> SocketAddr {
        self.address_of("main")
    }

    pub fn address_of(&self, listener: &str) -> SocketAddr {
        match self.running().address_of(listener) {
            Some(Address::Socket(address)) => address,
            other => panic!("no address of {listener}: {other:?}"),
        }
    }

    /// A file in the folder that `@` stands for.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.folder().join(name)
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("it was waited for already")
    }

    /// Puts another configuration in force; false where it was refused.
    pub fn reload(&self, text: &str) -> bool {
        self.running().reload(parse(text, &self.files)).is_ok()
    }

    /// Waits until it has left, without standing in the way of the test's own tasks.
    pub async fn left(mut self) -> ExitReason {
        let running = self.running.take().expect("it was waited for already");
        tokio::task::spawn_blocking(move || running.wait()).await.unwrap()
    }
}

fn parse(text: &str, files: &Files) -> config::Config {
    let text = text.replace('@', files.folder().to_str().unwrap());
    match config::parse("test.toml", &text) {
        Ok(config) => config,
        Err(faults) => panic!("{}\n{text}", faults.render(false)),
    }
}
