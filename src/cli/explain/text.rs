//! An explanation for people: what becomes of the request first, then why, then what is in force; the line of the
//! configuration that decided it at the end of each line.

use crate::explain::explanation::{Answer, At, Chosen, Endpoint, Explanation, Field, Loser, Sent, Setting, Upstream};

use super::super::terminal::{Palette, columns, wrapped};

/// The text, for a terminal of so many columns.
pub fn render(told: &Explanation, colours: Palette, width: usize) -> String {
    let mut page = Page { out: headline(told, colours), colours, width };
    page.paragraph(2, &verdict(told, colours));
    if let Some(refusal) = told.refusal.as_ref().filter(|refusal| !refusal.otherwise.is_empty()) {
        page.paragraph(2, &colours.dim(&format!("decided by {}", refusal.otherwise)));
    }
    page.entrance(told);
    page.routes(told);
    for upstream in &told.upstreams {
        page.upstream(upstream, told);
    }
    if let Some(answer) = &told.answer {
        page.answer(answer, told);
    }
    for (kind, title) in [("deadline", "deadlines"), ("limit", "limits"), ("retry", "retries")] {
        page.settings(title, told.settings.iter().filter(|setting| setting.kind == kind));
    }
    if !told.notes.is_empty() {
        page.out.push('\n');
        told.notes.iter().for_each(|note| page.paragraph(0, &colours.dim(&format!("note: {note}"))));
    }
    page.out
}

/// What was asked.
fn headline(told: &Explanation, colours: Palette) -> String {
    let request = &told.request;
    let live = told.generation.map_or_else(String::new, |generation| format!(", generation {generation} in force"));
    let asked = format!("{} {}", request.method, request.url);
    let mut out =
        format!("{}\n  {} from {}{live}\n", colours.bold(asked.trim_start()), request.protocol, request.client);
    for (name, value) in &request.headers {
        out += &format!("  {name}: {value}\n");
    }
    out
}

/// What becomes of it.
fn verdict(told: &Explanation, colours: Palette) -> String {
    let route = told.route.as_ref().map_or_else(String::new, |route| format!(" by route `{}`", route.name));
    let names: Vec<_> = told.upstreams.iter().map(|upstream| format!("`{}`", upstream.name)).collect();
    let to = names.join(" or ");
    match (&told.refusal, told.action.as_str(), &told.answer) {
        (Some(refusal), ..) => {
            let how = refusal.status.map_or_else(|| "not served".to_owned(), |status| format!("refused with {status}"));
            let line = refusal.at.as_ref().map_or_else(String::new, |at| format!("  {}", colours.dim(&line_of(at))));
            colours.bad(&format!("{how}, {}: {}", refusal.outcome, refusal.reason)) + &line
        }
        (None, "forward" | "tunnel", _) if told.route.is_none() => {
            let to = told.upstreams.iter().flat_map(|upstream| &upstream.endpoints).map(|endpoint| &*endpoint.address);
            let to = to.collect::<Vec<_>>().join(" ");
            let how = if told.action == "tunnel" { "a tunnel" } else { "sent on" };
            colours.good(&format!("{how} to {to}"))
        }
        (None, "forward", _) => colours.good(&format!("forwarded to {to}{route}")),
        (None, "relay", _) => colours.good(&format!("relayed to {to}")),
        (None, word, Some(answer)) => colours.good(&format!("{word}: answered with {} here{route}", answer.status)),
        (None, word, None) => colours.good(word),
    }
}

struct Page {
    out: String,
    colours: Palette,
    /// Columns of the terminal.
    width: usize,
}

impl Page {
    fn title(&mut self, title: &str) {
        self.out += &format!("\n{}\n", self.colours.bold(title));
    }

