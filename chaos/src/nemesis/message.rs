//! Faults at chosen messages between servers and PostgreSQL, by the proxy on each server's way: cuts, swallowed and late
//! answers, errors that the server seems to say, and a network that carries nothing. The canary does not go that way.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::victim::{Met, newcomer_on, serves};
use crate::pgwire::{Closed, Counts, Planted, Proxy, Rule, Tls};
use crate::stack::Line;

const NTH: Parameter = Parameter {
    name: "nth",
    default: "3",
    domain: Domain::Whole(0, 100_000),
    about: "which of these messages on each server's way; 0 is each",
};
const EACH: Parameter = Parameter { default: "0", ..NTH };
const WAY: Parameter = Parameter {
    name: "way",
    default: "reset",
    domain: Domain::Words(&["reset", "close", "blackhole"]),
    about: "how it ends: RST, FIN, or in silence",
};
const AT: Parameter = Parameter {
    name: "at",
    default: "answer",
    domain: Domain::Words(&["startup", "password", "bind", "execute", "commit", "answer", "ready"]),
    about: "before which message",
};
const BYTE: Parameter = Parameter {
    name: "byte",
    default: "3",
    domain: Domain::Whole(1, 6),
    about: "after how many bytes of it",
};
const LATE: Parameter = Parameter {
    name: "late",
    default: "300",
    domain: Domain::Whole(1, 60_000),
    about: "milliseconds by which it comes late",
};
const CODE: Parameter = Parameter {
    name: "code",
    default: "40001",
    domain: Domain::Words(&["40001", "40P01", "53200", "57014", "57P01", "57P03", "XX000"]),
    about: "the SQLSTATE; with 57P01 and 57P03 the session ends",
};

const fn ruled(
    id: &'static str,
    name: &'static str,
    about: &'static str,
    parameters: &'static [Parameter],
    inject: fn(Scene, Values) -> crate::nemesis::kind::Injecting,
) -> Kind {
    Kind { id, name, about, parameters, needs: &[Means::Messages], inject }
}

const fn secured(
    name: &'static str,
    about: &'static str,
    inject: fn(Scene, Values) -> crate::nemesis::kind::Injecting,
) -> Kind {
    Kind { id: "D17", name, about, parameters: &[], needs: &[Means::Tls], inject }
}

pub(super) const KINDS: &[Kind] = &[
    ruled(
        "N3",
        "commit-cut",
        "PostgreSQL commits, and the connection ends before it can say so",
        &[WAY, NTH],
        |scene, with| boxed(Ruled::inject(scene, commit_cut(&with))),
    ),
    ruled("N3", "connection-cut", "the connection ends before a message", &[AT, WAY, EACH], |scene, with| {
        boxed(Ruled::inject(scene, connection_cut(&with)))
    }),
    ruled(
        "N4",
        "message-cut",
        "the connection ends inside the message with which PostgreSQL is ready",
        &[BYTE, WAY, NTH],
        |scene, with| boxed(Ruled::inject(scene, message_cut(&with))),
    ),
    ruled(
        "N5",
        "answer-swallowed",
        "PostgreSQL commits, and what it says on that session never arrives",
        &[NTH],
        |scene, with| boxed(Ruled::inject(scene, answer_swallowed(&with))),
    ),
    ruled(
        "N5",
        "greeting-swallowed",
        "what PostgreSQL says to who connects never arrives, also once others are greeted again",
        &[],
        |scene, with| boxed(Ruled::inject(scene, greeting_swallowed(&with))),
    ),
    ruled(
        "N6",
        "error-injected",
        "PostgreSQL seems to refuse statements with an error",
        &[CODE, EACH],
        |scene, with| boxed(Ruled::inject(scene, error_injected(&with))),
    ),
    ruled("N6", "garbage", "bytes that are no message stand before an answer", &[NTH], |scene, with| {
        boxed(Ruled::inject(scene, garbage(&with)))
    }),
    ruled("N7", "answer-repeated", "an answer arrives twice", &[NTH], |scene, with| {
        boxed(Ruled::inject(scene, answer_repeated(&with)))
    }),
    ruled("N7", "answer-late", "answers to COMMIT come late", &[LATE, EACH], |scene, with| {
        boxed(Ruled::inject(scene, answer_late(&with)))
    }),
    secured("tls-refused", "PostgreSQL offers no TLS any more, and sessions end", |scene, _| {
        boxed(Insecure::inject(scene, Tls::Refused))
    }),
    secured("tls-expired", "PostgreSQL's certificate has expired, and sessions end", |scene, _| {
        boxed(Insecure::inject(scene, Tls::Expired))
    }),
    secured("tls-cut", "each TLS handshake with PostgreSQL breaks off, and sessions end", |scene, _| {
        boxed(Insecure::inject(scene, Tls::Cut))
    }),
    ruled(
        "N2",
        "network-blackhole",
        "no packet arrives at all between servers and PostgreSQL, and nobody is told",
        &[],
        |scene, _| boxed(Severed::inject(scene, true)),
    ),
    ruled(
        "N2",
        "network-refused",
        "connections between servers and PostgreSQL end at once",
        &[],
        |scene, _| boxed(Severed::inject(scene, false)),
    ),
];

