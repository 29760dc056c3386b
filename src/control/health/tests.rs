use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::base::error::Kind;
use crate::base::id::UpstreamId;
use crate::upstream::endpoint_set::EndpointSet;
use crate::upstream::fixtures::{on_paused_worker, upstream_config};
use crate::upstream::health::state::State;

/// Endpoints that are not well, by address, and everybody who was asked.
#[derive(Clone, Default)]
struct Ward {
    unwell: Rc<RefCell<Vec<String>>>,
    silent: Rc<RefCell<Vec<String>>>,
    asked: Rc<RefCell<Vec<String>>>,
}

impl Ask for Ward {
    async fn ask(&self, _: &Upstream, endpoint: &Endpoint, _: &model::Health) -> Result<(), String> {
        let address = endpoint.address.to_string();
        self.asked.borrow_mut().push(address.clone());
        if self.silent.borrow().contains(&address) {
            std::future::pending::<()>().await;
        }
        match self.unwell.borrow().contains(&address) {
            true => Err("answered 503".to_owned()),
            false => Ok(()),
        }
    }
}

const ONE: &str = "10.0.0.1:80";
const TWO: &str = "10.0.0.2:80";

struct Stage {
    registry: Arc<Registry>,
    ward: Ward,
    health: Health<Ward>,
}

impl Stage {
    fn new() -> Self {
        let (registry, ward) = (Arc::new(Registry::new()), Ward::default());
        let health = Health::new(Arc::clone(&registry), ward.clone());
        Self { registry, ward, health }
    }

    fn upstream(&self, edit: impl FnOnce(&mut model::Upstream)) -> Arc<Upstream> {
        let mut config = upstream_config("app", &[ONE.parse().unwrap(), TWO.parse().unwrap()]);
        config.health = Some(model::Health {
            path: None,
            host: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        });
        config.outlier =
            Some(model::Outlier { consecutive_failures: 2, eject_for: Duration::from_secs(30), max_ejected: 50 });
        edit(&mut config);
        self.registry.upstream(UpstreamId(0), Arc::new(config), None)
    }

    /// What changes next, as the addresses that are picked then.
    async fn picked(&mut self) -> Vec<String> {
        let changes = self.health.changed().await;
        assert_eq!(changes.len(), 1);
        assert!(Arc::ptr_eq(&changes[0].endpoints, &changes[0].upstream.endpoints.load()));
        addresses(&changes[0].endpoints)
    }

    /// Whether nothing changes for so long.
    async fn stays(&mut self, pause: Duration) -> bool {
        timeout(pause, self.health.changed()).await.is_err()
    }
}

fn addresses(set: &EndpointSet) -> Vec<String> {
    set.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn endpoint(upstream: &Upstream, address: &str) -> Arc<Endpoint> {
    let set = upstream.endpoints.load();
    Arc::clone(set.all().iter().find(|endpoint| endpoint.address.to_string() == address).unwrap())
}

fn fails(upstream: &Upstream, address: &str, times: u32) {
    (0..times).for_each(|_| endpoint(upstream, address).failed(Kind::ConnectionRefused));
}

#[test]
fn an_endpoint_that_fails_its_checks_goes_out_and_comes_in_again() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|_| {});
        stage.health.replace(&[Arc::clone(&upstream)]);
        assert_eq!(endpoint(&upstream, ONE).state.state(), State::Ready, "until it is proven otherwise");
        stage.ward.unwell.borrow_mut().push(TWO.to_owned());
        let began = Instant::now();
        assert_eq!(stage.picked().await, [ONE]);
        assert!((18..=22).contains(&began.elapsed().as_secs()), "the first check at once, then two intervals");
        let standing = endpoint(&upstream, TWO).state.standing().clone();
        assert_eq!((standing.checks_passed, standing.checks_failed), (0, 3));
        assert_eq!(standing.last_check.unwrap().failure.as_deref(), Some("answered 503"));
        assert_eq!(endpoint(&upstream, TWO).state.state(), State::Unhealthy);
        stage.ward.unwell.borrow_mut().clear();
        assert_eq!(stage.picked().await, [ONE, TWO]);
        assert_eq!(endpoint(&upstream, TWO).state.standing().checks_passed, 2);
    });
}

