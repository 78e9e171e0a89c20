//! Faults on the name by which servers know PostgreSQL: it cannot be looked up, or not soon, or leads to another address.
//! Sessions that are open need no name, so all of them end as well, or fall silent.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::names::{Answer, Asked, Said, Script};
use crate::namespace::DeadAddress;
use crate::nemesis::access::end_sessions_of_role;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, boxed};
use crate::nemesis::undo::{Where, execute};
use crate::nemesis::victim::serves;
use crate::process::poll_until;
use crate::stack::Resolver;
use crate::stack::resolver::{FIRST, NAME, SECOND, leads_to, standing};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D18",
        name: "name-unknown",
        about: "PostgreSQL's name cannot be looked up, and sessions end",
        parameters: &[Parameter {
            name: "answer",
            default: "failure",
            domain: Domain::Words(&["failure", "unknown", "silence"]),
            about: "what the name server says: that it failed, that there is no such name, or nothing",
        }],
        needs: &[Means::Names, Means::Sql],
        inject: |scene, with| {
            let answer = match with.word("answer") {
                "unknown" => Answer::Unknown,
                "silence" => Answer::Silence,
                _ => Answer::Failure,
            };
            boxed(Renamed::inject(scene, Script::now(answer)))
        },
    },
    Kind {
        id: "D18",
        name: "name-slow",
        about: "looking PostgreSQL's name up takes its time, and sessions end",
        parameters: &[Parameter {
            name: "delay",
            default: "600",
            domain: Domain::Whole(1, 900),
            about: "milliseconds to each answer; the resolver gives up after a second",
        }],
        needs: &[Means::Names, Means::Sql],
        inject: |scene, with| {
            boxed(Renamed::inject(scene, Script { after: with.millis("delay"), ..leads_to(FIRST) }))
        },
    },
    Kind {
        id: "D18",
        name: "name-moves",
        about: "PostgreSQL's name leads to another address, and the one before cannot be reached any more",
        parameters: &[],
        needs: &[Means::Names],
        inject: |scene, _| boxed(Moved::inject(scene)),
    },
];

/// A server that lost its sessions asks again within this.
const ASKED_LIMIT: Duration = Duration::from_secs(5);

fn resolver(scene: &Scene) -> Result<Resolver, Error> {
    let resolver = scene.equipment.resolver().cloned();
    resolver.ok_or_else(|| Error::state("change what a name means", "the servers look none up"))
}

fn patience(scene: &Scene) -> Duration {
    if scene.has_teeth() { ASKED_LIMIT } else { scene.patience() }
}

/// Something else is said about the name.
#[derive(Debug)]
struct Renamed {
    cluster: Cluster,
    said: Option<Said>,
    what: String,
}

impl Renamed {
    async fn inject(scene: Scene, script: Script) -> Result<Self, Error> {
        let resolver = resolver(&scene)?;
        let what = match &script.answer {
            Answer::Addresses(_) => format!("an answer after {} ms", script.after.as_millis()),
            Answer::Unknown => "that there is no such name".to_owned(),
            Answer::Failure => "that the name server failed".to_owned(),
            Answer::Silence => "no answer".to_owned(),
        };
        let mut guard = Self { cluster: scene.cluster.clone(), said: None, what };
        if scene.has_teeth() {
            guard.said = Some(resolver.names().put(NAME, script));
            execute(&scene.cluster, Where::Beside, &end_sessions_of_role()).await?;
        }
        poll_until(patience(&scene), || (guard.asked().questions > 0).then_some(())).await;
        Ok(guard)
    }

    fn asked(&self) -> Asked {
        self.said.as_ref().map(Said::witness).unwrap_or_default()
    }
}

impl Guard for Renamed {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let asked = self.asked();
            drop(self.said.take());
            serves(&self.cluster).await?;
            Ok((asked.questions > 0).then(|| format!("the servers had {asked}, and got {}", self.what)))
        })
    }
}

/// The name leads elsewhere.
#[derive(Debug)]
struct Moved {
    cluster: Cluster,
    said: Option<Said>,
    dead: Option<DeadAddress>,
}

impl Moved {
    async fn inject(scene: Scene) -> Result<Self, Error> {
        let resolver = resolver(&scene)?;
        let mut guard = Self { cluster: scene.cluster.clone(), said: None, dead: None };
        if scene.has_teeth() {
            guard.said = Some(resolver.names().put(NAME, leads_to(SECOND)));
            let made = tokio::task::spawn_blocking(|| DeadAddress::make(FIRST)).await;
            guard.dead = Some(made.map_err(|error| Error::state("move a name", error.to_string()))??);
        }
        poll_until(patience(&scene), || (guard.arrived() > 0).then_some(())).await;
        Ok(guard)
    }

    /// Connections that stand where nobody connects who does not look the name up.
    fn arrived(&self) -> usize {
        standing(SECOND, self.cluster.port())
    }
}

impl Guard for Moved {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let arrived = self.arrived();
            let (said, dead) = (self.said.take(), self.dead.take());
            let witness = said.zip(dead).filter(|_| arrived > 0).map(|(said, dead)| {
                format!("{dead}, and after {} {arrived} connections stood at {SECOND}", said.witness())
            });
            serves(&self.cluster).await?;
            Ok(witness)
        })
    }
}
