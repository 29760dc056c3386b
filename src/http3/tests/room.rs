//! How much a client may ask for at a time.

use std::rc::Rc;

use http::Response;
use tokio::task::spawn_local;

use super::support::*;
use crate::http3::*;

#[test]
fn a_client_that_asks_for_much_may_ask_for_more() {
    on_worker(async {
        let link = link_with(|transport| {
            transport.max_concurrent_bidi_streams(FIRST_REQUESTS.into());
        })
        .await;
        let most = FIRST_REQUESTS as usize + 20;
        let config = Config { max_requests: most as u32, ..Config::default() };
        let everybody = Rc::new(tokio::sync::Barrier::new(most));
        let served = run(&link, config, async move |_, _| {
            // Nobody is answered before all have asked.
            everybody.wait().await;
            Response::new(full("hello"))
        });
        let (sender, _driver) = connect(&link, Config::default());
        let asked: Vec<_> = (0..most)
            .map(|_| {
                let sender = sender.clone();
                spawn_local(async move { sender.send(get("/"), drop).await.unwrap().status() })
            })
            .collect();
        for answer in asked {
            assert_eq!(answer.await.unwrap(), 200);
        }
        assert_eq!(served.control.served(), most as u64);
    });
}
