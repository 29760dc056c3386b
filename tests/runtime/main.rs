//! The life of a process over real loopback traffic: start, reload, limits, hand-over, drain, leave.

mod admin;
mod process;
mod quic;
mod reload;
mod supervised;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::{Client, Origin, Site, eventually, start};
use tidegate::app::ExitReason;
use tidegate::base::addr::Address;
use tidegate::base::id::Generation;
use tidegate::control::reload::Refused;

#[test]
fn serves_on_a_port_that_the_kernel_picked_and_says_which() {
    let site = Site::new().listener("web").answer("one");
    let running = start(&site);
    assert_eq!(running.addresses().len(), 1);
    let mut client = Client::connect(&running, "web");
    assert_eq!(client.get("/").body, "one");
    assert_eq!(running.counters().requests, 1);
}

#[test]
fn two_proxies_live_in_one_process() {
    let first = start(&Site::new().listener("web").answer("first"));
    let second = start(&Site::new().listener("web").answer("second"));
    assert_eq!(Client::connect(&first, "web").get("/").body, "first");
    assert_eq!(Client::connect(&second, "web").get("/").body, "second");
    first.stop();
    assert_eq!(first.wait(), ExitReason::Stopped);
    assert_eq!(Client::connect(&second, "web").get("/").body, "second");
}

#[test]
fn an_address_in_use_is_refused_by_the_system_and_leaves_nothing_behind() {
    let running = start(&Site::new().listener("web"));
    let Some(Address::Socket(taken)) = running.address_of("web") else { panic!("no address") };
    let site = Site::new().listener("other").listener_at("web", taken);
    let Err(refused) = support::try_start(&site) else { panic!("two proxies share an address") };
    assert!(matches!(&refused, Refused::Bind(errors) if errors.len() == 1), "{refused}");
    assert!(!refused.is_fault_of_configuration());
}

#[test]
fn a_reload_keeps_sockets_and_connections_and_changes_what_they_serve() {
    let site = Site::new().listener("web").answer("old");
    let running = start(&site);
    let before = running.address_of("web");
    let mut client = Client::connect(&running, "web");
    assert_eq!(client.get("/").body, "old");

    let report = running.reload(site.answer("new").config()).unwrap();
    assert_eq!(report.generation, Generation(2));
    assert_eq!((report.sockets.kept, report.sockets.opened, report.sockets.closed), (1, 0, 0));
    assert_eq!(running.address_of("web"), before);
    assert_eq!(client.get("/").body, "new");
    assert_eq!(running.counters().connections_accepted, 1);
    assert_eq!(running.control_counters().reloads.value(), 1);
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let site = Site::new().workers(2).listener("web").answer("0");
    let running = start(&site);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut client = Client::connect(&running, "web");
                        for _ in 0..4 {
                            assert_eq!(client.get("/").status, 200);
                        }
                    }
                })
            })
            .collect();
        let mut generation = 1;
        while clients.iter().any(|client| !client.is_finished()) {
            generation += 1;
            let report = running.reload(site.clone().answer(&generation.to_string()).config()).unwrap();
            assert_eq!(report.generation, Generation(generation));
        }
    });
    assert_eq!(running.counters().requests, 4 * 50 * 4);
}

#[test]
fn a_faulty_reload_changes_nothing() {
    let site = Site::new().listener("web").answer("old");
    let running = start(&site);
    let broken = site.clone().answer("new").listener("added").with_missing_certificate("added");
    let Err(Refused::Faults(faults)) = running.reload(broken.config()) else { panic!("it was taken") };
    assert!(!faults.is_empty());
    assert_eq!(running.addresses().len(), 1);
    assert_eq!(Client::connect(&running, "web").get("/").body, "old");
    assert_eq!(running.control_counters().reload_failures.value(), 1);
    assert_eq!(running.control_counters().generation.value(), 1);
}

