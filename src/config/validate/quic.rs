//! `[listener.quic]`, `[upstream.NAME.quic]`, `alt_svc`, and the requirements of HTTP/3 and QUIC on other keys.

use super::Check;
use super::relayed::Terms;
use crate::config::findings::Finding;
use crate::config::model::{
    AltSvc, Bind, Congestion, Mode, Protocols, Quic, QuicTransport, RetryPolicy, SendProxyProtocol, Upstream,
    UpstreamProtocol, UpstreamQuic,
};
use crate::config::section::{Data, Name, Section};

impl Check<'_> {
    pub(super) fn quic(&mut self, listener: &Section, protocols: Protocols) -> Quic {
        let mut quic = Quic::default();
        let Some(section) = listener.section("quic") else { return quic };
        self.quic_transport(section, &mut quic.transport);
        quic.retry = match section.word("retry") {
            Some("always") => RetryPolicy::Always,
            Some("off") => RetryPolicy::Off,
            _ => RetryPolicy::Auto,
        };
        let speaks = protocols.http3 || listener.word("mode").is_some_and(|mode| !matches!(mode, "http" | "forward"));
        if let Some(entry) = listener.entry("quic").filter(|_| !speaks && quic != Quic::default()) {
            let finding = Finding::new(entry.name, "`quic` has no effect", "this listener does not speak http3");
            self.findings.push(finding.help("write `protocols = [\"http1\", \"http2\", \"http3\"]`"));
        }
        quic
    }

    pub(super) fn upstream_quic(&mut self, section: Option<&Section>) -> UpstreamQuic {
        let mut quic = UpstreamQuic::default();
        let Some(section) = section else { return quic };
        self.quic_transport(section, &mut quic.transport);
        quic.early_data = section.flag("early_data").unwrap_or(false);
        quic
    }

    fn quic_transport(&mut self, section: &Section, transport: &mut QuicTransport) {
        let bytes = |key| section.size(key).and_then(|bytes| u32::try_from(bytes).ok());
        transport.congestion = match section.word("congestion") {
            Some("bbr") => Congestion::Bbr,
            Some("newreno") => Congestion::NewReno,
            _ => Congestion::Cubic,
        };
        if section.has("keep_alive") {
            transport.keep_alive = section.duration("keep_alive");
        }
        transport.stream_window = bytes("stream_window").unwrap_or(transport.stream_window);
        transport.connection_window = bytes("connection_window").unwrap_or(transport.connection_window);
        transport.segmentation_offload = section.flag("segmentation_offload").unwrap_or(true);
        transport.qlog = section.text("qlog").map(|written| self.path(written));
        if transport.stream_window > transport.connection_window {
            let spot = section.node("stream_window").or(section.node("connection_window")).map(|node| node.spot);
            let spot = spot.unwrap_or(section.spot);
            self.fault(spot, "a stream's window is larger than its connection's", "it could never be used up");
        }
    }

    pub(super) fn alt_svc(&mut self, section: &Section, protocols: Protocols) -> AltSvc {
        let wanted = match (section.word("alt_svc"), section.count("alt_svc")) {
            (Some("off"), _) => AltSvc::Off,
            (_, Some(port)) => AltSvc::Port(port as u16),
            _ => AltSvc::Auto,
        };
        // What is said of it anew by its default has no effect to miss.
        if let Some(entry) = section.entry("alt_svc").filter(|_| !protocols.http3 && wanted != AltSvc::Auto) {
            let finding = Finding::new(entry.name, "`alt_svc` has no effect", "this listener does not speak http3");
            self.findings.push(finding);
        }
        wanted
    }

    /// RFC 9001 §2: there is no QUIC without TLS, nor on a path.
    pub(super) fn may_speak_http3(&mut self, section: &Section, protocols: Protocols, binds: &[Bind]) {
        if !protocols.http3 {
            return;
        }
        let spot = section.node("protocols").map_or(section.spot, |node| node.spot);
        if !section.has("tls") {
            let finding = Finding::new(spot, "http3 without `tls`", "QUIC is always encrypted");
            self.findings.push(finding.help("write `tls.certificates = [{ cert = \"…\", key = \"…\" }]`"));
        }
        if !binds.is_empty() && binds.iter().all(|bind| matches!(bind, Bind::Unix(_))) {
            self.fault(spot, "http3 on a Unix socket", "QUIC needs an address and a port");
        }
        if section.word("proxy_protocol") == Some("require") {
            // Who the client is would be believed without the header that has to say it.
            let help = "give http3 a listener of its own, without `proxy_protocol`";
            self.fault_with_help(spot, "http3 where a PROXY header is required", "QUIC cannot carry one", help);
        }
    }

    /// `mode = "quic"`: the protocols of the handshake and where each leads.
    pub(super) fn quic_mode(&mut self, section: &Section) -> Mode {
        if !section.has("tls") {
            let finding = Finding::new(section.spot, "mode \"quic\" without `tls`", "QUIC is always encrypted");
            let help = "write `tls.certificates = [{ cert = \"…\", key = \"…\" }]`";
            self.findings.push_absent(finding.help(help));
        }
        if !section.has("alpn") {
            let finding = Finding::new(section.spot, "mode \"quic\" without `alpn`", "no destination");
            self.findings.push_absent(finding.help("write `alpn = { \"postgres\" = \"…\" }`"));
        }
        if let Some(node) = section.node("alpn")
            && matches!(&node.data, Data::Map(pairs) if pairs.is_empty())
        {
            self.fault(node.spot, "`alpn` is empty", "no destination");
        }
        Mode::Quic(self.alpn_routes(section, Terms { is_udp: false, knows_name: true, takes_streams: true }))
    }

    /// What the QUIC keys of an upstream need of its others.
    pub(super) fn fits_quic(&mut self, name: &Name, section: &Section, upstream: &Upstream) {
        let is_quic = matches!(upstream.protocol, UpstreamProtocol::Http3 | UpstreamProtocol::Quic);
        if is_quic && upstream.tls.is_none() {
            let spot = section.node("protocol").map_or(name.spot, |node| node.spot);
            let help = "write `tls = true`, or `tls = { server_name = \"…\", ca = \"…\" }`";
            self.fault_with_help(spot, "QUIC without `tls`", "QUIC is always encrypted", help);
        }
        if is_quic {
            self.fits_datagrams(section, upstream);
        }
        let raw = upstream.protocol == UpstreamProtocol::Quic;
        if raw && !section.has("alpn") {
            let spot = section.node("protocol").map_or(name.spot, |node| node.spot);
            let help = "write `alpn = \"…\"` with the protocol that the endpoint expects";
            self.fault_with_help(
                spot,
                "protocol \"quic\" without `alpn`",
                "no protocol to offer in the handshake",
                help,
            );
        }
        if let Some(entry) = section.entry("alpn").filter(|_| !raw) {
            self.fault(entry.name, "`alpn` has no effect", "only with protocol \"quic\"");
        }
        let learns = matches!(upstream.protocol, UpstreamProtocol::Auto | UpstreamProtocol::Http2);
        if let Some(entry) = section.entry("alt_svc").filter(|_| upstream.alt_svc) {
            if upstream.tls.is_none() {
                // RFC 7838 §2.1: only who has proved who it is may send its clients elsewhere.
                self.fault(
                    entry.name,
                    "`alt_svc` without `tls`",
                    "Alt-Svc is trusted only from an authenticated origin",
                );
            } else if !learns {
                self.fault(entry.name, "`alt_svc` has no effect", "only with protocol \"auto\" or \"http2\"");
            }
        }
        if let Some(entry) =
            section.entry("quic").filter(|_| !is_quic && !upstream.alt_svc && upstream.quic != UpstreamQuic::default())
        {
            self.fault(entry.name, "`quic` has no effect", "only with protocol \"http3\" or \"quic\", or `alt_svc`");
        }
        if let Some(written) = section.text("alpn")
            && (written.value.is_empty() || written.value.len() > 255)
        {
            // RFC 7301 §3.1.
            self.fault(written.spot, "not an ALPN protocol", "1 to 255 bytes");
        }
    }

    /// RFC 9000 §1: QUIC travels in datagrams, which no path takes and before which nothing can be said.
    fn fits_datagrams(&mut self, section: &Section, upstream: &Upstream) {
        for node in section.list("endpoints") {
            let written = match &node.data {
                Data::Section(table) => table.text("address"),
                _ => node.written(),
            };
            if let Some(written) = written.filter(|written| written.value.starts_with("unix:")) {
                let message = format!("QUIC to a Unix socket: `{}`", written.value);
                self.fault(written.spot, message, "needs an address and a port");
            }
        }
        if let Some(entry) =
            section.entry("send_proxy_protocol").filter(|_| upstream.send_proxy_protocol != SendProxyProtocol::Off)
        {
            self.fault(entry.name, "a PROXY header over QUIC", "QUIC has no place for it before the handshake");
        }
    }
}
