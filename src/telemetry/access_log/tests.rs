use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Version};
use proptest::prelude::*;

use super::frame::Frame;
use super::line::{Layout, TEXT_LIMIT};
use super::value::Ending;
use super::*;
use crate::base::error::Kind;
use crate::config;
use crate::telemetry::series::{Ended, Phases};
use crate::telemetry::trace_context::TraceContext;

/// `[server.access_log]` with these keys.
fn config(keys: &str) -> model::AccessLog {
    let text = format!("[server.access_log]\n{keys}\n[[listener]]\nbind = \":0\"\n[[route]]\nrespond = {{}}\n");
    config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}")).server.access_log.unwrap()
}

fn record() -> Record {
    Record {
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_406_400_123),
        method: Method::GET,
        target: "/v1/items?token=secret".parse().unwrap(),
        host: "example.org".into(),
        version: Version::HTTP_2,
        scheme: "https",
        client: Some("203.0.113.9".parse().unwrap()),
        peer: Some("[2001:db8::1]:51234".parse().unwrap()),
        listener: "web".into(),
        route: Some("api".into()),
        upstream: Some("app".into()),
        endpoint: Some("10.0.0.3:8080".into()),
        attempts: 1,
        request_id: "0f6c2b9a".into(),
        trace: TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        sni: Some("example.org".into()),
        tls_version: Some("1.3"),
        referer: Some(HeaderValue::from_static("https://example.org/a?b=c")),
        destination: None,
        user: None,
        user_agent: Some(HeaderValue::from_static("curl/8.14.1")),
        request_headers: Headers::default(),
        response_headers: Headers::default(),
    }
}

fn ended() -> Ended {
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    Ended {
        status: 200,
        outcome: None,
        reason: "",
        phases: Phases {
            queue: ms(0.041),
            connect: ms(1.204),
            tls: ms(3.018),
            first_byte: ms(7.002),
            body: ms(1.08),
            total: ms(12.345),
        },
        bytes_in: 512,
        bytes_out: 20_480,
    }
}

/// An exchange of which nothing is known but that a client went away.
fn bare() -> (Record, Ended) {
    let record = Record {
        host: "".into(),
        client: None,
        peer: None,
        route: None,
        upstream: None,
        endpoint: None,
        attempts: 0,
        request_id: "".into(),
        trace: None,
        sni: None,
        tls_version: None,
        referer: None,
        destination: None,
        user: None,
        user_agent: None,
        ..record()
    };
    let phases = Phases { total: Duration::from_micros(7), ..Phases::default() };
    let ended = Ended { status: 0, outcome: Some(Kind::ClientGone), reason: "gone", phases, bytes_in: 0, bytes_out: 0 };
    (record, ended)
}

fn line_of(config: &model::AccessLog, record: &Record, ended: &Ended) -> String {
    let mut out = Vec::new();
    Layout::new(config).line(&mut out, &Ending { record, ended, query: config.query });
    String::from_utf8(out).unwrap()
}

fn line(keys: &str) -> String {
    line_of(&config(keys), &record(), &ended())
}

#[test]
fn json_is_one_object_with_numbers_as_numbers() {
    let text = line("");
    assert_eq!(
        text,
        "{\"time\":\"2026-11-23T04:00:00.123Z\",\"method\":\"GET\",\"path\":\"/v1/items\",\"host\":\"example.org\",\
         \"scheme\":\"https\",\"protocol\":\"HTTP/2.0\",\"status\":200,\"outcome\":\"ok\",\"bytes_in\":512,\
         \"bytes_out\":20480,\"duration_ms\":12.345,\"queue_ms\":0.041,\"connect_ms\":1.204,\"tls_ms\":3.018,\
         \"first_byte_ms\":7.002,\"body_ms\":1.080,\"client_ip\":\"203.0.113.9\",\"peer\":\"[2001:db8::1]:51234\",\
         \"listener\":\"web\",\"route\":\"api\",\"upstream\":\"app\",\"endpoint\":\"10.0.0.3:8080\",\"attempts\":1,\
         \"request_id\":\"0f6c2b9a\",\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\
         \"parent_id\":\"00f067aa0ba902b7\",\"sni\":\"example.org\",\"tls_version\":\"1.3\",\
         \"user_agent\":\"curl/8.14.1\",\"referer\":\"https://example.org/a\"}"
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["status"], &value["duration_ms"]), (&200.into(), &12.345.into()));
}

