use std::sync::Mutex;

use super::*;
use crate::base::id::UpstreamId;
use crate::upstream::fixtures::{dns_endpoint, upstream_config};

type Answers = Arc<Mutex<HashMap<String, Result<(&'static str, u64), ()>>>>;

/// Answers from a table that the test changes.
struct Table(Answers, Arc<Mutex<Vec<String>>>);

impl Resolve for Table {
    fn resolve(&self, host: Arc<str>) -> impl Future<Output = Result<Resolved, Error>> + Send + 'static {
        self.1.lock().unwrap().push(host.to_string());
        let answer = self.0.lock().unwrap().get(&*host).copied();
        async move {
            match answer {
                Some(Ok((addresses, ttl))) => Ok(Resolved {
                    addresses: addresses.split(' ').map(|address| address.parse().unwrap()).collect(),
                    valid_for: Duration::from_secs(ttl),
                }),
                Some(Err(())) => Err(Error::upstream(Kind::DnsError, Retry::Always, "no such name")),
                None => std::future::pending().await,
            }
        }
    }
}

fn upstream(registry: &Registry, name: &str, hosts: &[&str]) -> Arc<Upstream> {
    let mut config = upstream_config(name, &[]);
    config.endpoints = hosts.iter().map(|host| dns_endpoint(host, 80)).collect();
    registry.upstream(UpstreamId(0), Arc::new(config), None)
}

fn labels(set: &EndpointSet) -> Vec<String> {
    set.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn on_control<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

struct Stage {
    registry: Arc<Registry>,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    discovery: Discovery<Table>,
}

fn stage() -> Stage {
    let (registry, answers, asked) = (Arc::new(Registry::new()), Answers::default(), Arc::new(Mutex::default()));
    let discovery = Discovery::new(Arc::clone(&registry), Table(Arc::clone(&answers), Arc::clone(&asked)));
    Stage { registry, answers, asked, discovery }
}

impl Stage {
    fn answer(&self, host: &str, answer: Result<(&'static str, u64), ()>) {
        self.answers.lock().unwrap().insert(host.to_owned(), answer);
    }
}

#[test]
fn names_resolve_at_the_start_and_a_hanging_one_holds_nothing_up() {
    on_control(async {
        let mut stage = stage();
        let upstream = upstream(&stage.registry, "api", &["a.test", "b.test", "hangs.test"]);
        stage.answer("a.test", Ok(("10.0.0.1 10.0.0.2", 60)));
        stage.answer("b.test", Err(()));
        stage.discovery.replace(&[Arc::clone(&upstream)]);
        let began = Instant::now();
        let changes = stage.discovery.settle(Duration::from_secs(3)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        assert_eq!(changes.len(), 1);
        assert_eq!(labels(&upstream.endpoints.load()), ["10.0.0.1:80", "10.0.0.2:80"]);
    });
}

#[test]
fn a_changed_answer_is_told_when_its_ttl_is_over_and_an_unchanged_one_is_not() {
    on_control(async {
        let mut stage = stage();
        let upstream = upstream(&stage.registry, "api", &["a.test"]);
        stage.answer("a.test", Ok(("10.0.0.1 10.0.0.2", 60)));
        stage.discovery.replace(&[Arc::clone(&upstream)]);
        stage.discovery.settle(Duration::from_secs(3)).await;
        let began = Instant::now();
        stage.answer("a.test", Ok(("10.0.0.2 10.0.0.1", 60)));
        assert!(timeout(Duration::from_secs(100), stage.discovery.changed()).await.is_err());
        stage.answer("a.test", Ok(("10.0.0.3", 60)));
        let changes = stage.discovery.changed().await;
        assert_eq!(began.elapsed().as_secs(), 120);
        assert_eq!(labels(&changes[0].endpoints), ["10.0.0.3:80"]);
        assert_eq!(labels(&upstream.endpoints.load()), ["10.0.0.3:80"]);
    });
}

#[test]
fn a_failing_name_keeps_its_last_addresses_and_is_asked_less_and_less() {
    on_control(async {
        let mut stage = stage();
        let upstream = upstream(&stage.registry, "api", &["a.test"]);
        stage.answer("a.test", Ok(("10.0.0.1", 5)));
        stage.discovery.replace(&[Arc::clone(&upstream)]);
        stage.discovery.settle(Duration::from_secs(3)).await;
        stage.answer("a.test", Err(()));
        assert!(timeout(Duration::from_secs(600), stage.discovery.changed()).await.is_err());
        assert_eq!(labels(&upstream.endpoints.load()), ["10.0.0.1:80"]);
        let asked = stage.asked.lock().unwrap().len();
        assert!((20..60).contains(&asked), "{asked} lookups in ten minutes");
        stage.answer("a.test", Ok(("10.0.0.2", 5)));
        let changes = stage.discovery.changed().await;
        assert_eq!(labels(&changes[0].endpoints), ["10.0.0.2:80"]);
    });
}

#[test]
fn one_name_in_two_upstreams_is_asked_once_and_changes_both() {
    on_control(async {
        let mut stage = stage();
        let upstreams = [upstream(&stage.registry, "a", &["x.test"]), upstream(&stage.registry, "b", &["x.test"])];
        stage.answer("x.test", Ok(("10.0.0.1", 5)));
        stage.discovery.replace(&upstreams);
        assert_eq!(stage.discovery.settle(Duration::from_secs(3)).await.len(), 2);
        assert_eq!(stage.asked.lock().unwrap().len(), 1);
    });
}

#[test]
fn a_name_that_is_gone_is_asked_no_more() {
    on_control(async {
        let mut stage = stage();
        stage.answer("a.test", Ok(("10.0.0.1", 5)));
        stage.discovery.replace(&[upstream(&stage.registry, "api", &["a.test"])]);
        stage.discovery.settle(Duration::from_secs(3)).await;
        stage.discovery.replace(&[]);
        assert!(timeout(Duration::from_secs(600), stage.discovery.changed()).await.is_err());
        assert_eq!(stage.asked.lock().unwrap().len(), 1);
    });
}

#[test]
fn a_ttl_is_kept_within_bounds() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    schedule.replace(["a"].into_iter(), now);
    assert_eq!(schedule.next(), Some(now));
    assert_eq!(schedule.due(now).len(), 1);
    assert_eq!(schedule.next(), None, "under way");
    schedule.answered("a", now, Duration::ZERO);
    assert_eq!(schedule.next(), Some(now + SHORTEST));
    schedule.answered("a", now, Duration::from_secs(86_400));
    assert_eq!(schedule.next(), Some(now + LONGEST));
}

#[test]
fn a_name_kept_across_generations_is_not_asked_before_its_time() {
    let now = Instant::now();
    let mut schedule = Schedule::default();
    schedule.replace(["a"].into_iter(), now);
    schedule.due(now);
    schedule.answered("a", now, Duration::from_secs(60));
    schedule.replace(["a", "b", "a"].into_iter(), now);
    assert_eq!(schedule.due(now), ["b".into()]);
    assert_eq!(schedule.next(), Some(now + Duration::from_secs(60)));
}
