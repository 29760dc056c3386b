use tokio::join;

use super::*;
use crate::base::id::UpstreamId;
use crate::config::model;
use crate::upstream::balance::EndpointIndex;
use crate::upstream::fixtures::{
    Caller, Origin, OriginConnection, body_of, on_paused_worker, on_worker, until, upstream_config,
};
use crate::upstream::registry::Registry;

async fn origin_and_config() -> (Origin, model::Upstream) {
    let origin = Origin::bind().await;
    let config = upstream_config("api", &[origin.address()]);
    (origin, config)
}

/// Leaves `count` idle connections behind; the last of them became idle last.
async fn fill(caller: &Caller, origin: &Origin, count: usize) -> Vec<OriginConnection> {
    let mut sessions = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..count {
        let (session, connection) = join!(caller.session(false), origin.accept());
        sessions.push(session.unwrap());
        connections.push(connection);
    }
    let before = caller.pools.resting().0;
    for (turn, session) in sessions.into_iter().enumerate() {
        let (answer, ()) =
            join!(session.send(crate::upstream::fixtures::request()), async { connections[turn].answer().await });
        body_of(answer.ok().unwrap()).await;
        until(|| caller.pools.resting().0 == before + turn + 1 || caller.pools.resting().0 == 2).await;
    }
    connections
}

#[test]
fn the_connection_that_became_idle_last_is_used_first() {
    on_worker(async {
        let (origin, config) = origin_and_config().await;
        let caller = Caller::new(config);
        let mut connections = fill(&caller, &origin, 2).await;
        let (answer, ()) = join!(caller.get(), connections[1].answer());
        assert_eq!(body_of(answer.ok().unwrap()).await, "hello");
    });
}

#[test]
fn past_the_limit_the_one_that_is_idle_for_longest_closes() {
    on_worker(async {
        let (origin, mut config) = origin_and_config().await;
        config.pool.max_idle_per_endpoint = 2;
        let caller = Caller::new(config);
        let mut connections = fill(&caller, &origin, 3).await;
        assert_eq!(caller.pools.resting().0, 2);
        assert!(connections[0].is_closed().await);
        let (answer, ()) = join!(caller.get(), connections[2].answer());
        assert!(answer.is_ok());
    });
}

#[test]
fn limits_are_shared_out_among_the_workers() {
    let limits =
        PoolLimits { max_idle_per_endpoint: 10, idle_timeout: Duration::from_secs(1), max_age: Duration::from_secs(1) };
    assert_eq!(Limits::shared_out(&limits, 4).max_idle, 2);
    assert_eq!(Limits::shared_out(&limits, 64).max_idle, 1);
}

#[test]
fn an_idle_connection_closes_after_the_idle_timeout() {
    on_paused_worker(async {
        let (origin, mut config) = origin_and_config().await;
        config.pool.idle_timeout = Duration::from_secs(10);
        let caller = Caller::new(config);
        let mut connections = fill(&caller, &origin, 1).await;
        let began = Instant::now();
        assert!(connections[0].is_closed().await);
        let idle = began.elapsed();
        assert!(idle >= Duration::from_secs(9) && idle <= Duration::from_secs(11), "{idle:?}");
        assert_eq!(caller.pools.resting().0, 0);
        // Nothing is left to look at: the worker sleeps for good until there is a connection again.
        tokio::time::sleep(2 * SWEEP).await;
        assert!(!caller.pools.clock.sweeping.get());
        fill(&caller, &origin, 1).await;
        assert!(caller.pools.clock.sweeping.get());
    });
}