#[test]
fn an_endpoint_that_says_nothing_is_not_well() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|_| {});
        stage.health.replace(&[Arc::clone(&upstream)]);
        stage.ward.silent.borrow_mut().push(ONE.to_owned());
        assert_eq!(stage.picked().await, [TWO]);
        let last = endpoint(&upstream, ONE).state.standing().last_check.clone().unwrap();
        assert_eq!(last.failure.as_deref(), Some("no answer within 1s"));
        assert_eq!(last.took, Duration::from_secs(1));
    });
}

#[test]
fn endpoints_that_fail_together_go_out_together_and_the_reason_is_told() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|config| config.health.as_mut().unwrap().unhealthy_after = 1);
        stage.health.replace(&[Arc::clone(&upstream)]);
        stage.ward.unwell.borrow_mut().extend([ONE.to_owned(), TWO.to_owned()]);
        assert!(stage.picked().await.is_empty());
        assert!(upstream.endpoints.load().why_none().ends_with("fails its health check"));
    });
}

#[test]
fn a_reload_that_changes_nothing_keeps_state_and_time() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let first = stage.upstream(|_| {});
        stage.health.replace(&[Arc::clone(&first)]);
        stage.ward.unwell.borrow_mut().push(TWO.to_owned());
        assert!(stage.stays(Duration::from_secs(15)).await);
        assert_eq!(stage.ward.asked.borrow().len(), 4, "two rounds of two");
        let second = stage.upstream(|config| config.timeouts.response = Duration::from_secs(7));
        assert!(stage.health.replace(&[Arc::clone(&second)]).is_empty());
        assert!(stage.stays(Duration::from_millis(1)).await);
        assert_eq!(stage.ward.asked.borrow().len(), 4, "nobody is asked before the time");
        assert_eq!(stage.picked().await, [ONE], "with the third failure in a row, two of them before the reload");
        drop(first);
        let third = stage.upstream(|_| {});
        assert_eq!(addresses(&third.endpoints.load()), [ONE], "it stays out in a new generation");
    });
}

#[test]
fn another_question_is_asked_at_once_and_judged_by_a_row_of_its_own() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|_| {});
        stage.health.replace(&[upstream]);
        stage.ward.unwell.borrow_mut().push(TWO.to_owned());
        assert!(stage.stays(Duration::from_secs(15)).await);
        let other = stage.upstream(|config| config.health.as_mut().unwrap().path = Some("/up".parse().unwrap()));
        stage.health.replace(&[Arc::clone(&other)]);
        let began = Instant::now();
        assert_eq!(stage.picked().await, [ONE]);
        assert!((18..=22).contains(&began.elapsed().as_secs()));
        let again = stage.upstream(|config| config.health.as_mut().unwrap().path = Some("/ok".parse().unwrap()));
        stage.health.replace(&[Arc::clone(&again)]);
        assert_eq!(endpoint(&again, TWO).state.state(), State::Unhealthy, "what is known is not forgotten");
    });
}

#[test]
fn an_answer_to_an_old_question_is_not_taken_for_one_to_the_new() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|config| config.health.as_mut().unwrap().unhealthy_after = 1);
        stage.health.replace(&[upstream]);
        stage.ward.silent.borrow_mut().push(TWO.to_owned());
        assert!(stage.stays(Duration::from_millis(500)).await, "the check is under way");
        stage.ward.silent.borrow_mut().clear();
        let other = stage.upstream(|config| config.health.as_mut().unwrap().path = Some("/up".parse().unwrap()));
        stage.health.replace(&[Arc::clone(&other)]);
        assert!(stage.stays(Duration::from_secs(5)).await);
        assert_eq!(endpoint(&other, TWO).state.standing().checks_failed, 0);
    });
}

