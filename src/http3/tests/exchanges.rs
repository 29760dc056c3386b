//! Requests and answers of all shapes between our two roles.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::support::*;
use crate::http3::error::Side;
use crate::http3::*;

#[test]
fn an_answer_comes_back() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |request, _| {
            assert_eq!(request.version(), Version::HTTP_3);
            assert_eq!(request.uri().to_string(), "https://localhost/a?b=c");
            assert_eq!(request.headers()["x-one"], "1");
            assert!(request.body().is_end_stream());
            Response::builder().header("x-two", "2").body(full("hello")).unwrap()
        });
        let (sender, driver) = connect(&link, Config::default());
        for _ in 0..3 {
            let mut request = get("/a?b=c");
            request.headers_mut().insert("x-one", "1".parse().unwrap());
            let answer = sender.send(request, drop).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.version(), Version::HTTP_3);
            assert_eq!(answer.headers()["x-two"], "2");
            assert_eq!(answer.headers()["content-length"], "5");
            assert!(answer.headers().contains_key("date"));
            let (text, trailers) = whole(answer.into_body()).await.unwrap();
            assert_eq!((&text[..], trailers), (&b"hello"[..], None));
        }
        assert_eq!(sender.open(), 0);
        assert_eq!(served.control.served(), 3);
        drop(sender);
        assert_eq!(driver.await.unwrap().code, Code::NO_ERROR);
        let closed = served.closed.await.unwrap();
        assert_eq!((closed.code, closed.side), (Code::NO_ERROR, Side::Remote));
        assert_eq!(served.control.open(), 0);
    });
}

#[test]
fn bodies_flow_both_ways_with_trailers() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |request, _| {
            let (feed, sent) = body(None);
            let mut incoming = request.into_body();
            spawn_local(async move {
                while let Some(frame) = incoming.frame().await {
                    let frame = frame.unwrap();
                    if feed.send(Ok(frame)).is_err() {
                        return;
                    }
                }
            });
            Response::new(sent)
        });
        let (sender, _driver) = connect(&link, Config::default());
        let (feed, sent) = body(None);
        let answer = sender.send(Request::post("https://localhost/").body(sent).unwrap(), drop).await.unwrap();
        let mut echoed = answer.into_body();
        // One after the other: each piece must come back before the next is sent.
        let mut total = 0;
        for size in [1, 100, 1500, 5000, 70_000, 300_000] {
            let piece = Bytes::from(vec![size as u8; size]);
            feed.send(data(piece)).unwrap();
            let mut left = size;
            while left > 0 {
                let frame = echoed.frame().await.unwrap().unwrap().into_data().unwrap();
                assert!(frame.iter().all(|byte| *byte == size as u8));
                left -= frame.len();
            }
            total += size;
        }
        assert!(total > 300_000);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        feed.send(Ok(http_body::Frame::trailers(trailers.clone()))).unwrap();
        drop(feed);
        let frame = echoed.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers);
        assert!(echoed.is_end_stream());
        assert!(echoed.frame().await.is_none());
    });
}

#[test]
fn a_reader_who_waits_holds_the_writer_back() {
    on_worker(async {
        let link = link_with(|transport| {
            transport.stream_receive_window(64_000u32.into()).send_window(64_000);
        })
        .await;
        let taken = Rc::new(Cell::new(0));
        let counted = Rc::clone(&taken);
        let _served = run(&link, Config::default(), async move |request, _| match request.uri().path() {
            "/endless" => Response::new(endless(&counted)),
            _ => Response::new(full("small")),
        });
        let (sender, _driver) = connect(&link, Config::default());
        let mut endless = sender.send(get("/endless"), drop).await.unwrap().into_body();
        endless.frame().await.unwrap().unwrap();
        for _ in 0..20 {
            // Other streams have their own windows, and the connection's is larger.
            let answer = sender.send(get("/"), drop).await.unwrap();
            assert_eq!(whole(answer.into_body()).await.unwrap().0, "small");
        }
        assert!(taken.get() < 1_000_000, "{}", taken.get());
        let before = taken.get();
        let mut read = 0;
        while read < 200_000 {
            read += endless.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        assert!(taken.get() > before, "what was read made room");
    });
}

#[test]
fn answers_without_content() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |request, _| {
            let status = request.uri().path()[1..].parse::<u16>().unwrap();
            let mut response = Response::builder().status(status);
            if request.method() == Method::HEAD {
                response = response.header("content-length", "1000");
            }
            response.body(full("nobody sees this")).unwrap()
        });
        let (sender, _driver) = connect(&link, Config::default());
        for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::HEAD, 404)] {
            let mut request = get(&format!("/{status}"));
            *request.method_mut() = method.clone();
            let answer = sender.send(request, drop).await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers().contains_key("content-length"), method == Method::HEAD);
            assert!(answer.body().is_end_stream());
            assert_eq!(whole(answer.into_body()).await.unwrap().0, "");
        }
    });
}

