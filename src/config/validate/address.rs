//! Addresses of listeners and endpoints, and host names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::Check;
use crate::config::model::{Bind, EndpointAddress};
use crate::config::section::Written;

impl Check<'_> {
    /// `":80"`, `"127.0.0.1:80"`, `"[::1]:80"`, `"unix:/path"`.
    pub(super) fn bind(&mut self, written: Written<'_>) -> Option<Bind> {
        let text = written.value;
        if let Some(path) = text.strip_prefix("unix:") {
            return self.unix_path(written, path).map(Bind::Unix);
        }
        if let Some(port) = text.strip_prefix(':').and_then(port) {
            return Some(Bind::AnyAddress(port));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Bind::Address(address));
        }
        let (label, help) = bind_help(text);
        self.fault_with_help(written.spot, format!("bad address `{text}`"), label, help);
        None
    }

    /// `"10.0.0.1:8080"`, `"[::1]:8080"`, `"unix:/path"`, `"dns:name:8080"`.
    pub(super) fn endpoint_address(&mut self, written: Written<'_>) -> Option<EndpointAddress> {
        let text = written.value;
        if let Some(path) = text.strip_prefix("unix:") {
            return self.unix_path(written, path).map(EndpointAddress::Unix);
        }
        if let Some(rest) = text.strip_prefix("dns:") {
            return self.dns_address(written, rest);
        }
        if text.starts_with("srv:") {
            self.fault(written.spot, "`srv:` is not in this version", "not in this version");
            return None;
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                self.fault(written.spot, format!("bad address `{text}`"), "an endpoint has a port other than 0");
            }
            return Some(EndpointAddress::Socket(address));
        }
        let (label, help) = endpoint_help(text);
        self.fault_with_help(written.spot, format!("bad address `{text}`"), label, help);
        None
    }

    fn dns_address(&mut self, written: Written<'_>, rest: &str) -> Option<EndpointAddress> {
        let text = written.value;
        let known = rest.rsplit_once(':').and_then(|(host, number)| Some((host, port(number)?)));
        let Some((host, port)) = known.filter(|(_, port)| *port != 0) else {
            let help =
                format!("write `dns:{}:8080`", rest.split(':').next().filter(|h| !h.is_empty()).unwrap_or("name"));
            self.fault_with_help(written.spot, format!("bad address `{text}`"), "no port after the name", help);
            return None;
        };
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            let help = format!("write `{rest}`");
            self.fault_with_help(written.spot, format!("bad address `{text}`"), "an address needs no `dns:`", help);
            return None;
        }
        if let Err(reason) = host_name(host) {
            self.fault(written.spot, format!("bad address `{text}`"), reason);
            return None;
        }
        Some(EndpointAddress::Dns { host: host.to_ascii_lowercase(), port })
    }

    fn unix_path(&mut self, written: Written<'_>, path: &str) -> Option<PathBuf> {
        // sun_path of unix(7), with its closing zero.
        let reason = match path.len() {
            0 => "no path after `unix:`",
            108.. => "longer than the 107 bytes that the system allows",
            _ if path.contains('\0') => "a path cannot contain a zero byte",
            _ => return Some(PathBuf::from(path)),
        };
        self.fault(written.spot, format!("bad address `{}`", written.value), reason);
        None
    }
}

fn bind_help(text: &str) -> (&'static str, String) {
    let shapes = "write \":80\", \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/path\"".to_owned();
    if let Some(number) = port(text) {
        return ("only a port", format!("write `:{number}` for every address"));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return ("the port is missing", format!("write `{}`", SocketAddr::new(address, 80)));
    }
    if text.starts_with('/') {
        return ("a path", format!("write `unix:{text}`"));
    }
    if let Some((host, number)) = text.rsplit_once(':') {
        return match (host, port(number)) {
            ("localhost", Some(number)) => ("a name", format!("write `127.0.0.1:{number}` or `[::1]:{number}`")),
            ("*", Some(number)) => ("no address", format!("write `:{number}` for every address")),
            (_, Some(_)) if host.parse::<Ipv6Addr>().is_ok() => ("no brackets", format!("write `[{host}]:{number}`")),
            (_, Some(_)) => ("a listener needs an address, not a name", shapes),
            (_, None) => ("the port is not a number from 0 to 65535", shapes),
        };
    }
    ("not an address", shapes)
}

