//! GOAWAY on both sides: what is under way is finished, what was not begun is given back.

use std::rc::Rc;

use http::Response;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::support::*;
use crate::http3::*;

#[test]
fn a_draining_server_answers_what_was_asked() {
    on_worker(async {
        let link = link().await;
        let (called, release) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let notes = (Rc::clone(&called), Rc::clone(&release));
        let served = run(&link, Config::default(), async move |_, _| {
            notes.0.notify_one();
            notes.1.notified().await;
            Response::new(full("all of it"))
        });
        let (sender, driver) = connect(&link, Config::default());
        let asking = sender.clone();
        let asking = spawn_local(async move { asking.send(get("/"), drop).await.unwrap() });
        called.notified().await;
        served.control.drain();
        while !sender.is_going_away() {
            tokio::task::yield_now().await;
        }
        let failed = sender.send(get("/"), drop).await.unwrap_err();
        assert_eq!(failed.error.code(), Code::REQUEST_REJECTED);
        assert!(failed.request.is_some());
        release.notify_one();
        let answer = asking.await.unwrap();
        assert_eq!(whole(answer.into_body()).await.unwrap().0, "all of it");
        let closed = served.closed.await.unwrap();
        assert_eq!(closed.code, Code::NO_ERROR);
        assert_eq!(driver.await.unwrap().code, Code::NO_ERROR);
        assert!(!sender.is_open());
    });
}

#[test]
fn a_draining_server_closes_though_its_client_stays() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async move |_, _| Response::new(full("")));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let mut answered = rude.request(&headers(&GET)).await;
        answered.read_to_end(1000).await.unwrap();
        served.control.drain();
        assert_eq!(served.closed.await.unwrap().code, Code::NO_ERROR);
        assert_eq!(rude.closed_with().await, Code::NO_ERROR);
    });
}

#[test]
fn requests_past_a_goaway_are_given_back() {
    on_worker(async {
        let link = link().await;
        let mut rude = Rude::new(&link.server);
        let (sender, _driver) = connect(&link, Config::default());
        let asking = spawn_local(async move { (sender.send(get("/"), drop).await, sender) });
        // The peer took it and says that it did not.
        let _stream = link.server.accept_bi().await.unwrap();
        rude.control(&frame_of(frame::kind::GOAWAY, &number(0))).await;
        let (failed, sender) = asking.await.unwrap();
        let failed = failed.unwrap_err();
        assert_eq!(failed.error.code(), Code::REQUEST_REJECTED);
        assert_eq!(failed.request.unwrap().uri().path(), "/");
        assert!(sender.is_going_away());
    });
}

#[test]
fn a_rejected_request_is_given_back() {
    on_worker(async {
        let link = link().await;
        let mut rude = Rude::new(&link.server);
        rude.control(&[]).await;
        let (sender, _driver) = connect(&link, Config::default());
        let asking = spawn_local(async move { (sender.send(get("/"), drop).await, sender) });
        let (mut send, mut recv) = link.server.accept_bi().await.unwrap();
        send.reset(0x10b_u32.into()).unwrap();
        recv.stop(0x10b_u32.into()).unwrap();
        let (failed, sender) = asking.await.unwrap();
        let failed = failed.unwrap_err();
        assert_eq!((failed.error.code(), failed.error.scope()), (Code::REQUEST_REJECTED, Scope::Stream));
        assert!(failed.request.is_some());
        assert!(sender.is_open());
    });
}

#[test]
fn a_connection_that_breaks_fails_what_is_under_way() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |_, _| std::future::pending().await);
        let (sender, driver) = connect(&link, Config::default());
        let asking = sender.clone();
        let asking = spawn_local(async move { asking.send(get("/"), drop).await.unwrap_err() });
        while served.control.open() == 0 {
            tokio::task::yield_now().await;
        }
        served.control.close(Code::EXCESSIVE_LOAD);
        let failed = asking.await.unwrap();
        assert_eq!((failed.error.code(), failed.error.scope()), (Code::EXCESSIVE_LOAD, Scope::Connection));
        assert!(failed.request.is_none(), "it may have been processed");
        assert_eq!(driver.await.unwrap().side, Side::Remote);
        assert_eq!(served.closed.await.unwrap().code, Code::EXCESSIVE_LOAD);
        while served.control.open() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_request_that_waits_for_a_stream_does_not_wait_for_a_server_that_leaves() {
    on_worker(async {
        let one_at_a_time = |transport: &mut quinn::TransportConfig| {
            transport.max_concurrent_bidi_streams(1_u32.into());
        };
        let link = link_with(one_at_a_time).await;
        let served = run(&link, Config::default(), async |_, _| std::future::pending().await);
        let (sender, _driver) = connect(&link, Config::default());
        let open = sender.clone();
        let open = spawn_local(async move { open.send(get("/"), drop).await });
        while served.control.open() == 0 {
            tokio::task::yield_now().await;
        }
        let waiting = sender.clone();
        let waiting = spawn_local(async move { waiting.send(get("/"), drop).await });
        served.control.drain();
        let failed = waiting.await.unwrap().unwrap_err();
        assert_eq!(failed.error.code(), Code::REQUEST_REJECTED);
        assert!(failed.request.is_some());
        assert!(!open.is_finished(), "one that was begun is finished");
    });
}
