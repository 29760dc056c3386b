//! The state of a process as aligned text (sans-io), the most important facts first.

use std::time::Duration;

use crate::base::units::format_duration;
use crate::cli::terminal::Palette;
use crate::control::admin::status::{
    CertificateStatus, EndpointAlternative, EndpointCheck, EndpointStatus, Layer4, Listener, Quic, RecentError,
    Relayed, Reload, Route, Status, Traffic, Tunnels, UpstreamStatus,
};
use crate::telemetry::calendar;

/// Routes that are listed; the page shows all of them.
const MOST_ROUTES: usize = 40;
/// Errors that are listed.
const MOST_ERRORS: usize = 10;
/// A certificate that ends within so many days is told in another colour.
const SOON: i64 = 21;

/// The whole text.
pub fn render(status: &Status, colours: Palette) -> String {
    let mut out = head(status, colours);
    let now = calendar::parse_rfc3339(&status.now);
    let ago = |at: &str| match (now, calendar::parse_rfc3339(at)) {
        (Some(now), Some(at)) => format!("{} ago", span(now.duration_since(at).unwrap_or_default())),
        _ => at.to_owned(),
    };
    if let Some(reload) = &status.last_reload {
        out += &last_reload(reload, &ago, colours);
    }
    section(&mut out, "listeners", colours, status.listeners.iter().map(listener).collect());
    let routes: Vec<_> = status.routes.iter().take(MOST_ROUTES).map(route).collect();
    section(&mut out, "routes", colours, routes);
    if status.routes.len() > MOST_ROUTES {
        out += &format!("  and {} more; `--json` has all of them\n", status.routes.len() - MOST_ROUTES);
    }
    if !status.routes.is_empty() {
        out += &format!("  {}\n", colours.dim("which one takes a request, and why: tidegate explain --live URL"));
    }
    upstreams(&mut out, &status.upstreams, &ago, colours);
    let certificates = status.certificates.iter().map(|one| certificate(one, colours)).collect();
    section(&mut out, "certificates", colours, certificates);
    let errors = status.errors.iter().take(MOST_ERRORS).map(|one| error(one, &ago)).collect();
    section(&mut out, "recent errors", colours, errors);
    out
}

fn head(status: &Status, colours: Palette) -> String {
    let state = if status.state == "ready" { colours.good(&status.state) } else { colours.bad(&status.state) };
    let uptime = status.uptime_seconds;
    let Traffic { requests, outcomes, .. } = &status.traffic;
    let well = outcomes.get("ok").copied().unwrap_or(0);
    let rate = if uptime > 0.0 { *requests as f64 / uptime } else { 0.0 };
    let share = if *requests > 0 { well as f64 * 100.0 / *requests as f64 } else { 100.0 };
    let connections = &status.connections;
    let relaying = status.workers.iter().filter(|worker| worker.plane == "layer4").count();
    let mut workers = match status.workers.len() - relaying {
        1 => "1 worker".to_owned(),
        many => format!("{many} workers"),
    };
    if relaying > 0 {
        workers += &format!(" and {relaying} of layer 4");
    }
    format!(
        "tidegate {}, pid {}: {state}\n  generation {}, up {}, {}\n  {} of {} connections open, {} of them \
         parked\n  {requests} requests since the start, {rate:.1}/s, {share:.2}% of them well\n",
        status.version,
        status.pid,
        status.generation,
        span(Duration::from_secs_f64(uptime.max(0.0))),
        workers,
        connections.open,
        connections.max,
        connections.parked,
    ) + &tunnels(&status.tunnels)
        + &quic(&status.quic)
        + &layer4(&status.layer4)
}

/// QUIC, where anybody spoke it.
fn quic(quic: &Quic) -> String {
    let counted = |all: &[(u64, &str)]| {
        let some = all.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        some.collect::<Vec<_>>().join(", ")
    };
    let Quic { connections: made, early_data: early, moved, .. } = *quic;
    let made = [(made, "QUIC connections since the start"), (early, "with early data"), (moved, "moved elsewhere")];
    let refused = [
        (quic.handshakes_failed, "QUIC handshakes failed"),
        (quic.retries_sent, "Retry sent"),
        (quic.refused, "QUIC connections refused"),
    ];
    let lost = [
        (quic.datagrams_dropped, "QUIC datagrams dropped"),
        (quic.datagrams_steered, "QUIC datagrams handed to another worker"),
    ];
    let lines = [counted(&made), counted(&refused), counted(&lost)];
    lines.iter().filter(|line| !line.is_empty()).map(|line| format!("  {line}\n")).collect()
}

/// What requests became, where any did.
fn tunnels(tunnels: &Tunnels) -> String {
    match tunnels.started {
        0 => String::new(),
        started => format!("  {} tunnels open, {started} since the start\n", tunnels.open),
    }
}