#[test]
fn json_holds_only_what_is_known() {
    let (record, ended) = bare();
    assert_eq!(
        line_of(&config(""), &record, &ended),
        "{\"time\":\"2026-11-23T04:00:00.123Z\",\"method\":\"GET\",\"path\":\"/v1/items\",\"scheme\":\"https\",\
         \"protocol\":\"HTTP/2.0\",\"outcome\":\"client_gone\",\"reason\":\"gone\",\"bytes_in\":0,\"bytes_out\":0,\
         \"duration_ms\":0.007,\"listener\":\"web\",\"attempts\":0}"
    );
}

#[test]
fn logfmt_quotes_what_needs_it() {
    let mut record = record();
    record.user_agent = Some(HeaderValue::from_static("Mozilla/5.0 (X11) \"x\""));
    let text = line_of(&config("format = \"logfmt\""), &record, &ended());
    assert!(text.starts_with("time=2026-11-23T04:00:00.123Z method=GET path=/v1/items host=example.org "), "{text}");
    assert!(text.contains(" duration_ms=12.345 ") && !text.contains("query="), "{text}");
    assert!(text.ends_with(r#" user_agent="Mozilla/5.0 (X11) \"x\"" referer=https://example.org/a"#), "{text}");
}

#[test]
fn combined_is_what_web_servers_write() {
    assert_eq!(
        line("format = \"combined\"\nquery = true"),
        "203.0.113.9 - - [23/Nov/2026:04:00:00 +0000] \"GET /v1/items?token=secret HTTP/2.0\" 200 20480 \
         \"https://example.org/a?b=c\" \"curl/8.14.1\""
    );
    let (record, ended) = bare();
    assert_eq!(
        line_of(&config("format = \"combined\""), &record, &ended),
        "- - - [23/Nov/2026:04:00:00 +0000] \"GET /v1/items HTTP/2.0\" 499 0 \"-\" \"-\""
    );
}

#[test]
fn a_template_has_a_dash_for_what_there_is_none_of() {
    let keys = "format = \"{{{time} {client_ip} \\\"{user_agent}\\\" {status} {duration_ms} {request_headers.x-a}\"";
    assert_eq!(line(keys), "{2026-11-23T04:00:00.123Z 203.0.113.9 \"curl/8.14.1\" 200 12.345 -");
    let (record, ended) = bare();
    let text = line_of(&config("format = \"{status} {client_ip} {referer}\""), &record, &ended);
    assert_eq!(text, "- - -");
}

#[test]
fn queries_are_shown_only_when_asked() {
    for format in
        ["json", "logfmt", "combined", "{path} {referer} {request_headers.referer} {response_headers.location}"]
    {
        let mut record = record();
        let mut fields = HeaderMap::new();
        fields.insert("referer", HeaderValue::from_static("/a?secret"));
        fields.insert("location", HeaderValue::from_static("/b?secret#secret"));
        let config = config(&format!("format = \"{format}\""));
        let wanted = ["referer".parse().unwrap(), "location".parse().unwrap()];
        record.request_headers = Headers::pick(&wanted, &fields);
        record.response_headers = Headers::pick(&wanted, &fields);
        let text = line_of(&config, &record, &ended());
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(line("query = true").contains("\"query\":\"token=secret\""));
    assert!(line("query = true").contains("https://example.org/a?b=c"));
}

#[test]
fn headers_are_logged_by_name() {
    let keys = "request_headers = [\"x-a\", \"x-b\"]\nresponse_headers = [\"X-C\"]";
    let mut fields = HeaderMap::new();
    fields.append("x-b", HeaderValue::from_bytes(b"one\xff\t\"").unwrap());
    fields.append("x-b", HeaderValue::from_static("two"));
    let mut record = record();
    let config = config(keys);
    let (log, _writer) =
        open_as(&model::AccessLog { output: LogOutput::File("/dev/null".into()), ..config.clone() }).unwrap();
    record.request_headers = Headers::pick(log.request_headers(), &fields);
    record.response_headers = Headers::pick(log.response_headers(), &fields);
    let text = line_of(&config, &record, &ended());
    assert!(text.ends_with(r#","request_headers":{"x-b":"one\ufffd\t\""},"response_headers":{}}"#), "{text}");
    let logfmt = model::AccessLog { format: LogFormat::Logfmt, ..config };
    let text = line_of(&logfmt, &record, &ended());
    assert!(text.ends_with(r#" request_headers.x-b="one\ufffd\t\"""#), "{text}");
}

#[test]
fn a_condition_or_a_template_brings_the_headers_that_it_looks_at() {
    let config = config(
        "output = \"/dev/null\"\nformat = \"{response_headers.x-cache}\"\n\
         only = \"not (request_headers.x-a = 'b' or request_headers.x-c ~ 'd')\"\nrequest_headers = \"x-a\"",
    );
    let (log, _writer) = open_as(&config).unwrap();
    assert_eq!(log.request_headers(), ["x-a", "x-c"]);
    assert_eq!(log.response_headers(), ["x-cache"]);
}

fn passes(only: &str, record: &Record, ended: &Ended) -> bool {
    let config = config(&format!("query = true\nonly = \"{only}\""));
    condition::holds(&config.only.unwrap().test, &Ending { record, ended, query: true })
}

#[test]
fn conditions_look_at_what_they_name() {
    for (only, holds) in [
        ("status >= 400 or duration > 500ms", false),
        ("status = 200 and duration > 12ms", true),
        ("duration <= 12ms", false),
        ("bytes_out >= 20KiB and bytes_in < 513", true),
        ("client_ip = '203.0.113.0/24'", true),
        ("client_ip != '203.0.113.9'", false),
        ("path ~ '^/v[0-9]/' and not method = 'POST'", true),
        ("query ~ 'token='", true),
        ("outcome = 'ok' and protocol = 'HTTP/2.0' and scheme = 'https'", true),
        ("peer ~ ':51234$'", true),
        ("trace_id = '4bf92f3577b34da6a3ce929d0e0e4736'", true),
        ("request_headers.x-a = 'b'", false),
        ("request_headers.x-a != 'b'", true),
        ("upstream = 'app' and route != 'app' and attempts = 1", true),
    ] {
        assert_eq!(passes(only, &record(), &ended()), holds, "{only}");
    }
    let (record, ended) = bare();
    for (only, holds) in [
        ("status = 0", true),
        ("status >= 400", false),
        ("connect < 1ms", true),
        ("client_ip = '0.0.0.0/0'", false),
        ("user_agent ~ ''", false),
        ("outcome = 'client_gone'", true),
    ] {
        assert_eq!(passes(only, &record, &ended), holds, "{only}");
    }
}

/// What a condition means, said a second time: on texts that are made with their meaning.
fn judged() -> impl Strategy<Value = (String, bool)> {
    let comparison = (0..6_usize, 198..203_u64).prop_map(|(order, number)| {
        let (sign, holds) = [
            ("=", 200 == number),
            ("!=", 200 != number),
            ("<", 200 < number),
            ("<=", 200 <= number),
            (">", 200 > number),
            (">=", 200 >= number),
        ][order];
        (format!("status {sign} {number}"), holds)
    });
    comparison.prop_recursive(5, 32, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| (format!("({}) and ({})", a.0, b.0), a.1 && b.1)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| (format!("({}) or ({})", a.0, b.0), a.1 || b.1)),
            inner.prop_map(|a| (format!("not ({})", a.0), !a.1)),
        ]
    })
}

proptest! {
    #[test]
    fn conditions_mean_what_they_say((only, holds) in judged()) {
        prop_assert_eq!(passes(&only, &record(), &ended()), holds, "{}", only);
    }

    #[test]
    fn no_client_can_forge_a_line(
        agent in proptest::collection::vec(prop_oneof![32..=255_u8, Just(b'\t'), Just(b'"'), Just(b'\\')], 0..60),
        path in "/[!-~]{0,30}",
    ) {
        let agent: Vec<u8> = agent.into_iter().filter(|byte| *byte != 0x7f).collect();
        let mut record = record();
        record.user_agent = Some(HeaderValue::from_bytes(&agent).unwrap());
        if let Ok(target) = path.parse() {
            record.target = target;
        }
        for format in ["json", "logfmt", "combined", "\\\"{path}\\\" \\\"{user_agent}\\\""] {
            let text = line_of(&config(&format!("format = \"{format}\"")), &record, &ended());
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", text);
            match format {
                "json" => {
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    prop_assert_eq!(value["user_agent"].as_str().unwrap(), String::from_utf8_lossy(&agent));
                    prop_assert_eq!(value["status"].as_u64(), Some(200));
                }
                "logfmt" => {}
                "combined" => prop_assert_eq!(text.matches('"').count(), 6, "{}", text),
                _ => prop_assert_eq!(text.matches('"').count(), 4, "{}", text),
            }
        }
    }
}

#[test]
fn lines_are_bounded() {
    let mut record = record();
    record.target = format!("/{}", "a".repeat(60_000)).parse().unwrap();
    record.user_agent = Some(HeaderValue::from_bytes(&[0xff; 60_000]).unwrap());
    for format in ["json", "logfmt", "combined"] {
        let text = line_of(&config(&format!("format = \"{format}\"")), &record, &ended());
        assert!(text.len() < 2 * TEXT_LIMIT + 1_200, "{format}: {}", text.len());
        assert!(text.contains("aaa..."));
    }
}

/// The lines of a file once there are this many.
fn lines_of(path: &Path, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count || begun.elapsed() > Duration::from_secs(10) {
            return lines;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open_as(config: &model::AccessLog) -> io::Result<(Arc<AccessLog>, Writer)> {
    AccessLog::open(config, &Arc::default())
}

fn open(keys: &str) -> (Arc<AccessLog>, Writer) {
    open_as(&config(keys)).unwrap()
}

impl AccessLog {
    fn dropped(&self) -> u64 {
        self.shared.losses().dropped()
    }

    fn write_errors(&self) -> u64 {
        self.shared.losses().write_errors()
    }
}

#[test]
fn lines_reach_the_file_when_their_logger_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let (log, writer) = open(&format!("output = {path:?}\nformat = \"{{path}} {{status}}\""));
    let logger = log.logger();
    for _ in 0..5_000 {
        logger.log(&record(), &ended());
    }
    drop((log, logger));
    writer.finish(Duration::from_secs(10));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "/v1/items 200\n".repeat(5_000));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
}

#[test]
fn a_file_that_was_renamed_is_let_go_and_no_line_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let (log, writer) = open(&format!("output = {path:?}\nformat = \"{{path}}\""));
    let logger = log.logger();
    logger.log(&record(), &ended());
    logger.flush();
    assert_eq!(lines_of(&path, 1).len(), 1);
    std::fs::rename(&path, &old).unwrap();
    logger.log(&record(), &ended());
    logger.flush();
    assert_eq!(lines_of(&old, 2).len(), 2);
    log.replace(log.reopen().unwrap().unwrap());
    logger.log(&record(), &ended());
    logger.flush();
    assert_eq!(lines_of(&path, 1).len(), 1);
    assert_eq!(lines_of(&old, 2).len(), 2);
    drop((log, logger));
    writer.finish(Duration::from_secs(10));
}

#[test]
fn a_reader_that_stops_costs_lines_and_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut reader = {
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(&path)
            .unwrap()
    };
    let (log, writer) = open(&format!("output = {path:?}"));
    let logger = log.logger();
    let begun = Instant::now();
    let lines = 2 * writer::QUEUE / line("").len();
    for _ in 0..lines {
        logger.log(&record(), &ended());
    }
    logger.flush();
    let dropped = log.dropped();
    assert!(dropped > 0 && dropped < lines as u64, "{dropped} of {lines}");
    // A debug build formats twice the queue in about a second; a pipe nobody reads would take for ever.
    assert!(begun.elapsed() < Duration::from_secs(20));
    let mut read = 0;
    let mut buffer = vec![0; 1 << 16];
    let begun = Instant::now();
    while (read as u64) < lines as u64 - dropped && begun.elapsed() < Duration::from_secs(20) {
        match reader.read(&mut buffer) {
            Ok(count) => read += buffer[..count].iter().filter(|byte| **byte == b'\n').count(),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert_eq!(read as u64 + log.dropped(), lines as u64, "a line is written or counted");
    drop((log, logger));
    writer.finish(Duration::from_secs(10));
}

#[test]
fn a_full_disk_is_counted_and_tried_again() {
    let (log, writer) = open("output = \"/dev/full\"");
    let logger = log.logger();
    logger.log(&record(), &ended());
    logger.flush();
    let begun = Instant::now();
    while log.write_errors() < 2 && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(log.write_errors() >= 2);
    assert_eq!(log.dropped(), 0, "lines wait");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    log.replace(Reopened(sink::append_to(&path).unwrap()));
    assert_eq!(lines_of(&path, 1).len(), 1, "what waited goes into the new file");
    drop((log, logger));
    writer.finish(Duration::from_secs(10));
}

#[test]
fn a_process_that_leaves_does_not_wait_for_a_disk() {
    let (log, writer) = open("output = \"/dev/full\"");
    let logger = log.logger();
    logger.log(&record(), &ended());
    logger.log(&record(), &ended());
    logger.flush();
    let begun = Instant::now();
    writer.finish(Duration::from_millis(50));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(log.dropped(), 2);
}

#[test]
fn syslog_gets_a_message_for_each_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (log, _writer) = open(&format!("output = \"syslog:{}\"\nformat = \"{{path}} {{status}}\"", path.display()));
    let logger = log.logger();
    logger.log(&record(), &ended());
    logger.log(&record(), &ended());
    logger.flush();
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        let count = daemon.recv(&mut buffer).unwrap();
        let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
        assert_eq!(text, format!("<190>tidegate[{}]: /v1/items 200", std::process::id()));
    }
    // A daemon that was started anew is found under its old name.
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    logger.log(&record(), &ended());
    logger.flush();
    assert!(daemon.recv(&mut buffer).is_ok());
}

#[test]
fn the_journal_gets_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let keys = format!(
        "output = \"journald:{}\"\nformat = \"{{method}} {{path}}\"\nrequest_headers = \"x-a\"",
        path.display()
    );
    let (log, _writer) = open(&keys);
    let mut record = record();
    record.user_agent = Some(HeaderValue::from_bytes(b"a\xff\tTIDEGATE_STATUS=500").unwrap());
    let mut fields = HeaderMap::new();
    fields.append("x-a", HeaderValue::from_static("yes"));
    record.request_headers = Headers::pick(log.request_headers(), &fields);
    let logger = log.logger();
    logger.log(&record, &ended());
    drop(logger);
    let mut buffer = [0; 8192];
    let count = daemon.recv(&mut buffer).unwrap();
    let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["MESSAGE=GET /v1/items", "PRIORITY=6", "SYSLOG_IDENTIFIER=tidegate"]);
    for field in [
        "TIDEGATE_STATUS=200",
        "TIDEGATE_DURATION_MS=12.345",
        "TIDEGATE_REQUEST_X_A=yes",
        "TIDEGATE_USER_AGENT=a\\xff\\x09TIDEGATE_STATUS=500",
    ] {
        assert!(lines.contains(&field), "{field} in {text}");
    }
    assert!(lines.iter().all(|line| line.contains('=')) && text.ends_with('\n'));
}