    /// Lines of columns, the place of each at its end. What the last column has no room for goes on below it.
    fn lines(&mut self, indent: usize, lines: Vec<(Vec<String>, Option<String>)>) {
        let count = lines.iter().map(|(cells, _)| cells.len()).max().unwrap_or(0);
        let widest = self.width / 2;
        let width = |column: usize| {
            let widths = lines.iter().filter(|(cells, _)| column + 1 < cells.len());
            // A long cell pushes its own line only.
            widths.map(|(cells, _)| columns(&cells[column])).filter(|width| *width <= widest).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..count).map(width).collect();
        let places = lines.iter().filter_map(|(_, at)| at.as_ref()).map(|at| columns(at) + 2).max();
        let places = places.unwrap_or(0).min(self.width / 3);
        let all = self.width.saturating_sub(indent);
        let texts = lines.into_iter().map(|(mut cells, at)| {
            let last = cells.pop().unwrap_or_default();
            let padded =
                |(cell, width): (&String, &usize)| format!("{cell}{:1$}  ", "", width.saturating_sub(columns(cell)));
            let lead: String = cells.iter().zip(&widths).map(padded).collect();
            let room = if at.is_some() { all - places } else { all }.saturating_sub(columns(&lead));
            if columns(&last) <= room || cells.is_empty() || room >= LEAST {
                let below = columns(&lead);
                return (lead, wrapped(&last, room.max(LEAST)), below, at);
            }
            // Too narrow beside the others.
            let below = if cells.len() > 1 { widths[0] + 2 } else { FURTHER };
            let mut parts = wrapped(&last, all.saturating_sub(below).max(LEAST));
            parts.insert(0, String::new());
            (lead.trim_end().to_owned(), parts, below, at)
        });
        let texts: Vec<_> = texts.collect();
        let taken = texts.iter().map(|(lead, parts, ..)| columns(lead) + columns(&parts[0]));
        let column = taken.filter(|width| *width <= all - places).max().unwrap_or(0);
        for (lead, parts, below, at) in texts {
            let mut line = format!("{:indent$}{lead}{}", "", parts[0]);
            if let Some(at) = at {
                let padding = (indent + column).saturating_sub(columns(&line));
                line += &format!("{:padding$}  {}", "", self.colours.dim(&at));
            }
            self.out += &format!("{}\n", line.trim_end());
            let below = indent + below;
            parts[1..].iter().for_each(|part| self.out += &format!("{:below$}{part}\n", ""));
        }
    }

    /// A paragraph whose later lines stand further in.
    fn paragraph(&mut self, indent: usize, text: &str) {
        let lines = wrapped(text, self.width.saturating_sub(indent + FURTHER));
        for (at, line) in lines.iter().enumerate() {
            let indent = if at == 0 { indent } else { indent + FURTHER };
            self.out += &format!("{:indent$}{line}\n", "");
        }
    }

    fn chosen(&mut self, title: &str, chosen: &Chosen) {
        self.title(title);
        let facts = [&chosen.name, &chosen.what].into_iter().filter(|text| !text.is_empty()).cloned().collect();
        self.lines(2, vec![(facts, place(chosen.at.as_ref())), (vec![chosen.why.clone()], None)]);
    }

    fn entrance(&mut self, told: &Explanation) {
        if let Some(listener) = &told.listener {
            self.chosen("listener", listener);
        }
        if !told.other_listeners.is_empty() && (told.listener.is_none() || told.other_listeners.len() <= FEW) {
            self.title("not by listener");
            let line =
                |one: &Chosen| (vec![one.name.clone(), one.what.clone(), one.why.clone()], place(one.at.as_ref()));
            self.lines(2, told.other_listeners.iter().map(line).collect());
        }
        if let Some(certificate) = &told.certificate {
            self.title("certificate");
            let names = format!("for {}", certificate.names.join(" "));
            let mut lines = vec![
                (vec![certificate.file.clone(), names], place(certificate.at.as_ref())),
                (vec![certificate.why.clone()], None),
            ];
            if !certificate.covers_host {
                let warning =
                    self.colours.warning("it is not for the host that is asked for: clients that look will refuse it");
                lines.push((vec![warning], None));
            }
            self.lines(2, lines);
        }
    }

    fn routes(&mut self, told: &Explanation) {
        if let Some(matched) = &told.matched {
            self.title("asked for");
            let host = if matched.host.is_empty() { "no host" } else { &matched.host };
            let how = if matched.path_was_normalised { "  (its normal form, for the match alone)" } else { "" };
            self.lines(2, vec![(vec![format!("host {host}, path {}{how}", matched.path)], None)]);
            if let Some(client) = matched.client.as_ref().filter(|client| **client != told.request.client) {
                self.lines(2, vec![(vec![format!("client {client}, as a trusted proxy says")], None)]);
            }
        }
        if let Some(route) = &told.route {
            self.chosen("route", route);
            if let Some(access) = &told.access {
                self.lines(
                    2,
                    vec![(vec![access.why.clone()], place(access.at.as_ref()).filter(|_| access.at.is_some()))],
                );
            }
        }
        if let (Some(_), Some(upgrade)) = (&told.route, &told.upgrade) {
            self.lines(2, vec![(vec![upgrade.why.clone()], place(upgrade.at.as_ref()))]);
        }
        if let (None, Some(access)) = (&told.route, &told.access) {
            self.title("may it go there");
            self.lines(2, vec![(vec![access.why.clone()], place(access.at.as_ref()))]);
        }
        if !told.other_routes.is_empty() {
            self.title(if told.route.is_some() { "not by route" } else { "no route takes it" });
            self.losers(&told.other_routes);
        }
    }

