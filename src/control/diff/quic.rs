//! Changes of QUIC settings.

use super::keys::{Keys, NEW_CONNECTIONS};
use crate::base::units::format_duration;
use crate::config::model::{AltSvc, Quic, QuicTransport, UpstreamQuic};

pub(super) fn of_listener(keys: &mut Keys, before: &Quic, after: &Quic) {
    let Quic { transport: own, retry } = before;
    transport(keys, own, &after.transport);
    keys.words("quic.retry", retry, &after.retry, |retry| retry.as_str().to_owned());
}

pub(super) fn of_upstream(keys: &mut Keys, before: &UpstreamQuic, after: &UpstreamQuic) {
    let UpstreamQuic { transport: own, early_data } = before;
    transport(keys, own, &after.transport);
    keys.compare("quic.early_data", early_data, &after.early_data);
}

pub(super) fn alt_svc(keys: &mut Keys, before: AltSvc, after: AltSvc) {
    keys.words("alt_svc", &before, &after, |alt_svc| match alt_svc {
        AltSvc::Auto => "auto".to_owned(),
        AltSvc::Off => "off".to_owned(),
        AltSvc::Port(port) => port.to_string(),
    });
}

fn transport(keys: &mut Keys, before: &QuicTransport, after: &QuicTransport) {
    let QuicTransport { congestion, keep_alive, stream_window, connection_window, segmentation_offload, qlog } = before;
    keys.words("quic.congestion", congestion, &after.congestion, |word| word.as_str().to_owned()).note(NEW_CONNECTIONS);
    keys.words("quic.keep_alive", keep_alive, &after.keep_alive, |silence| {
        silence.map_or_else(|| "off".to_owned(), format_duration)
    })
    .note(NEW_CONNECTIONS);
    for (key, before, after) in [
        ("quic.stream_window", stream_window, after.stream_window),
        ("quic.connection_window", connection_window, after.connection_window),
    ] {
        keys.size(key, Some((*before).into()), Some(after.into())).note(NEW_CONNECTIONS);
    }
    keys.compare("quic.segmentation_offload", segmentation_offload, &after.segmentation_offload).note(NEW_CONNECTIONS);
    keys.changed("quic.qlog", *qlog != after.qlog).note(NEW_CONNECTIONS);
}