#[test]
fn what_is_framed_comes_apart_again() {
    let config = config("output = \"syslog:/x\"");
    let (frame, layout) = (Frame::new(&config), Layout::new(&config));
    let (record, ended) = (record(), ended());
    let mut out = Vec::new();
    for _ in 0..3 {
        frame.append(&mut out, &layout, &Ending { record: &record, ended: &ended, query: false });
    }
    let datagrams: Vec<_> = frame::datagrams(&out).collect();
    assert_eq!(datagrams.len(), 3);
    assert!(datagrams.iter().all(|datagram| datagram.starts_with(b"<190>tidegate[") && datagram.ends_with(b"}")));
}

#[test]
fn a_sample_is_a_share() {
    fastrand::seed(7);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let (log, writer) = open(&format!("output = {path:?}\nsample = 0.25\nformat = \"{{status}}\""));
    let logger = log.logger();
    for _ in 0..4_000 {
        logger.log(&record(), &ended());
    }
    drop((log, logger));
    writer.finish(Duration::from_secs(10));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count();
    assert!((850..1_150).contains(&lines), "{lines}");
}

#[test]
fn a_loop_without_tasks_hands_on_what_has_waited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let (log, _writer) = open(&format!("output = \"{}\"", path.display()));
    let logger = log.logger();
    let start = Instant::now();
    assert_eq!(logger.flush_due(start), None);
    logger.log(&record(), &ended());
    let due = start + Flushes::DELAY;
    assert_eq!(logger.flush_due(start), Some(due));
    logger.log(&record(), &ended());
    assert_eq!(logger.flush_due(start + Flushes::DELAY / 2), Some(due));
    assert_eq!(logger.flush_due(due), None);
    assert_eq!(lines_of(&path, 2).len(), 2);
    // A buffer that went because it was full leaves no old time behind.
    logger.log(&record(), &ended());
    assert_eq!(logger.flush_due(due), Some(due + Flushes::DELAY));
    logger.flush();
    logger.log(&record(), &ended());
    assert_eq!(logger.flush_due(due + Flushes::DELAY), Some(due + 2 * Flushes::DELAY));
}