    /// All of a few; of many those that came near, and how many others there are.
    fn losers(&mut self, losers: &[Loser]) {
        let is_near = |loser: &&Loser| !matches!(loser.because.as_str(), "host" | "listener");
        let shown: Vec<&Loser> = match losers.len() {
            0..=FEW => losers.iter().collect(),
            _ => losers.iter().filter(is_near).take(FEW).collect(),
        };
        let line = |loser: &&Loser| (vec![loser.name.clone(), loser.why.clone()], place(loser.at.as_ref()));
        self.lines(2, shown.iter().map(line).collect());
        if shown.len() < losers.len() {
            let left = losers.len() - shown.len();
            let by_host = losers.iter().filter(|loser| !is_near(loser)).count();
            let words =
                format!("and {left} more, {by_host} of them for another host or listener; --json has all of them");
            self.lines(2, vec![(vec![words], None)]);
        }
    }

    fn upstream(&mut self, upstream: &Upstream, told: &Explanation) {
        self.title("upstream");
        let tls = if upstream.tls { " over TLS" } else { "" };
        let share = if told.upstreams.len() > 1 {
            format!(", {} of the requests", percent(upstream.share))
        } else {
            String::new()
        };
        let facts = vec![upstream.name.clone(), format!("{}{tls}{share}", upstream.protocol)];
        let hashed = upstream.hashed.as_ref().map_or_else(String::new, |hashed| format!(" on {hashed}"));
        let mut lines = vec![(facts, place(upstream.at.as_ref()))];
        if !upstream.balance.is_empty() {
            let balance = vec![format!("balance {}{hashed}", upstream.balance)];
            lines.push((balance, place(upstream.balance_at.as_ref())));
        }
        self.lines(2, lines);
        if let Some(picked) = &upstream.picked {
            self.lines(2, vec![(vec![format!("which leads to {picked}")], None)]);
        }
        let endpoints = upstream.endpoints.iter().map(|one| (self.endpoint(one), place(one.at.as_ref())));
        let endpoints = endpoints.collect();
        self.lines(4, endpoints);
        if let Some(sent) = &upstream.sent {
            self.sent(sent, &upstream.protocol);
        }
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Vec<String> {
        let mut facts = Vec::new();
        if endpoint.state != "configured" {
            let paint = |text: &str| if endpoint.can_be_picked { text.to_owned() } else { self.colours.bad(text) };
            facts.push(paint(&endpoint.state));
        }
        if endpoint.weight != 1 {
            facts.push(format!("weight {}", endpoint.weight));
        }
        facts.extend(endpoint.in_flight.map(|count| format!("{count} in flight")));
        std::iter::once(endpoint.address.clone()).chain((!facts.is_empty()).then(|| facts.join(", "))).collect()
    }

    fn sent(&mut self, sent: &Sent, protocol: &str) {
        self.title("what an endpoint gets");
        let has_streams = protocol.starts_with("http2") || protocol.starts_with("http3");
        let rewritten = sent.target_by.clone().unwrap_or_else(|| "as it came".to_owned());
        let host = if has_streams { ":authority" } else { "host" };
        let authority_by =
            if sent.authority_varies { "the first endpoint's, as each has its own" } else { &sent.authority_by };
        let mut lines = vec![
            (
                vec![format!("{} {}", sent.method, sent.target), rewritten],
                decided(sent.target_at.as_ref(), sent.target_by.is_some()),
            ),
            (
                vec![format!("{host}: {}", sent.authority), authority_by.to_owned()],
                decided(sent.authority_at.as_ref(), true),
            ),
        ];
        if let Some(protocol) = &sent.protocol {
            lines.push((vec![format!(":protocol: {protocol}"), "extended CONNECT".to_owned()], None));
        }
        let line = |field: &Field| {
            (
                vec![format!("{}: {}", field.name, field.value), field.by.clone()],
                decided(field.at.as_ref(), names_a_key(&field.by)),
            )
        };
        lines.extend(sent.headers.iter().map(line));
        let removed = |field: &Field| {
            (vec![format!("- {}: {}", field.name, field.value), field.by.clone()], decided(field.at.as_ref(), false))
        };
        lines.extend(sent.removed.iter().map(removed));
        self.lines(2, lines);
    }

    fn answer(&mut self, answer: &Answer, told: &Explanation) {
        self.title("what the client gets");
        let mut lines = vec![(vec![answer.status.to_string(), told.action.clone()], answer.at.as_ref().map(line_of))];
        let line = |field: &Field| {
            (
                vec![format!("{}: {}", field.name, field.value), field.by.clone()],
                decided(field.at.as_ref(), names_a_key(&field.by)),
            )
        };
        lines.extend(answer.headers.iter().map(line));
        self.lines(2, lines);
        if !answer.body.is_empty() {
            self.out.push('\n');
            answer.body.lines().take(LONG_BODY).for_each(|line| self.out += &format!("  {line}\n"));
            let more = answer.body.lines().count().saturating_sub(LONG_BODY);
            if more > 0 {
                self.out += &format!("  and {more} lines more\n");
            }
        }
    }

    /// Each under the table that it stands in.
    fn settings<'s>(&mut self, title: &str, settings: impl Iterator<Item = &'s Setting>) {
        let mut tables: Vec<(&str, Vec<_>)> = Vec::new();
        for one in settings {
            let (table, key) = one.key.rsplit_once('.').unwrap_or(("", &one.key));
            let what = match &one.outcome {
                Some(outcome) => format!("{}, else {outcome}", one.what),
                None => one.what.clone(),
            };
            let line = (vec![format!("  {key}"), one.value.clone(), what], decided(one.at.as_ref(), true));
            match tables.iter_mut().find(|(other, _)| *other == table) {
                Some((_, lines)) => lines.push(line),
                None => tables.push((table, vec![line])),
            }
        }
        if tables.is_empty() {
            return;
        }
        self.title(title);
        let lines = tables.into_iter().flat_map(|(table, lines)| {
            let head = (vec![table.to_owned()], None);
            std::iter::once(head).chain(lines)
        });
        self.lines(2, lines.collect());
    }
}