#[test]
fn interim_answers_come_before_the_final_one() {
    on_worker(async {
        let link = link().await;
        // The final answer waits until the interim one was seen.
        let seen = Rc::new(Notify::new());
        let awaited = Rc::clone(&seen);
        let _served = run(&link, Config::default(), async move |_, informational: Informational| {
            for status in [103, 101, 200] {
                informational.send(Response::builder().status(status).header("link", "</a>").body(()).unwrap());
            }
            awaited.notified().await;
            Response::new(full("final"))
        });
        let (sender, _driver) = connect(&link, Config::default());
        let statuses = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&statuses);
        let on_informational = move |head: Response<()>| {
            assert_eq!(head.headers()["link"], "</a>");
            noted.borrow_mut().push(head.status().as_u16());
            seen.notify_one();
        };
        let answer = sender.send(get("/"), on_informational).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(*statuses.borrow(), [103], "neither a switch of protocols nor a final head passes as interim");
    });
}

#[test]
fn an_early_answer_stops_the_upload() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |request, _| {
            drop(request);
            Response::builder().status(413).body(full("too much")).unwrap()
        });
        let (sender, _driver) = connect(&link, Config::default());
        let taken = Rc::new(Cell::new(0));
        let request = Request::post("https://localhost/").body(endless(&taken)).unwrap();
        let answer = sender.send(request, drop).await.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(whole(answer.into_body()).await.unwrap().0, "too much");
        while sender.open() > 0 {
            tokio::task::yield_now().await;
        }
        let answer = sender.send(get("/"), drop).await.unwrap();
        assert_eq!(answer.status(), 413, "the connection goes on");
    });
}

#[test]
fn what_breaks_off_never_looks_complete() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |request, _| {
            let length = (request.uri().path() == "/short").then_some(100);
            let (feed, sent) = body(length);
            feed.send(data("the beginning")).unwrap();
            if length.is_none() {
                feed.send(Err("the origin died".into())).unwrap();
            }
            Response::new(sent)
        });
        let (sender, _driver) = connect(&link, Config::default());
        for path in ["/broken", "/short"] {
            let failed = match sender.send(get(path), drop).await {
                Ok(answer) => whole(answer.into_body()).await.unwrap_err(),
                Err(failed) => failed.error,
            };
            assert_eq!(
                (failed.code(), failed.scope(), failed.side()),
                (Code::INTERNAL_ERROR, Scope::Stream, Side::Remote)
            );
        }
        // The other way: the server's reader hears of it, and the answer is not waited for.
        let (feed, sent) = body(Some(100));
        feed.send(data("the beginning")).unwrap();
        drop(feed);
        let request = Request::post("https://localhost/broken").body(sent).unwrap();
        let failed = sender.send(request, drop).await.unwrap_err();
        assert_eq!(failed.error.code(), Code::REQUEST_CANCELLED);
        assert!(failed.request.is_none());
        assert!(sender.is_open());
        while served.control.open() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_client_that_leaves_cancels_the_service() {
    on_worker(async {
        let link = link().await;
        let (called, dropped) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let notes = (Rc::clone(&called), Rc::clone(&dropped));
        let served = run(&link, Config::default(), async move |request, _| {
            let _dropped = Dropped(Rc::clone(&notes.1));
            notes.0.notify_one();
            let never = std::future::pending::<()>();
            never.await;
            drop(request);
            Response::new(full(""))
        });
        let (sender, _driver) = connect(&link, Config::default());
        // Complete, and with a body that nobody reads.
        for complete in [true, false] {
            let (feed, sent) = body(None);
            let request = match complete {
                true => get("/"),
                false => Request::post("https://localhost/").body(sent).unwrap(),
            };
            let sender = sender.clone();
            let asking = spawn_local(async move { drop(sender.send(request, drop).await) });
            called.notified().await;
            asking.abort();
            dropped.notified().await;
            drop(feed);
        }
        while served.control.open() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(sender.is_open());
    });
}

