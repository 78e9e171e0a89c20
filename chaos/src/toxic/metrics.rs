//! What the proxies and their toxics did, as text for Prometheus. The first two names are toxiproxy's own, so that its
//! dashboards fit. It counts nothing itself.

use std::fmt::Write;

use crate::toxic::chain::Witness;
use crate::toxic::kind::Stream;
use crate::toxic::proxy::{Carried, Proxy, Traffic};

/// Name, help, and how it is read.
type Counter<T> = (&'static str, &'static str, fn(&T) -> u64);

const OF_STREAMS: [Counter<Carried>; 2] = [
    ("toxiproxy_proxy_received_bytes_total", "Bytes read from the source of a stream", |carried| {
        carried.received
    }),
    ("toxiproxy_proxy_sent_bytes_total", "Bytes written to the target of a stream", |carried| carried.sent),
];

const OF_TOXICS: [Counter<Witness>; 5] = [
    ("toxiproxy_toxic_streams_total", "Streams a toxic did something to", |witness| witness.connections),
    ("toxiproxy_toxic_delayed_bytes_total", "Bytes a toxic made wait", |witness| witness.delayed_bytes),
    ("toxiproxy_toxic_dropped_bytes_total", "Bytes a toxic dropped", |witness| witness.dropped_bytes),
    ("toxiproxy_toxic_packets_total", "Packets a toxic cut off a longer piece", |witness| witness.packets),
    ("toxiproxy_toxic_ends_total", "Connections a toxic closed or reset", |witness| {
        witness.closed + witness.resets
    }),
];

const OF_PROXIES: [Counter<Traffic>; 2] = [
    ("toxiproxy_proxy_connections_total", "Connections accepted", |traffic| traffic.accepted),
    ("toxiproxy_proxy_refused_total", "Connections closed for want of an upstream", |traffic| {
        traffic.refused
    }),
];

/// All metrics of these proxies.
pub(super) fn text<'p>(proxies: impl Iterator<Item = &'p Proxy> + Clone) -> String {
    let mut text = String::new();
    for (name, help, read) in OF_STREAMS {
        header(&mut text, name, help);
        for proxy in proxies.clone() {
            let Traffic { upstream, downstream, .. } = proxy.traffic();
            for (stream, carried) in [(Stream::Upstream, upstream), (Stream::Downstream, downstream)] {
                let labels = format!("direction=\"{}\",{}", stream.name(), labels(proxy));
                let _ = writeln!(text, "{name}{{{labels}}} {}", read(&carried));
            }
        }
    }
    for (name, help, read) in OF_PROXIES {
        header(&mut text, name, help);
        for proxy in proxies.clone() {
            let _ = writeln!(text, "{name}{{{}}} {}", labels(proxy), read(&proxy.traffic()));
        }
    }
    for (name, help, read) in OF_TOXICS {
        header(&mut text, name, help);
        for proxy in proxies.clone() {
            for (toxic, witness) in proxy.toxics().all() {
                let proxy = escaped(&proxy.settings().name);
                let (toxic_name, kind) = (escaped(&toxic.name), toxic.kind.type_name());
                let direction = toxic.stream.name();
                let number = read(&witness);
                let _ = writeln!(
                    text,
                    "{name}{{proxy=\"{proxy}\",toxic=\"{toxic_name}\",type=\"{kind}\",direction=\"{direction}\"}} {number}"
                );
            }
        }
    }
    text
}

fn header(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter");
}

fn labels(proxy: &Proxy) -> String {
    let settings = proxy.settings();
    let (name, listen, upstream) =
        (escaped(&settings.name), escaped(&settings.listen), escaped(&settings.upstream));
    format!("proxy=\"{name}\",listener=\"{listen}\",upstream=\"{upstream}\"")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