/// Whether what put a field there is a key, so that a default is a default.
fn names_a_key(by: &str) -> bool {
    by.contains('.') || matches!(by, "request_id" | "traceparent" | "upgrade")
}

/// The line, or that it is a default.
fn decided(at: Option<&At>, is_key: bool) -> Option<String> {
    at.map(line_of).or_else(|| is_key.then(|| "default".to_owned()))
}

fn place(at: Option<&At>) -> Option<String> {
    decided(at, true)
}

fn line_of(at: &At) -> String {
    format!("{}:{}", at.file, at.line)
}

fn percent(share: f64) -> String {
    if (share - share.round()).abs() < 0.05 { format!("{share:.0}%") } else { format!("{share:.1}%") }
}

/// Columns that are worth breaking a text for.
const LEAST: usize = 16;
/// Columns that the later lines of a paragraph stand further in.
const FURTHER: usize = 6;
/// So many of a kind are listed.
const FEW: usize = 12;
/// Lines of a body that are shown.
const LONG_BODY: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::explanation::{Refusal, Request};

    fn told() -> Explanation {
        let at = |line| Some(At { file: "tidegate.toml".into(), line, column: 1 });
        let setting = |key: &str, value: &str, what: &str, outcome: Option<&str>| Setting {
            kind: "limit".into(),
            key: key.into(),
            value: value.into(),
            what: what.into(),
            outcome: outcome.map(Into::into),
            at: at(7),
        };
        let reason = "the request's body is larger than allowed, and this sentence is longer than a terminal is wide";
        let refusal = Refusal { outcome: "x".into(), reason: reason.into(), at: at(3), ..Refusal::default() };
        let request = Request {
            url: "http://a/".into(),
            protocol: "HTTP/1.1".into(),
            client: "::1".into(),
            ..Request::default()
        };
        Explanation {
            request,
            refusal: Some(refusal),
            settings: vec![
                setting("listener.limits.max_header_size", "32KiB", "of the head", Some("request_header_too_large")),
                setting("listener.limits.max_connections_per_ip", "unlimited", "of one client", None),
                setting("route.upgrade", "websocket", "may be switched to", None),
            ],
            notes: vec!["an endpoint of it has to offer something that is told of in many more words than fit".into()],
            ..Explanation::default()
        }
    }

    #[test]
    fn a_narrow_terminal_gets_narrow_lines() {
        for width in [60, 80, 100] {
            let text = render(&told(), Palette::plain(), width);
            assert!(text.lines().all(|line| columns(line) <= width), "{width}:\n{text}");
            assert!(text.lines().all(|line| line == line.trim_end()), "{width}:\n{text}");
        }
        let text = render(&told(), Palette::plain(), 80);
        let size = "\
    max_header_size         32KiB      of the head, else   tidegate.toml:7
                                       request_header_too_large
    max_connections_per_ip  unlimited  of one client       tidegate.toml:7
  route
    upgrade                 websocket  may be switched to  tidegate.toml:7
";
        assert!(text.contains(size), "{text}");
    }

    #[test]
    fn colours_change_no_column() {
        let coloured = render(&told(), Palette::colourful(), 80);
        assert!(coloured.contains('\x1b'));
        let plain = coloured.split('\x1b').enumerate();
        let plain: String =
            plain.map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 }).collect();
        assert_eq!(plain, render(&told(), Palette::plain(), 80));
    }
}