/// Sessions and flows, where there were any.
fn layer4(layer4: &Layer4) -> String {
    let Layer4 { sessions_open, sessions, flows_open, flows, datagrams_dropped, .. } = layer4;
    let mut text = String::new();
    if *sessions > 0 {
        text += &format!("  {sessions_open} sessions open, {sessions} since the start\n");
    }
    if *flows > 0 {
        text += &format!("  {flows_open} flows open, {flows} since the start, {datagrams_dropped} datagrams dropped\n");
    }
    for (count, what) in [(layer4.hellos_refused, "ClientHellos"), (layer4.proxy_headers_refused, "PROXY headers")] {
        if count > 0 {
            text += &format!("  {count} {what} refused\n");
        }
    }
    text
}

fn last_reload(reload: &Reload, ago: &impl Fn(&str) -> String, colours: Palette) -> String {
    let result = if reload.result == "ok" { colours.good(&reload.result) } else { colours.bad(&reload.result) };
    let mut text = format!("  last reload {} by {}: {result}\n", ago(&reload.at), reload.trigger);
    let error = reload.error.iter().flat_map(|error| error.lines());
    reload.changes.iter().map(String::as_str).chain(error).for_each(|line| text += &format!("      {line}\n"));
    text
}

fn listener(listener: &Listener) -> Vec<String> {
    let (spoken, security, counted) = match &listener.sessions {
        None => {
            // Requests are read by two modes, of which one is what people expect.
            let mode = Some(&*listener.mode).filter(|mode| *mode != "http");
            let spoken =
                mode.into_iter().chain(listener.protocols.iter().map(|own| &**own)).collect::<Vec<_>>().join(" ");
            (spoken, if listener.tls { "TLS" } else { "cleartext" }, traffic(&listener.traffic))
        }
        Some(sessions) => {
            let what = if listener.mode == "udp" { "flow" } else { "session" };
            (listener.mode.to_string(), "relayed", relayed(sessions, what))
        }
    };
    vec![listener.name.to_string(), listener.addresses.join(" "), spoken, security.to_owned(), counted]
}

fn route(route: &Route) -> Vec<String> {
    vec![route.matches.clone(), format!("-> {}", route.action), traffic(&route.traffic)]
}

fn upstreams(out: &mut String, upstreams: &[UpstreamStatus], ago: &impl Fn(&str) -> String, colours: Palette) {
    let line = |upstream: &UpstreamStatus| {
        let security = if upstream.tls { "TLS" } else { "cleartext" };
        let facts = [&*upstream.name, &upstream.protocol, &upstream.balance, security];
        let counted = match &upstream.sessions {
            None => traffic(&upstream.traffic),
            Some(sessions) if upstream.traffic.requests == 0 => relayed(sessions, "session"),
            Some(sessions) => format!("{}; {}", traffic(&upstream.traffic), relayed(sessions, "session")),
        };
        facts.iter().map(ToString::to_string).chain([counted]).collect::<Vec<_>>()
    };
    let lines = aligned(&upstreams.iter().map(line).collect::<Vec<_>>());
    if !lines.is_empty() {
        *out += &format!("\n{}\n", colours.bold("upstreams"));
    }
    for (line, upstream) in lines.iter().zip(upstreams) {
        *out += &format!("  {line}\n");
        let endpoints: Vec<_> = upstream.endpoints.iter().map(|one| endpoint(one, ago)).collect();
        for (line, endpoint) in aligned(&endpoints).iter().zip(&upstream.endpoints) {
            let painted = if endpoint.state == "ready" { line.clone() } else { colours.bad(line) };
            *out += &format!("      {painted}\n");
        }
        if upstream.endpoints.is_empty() {
            *out += &format!("      {}\n", colours.bad("no endpoint: its names do not resolve"));
        }
    }
}

fn endpoint(endpoint: &EndpointStatus, ago: &impl Fn(&str) -> String) -> Vec<String> {
    let mut facts = Vec::new();
    if endpoint.weight != 1 {
        facts.push(format!("weight {}", endpoint.weight));
    }
    match &endpoint.check {
        Some(EndpointCheck { failure: Some(reason), at, .. }) => facts.push(format!("check {}: {reason}", ago(at))),
        Some(EndpointCheck { at, .. }) => facts.push(format!("check {} passed", ago(at))),
        None => {}
    }
    if let Some(outlier) = &endpoint.outlier {
        facts.extend(outlier.ejected_until.as_deref().map(|until| format!("ejected until {until}")));
        match outlier.ejections {
            0 => {}
            1 => facts.push("ejected once".to_owned()),
            often => facts.push(format!("ejected {often} times")),
        }
    }
    facts.extend(endpoint.latency_seconds.map(|latency| format!("{:.1} ms", latency * 1e3)));
    facts.extend(endpoint.in_flight.map(|count| format!("{count} in flight")));
    if endpoint.connect_failures > 0 {
        facts.push(format!("{} failed to connect", endpoint.connect_failures));
    }
    facts.extend(endpoint.last_failure.as_ref().map(|last| format!("last {} {}", last.kind, ago(&last.at))));
    facts.extend(endpoint.alternative.as_ref().map(|alternative| http3(alternative, ago)));
    vec![endpoint.address.to_string(), endpoint.state.to_string(), facts.join(", ")]
}

