//! Faults on the bytes between servers and PostgreSQL, by a toxic in the proxy on each server's way: late, few at a time, in
//! small packets, or with a late end. Nothing is lost.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, boxed};
use crate::nemesis::victim::{newcomer_on, serves};
use crate::toxic::chain::PutOn;
use crate::toxic::kind::{Bandwidth, Kind as Toxicity, SlowClose, Stream, Toxic};

const fn whole(name: &'static str, default: &'static str, most: u64, about: &'static str) -> Parameter {
    Parameter { name, default, domain: Domain::Whole(0, most), about }
}

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "N1",
        name: "network-latency",
        about: "all bytes between servers and PostgreSQL come late",
        parameters: &[
            whole("delay", "100", 60_000, "milliseconds, each way"),
            whole("jitter", "30", 60_000, "milliseconds, more or less"),
        ],
        needs: &[Means::Bytes],
        inject: |scene, with| {
            let toxicity = Toxicity::latency(with.millis("delay"), with.millis("jitter"));
            boxed(Poisoned::inject(scene, &Stream::ALL, toxicity))
        },
    },
    Kind {
        id: "N1",
        name: "network-bandwidth",
        about: "few bytes a second pass from PostgreSQL to a server",
        parameters: &[whole("rate", "20", 1_000_000, "kilobytes a second, of each connection")],
        needs: &[Means::Bytes],
        inject: |scene, with| {
            let toxicity = Toxicity::Bandwidth(Bandwidth { rate: signed(with.whole("rate")) });
            boxed(Poisoned::inject(scene, &[Stream::Downstream], toxicity))
        },
    },
    Kind {
        id: "N1",
        name: "network-slices",
        about: "bytes between servers and PostgreSQL arrive in small packets",
        parameters: &[
            whole("bytes", "1", 65_536, "of each packet"),
            whole("pause", "100", 1_000_000, "microseconds after each"),
        ],
        needs: &[Means::Bytes],
        inject: |scene, with| {
            let pause = Duration::from_micros(with.whole("pause"));
            boxed(Poisoned::inject(scene, &Stream::ALL, Toxicity::slices(signed(with.whole("bytes")), pause)))
        },
    },
    Kind {
        id: "N1",
        name: "network-slow-close",
        about: "the end of a connection to PostgreSQL arrives late",
        parameters: &[whole("delay", "1000", 60_000, "milliseconds")],
        needs: &[Means::Bytes],
        inject: |scene, with| {
            let toxicity = Toxicity::SlowClose(SlowClose { delay: signed(with.whole("delay")) });
            boxed(Poisoned::inject(scene, &Stream::ALL, toxicity))
        },
    },
];

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How long a session of the harness's own may take that is there to be met.
const KNOCK_LIMIT: Duration = Duration::from_secs(2);

/// One toxic on the way of every server.
#[derive(Debug)]
struct Poisoned {
    cluster: Cluster,
    put_on: Vec<(String, PutOn)>,
}

impl Poisoned {
    async fn inject(scene: Scene, streams: &'static [Stream], kind: Toxicity) -> Result<Self, Error> {
        let mut put_on = Vec::new();
        let mut met = 0;
        for line in scene.equipment.lines() {
            let Some(proxy) = line.bytes() else { continue };
            met += 1;
            for stream in streams.iter().filter(|_| scene.has_teeth()) {
                put_on.push((line.server().to_owned(), proxy.put(Toxic::new(*stream, kind.clone()))?));
            }
            // A session from beginning to end, so that there are bytes and an end to be met.
            newcomer_on(line, "SELECT 1", KNOCK_LIMIT).await;
        }
        if met == 0 {
            return Err(Error::state("reach bytes", "no proxy for toxics stands before PostgreSQL"));
        }
        Ok(Self { cluster: scene.cluster, put_on })
    }
}

impl Guard for Poisoned {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let mut did = Vec::new();
            for (server, put_on) in self.put_on.drain(..) {
                let witness = put_on.heal();
                if witness.bit() {
                    did.push(format!("{witness} of {server}"));
                }
            }
            serves(&self.cluster).await?;
            Ok((!did.is_empty()).then(|| did.join("; ")))
        })
    }
}
