//! What a peer may do, but not without end.

use std::rc::Rc;
use std::time::Duration;

use http::Response;
use tokio::sync::Notify;

use super::support::*;
use crate::http3::frame::kind;
use crate::http3::*;

/// A server that answers everything, towards which `abuse` is done until it has enough.
fn has_enough_of<F>(abuse: F)
where
    F: AsyncFn(&mut Rude) -> Result<(), ()>,
{
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |request, _| {
            drop(whole(request.into_body()).await);
            std::future::pending().await
        });
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        while abuse(&mut rude).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(rude.closed_with().await, Code::EXCESSIVE_LOAD);
        assert_eq!(served.closed.await.unwrap().code, Code::EXCESSIVE_LOAD);
        while served.control.open() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn requests_that_are_given_up_at_once() {
    has_enough_of(async |rude| {
        let (mut send, mut recv) = rude.connection.open_bi().await.map_err(drop)?;
        send.write_all(&headers(&GET)).await.map_err(drop)?;
        send.reset(0x10c_u32.into()).map_err(drop)?;
        recv.stop(0x10c_u32.into()).map_err(drop)
    });
}

#[test]
fn requests_that_are_malformed_without_end() {
    has_enough_of(async |rude| {
        let (mut send, _recv) = rude.connection.open_bi().await.map_err(drop)?;
        send.write_all(&headers(&[(":method", "GET")])).await.map_err(drop)?;
        send.finish().map_err(drop)
    });
}

#[test]
fn streams_that_mean_nothing() {
    has_enough_of(async |rude| {
        let mut stream = rude.connection.open_uni().await.map_err(drop)?;
        stream.write_all(&[0x21]).await.map_err(drop)?;
        stream.finish().map_err(drop)
    });
}

#[test]
fn frames_that_mean_nothing() {
    has_enough_of(async |rude| {
        let (mut send, _recv) = rude.connection.open_bi().await.map_err(drop)?;
        send.write_all(&headers(&POST)).await.map_err(drop)?;
        loop {
            send.write_all(&[0, 0].repeat(1000)).await.map_err(drop)?;
        }
    });
}

#[test]
fn priorities_that_change_without_end() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |_, _| std::future::pending().await);
        let mut rude = Rude::new(&link.client);
        let control = rude.control(&[]).await;
        let updates = frame_of(kind::PRIORITY_UPDATE, &[&number(0)[..], b"u=1"].concat()).repeat(100);
        while control.write_all(&updates).await.is_ok() {}
        assert_eq!(served.closed.await.unwrap().code, Code::EXCESSIVE_LOAD);
    });
}

#[test]
fn heads_that_are_too_large() {
    on_worker(async {
        let link = link().await;
        let config = Config { max_field_section_size: 1000, max_fields: 20, ..Config::default() };
        let _served = run(&link, config, async |_, _| panic!("it is never called"));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let long = "a".repeat(2000);
        let longer = "a".repeat(20_000);
        let many = vec![("x", "y"); 21];
        for more in [&[("x", &*long)][..], &[("x", &*longer)], &many] {
            let mut answered = rude.request(&headers(&[&GET, more].concat())).await;
            let answer = answered.read_to_end(1000).await.unwrap();
            assert!(answer.ends_with(b"refused"), "{answer:?}");
        }
        assert!(link.client.close_reason().is_none());
    });
}

#[test]
fn heads_that_do_not_come() {
    on_worker(async {
        let link = link().await;
        let config = Config { header_timeout: Duration::from_millis(50), ..Config::default() };
        let _served = run(&link, config, async |_, _| panic!("it is never called"));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let head = headers(&GET);
        let (_send, mut recv) = rude.open(&head[..head.len() - 1]).await;
        let answer = recv.read_to_end(1000).await.unwrap();
        assert!(answer.ends_with(b"refused"), "{answer:?}");
    });
}

#[test]
fn a_refusal_that_nobody_takes_is_given_up() {
    on_worker(async {
        let link = link_with(|transport| {
            transport.stream_receive_window(16u32.into());
        })
        .await;
        let config = Config { header_timeout: Duration::from_millis(50), ..Config::default() };
        let served = run(&link, config, async |_, _| panic!("it is never called"));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let (_send, mut recv) = rude.open(&headers(&GET)[..3]).await;
        while served.control.served() == 0 || served.control.open() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(reset_with(&mut recv).await, Code::REQUEST_CANCELLED);
        assert!(link.client.close_reason().is_none());
    });
}

#[test]
fn interim_answers_without_end_are_not_kept() {
    on_worker(async {
        let link = link_with(|transport| {
            transport.stream_receive_window(500u32.into());
        })
        .await;
        let said = Rc::new(Notify::new());
        let saying = Rc::clone(&said);
        let _served = run(&link, Config::default(), async move |_, informational: Informational| {
            for _ in 0..5000 {
                informational.send(Response::builder().status(103).header("link", "</a>").body(()).unwrap());
                tokio::task::yield_now().await;
            }
            saying.notify_one();
            Response::new(full("final"))
        });
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let mut answered = rude.request(&headers(&GET)).await;
        said.notified().await;
        let answer = answered.read_to_end(usize::MAX).await.unwrap();
        assert!(answer.ends_with(b"final") && answer.len() < 5000, "{}", answer.len());
    });
}

#[test]
fn a_client_that_takes_nothing_is_judged() {
    // See `Watch`: the one here finds everybody late as soon as it is asked.
    on_worker(async {
        struct Hasty;
        struct Late;
        impl Watch for Late {
            fn poll_overdue(&self, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
                std::task::Poll::Ready(())
            }
        }
        impl Service for Hasty {
            type Body = Sent;
            fn call(
                &self,
                _: http::Request<RecvBody>,
                _: Informational,
            ) -> (impl Future<Output = Response<Sent>> + 'static, impl Watch + 'static) {
                (async { Response::new(endless(&Default::default())) }, Late)
            }
            fn refuse(&self, _: Refusal) -> Response<bytes::Bytes> {
                Response::default()
            }
        }
        let link = link_with(|transport| {
            transport.stream_receive_window(10_000u32.into());
        })
        .await;
        let control = Control::new();
        let _served = tokio::task::spawn_local(serve(link.server.clone(), Default::default(), control, Hasty));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let mut answered = rude.request(&headers(&GET)).await;
        assert_eq!(reset_with(&mut answered).await, Code::REQUEST_CANCELLED);
    });
}