/// `#3`, or `every`.
fn which(with: &Values) -> String {
    match with.whole("nth") {
        0 => "every".to_owned(),
        number => format!("#{number}"),
    }
}

fn commit_cut(with: &Values) -> String {
    format!("server CommandComplete(COMMIT) {} before: {}", which(with), with.word("way"))
}

fn connection_cut(with: &Values) -> String {
    let message = match with.word("at") {
        "startup" => "client Startup",
        "password" => "client Password",
        "bind" => "client Bind",
        "execute" => "client Execute",
        "commit" => "client Query(COMMIT)",
        "ready" => "server ReadyForQuery",
        _ => "server CommandComplete",
    };
    format!("{message} {} before: {}", which(with), with.word("way"))
}

fn message_cut(with: &Values) -> String {
    format!("server ReadyForQuery {} byte {}: {}", which(with), with.whole("byte"), with.word("way"))
}

fn answer_swallowed(with: &Values) -> String {
    format!("server CommandComplete(COMMIT) {}: swallow", which(with))
}

fn greeting_swallowed(_: &Values) -> String {
    "server Authentication every: swallow".to_owned()
}

fn error_injected(with: &Values) -> String {
    let code = with.word("code");
    let (at, severity) = match code {
        "57P01" => ("client Execute", "FATAL"),
        "57P03" => ("client Startup", "FATAL"),
        _ => ("client Execute", "ERROR"),
    };
    format!("{at} {}: say {severity} {code} \"said by chaos\"", which(with))
}

fn garbage(with: &Values) -> String {
    format!("server CommandComplete {} before: garbage 16", which(with))
}

fn answer_repeated(with: &Values) -> String {
    format!("server CommandComplete {}: repeat", which(with))
}

fn answer_late(with: &Values) -> String {
    format!("server CommandComplete(COMMIT) {}: hold {}ms", which(with), with.whole("late"))
}

/// The ways of the servers, with the proxy on each.
pub(super) fn proxies(scene: &Scene) -> Result<Vec<(Line, Proxy)>, Error> {
    let lines = scene.equipment.lines().iter();
    let proxies: Vec<_> = lines.filter_map(|line| Some((line.clone(), line.messages()?.clone()))).collect();
    if proxies.is_empty() {
        return Err(Error::state("reach messages", "no proxy stands before PostgreSQL"));
    }
    Ok(proxies)
}

/// How long a session of the harness's own may take that is there to be met.
const KNOCK_LIMIT: Duration = Duration::from_secs(2);

/// One rule on the way of every server.
#[derive(Debug)]
struct Ruled {
    cluster: Cluster,
    planted: Vec<(String, Planted)>,
    /// Sessions of the harness's own: rules about a beginning bite also where the servers begin none.
    _knocks: JoinSet<Met>,
}

impl Ruled {
    async fn inject(scene: Scene, rule: String) -> Result<Self, Error> {
        let what = "plan a fault on messages";
        let rule: Rule = rule.parse().map_err(|reason: String| Error::state(what, reason))?;
        let (mut planted, mut knocks) = (Vec::new(), JoinSet::new());
        for (line, proxy) in proxies(&scene)? {
            if scene.has_teeth() {
                planted.push((line.server().to_owned(), proxy.plant(rule.clone())));
            }
            knocks.spawn(async move { newcomer_on(&line, "BEGIN; COMMIT", KNOCK_LIMIT).await });
        }
        Ok(Self { cluster: scene.cluster, planted, _knocks: knocks })
    }
}

impl Guard for Ruled {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let planted = std::mem::take(&mut self.planted);
            let bitten = planted.iter().filter_map(|(server, planted)| {
                let first = planted.bites().first().copied()?;
                let process = first.process.map_or("unknown".to_owned(), |process| process.to_string());
                let times = planted.count();
                Some(format!(
                    "{times} on the way of {server}, first at {} of process {process}",
                    first.message
                ))
            });
            let bitten: Vec<String> = bitten.collect();
            drop(planted);
            serves(&self.cluster).await?;
            Ok((!bitten.is_empty()).then(|| format!("the rule had its effect {}", bitten.join("; "))))
        })
    }
}

/// Nothing passes on the way of any server.
#[derive(Debug)]
struct Severed {
    cluster: Cluster,
    lines: Vec<Line>,
    closed: Vec<Closed>,
    is_still: bool,
    knocks: JoinSet<Met>,
}

/// A healthy way answers within milliseconds, and a busy machine within this.
const SILENT: Duration = Duration::from_millis(500);

impl Severed {
    async fn inject(scene: Scene, is_still: bool) -> Result<Self, Error> {
        let (mut closed, mut lines, mut knocks) = (Vec::new(), Vec::new(), JoinSet::new());
        for (line, proxy) in proxies(&scene)? {
            if scene.has_teeth() {
                closed.push(if is_still { proxy.black_hole() } else { proxy.shut() });
            }
            let knocking = line.clone();
            knocks.spawn(async move { newcomer_on(&knocking, "SELECT 1", SILENT).await });
            lines.push(line);
        }
        Ok(Self { cluster: scene.cluster, lines, closed, is_still, knocks })
    }
}

