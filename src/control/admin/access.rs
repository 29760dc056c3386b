//! Access control of the admin and observe listeners (sans-io): the token, and the protection against requests that
//! other web pages make through a browser. After DNS rebinding, a browser still sends the attacker's name in `Host`.

use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use crate::config::Faults;
use crate::config::model::{Bind, ControlListener, TokenFile};

/// Whom one listener answers.
#[derive(Debug)]
pub struct Access {
    token: Option<Token>,
    hosts: Vec<Box<str>>,
    /// No name resolves to a Unix socket, and no browser reaches it: whatever stands in `Host` does no harm.
    any_host: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer; 401 wants a challenge beside it.
    pub status: StatusCode,
    /// Why, and what to do.
    pub reason: &'static str,
}

struct Token(Box<[u8]>);

impl Access {
    /// Reads the token file.
    ///
    /// # Errors
    /// It cannot be read, or holds no token; at its place in the configuration.
    pub fn load(listener: &ControlListener) -> Result<Self, Faults> {
        let mut faults = Faults::new();
        let token = listener.token_file.as_ref().and_then(|file| match Token::read(file) {
            Ok(token) => Some(token),
            Err((message, help)) => {
                faults.push_at(&file.place, message, "", Some(help));
                None
            }
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        let any_host = matches!(listener.bind, Bind::Unix(_));
        Ok(Self { token, hosts: listener.hosts.clone(), any_host })
    }

    /// Whether a request is to be answered.
    ///
    /// # Errors
    /// As [`Refusal`].
    pub fn check(&self, request: &Parts) -> Result<(), Refusal> {
        let host = host(request)?;
        if !self.any_host && !self.is_known(host) {
            return Err(FOREIGN_HOST);
        }
        if let Some(origin) = one(&request.headers, ORIGIN, BAD_ORIGIN)? {
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if own.is_none_or(|own| !without_default_port(own).eq_ignore_ascii_case(without_default_port(host))) {
                return Err(BAD_ORIGIN);
            }
        }
        if one(&request.headers, SEC_FETCH_SITE, CROSS_SITE)? == Some("cross-site") {
            return Err(CROSS_SITE);
        }
        match &self.token {
            None => Ok(()),
            Some(token) => token.check(&request.headers),
        }
    }

    /// Whether `host` is a name that only we answer to: nobody can have the name of an address resolve to another.
    fn is_known(&self, host: &str) -> bool {
        let name = name_of(host);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        if bare.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok()) || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())
        {
            return true;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

impl Token {
    fn read(file: &TokenFile) -> Result<Self, (String, String)> {
        let help = "write a long random word into its first line, as `openssl rand -hex 32` makes one";
        let text = std::fs::read(&file.path)
            .map_err(|error| (format!("cannot read {}: {error}", file.path.display()), help.to_owned()))?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            return Err((format!("{} contains no token", file.path.display()), help.to_owned()));
        }
        if !line.iter().all(u8::is_ascii_graphic) {
            let message = format!("the token of {} cannot be sent in a header", file.path.display());
            return Err((message, help.to_owned()));
        }
        Ok(Self(line.into()))
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(sent) = one(headers, AUTHORIZATION, WRONG_TOKEN)? else { return Err(NO_TOKEN) };
        // RFC 9110 §11.1: the scheme is compared without case.
        let (scheme, token) = sent.split_once(' ').ok_or(WRONG_TOKEN)?;
        let is_right = self.is(token.trim_start().as_bytes());
        if scheme.eq_ignore_ascii_case("bearer") && is_right { Ok(()) } else { Err(WRONG_TOKEN) }
    }

    /// Takes the same time wherever the first difference is; only the length can be told from it.
    fn is(&self, sent: &[u8]) -> bool {
        let differences = self.0.iter().zip(sent).fold(0, |all, (own, sent)| black_box(all | (own ^ sent)));
        black_box(differences) == 0 && self.0.len() == sent.len()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is odd about a token file and no fault.
pub fn warning(file: &TokenFile) -> Option<String> {
    let mode = std::fs::metadata(&file.path).ok()?.permissions().mode();
    (mode & 0o004 != 0)
        .then(|| format!("{} can be read by every user of this machine: `chmod 600` it", file.path.display()))
}

/// Why an address cannot be had, with what usually helps where a socket file is concerned.
pub fn bind_help(error: &io::Error) -> Option<&'static str> {
    (error.kind() == io::ErrorKind::NotFound).then_some("the folder of the socket is not there; make it first")
}

/// The host that is asked: of the target where it has one (RFC 9112 §3.2.2), otherwise of `Host`.
fn host(request: &Parts) -> Result<&str, Refusal> {
    let written = one(&request.headers, HOST, BAD_HOST)?;
    match (request.uri.authority(), written) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => Err(BAD_HOST),
        (Some(authority), _) => Ok(authority.as_str()),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(BAD_HOST),
    }
}

/// The one value of a field; a second one is as wrong as one that is no text.
fn one(headers: &HeaderMap, name: HeaderName, wrong: Refusal) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| wrong),
        (Some(_), Some(_)) => Err(wrong),
    }
}

fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(host)
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const BAD_HOST: Refusal =
    Refusal { status: StatusCode::BAD_REQUEST, reason: "a request has one Host, and it is that of its target" };
const FOREIGN_HOST: Refusal = Refusal {
    status: StatusCode::MISDIRECTED_REQUEST,
    reason: "Host is not an IP address, localhost or one of `hosts`: use an IP address, or add the name to `hosts`",
};
const BAD_ORIGIN: Refusal =
    Refusal { status: StatusCode::FORBIDDEN, reason: "requests from pages of other origins are not allowed" };
const CROSS_SITE: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    reason: "requests from pages of other sites are not allowed: type the address into the browser",
};
const NO_TOKEN: Refusal =
    Refusal { status: StatusCode::UNAUTHORIZED, reason: "send the token: `Authorization: Bearer TOKEN`" };
const WRONG_TOKEN: Refusal =
    Refusal { status: StatusCode::UNAUTHORIZED, reason: "this is not the token of `server.admin.token_file`" };

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config::model::Place;

    fn place() -> Place {
        Place { file: "test.toml".into(), line: 1, column: 1 }
    }

    fn access(token: Option<&str>) -> Access {
        Access {
            token: token.map(|token| Token(token.as_bytes().into())),
            hosts: vec!["status.internal".into()],
            any_host: false,
        }
    }

    #[test]
    fn on_a_unix_socket_any_one_host_does() {
        let access = Access { any_host: true, ..access(None) };
        assert_eq!(asked(&access, "/status", &[("host", "anything")]), 200);
        assert_eq!(asked(&access, "/status", &[("host", "a"), ("host", "b")]), 400);
        assert_eq!(asked(&access, "/status", &[("host", "a"), ("origin", "http://evil.example")]), 403);
    }

    fn asked(access: &Access, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        access.check(&parts).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_name_that_somebody_else_can_point_here_is_refused() {
        let access = access(None);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9900",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9900",
            "localhost",
            "LocalHost:80",
            "localhost.",
            "status.internal:9900",
            "Status.Internal.",
        ] {
            assert_eq!(asked(&access, "/", &[("host", host)]), 200, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "x.status.internal", "[::1", "::1", ""]
        {
            assert_eq!(asked(&access, "/", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(asked(&access, "/", &[]), 400);
        assert_eq!(asked(&access, "/", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(asked(&access, "http://evil.example/", &[("host", "localhost")]), 400);
        assert_eq!(asked(&access, "http://evil.example/", &[("host", "evil.example")]), 421);
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let access = access(None);
        let with = |origin| asked(&access, "/", &[("host", "localhost:9900"), ("origin", origin)]);
        assert_eq!(with("http://localhost:9900"), 200);
        assert_eq!(with("https://LOCALHOST:9900"), 200);
        for origin in ["http://localhost", "http://evil.example", "null", "", "localhost:9900", "file://localhost:9900"]
        {
            assert_eq!(with(origin), 403, "{origin}");
        }
        assert_eq!(asked(&access, "/", &[("host", "localhost"), ("origin", "http://localhost:80")]), 200);
        for (site, status) in [("same-origin", 200), ("none", 200), ("same-site", 200), ("cross-site", 403)] {
            assert_eq!(asked(&access, "/", &[("host", "localhost"), ("sec-fetch-site", site)]), status, "{site}");
        }
    }

    #[test]
    fn the_token_is_asked_for_and_compared_whole() {
        let access = access(Some("hunter2"));
        let with = |value| asked(&access, "/", &[("host", "localhost"), ("authorization", value)]);
        assert_eq!(with("Bearer hunter2"), 200);
        assert_eq!(with("bearer  hunter2"), 200);
        for value in ["Bearer hunter", "Bearer hunter22", "Bearer Hunter2", "Basic hunter2", "hunter2", "Bearer", ""] {
            assert_eq!(with(value), 401, "{value}");
        }
        assert_eq!(asked(&access, "/", &[("host", "localhost")]), 401);
    }

    #[test]
    fn a_token_file_without_a_token_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token_file = TokenFile { path: path.clone(), place: place() };
        let listener = ControlListener {
            bind: Bind::AnyAddress(0),
            token_file: Some(token_file.clone()),
            hosts: vec![],
            place: place(),
        };
        let faults = Access::load(&listener).unwrap_err().to_string();
        assert!(faults.contains("cannot read") && faults.contains("openssl rand"), "{faults}");
        for text in ["", "\nsecond", " \n", "a b"] {
            std::fs::write(&path, text).unwrap();
            assert!(Access::load(&listener).is_err(), "{text:?}");
        }
        std::fs::write(&path, " hunter2 \nnot this\n").unwrap();
        assert!(Access::load(&listener).unwrap().token.unwrap().is(b"hunter2"));
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(warning(&token_file), None);
        mode(0o644);
        assert!(warning(&token_file).unwrap().contains("chmod 600"));
    }
}