#[test]
fn a_reload_that_cannot_bind_closes_what_it_opened() {
    let other = start(&Site::new().listener("web"));
    let Some(Address::Socket(taken)) = other.address_of("web") else { panic!("no address") };
    let site = Site::new().listener("web").answer("old");
    let running = start(&site);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("added.sock");
    let refused = running.reload(site.unix_listener("added", &path).listener_at("taken", taken).config());
    assert!(matches!(refused, Err(Refused::Bind(_))));
    assert!(!path.exists(), "the socket file of a refused reload stays");
    assert_eq!(Client::connect(&running, "web").get("/").body, "old");
}

#[test]
fn a_reload_adds_and_removes_listeners() {
    let site = Site::new().listener("web");
    let running = start(&site);
    let report = running.reload(site.clone().listener("added").config()).unwrap();
    assert_eq!((report.sockets.kept, report.sockets.opened), (1, 1));
    let Some(Address::Socket(added)) = running.address_of("added") else { panic!("no address") };
    let mut idle = Client::connect(&running, "added");
    assert_eq!(idle.get("/").status, 200);

    let report = running.reload(site.config()).unwrap();
    assert_eq!((report.sockets.kept, report.sockets.closed), (1, 1));
    assert!(idle.is_closed(), "an idle connection of a listener that went is closed");
    assert!(eventually(|| TcpStream::connect(added).is_err()), "the socket of a listener that went is closed");
    assert_eq!(Client::connect(&running, "web").get("/").status, 200);
}

#[test]
fn who_waits_in_the_queue_of_a_listener_that_goes_is_served_by_its_last_generation() {
    // The listener that stays takes over the number of the one that goes.
    let site = Site::new().listener("going").max_connections("going", 1).listener("web").answer("old");
    let running = start(&site);
    let mut first = Client::connect(&running, "going");
    assert_eq!(first.get("/").body, "old");
    let mut queued = Client::connect(&running, "going");
    queued.send("/");
    running.reload(Site::new().listener("web").answer("new").config()).unwrap();
    let answer = queued.receive();
    assert_eq!(answer.body, "old");
    assert!(answer.says_close());
}

#[test]
fn an_address_comes_back_while_its_queue_is_still_emptied() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::new().listener("web");
    let with = site.clone().listener_at("going", address).max_connections("going", 1);
    let running = start(&with);
    let mut first = Client::at(address);
    assert_eq!(first.get("/").status, 200);
    let mut queued = Client::at(address);
    queued.send("/");
    running.reload(site.config()).unwrap();
    running.reload(with.config()).unwrap();
    assert_eq!(Client::at(address).get("/").status, 200);
    assert!(first.is_closed());
    assert!(queued.receive().says_close());
}

#[test]
fn a_full_listener_leaves_clients_in_the_queue() {
    let running = start(&Site::new().workers(2).listener("web").max_connections("web", 1));
    // Each lands on either worker; the one permit must find its way to it.
    for _ in 0..20 {
        let mut open = Client::connect(&running, "web");
        assert_eq!(open.get("/").status, 200);
        let mut waiting = Client::connect(&running, "web");
        waiting.send("/");
        assert_eq!(running.counters().connections_open, 1);
        drop(open);
        assert_eq!(waiting.receive().status, 200);
        drop(waiting);
        assert!(eventually(|| running.counters().connections_open == 0));
    }
}

#[test]
fn a_raised_limit_lets_in_who_waits() {
    let site = Site::new().listener("web").max_connections("web", 1);
    let running = start(&site);
    let mut open = Client::connect(&running, "web");
    assert_eq!(open.get("/").status, 200);
    let mut waiting = Client::connect(&running, "web");
    waiting.send("/");
    running.reload(site.clone().max_connections("web", 2).config()).unwrap();
    assert_eq!(waiting.receive().status, 200);
    let mut lifted = Client::connect(&running, "web");
    lifted.send("/");
    running.reload(site.unlimited("web").config()).unwrap();
    assert_eq!(lifted.receive().status, 200);
    assert_eq!(open.get("/").status, 200);
}