impl Guard for Severed {
    fn way_gone(&self) -> bool {
        true
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            // Each ends within its limit, also where it hears nothing; the fault stays on until then.
            let mut met = Vec::new();
            while let Some(one) = self.knocks.join_next().await {
                met.extend(one);
            }
            self.closed.clear();
            serves(&self.cluster).await?;
            for line in &self.lines {
                newcomer_on(line, "SELECT 1", KNOCK_LIMIT).await;
            }
            let bit = |one: &Met| match one {
                Met::Silence => self.is_still,
                Met::Error(_) => !self.is_still,
                Met::Answer => false,
            };
            let all = !met.is_empty() && met.iter().all(bit);
            let heard = if self.is_still { "nothing" } else { "an end at once" };
            Ok(all.then(|| format!("{} new sessions on the way of the servers met {heard}", met.len())))
        })
    }
}

/// So long every open session has noticed that it has ended.
const SHUT: Duration = Duration::from_millis(50);

/// Servers insist on TLS and do not get it.
#[derive(Debug)]
struct Insecure {
    cluster: Cluster,
    /// Each with its counts when the fault had taken hold.
    proxies: Vec<(Proxy, Counts)>,
}

impl Insecure {
    async fn inject(scene: Scene, tls: Tls) -> Result<Self, Error> {
        let mut guard = Self { cluster: scene.cluster.clone(), proxies: Vec::new() };
        for (_, proxy) in proxies(&scene)? {
            let counts = proxy.counts();
            guard.proxies.push((proxy, counts));
        }
        if scene.has_teeth() {
            guard.proxies.iter().for_each(|(proxy, _)| proxy.offer(tls));
            // Sessions that have begun would go on: they end, and the servers begin new ones.
            let shut: Vec<Closed> = guard.proxies.iter().map(|(proxy, _)| proxy.shut()).collect();
            tokio::time::sleep(SHUT).await;
            drop(shut);
        }
        guard.proxies.iter_mut().for_each(|(proxy, counts)| *counts = proxy.counts());
        let end = Instant::now() + scene.patience();
        while scene.has_teeth() && guard.asked() == 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(guard)
    }

    /// Connections asked for since, to begin a session.
    fn asked(&self) -> u64 {
        let asked = |counts: Counts| counts.connections.saturating_sub(counts.cancels);
        let asked =
            self.proxies.iter().map(|(proxy, before)| asked(proxy.counts()).saturating_sub(asked(*before)));
        asked.sum()
    }

    /// Sessions that began since.
    fn began(&self) -> u64 {
        let began = self
            .proxies
            .iter()
            .map(|(proxy, before)| proxy.counts().sessions.saturating_sub(before.sessions));
        began.sum()
    }
}

impl Guard for Insecure {
    fn way_gone(&self) -> bool {
        true
    }

    fn heal(self: Box<Self>) -> Healing {
        let (asked, began) = (self.asked(), self.began());
        let cluster = self.cluster.clone();
        drop(self);
        Box::pin(async move {
            serves(&cluster).await?;
            let bit = asked > 0 && began == 0;
            Ok(bit.then(|| format!("servers asked for {asked} connections, and none became a session")))
        })
    }
}

impl Drop for Insecure {
    fn drop(&mut self) {
        self.proxies.iter().for_each(|(proxy, _)| proxy.offer(Tls::Offered));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of every parameter by itself.
    fn forms(kind: &'static Kind) -> Vec<Values> {
        let mut texts = vec![String::new()];
        for parameter in kind.parameters {
            let values: Vec<String> = match parameter.domain {
                Domain::Words(words) => words.iter().map(ToString::to_string).collect(),
                Domain::Whole(least, most) => vec![least.to_string(), most.to_string()],
                Domain::Name => Vec::new(),
            };
            texts.extend(values.iter().map(|value| format!("{}={value}", parameter.name)));
        }
        texts.iter().map(|text| Values::parse(kind, text).unwrap()).collect()
    }

    #[test]
    fn every_form_of_a_fault_on_messages_is_a_rule() {
        type ToRule = fn(&Values) -> String;
        let rules: [(&str, ToRule); 9] = [
            ("commit-cut", commit_cut),
            ("connection-cut", connection_cut),
            ("message-cut", message_cut),
            ("answer-swallowed", answer_swallowed),
            ("greeting-swallowed", greeting_swallowed),
            ("error-injected", error_injected),
            ("garbage", garbage),
            ("answer-repeated", answer_repeated),
            ("answer-late", answer_late),
        ];
        for (name, rule) in rules {
            let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
            for with in forms(kind) {
                let text = rule(&with);
                assert!(text.parse::<Rule>().is_ok(), "{text}: {:?}", text.parse::<Rule>());
            }
        }
    }
}
