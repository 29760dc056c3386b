//! Files with ten thousand routes: the time stays in proportion to the length, faults or not.

use std::fmt::Write as _;
use std::time::Duration;

use tidegate::config;

const ROUTES: usize = 10_000;
/// Far above what it takes, far below what anything quadratic would.
const LIMIT: Duration = Duration::from_secs(20);

fn within<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = processor_time();
    let result = run();
    let took = processor_time() - start;
    println!("{what}: {took:?}");
    assert!(took < LIMIT, "{what} took {took:?}");
    result
}

/// Of this thread: time on the clock would depend on what else the machine does.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn file(upstream: impl Fn(usize) -> String) -> String {
    let mut text = String::from("[[listener]]\nbind = \":80\"\n");
    for index in 0..ROUTES {
        let _ = writeln!(
            text,
            "[[route]]\nhost = \"h{index}.example.org\"\npath = \"/p/*\"\nupstream = \"{}\"",
            upstream(index)
        );
        let _ = writeln!(text, "[upstream.u{index}]\nendpoints = [\"10.0.0.1:80\"]");
    }
    text
}

#[test]
fn ten_thousand_routes_are_read_in_seconds() {
    let text = file(|index| format!("u{index}"));
    let config = within("read", || config::parse("big.toml", &text)).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((config.routes.len(), config.upstreams.len()), (ROUTES, ROUTES));
    within("summary", || config::summary(&config));
}

#[test]
fn ten_thousand_faults_are_told_in_seconds() {
    let text = file(|index| format!("gone{index}"));
    let faults = within("faults", || config::parse("big.toml", &text)).unwrap_err();
    assert_eq!(faults.len(), ROUTES);
    within("rendering", || faults.render(true));
}

#[test]
fn ten_thousand_routes_with_one_match_are_told_in_seconds() {
    let text = format!("[[listener]]\nbind = \":80\"\n{}", "[[route]]\nrespond = {}\n".repeat(ROUTES));
    let faults = within("same match", || config::parse("big.toml", &text)).unwrap_err();
    assert_eq!(faults.len(), ROUTES - 1);
}

#[test]
fn ten_thousand_routes_on_one_line_are_told_in_seconds() {
    let routes: Vec<_> = (0..ROUTES).map(|index| format!("{{ host = \"ü{index}\", respond = {{}} }}")).collect();
    let text = format!("route = [{}]\n[[listener]]\nbind = \":80\"\n", routes.join(", "));
    let faults = within("one line", || config::parse("big.toml", &text)).unwrap_err();
    assert_eq!(faults.len(), ROUTES);
    within("rendering", || faults.render(false));
}

#[test]
fn ten_thousand_syntax_faults_are_told_in_seconds() {
    for line in ["a = \n", "a = 1\n", "[[route]\n", "a b\n", "a = [\n", "a = {\n", "a = \"\"\"\n", "[a\n"] {
        let text = line.repeat(ROUTES);
        let faults = within(line.trim(), || config::parse("big.toml", &text)).unwrap_err();
        within("rendering", || faults.render(false));
    }
}
