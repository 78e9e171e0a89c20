//! Faults on the packets between everybody and PostgreSQL: lost without a word, one way or both, or of old sessions alone.
//! The network that does it is in `namespace/wire.rs`; the canary is on its way, too.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::namespace::{Lost, Way, Wire};
use crate::nemesis::kind::{
    CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed,
};
use crate::nemesis::undo::LIMIT;
use crate::nemesis::victim::{Met, SILENCE, Victim, newcomer, serves};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "N2",
        name: "packets-lost",
        about: "packets to or from PostgreSQL are lost: connections neither open nor end, and nobody is told",
        parameters: &[Parameter {
            name: "way",
            default: "both",
            domain: Domain::Words(&["both", "to", "from"]),
            about: "to PostgreSQL, from it, or both",
        }],
        needs: &[Means::Wire],
        inject: |scene, with| boxed(Silent::inject(scene, Some(way(&with)))),
    },
    Kind {
        id: "N2",
        name: "sessions-forgotten",
        about: "the sessions there are fall silent, as when a NAT forgets them; new ones work",
        parameters: &[],
        needs: &[Means::Wire],
        inject: |scene, _| boxed(Silent::inject(scene, None)),
    },
];

fn way(with: &Values) -> Way {
    match with.word("way") {
        "to" => Way::ToDatabase,
        "from" => Way::FromDatabase,
        _ => Way::Both,
    }
}

/// Packets are lost.
#[derive(Debug)]
struct Silent {
    cluster: Cluster,
    lost: Option<Lost>,
    /// Of new sessions, too.
    is_all: bool,
    met: Option<String>,
    /// Half-open to the end: only at the last is it known whether something came.
    _victim: Victim,
}

impl Silent {
    /// Without a way it is the old sessions alone.
    async fn inject(scene: Scene, way: Option<Way>) -> Result<Self, Error> {
        let what = "lose packets";
        let wire = scene.equipment.wire().cloned();
        let wire = wire.ok_or_else(|| Error::state(what, "PostgreSQL is at the end of no wire"))?;
        let cluster = scene.cluster.clone();
        let victim = Victim::open(&cluster).await?;
        let mut lost = None;
        if scene.has_teeth() {
            let lose = move |wire: Wire| way.map_or_else(|| wire.forget_sessions(), |way| wire.cut(way));
            let done = tokio::task::spawn_blocking(move || lose(wire)).await;
            lost = Some(done.map_err(|error| Error::state(what, error.to_string()))??);
        }
        let old = victim.meets("SELECT 1", SILENCE).await;
        let (limit, expected, words) = match way {
            Some(_) => (SILENCE, Met::Silence, "nothing either"),
            None => (LIMIT, Met::Answer, "an answer"),
        };
        let new = newcomer(&cluster, "SELECT 1", limit).await;
        let has_met = old == Met::Silence && new == expected;
        let met = has_met.then(|| format!("an old session met nothing, a new one {words}"));
        Ok(Self { cluster, lost, is_all: way.is_some(), met, _victim: victim })
    }
}

impl Guard for Silent {
    fn database_gone(&self) -> bool {
        self.is_all && self.lost.is_some()
    }

    fn canary(&self) -> CanarySees {
        // It opens a new connection each time.
        if self.is_all { CanarySees::NoneCommits } else { CanarySees::Anything }
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let sent_again = self.lost.as_ref().and_then(Lost::witness);
            drop(self.lost.take());
            serves(&self.cluster).await?;
            Ok(self.met.take().zip(sent_again).map(|(met, sent_again)| format!("{met}; {sent_again}")))
        })
    }
}