#[test]
fn a_flush_task_ends_with_its_logger() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (log, _writer) = open("output = \"/dev/null\"");
    let logger = Rc::new(log.logger());
    let flushes = logger.flushes();
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let task = tokio::task::spawn_local(async move {
            let mut flushed = 0;
            while flushes.lines_wait().await {
                tokio::time::sleep(Flushes::DELAY).await;
                flushes.flush();
                flushed += 1;
            }
            flushed
        });
        tokio::task::yield_now().await;
        logger.log(&record(), &ended());
        logger.log(&record(), &ended());
        tokio::time::sleep(Flushes::DELAY * 3).await;
        logger.log(&record(), &ended());
        tokio::time::sleep(Flushes::DELAY * 3).await;
        drop(logger);
        assert_eq!(task.await.unwrap(), 2);
    }));
}

#[test]
fn a_file_is_looked_at_before_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| config(&format!("output = {:?}", folder.path().join(name)));
    assert!(AccessLog::inspect(&in_folder("new.log")).is_ok());
    assert!(!folder.path().join("new.log").exists());
    assert!(AccessLog::inspect(&in_folder("no/new.log")).is_err());
    assert!(AccessLog::inspect(&in_folder(".")).is_err());
    assert!(open_as(&in_folder("no/new.log")).is_err());
    let peer: SocketAddr = "[::ffff:10.0.0.1]:7".parse().unwrap();
    let mut out = Vec::new();
    line::peer(&mut out, peer);
    assert_eq!(out, b"10.0.0.1:7");
}
