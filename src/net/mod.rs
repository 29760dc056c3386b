//! Bytes and sockets.
pub mod accept;
pub mod bind;
pub mod buffers;
pub mod connect;
pub mod connecting;
pub mod datagram;
pub mod handoff;
pub mod happy;
pub mod icmp;
pub mod inherited;
pub mod io;
pub mod options;
pub mod proxy_protocol;
pub mod relay;
pub mod resolve;
pub mod reuseport_bpf;
pub mod socket;
pub mod sys;
pub mod timer;
pub mod udp;

#[cfg(test)]
pub(crate) mod testing {
    use std::future::Future;
    use std::time::Duration;

    use crate::config::model::SocketOptions;

    /// Runs `future` as a worker would: on a `LocalRuntime` with the timer wheel.
    pub(crate) fn on_worker<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            super::timer::start();
            // A test that hangs fails instead.
            tokio::time::timeout(Duration::from_secs(20), future).await.expect("the test hangs")
        })
    }

    /// Nothing but a backlog.
    pub(crate) fn plain_options() -> SocketOptions {
        SocketOptions {
            nodelay: false,
            keepalive: None,
            backlog: 128,
            recv_buffer: None,
            send_buffer: None,
            fast_open: false,
            user_timeout: None,
        }
    }
}
