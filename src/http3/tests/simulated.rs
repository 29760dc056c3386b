//! Over a network that loses, doubles and reorders: requests and answers are whole, or end with the error that is theirs.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};

use super::support::*;
use crate::http3::{Code, Config, Error};
use crate::transport::quic::tests::simulated::{Network, Weather, seeds, simulated};

fn noise(length: usize, seed: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Fields that the dynamic tables of both sides are used for, and refer to datagrams that may come later.
fn post(number: u64, body: &Bytes) -> Request<Sent> {
    Request::post(format!("https://localhost/{number}"))
        .header("x-common", "the same in all of them")
        .header("x-number", format!("number {}", number % 5))
        .body(full(body.clone()))
        .unwrap()
}

/// Answers with what was asked, its field and its body.
fn echo(link: &Link) -> Served {
    run(link, Config::default(), async |request, _| {
        let number = request.headers()["x-number"].clone();
        let (body, _) = whole(request.into_body()).await.unwrap();
        Response::builder().header("x-number", number).header("x-all", "the same").body(full(body)).unwrap()
    })
}

async fn exchange(sender: crate::http3::Sender, number: u64) -> Result<(), Error> {
    let body = noise(fastrand::Rng::with_seed(number).usize(0..20_000), number);
    let response = sender.send(post(number, &body), drop).await.map_err(|failed| failed.error)?;
    assert_eq!(response.headers()["x-number"], format!("number {}", number % 5));
    let (back, _) = whole(response.into_body()).await?;
    assert!(back == body, "{number}: other bytes came back");
    Ok(())
}

#[test]
fn exchanges_are_whole_whatever_the_weather() {
    for seed in seeds(8) {
        let weather = Weather::of(100 + seed);
        eprintln!("seed {seed}: {weather:?}");
        simulated(async {
            let link = simulated_link(&Network::new(seed, weather)).await;
            let _served = echo(&link);
            let (sender, _driver) = connect(&link, Config::default());
            let exchanges: Vec<_> =
                (0..20).map(|at| tokio::task::spawn_local(exchange(sender.clone(), seed * 20 + at))).collect();
            for exchange in exchanges {
                exchange.await.unwrap().unwrap();
            }
        });
    }
}

#[test]
fn a_broken_answer_is_never_whole_whatever_the_weather() {
    for seed in seeds(4) {
        simulated(async {
            let link = simulated_link(&Network::new(seed, Weather::of(200 + seed))).await;
            let _served = run(&link, Config::default(), async |_, _| {
                let (feed, sent) = body(Some(100_000));
                feed.send(data(vec![1; 50_000])).unwrap();
                feed.send(Err("broken off".into())).unwrap();
                Response::new(sent)
            });
            let (sender, _driver) = connect(&link, Config::default());
            let ended = match sender.send(get("/"), drop).await {
                // A reset overtakes what was sent before it.
                Err(failed) => failed.error,
                Ok(response) => whole(response.into_body()).await.unwrap_err(),
            };
            assert_eq!(ended.code(), Code::INTERNAL_ERROR, "seed {seed}: {ended:?}");
        });
    }
}

#[test]
fn a_way_that_ends_ends_every_exchange() {
    simulated(async {
        let network = Network::new(1, Weather::FAIR);
        let link = simulated_link(&network).await;
        let served = run(&link, Config::default(), async |_, _| std::future::pending().await);
        let (sender, driver) = connect(&link, Config::default());
        let waiting: Vec<_> = (0..5).map(|at| tokio::task::spawn_local(exchange(sender.clone(), at))).collect();
        while served.control.open() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        network.set(Weather { lost: 1000, ..Weather::FAIR });
        for exchange in waiting {
            assert!(exchange.await.unwrap().is_err());
        }
        driver.await.unwrap();
        let closed = served.closed.await.unwrap();
        assert!(served.control.open() == 0, "{closed:?}");
    });
}

/// Asks until it is refused, and counts what was answered.
async fn ask_on(sender: crate::http3::Sender, first: u64) -> u64 {
    let mut answered = 0;
    loop {
        match sender.send(post(first + answered, &noise(3000, first)), drop).await {
            Ok(response) => {
                let (back, _) = whole(response.into_body()).await.unwrap();
                assert!(back == noise(3000, first), "{first}: other bytes came back");
                answered += 1;
            }
            Err(failed) => {
                assert_eq!(failed.error.code(), Code::REQUEST_REJECTED, "{:?}", failed.error);
                return answered;
            }
        }
    }
}

/// The longest that anything takes here: a hundred round trips of the slowest link.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_departure_loses_nothing_whatever_the_weather() {
    for seed in seeds(20) {
        let weather = Weather::of(300 + seed);
        // The first of two has a network that loses nothing.
        let weather = if seed % 2 == 0 { Weather { lost: 0, ..weather } } else { weather };
        eprintln!("seed {seed}: {weather:?}");
        simulated(async {
            let link = simulated_link(&Network::new(seed, weather)).await;
            let served = echo(&link);
            let (sender, driver) = connect(&link, Config::default());
            let asking: Vec<_> = (0..8).map(|at| tokio::task::spawn_local(ask_on(sender.clone(), at * 1000))).collect();
            tokio::time::sleep(weather.delay * (seed as u32 % 30)).await;
            served.control.drain();
            for asking in asking {
                asking.await.unwrap();
            }
            // Half of the clients stay.
            let _kept = (seed % 4 < 2).then_some(sender);
            for closed in [served.closed, driver] {
                let closed = tokio::time::timeout(LONG, closed).await.expect("a departure ends").unwrap();
                assert_eq!(closed.code, Code::NO_ERROR, "{closed:?}");
            }
            let reason = link.client.close_reason();
            assert!(!matches!(reason, Some(quinn::ConnectionError::Reset)), "the client was not told");
        });
    }
}
