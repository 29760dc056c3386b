//! Socket options of listeners and of connections to upstreams.

use std::time::Duration;

use super::Check;
use crate::config::defaults;
use crate::config::model::{Keepalive, SocketOptions};
use crate::config::section::Section;

impl Check<'_> {
    pub(super) fn socket(&mut self, section: Option<&Section>) -> SocketOptions {
        let mut options = SocketOptions {
            nodelay: defaults::NODELAY,
            keepalive: Some(self.keepalive(None)),
            backlog: defaults::BACKLOG,
            recv_buffer: None,
            send_buffer: None,
            fast_open: defaults::FAST_OPEN,
            user_timeout: None,
        };
        let Some(section) = section else { return options };
        let bytes = |key| section.size(key).and_then(|bytes| u32::try_from(bytes).ok());
        options.nodelay = section.flag("nodelay").unwrap_or(options.nodelay);
        options.backlog = section.count("backlog").unwrap_or(options.backlog);
        options.recv_buffer = bytes("recv_buffer");
        options.send_buffer = bytes("send_buffer");
        options.fast_open = section.flag("fast_open").unwrap_or(options.fast_open);
        options.user_timeout = section.duration("user_timeout");
        options.keepalive = match section.word("keepalive") {
            Some(_) => None,
            None => Some(self.keepalive(section.section("keepalive"))),
        };
        options
    }

    fn keepalive(&mut self, section: Option<&Section>) -> Keepalive {
        let mut keepalive = Keepalive {
            idle: defaults::KEEPALIVE_IDLE,
            interval: defaults::KEEPALIVE_INTERVAL,
            count: defaults::KEEPALIVE_COUNT,
        };
        let Some(section) = section else { return keepalive };
        for (key, value) in [("idle", &mut keepalive.idle), ("interval", &mut keepalive.interval)] {
            let Some(duration) = section.duration(key) else { continue };
            // The kernel counts in seconds.
            if duration.subsec_nanos() != 0 {
                let spot = section.node(key).map_or(section.spot, |node| node.spot);
                let help = format!("write `\"{}s\"`", duration.as_secs().max(1));
                self.fault_with_help(spot, format!("`{key}` is not a whole number of seconds"), "whole seconds", help);
            }
            *value = Duration::from_secs(duration.as_secs());
        }
        keepalive.count = section.count("count").unwrap_or(keepalive.count);
        keepalive
    }
}
