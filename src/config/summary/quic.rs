//! The summary of QUIC settings.

use crate::base::units::{format_duration, format_size};
use crate::config::model::{Congestion, Quic, QuicTransport, RetryPolicy, UpstreamQuic};

pub(super) fn of_listener(quic: &Quic) -> Vec<String> {
    let mut facts = transport(&quic.transport, &Quic::default().transport);
    if quic.retry != RetryPolicy::Auto {
        facts.push(format!("retry {}", quic.retry.as_str()));
    }
    facts
}

pub(super) fn of_upstream(quic: &UpstreamQuic) -> Vec<String> {
    let mut facts = transport(&quic.transport, &UpstreamQuic::default().transport);
    if quic.early_data {
        facts.push("early_data".to_owned());
    }
    facts
}

fn transport(own: &QuicTransport, usual: &QuicTransport) -> Vec<String> {
    let mut facts = Vec::new();
    if own.congestion != Congestion::Cubic {
        facts.push(format!("congestion {}", own.congestion.as_str()));
    }
    if own.keep_alive != usual.keep_alive {
        facts.push(match own.keep_alive {
            Some(silence) => format!("keep_alive {}", format_duration(silence)),
            None => "no keep_alive".to_owned(),
        });
    }
    let windows = [
        ("stream_window", own.stream_window, usual.stream_window),
        ("connection_window", own.connection_window, usual.connection_window),
    ];
    facts.extend(
        windows
            .into_iter()
            .filter(|(_, own, usual)| own != usual)
            .map(|(name, own, _)| format!("{name} {}", format_size(own.into()))),
    );
    if !own.segmentation_offload {
        facts.push("no segmentation_offload".to_owned());
    }
    facts.extend(own.qlog.as_ref().map(|folder| format!("qlog in {}", folder.display())));
    facts
}