#[test]
fn without_checks_nobody_is_unhealthy() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|_| {});
        stage.health.replace(&[upstream]);
        stage.ward.unwell.borrow_mut().push(TWO.to_owned());
        assert_eq!(stage.picked().await, [ONE]);
        let asked = stage.ward.asked.borrow().len();
        let unasked = stage.upstream(|config| config.health = None);
        let changes = stage.health.replace(&[Arc::clone(&unasked)]);
        assert_eq!(addresses(&changes[0].endpoints), [ONE, TWO]);
        assert!(endpoint(&unasked, TWO).state.standing().last_check.is_none());
        assert!(stage.stays(Duration::from_secs(60)).await);
        assert_eq!(stage.ward.asked.borrow().len(), asked);
    });
}

#[test]
fn an_endpoint_that_fails_traffic_is_out_for_a_while_and_longer_the_second_time() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|config| config.health = None);
        stage.health.replace(&[Arc::clone(&upstream)]);
        fails(&upstream, TWO, 1);
        assert!(stage.stays(Duration::from_secs(1)).await);
        for times in 1..=3 {
            fails(&upstream, TWO, 2);
            assert_eq!(stage.picked().await, [ONE]);
            assert_eq!(endpoint(&upstream, TWO).state.state(), State::Ejected);
            let began = Instant::now();
            assert_eq!(stage.picked().await, [ONE, TWO]);
            assert_eq!(began.elapsed().as_secs(), 30 * times);
        }
        assert_eq!(endpoint(&upstream, TWO).state.standing().ejections, 3);
    });
}

#[test]
fn the_last_one_stays_in_however_it_fails() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|config| {
            config.health = None;
            config.outlier.as_mut().unwrap().max_ejected = 100;
        });
        stage.health.replace(&[Arc::clone(&upstream)]);
        fails(&upstream, TWO, 2);
        assert_eq!(stage.picked().await, [ONE]);
        fails(&upstream, ONE, 2);
        assert!(stage.stays(Duration::from_secs(1)).await);
        assert_eq!(endpoint(&upstream, ONE).state.failures_in_a_row(), 0, "its next row begins");
    });
}

#[test]
fn who_is_ejected_comes_in_when_nobody_else_is_left() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let upstream = stage.upstream(|config| config.outlier.as_mut().unwrap().eject_for = Duration::from_secs(600));
        stage.health.replace(&[Arc::clone(&upstream)]);
        fails(&upstream, TWO, 2);
        assert_eq!(stage.picked().await, [ONE]);
        stage.ward.unwell.borrow_mut().push(ONE.to_owned());
        assert_eq!(stage.picked().await, [TWO]);
        assert_eq!(endpoint(&upstream, TWO).state.state(), State::Ready);
    });
}

#[test]
fn an_ejection_outlives_a_reload_and_ends_with_what_asked_for_it() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let first = stage.upstream(|config| config.health = None);
        stage.health.replace(&[Arc::clone(&first)]);
        fails(&first, TWO, 2);
        assert_eq!(stage.picked().await, [ONE]);
        let second = stage.upstream(|config| config.health = None);
        assert!(stage.health.replace(&[Arc::clone(&second)]).is_empty());
        let began = Instant::now();
        assert_eq!(stage.picked().await, [ONE, TWO]);
        assert_eq!(began.elapsed().as_secs(), 30);
        fails(&second, TWO, 2);
        assert_eq!(stage.picked().await, [ONE]);
        let third = stage.upstream(|config| {
            config.health = None;
            config.outlier = None;
        });
        assert_eq!(addresses(&stage.health.replace(&[third])[0].endpoints), [ONE, TWO]);
    });
}

#[test]
fn no_more_are_asked_at_once_than_there_are_descriptors_for() {
    on_paused_worker(async {
        let mut stage = Stage::new();
        let many: Vec<_> = (1..=600u16).map(|port| ([10, 0, 0, 1], port).into()).collect();
        let upstream = stage.upstream(|config| config.endpoints = upstream_config("app", &many).endpoints);
        let silent = many.iter().map(std::net::SocketAddr::to_string);
        stage.ward.silent.borrow_mut().extend(silent);
        stage.health.replace(&[upstream]);
        assert!(stage.stays(Duration::from_millis(500)).await);
        assert_eq!(stage.ward.asked.borrow().len(), MAX_UNDER_WAY);
        assert!(stage.stays(Duration::from_secs(2)).await);
        assert_eq!(stage.ward.asked.borrow().len(), 600, "the others once the first are answered or out of time");
    });
}