#[test]
fn a_connection_is_not_used_past_its_age() {
    on_paused_worker(async {
        let (origin, mut config) = origin_and_config().await;
        config.pool.max_age = Duration::from_secs(100);
        let caller = Caller::new(config);
        origin.serve();
        let began = Instant::now();
        // Used again and again it never becomes idle for long.
        while caller.connects().0 < 2 {
            body_of(caller.get().await.ok().unwrap()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let age = began.elapsed().as_secs();
        assert!((88..=112).contains(&age), "{age} s");
    });
}

#[test]
fn ages_differ_by_up_to_a_tenth() {
    on_paused_worker(async {
        let (_origin, config) = origin_and_config().await;
        let max_age = config.pool.max_age.as_secs_f64();
        let caller = Caller::new(config);
        let pool = caller.pools.pools.borrow().values().next().cloned().unwrap();
        let now = Instant::now();
        let ages: Vec<f64> = (0..500).map(|_| (pool.expiry() - now).as_secs_f64() / max_age).collect();
        assert!(ages.iter().all(|age| (0.9..=1.1).contains(age)));
        assert!(ages.iter().any(|age| *age < 0.95) && ages.iter().any(|age| *age > 1.05));
    });
}

#[test]
fn a_new_generation_finds_the_idle_connections_of_the_one_before() {
    on_worker(async {
        let (origin, mut config) = origin_and_config().await;
        let mut caller = Caller::new(config.clone());
        let mut connections = fill(&caller, &origin, 1).await;
        config.timeouts.response = Duration::from_secs(77);
        config.pool.max_idle_per_endpoint = 3;
        let renewed = Registry::new().upstream(UpstreamId(5), Arc::new(config), None);
        caller.upstream = caller.pools.attach(&renewed);
        caller.pools.retire_unused();
        let (answer, ()) = join!(caller.get(), connections[0].answer());
        assert!(answer.is_ok());
        assert_eq!(caller.connects(), (1, 1));
    });
}

#[test]
fn connections_that_no_generation_uses_close_even_when_they_come_back_later() {
    on_worker(async {
        let (origin, mut config) = origin_and_config().await;
        let mut caller = Caller::new(config.clone());
        let mut connections = fill(&caller, &origin, 2).await;
        let busy = caller.session(false).await.unwrap();
        config.socket.nodelay = false;
        let renewed = Registry::new().upstream(UpstreamId(0), Arc::new(config), None);
        caller.upstream = caller.pools.attach(&renewed);
        caller.pools.retire_unused();
        assert!(connections[0].is_closed().await);
        drop(busy);
        assert!(connections[1].is_closed().await);
    });
}

#[test]
fn endpoints_that_stay_keep_their_connections_when_names_change() {
    on_worker(async {
        let (one, two) = (Origin::bind().await, Origin::bind().await);
        let config = upstream_config("api", &[one.address(), two.address()]);
        let registry = Registry::new();
        let caller = Caller::new(config.clone());
        let mut connections = Vec::new();
        for origin in [&one, &two] {
            let (answer, connection) = join!(caller.get(), async {
                let mut connection = origin.accept().await;
                connection.answer().await;
                connection
            });
            body_of(answer.ok().unwrap()).await;
            connections.push(connection);
        }
        until(|| caller.pools.resting().0 == 2).await;
        let mut fewer = config;
        fewer.endpoints.remove(0);
        caller.upstream.set_endpoints(registry.endpoint_set(&fewer));
        assert!(connections[0].is_closed().await);
        let (answer, ()) = join!(caller.get(), connections[1].answer());
        assert!(answer.is_ok());
    });
}

#[test]
fn a_draining_worker_keeps_nothing() {
    on_worker(async {
        let (origin, config) = origin_and_config().await;
        let caller = Caller::new(config);
        let mut connections = fill(&caller, &origin, 2).await;
        let busy = caller.session(false).await.unwrap();
        caller.pools.close_idle();
        assert!(connections[0].is_closed().await);
        drop(busy);
        assert!(connections[1].is_closed().await);
        assert_eq!(caller.pools.resting().0, 0);
    });
}

#[test]
fn requests_in_flight_are_counted_only_for_who_asks() {
    on_worker(async {
        let addresses = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        for (balance, counted) in [(model::Balance::LeastRequests, 1), (model::Balance::RoundRobin, 0)] {
            let mut config = upstream_config("api", &addresses);
            config.balance = balance;
            let caller = Caller::new(config);
            let pick = caller.upstream.pick(None, &[]).unwrap();
            assert_eq!(pick.endpoint().state.in_flight(), counted);
            let other = caller.upstream.pick(None, &[]).unwrap();
            assert_ne!(pick.index(), other.index());
            let state = Arc::clone(&pick.endpoint().state);
            drop(pick);
            assert_eq!(state.in_flight(), 0);
            assert_eq!(caller.upstream.pick(None, &[EndpointIndex(0)]).unwrap().index(), EndpointIndex(1));
        }
    });
}

#[test]
fn an_upstream_without_addresses_says_so() {
    on_worker(async {
        let caller = Caller::new(upstream_config("api", &[]));
        assert_eq!(caller.upstream.pick(None, &[]).err().unwrap().kind(), Kind::DestinationUnavailable);
    });
}

#[test]
fn refused_and_late_connections_are_worth_a_retry() {
    on_worker(async {
        let refused = Origin::bind().await.address();
        let error = Caller::new(upstream_config("api", &[refused])).session(false).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionRefused, Retry::Always));

        // A full accept queue drops what comes next, as a host that is gone does.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _queued: Vec<_> =
            (0..4).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
        let mut config = upstream_config("api", &[address]);
        config.timeouts.connect = Duration::from_millis(100);
        let error = Caller::new(config).session(false).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTimeout, Retry::Always));
    });
}

#[test]
fn who_waits_for_one_connection_after_the_other_gives_up() {
    on_paused_worker(async {
        let connecting = Connecting::default();
        let begun = Instant::now();
        let waiting = async {
            let until = begun + Duration::from_secs(5);
            loop {
                if let Err(error) = connecting.wait(until).await {
                    return error.kind();
                }
            }
        };
        let making = async {
            for _ in 0..60 {
                let attempt = connecting.attempt();
                timer::sleep(Duration::from_secs(1)).await;
                drop(attempt);
            }
        };
        let (kind, ()) = join!(waiting, async {
            tokio::select! {
                () = making => {}
                () = timer::sleep(Duration::from_secs(6)) => {}
            }
        });
        assert_eq!(kind, Kind::ConnectionTimeout);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
}