/// The HTTP/3 that an endpoint offers by Alt-Svc.
fn http3(alternative: &EndpointAlternative, ago: &impl Fn(&str) -> String) -> String {
    let EndpointAlternative { port, stage, at, failures, .. } = alternative;
    let stage = match (&**stage, at) {
        ("used", Some(at)) => format!("used, the first time {}", ago(at)),
        ("resting", Some(until)) => format!("left alone until {until}"),
        _ => stage.to_string(),
    };
    let broke = match failures {
        0 => String::new(),
        1 => ", broke once".to_owned(),
        often => format!(", broke {often} times"),
    };
    format!("h3 at :{port} {stage}{broke}")
}

fn certificate(certificate: &CertificateStatus, colours: Palette) -> Vec<String> {
    let left = match certificate.days_left {
        ..0 => colours.bad("has ended"),
        1 => colours.bad("1 day left"),
        days @ 0..SOON => colours.bad(&format!("{days} days left")),
        days => format!("{days} days left"),
    };
    vec![certificate.listener.to_string(), certificate.names.join(" "), certificate.file.clone(), left]
}

fn error(error: &RecentError, ago: &impl Fn(&str) -> String) -> Vec<String> {
    let places = [Some(&error.listener), error.route.as_ref(), error.upstream.as_ref(), error.endpoint.as_ref()];
    let place = places.into_iter().flatten().map(|place| &**place).collect::<Vec<_>>().join(" > ");
    let status = error.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    vec![format!("{} times", error.count), status, error.kind.to_string(), ago(&error.last_at), place]
}

fn traffic(traffic: &Traffic) -> String {
    let Traffic { requests, answers, outcomes, .. } = traffic;
    let errors: u64 = outcomes.iter().filter(|(kind, _)| *kind != "ok").map(|(_, count)| count).sum();
    let mut text = format!("{requests} requests");
    if answers.server_errors > 0 {
        text += &format!(", {} answered 5xx", answers.server_errors);
    }
    if errors > 0 {
        text += &format!(", {errors} ended in an error");
    }
    text
}

fn relayed(relayed: &Relayed, what: &str) -> String {
    let Relayed { ended, outcomes, .. } = relayed;
    let errors: u64 = outcomes.iter().filter(|(kind, _)| *kind != "ok").map(|(_, count)| count).sum();
    let more = if errors > 0 { format!(", {errors} in an error") } else { String::new() };
    format!("{ended} {what}{} ended{more}", if *ended == 1 { "" } else { "s" })
}

fn section(out: &mut String, title: &str, colours: Palette, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    *out += &format!("\n{}\n", colours.bold(title));
    aligned(&rows).iter().for_each(|line| *out += &format!("  {line}\n"));
}

/// The rows with their columns under each other; the last column is as wide as it likes.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let widths = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        if column + 1 == columns { 0 } else { widths.max().unwrap_or(0).min(WIDEST) }
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The two largest units: `3d 4h`, `12m 5s`, `800ms`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match seconds {
        86_400.. => format!("{days}d {hours}h"),
        3_600.. => format!("{hours}h {minutes}m"),
        60.. => format!("{minutes}m {}s", seconds % 60),
        1.. => format!("{seconds}s"),
        0 => format_duration(Duration::from_millis(duration.as_millis() as u64)),
    }
}

/// One long cell must not push every line off the screen.
const WIDEST: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in
            [(0.8, "800ms"), (5.0, "5s"), (725.0, "12m 5s"), (7_300.0, "2h 1m"), (273_600.0, "3d 4h")]
        {
            assert_eq!(span(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn what_an_endpoint_offers_is_told_with_what_became_of_it() {
        let told = |stage: &'static str, at: Option<&str>, failures| {
            let (at, offered_until) = (at.map(str::to_owned), String::new());
            http3(&EndpointAlternative { port: 443, stage: stage.into(), at, offered_until, failures }, &|_| {
                "5m ago".into()
            })
        };
        assert_eq!(told("offered", None, 0), "h3 at :443 offered");
        assert_eq!(told("used", Some("then"), 2), "h3 at :443 used, the first time 5m ago, broke 2 times");
        assert_eq!(told("resting", Some("12:00"), 1), "h3 at :443 left alone until 12:00, broke once");
    }

    #[test]
    fn quic_is_told_where_there_was_any() {
        assert_eq!(quic(&Quic::default()), "");
        let some = Quic { connections: 3, moved: 1, retries_sent: 7, datagrams_steered: 2, ..Quic::default() };
        let text = "  3 QUIC connections since the start, 1 moved elsewhere\n  7 Retry sent\n  2 QUIC datagrams handed to another worker\n";
        assert_eq!(quic(&some), text);
    }

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        assert_eq!(aligned(&[row(["a", "é", "x"]), row(["bcd", "", "y"])]), ["a    é  x", "bcd     y"]);
    }
}