#[test]
fn an_upload_that_is_reset_reaches_its_reader() {
    on_worker(async {
        let link = link().await;
        let (read, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let called = Rc::new(Notify::new());
        let calls = Rc::clone(&called);
        let _served = run(&link, Config::default(), async move |request, _| {
            let read = read.clone();
            let mut body = request.into_body();
            calls.notify_one();
            // A task of its own, as an upstream connection is.
            spawn_local(async move {
                let mut last = body.frame().await;
                while let Some(Ok(_)) = last {
                    last = body.frame().await;
                }
                read.send(last.map(|frame| frame.map(drop))).ok();
            });
            std::future::pending().await
        });
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let (mut send, _recv) = rude.open(&[headers(&POST), frame_of(0, b"some")].concat()).await;
        called.notified().await;
        send.reset(0x10c_u32.into()).unwrap();
        let failed = ended.recv().await.unwrap().unwrap().unwrap_err();
        assert_eq!((failed.code(), failed.side()), (Code::REQUEST_CANCELLED, Side::Remote));
    });
}

#[test]
fn a_limit_of_streams_is_seen_and_waited_for() {
    on_worker(async {
        let link = link_with(|transport| {
            transport.max_concurrent_bidi_streams(2u32.into());
        })
        .await;
        let release = Rc::new(Notify::new());
        let released = Rc::clone(&release);
        let _served = run(&link, Config::default(), async move |_, _| {
            released.notified().await;
            Response::new(full(""))
        });
        let (sender, _driver) = connect(&link, Config::default());
        let mut asking = Vec::new();
        for _ in 0..3 {
            let sender = sender.clone();
            asking.push(spawn_local(async move { sender.send(get("/"), drop).await.unwrap().status() }));
        }
        while sender.open() < 3 {
            tokio::task::yield_now().await;
        }
        assert!(!sender.has_capacity());
        for asking in asking {
            release.notify_one();
            assert_eq!(asking.await.unwrap(), 200);
        }
        while !sender.has_capacity() {
            tokio::task::yield_now().await;
        }
        // The stream that was opened to see it is the next request's.
        release.notify_one();
        assert_eq!(sender.send(get("/"), drop).await.unwrap().status(), 200);
    });
}

#[test]
fn a_priority_changes_nothing_but_the_order() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |_, _| Response::new(full("x")));
        let (sender, _driver) = connect(&link, Config::default());
        for priority in ["u=0", "u=7, i", "nonsense;"] {
            let mut request = get("/");
            request.headers_mut().insert("priority", priority.parse().unwrap());
            assert_eq!(sender.send(request, drop).await.unwrap().status(), 200);
        }
    });
}

#[test]
fn a_body_that_breaks_off_is_noticed_while_the_peer_takes_nothing() {
    on_worker(async {
        let link = link_with(|transport| {
            transport.stream_receive_window(10_000u32.into());
        })
        .await;
        let called = Rc::new(Notify::new());
        let noted = Rc::clone(&called);
        let _served = run(&link, Config::default(), async move |_, _| {
            noted.notify_one();
            std::future::pending().await
        });
        let (sender, _driver) = connect(&link, Config::default());
        let (feed, sent) = body(None);
        // More than passes, and less than is held.
        feed.send(data(vec![0; 30_000])).unwrap();
        let request = Request::post("https://localhost/").body(sent).unwrap();
        let asking = spawn_local(async move { sender.send(request, drop).await.unwrap_err() });
        called.notified().await;
        feed.send(Err("broken off".into())).unwrap();
        asking.await.unwrap();
    });
}