fn endpoint_help(text: &str) -> (&'static str, String) {
    let shapes = "write \"10.0.0.1:8080\", \"[::1]:8080\", \"unix:/path\" or \"dns:name:8080\"".to_owned();
    for (scheme, tls) in [("http://", ""), ("https://", " and `tls = true` in the upstream")] {
        if let Some(rest) = text.strip_prefix(scheme) {
            let rest = rest.split('/').next().unwrap_or(rest);
            let default = if tls.is_empty() { 80 } else { 443 };
            let name = if rest.contains(':') { rest.to_owned() } else { format!("{rest}:{default}") };
            let name = if name.parse::<SocketAddr>().is_ok() { name } else { format!("dns:{name}") };
            return ("an endpoint is an address, not a URL", format!("write `{name}`{tls}"));
        }
    }
    if let Some(number) = text.strip_prefix(':').and_then(port).or_else(|| port(text)) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        return ("the host is missing", format!("write `{address}`"));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return ("the port is missing", format!("write `{}`", SocketAddr::new(address, 8080)));
    }
    if text.starts_with('/') {
        return ("a path", format!("write `unix:{text}`"));
    }
    match text.rsplit_once(':') {
        Some((host, number)) if host.parse::<Ipv6Addr>().is_ok() => {
            ("no brackets", format!("write `[{host}]:{number}`"))
        }
        Some((host, number)) if port(number).is_some() && host_name(host).is_ok() => {
            ("a name needs `dns:`", format!("write `dns:{text}` to have it resolved"))
        }
        None if host_name(text).is_ok() => ("no port", format!("write `dns:{text}:8080` to have it resolved")),
        _ => ("not an address", shapes),
    }
}

/// Digits only: `+80` is no port.
fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Whether a text is the name of a host (RFC 1123 §2.1, with the underscore that is found in the wild), a trailing dot
/// allowed.
pub(super) fn host_name(text: &str) -> Result<(), &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err("a name is missing");
    }
    if !name.is_ascii() {
        return Err("write the name in its ASCII form (xn--…)");
    }
    if name.len() > 253 {
        return Err("longer than 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("an empty label between dots");
        }
        if label.len() > 63 {
            return Err("a label longer than 63 characters");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err("only letters, digits, `-` and `.` are allowed");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a label cannot begin or end with `-`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names_of_hosts() {
        for name in ["a", "api.example.org", "api.example.org.", "a_b.c", "xn--bcher-kva.example", "10.0.0.1"] {
            assert!(host_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "a..b", "a b", "a:80", "-a", "a-", "bücher.example", "a/b", "*.a"] {
            assert!(host_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn helps_with_what_people_write() {
        for (text, help) in [
            ("8080", "write `:8080` for every address"),
            ("localhost:80", "write `127.0.0.1:80` or `[::1]:80`"),
            ("127.0.0.1", "write `127.0.0.1:80`"),
            ("::1", "write `[::1]:80`"),
            ("/run/x", "write `unix:/run/x`"),
        ] {
            assert_eq!(bind_help(text).1, help, "{text}");
        }
        for (text, help) in [
            ("host:80", "write `dns:host:80` to have it resolved"),
            ("http://a.b/c", "write `dns:a.b:80`"),
            ("https://10.0.0.1", "write `10.0.0.1:443` and `tls = true` in the upstream"),
            (":3000", "write `127.0.0.1:3000`"),
            ("app", "write `dns:app:8080` to have it resolved"),
        ] {
            assert_eq!(endpoint_help(text).1, help, "{text}");
        }
    }
}