#[test]
fn an_address_with_too_many_connections_is_closed_at_once() {
    let running = start(&Site::new().listener("web").max_connections_per_ip("web", 2));
    let mut first = Client::connect(&running, "web");
    let mut second = Client::connect(&running, "web");
    assert_eq!((first.get("/").status, second.get("/").status), (200, 200));
    assert!(Client::connect(&running, "web").is_closed());
    assert_eq!(running.counters().connections_refused, 1);
    drop(first);
    assert!(eventually(|| running.counters().connections_open == 1));
    assert_eq!(Client::connect(&running, "web").get("/").status, 200);
}

#[test]
fn a_busy_worker_hands_new_connections_over() {
    let running = start(&Site::new().workers(2).listener("web"));
    let open_on = |worker: usize| running.worker_telemetry()[worker].counters.connections_open.value();
    let mut clients = Vec::new();
    while clients.len() < 40 {
        let before = open_on(0);
        let mut client = Client::connect(&running, "web");
        assert_eq!(client.get("/").status, 200);
        // Only those of the first worker stay open, as if the kernel's hash were unlucky.
        if open_on(0) > before {
            clients.push(client);
        } else {
            drop(client);
            assert!(eventually(|| open_on(1) == 0));
        }
        if running.counters().connections_handed_over > 0 {
            break;
        }
    }
    assert!(running.counters().connections_handed_over > 0);
    assert!(clients.len() < 40, "the first worker kept all of them");
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn a_drain_lets_a_request_finish_and_then_leaves() {
    let origin = Origin::start();
    let running = start(&Site::new().workers(2).listener("web").forward_to(origin.address()));
    let Some(Address::Socket(address)) = running.address_of("web") else { panic!("no address") };
    let mut idle = Client::connect(&running, "web");
    idle.send("/");
    origin.next_request().answer("warm");
    assert_eq!(idle.receive().body, "warm");
    let mut client = Client::connect(&running, "web");
    client.send("/slow");
    let request = origin.next_request();

    running.drain();
    assert!(eventually(|| TcpStream::connect(address).is_err()), "it still accepts");
    assert!(idle.is_closed());
    request.answer("late");
    let answer = client.receive();
    assert_eq!(answer.body, "late");
    assert!(answer.says_close());
    assert_eq!(running.wait(), ExitReason::Drained);
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let origin = Origin::start();
    let site = Site::new().listener("web").forward_to(origin.address()).drain_timeout(Duration::from_millis(100));
    let running = start(&site);
    let mut client = Client::connect(&running, "web");
    client.send("/slow");
    let _never_answered = origin.next_request();
    running.drain();
    // A connection cuts itself at the same deadline: on a machine that stalls it may be gone before that is looked at.
    let reason = running.wait();
    assert!(matches!(reason, ExitReason::DrainTimeout { connections: 1 } | ExitReason::Drained), "{reason:?}");
    assert!(client.is_closed());
}

#[test]
fn a_stop_does_not_wait() {
    let origin = Origin::start();
    let running = start(&Site::new().listener("web").forward_to(origin.address()));
    let mut client = Client::connect(&running, "web");
    client.send("/slow");
    let _never_answered = origin.next_request();
    let asked = Instant::now();
    running.drain();
    running.stop();
    assert_eq!(running.wait(), ExitReason::Stopped);
    assert!(asked.elapsed() < Duration::from_secs(10), "it waited for the drain's deadline");
}

#[test]
fn a_reload_while_draining_is_refused() {
    let origin = Origin::start();
    let site = Site::new().listener("web").forward_to(origin.address());
    let running = start(&site);
    let mut client = Client::connect(&running, "web");
    client.send("/slow");
    let request = origin.next_request();
    running.drain();
    assert!(matches!(running.reload(site.config()), Err(Refused::Leaving)));
    request.answer("done");
    assert_eq!(client.receive().body, "done");
    assert_eq!(running.wait(), ExitReason::Drained);
}

#[test]
fn a_unix_socket_serves_and_its_file_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.sock");
    let running = start(&Site::new().workers(2).unix_listener("local", &path).answer("unix"));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.drain();
    assert_eq!(running.wait(), ExitReason::Drained);
    assert!(!path.exists());
}
