//! `up`: a stack left running for a person to use, break and heal. Everything goes when it is stopped.
//! What a person can ask for is in `up/wish.rs`, how that reaches it in `up/control.rs`; what it tells of the servers, in
//! `up/changes.rs`.

mod changes;
mod control;
mod wish;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cli::{Interrupts, list};
use crate::error::Error;
use crate::nemesis::{self, Bite, Kind, Scene};
use crate::shim::Shim;
use crate::stack::{Fitting, Options, Service, Stack};

pub(crate) use control::ask;
pub(crate) use wish::Wish;

/// How long the stack may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// An end that nobody asked for is told within this.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Requests that may wait while one is carried out.
const REQUESTS_MAX: usize = 8;

/// One thing that a person asked for, and where the answer goes.
#[derive(Debug)]
struct Request {
    what: Wish,
    answer: oneshot::Sender<Result<String, String>>,
}

/// What an `up` is fitted with, so that all that can be broken at all can be broken while it runs. A standby and the proxies
/// before PostgreSQL exclude each other; the shim takes a C compiler, without which the rest still goes. Nothing stands in
/// namespaces of its own, where nobody from outside could reach it.
pub(crate) fn fitting(standby: bool) -> Fitting {
    let shim = Shim::can_be_built();
    Fitting {
        messages: !standby,
        bytes: !standby,
        tls: !standby,
        database_shim: shim,
        server_shim: shim,
        standby,
        ..Fitting::default()
    }
}

/// Starts the stack, says how to use and break it, and keeps it until the first interrupt; then stops it in order,
/// and at once on the second.
///
/// # Errors
/// [`Error`] where the stack does not start or does not stop.
///
/// # Cancel safety
/// Dropping the future ends and removes everything by force.
pub(crate) async fn up(options: &Options, interrupts: &mut Interrupts) -> Result<(), Error> {
    say("starting PostgreSQL, two servers and the proxy; Ctrl-C stops and removes everything\n");
    let start = async {
        let stack = Stack::start(options).await?;
        stack.ready(READY_LIMIT).await.map(|()| stack)
    };
    let stack = tokio::select! {
        stack = Box::pin(start) => stack?,
        () = interrupts.next() => return Ok(()),
    };
    let (requests, mut asked) = mpsc::channel(REQUESTS_MAX);
    let mut doors = JoinSet::new();
    let proxy = stack.proxy().ok_or_else(|| Error::state("leave a stack running", "it has no proxy"))?;
    doors.spawn(control::listen(stack.folder(), proxy.main(), requests)?);
    say(&welcome(&stack, proxy));
    doors.spawn(changes::tell(stack.targets(), say));

    let mut bites = Vec::new();
    let mut told = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = interrupts.next() => break,
            Some(request) = asked.recv() => {
                let told = request.what != Wish::Offer;
                let answer = Box::pin(fulfil(request.what, &stack, options.fitting, &mut bites)).await;
                if told {
                    say(&format!("{}\n", answer.as_ref().unwrap_or_else(|error| error)));
                }
                // Whoever asked may have gone; the person at this terminal has read it.
                let _ = request.answer.send(answer);
            }
            _ = look.tick() => tell_ends(&stack, &mut told),
        }
    }
    drop(doors);
    say("stopping; once more to hurry\n");
    // A hung or dead database would make the servers drain to their limit.
    drop(bites);
    let stopped = tokio::select! {
        stopped = Box::pin(stack.stop()) => stopped,
        () = interrupts.next() => return Ok(()),
    };
    for (name, exit) in stopped?.exits {
        say(&format!("{name}: {exit}\n"));
    }
    Ok(())
}

async fn fulfil(
    wish: Wish,
    stack: &Stack,
    fitting: Fitting,
    bites: &mut Vec<Bite>,
) -> Result<String, String> {
    let failed = |error: Error| format!("failed to {error}");
    match wish {
        Wish::Offer => Ok(offer(fitting, bites)),
        Wish::Break(fault) => {
            let name = fault.name();
            if bites.iter().any(|bite| bite.fault().name() == name) {
                return Err(format!("{name} is on already; `ridethrough-chaos heal {name}` takes it off"));
            }
            if let Some(why) = missing(fault.kind(), fitting) {
                return Err(format!("{name} cannot be put on this stack: {why}"));
            }
            let scene = Scene::of(stack, 0, false);
            let bite = nemesis::inject(&fault, &scene).await.map_err(failed)?;
            bites.push(bite);
            Ok(format!("{fault} is on"))
        }
        Wish::Heal(name) => {
            let is_meant = |bite: &mut Bite| name.is_none_or(|name| bite.fault().name() == name);
            let meant: Vec<Bite> = bites.extract_if(.., is_meant).collect();
            let mut healed = Vec::new();
            // In the order of breaking: a server may need its database.
            for bite in meant {
                let fault = bite.fault().clone();
                let witness = bite.heal().await.map_err(failed)?.witness;
                let witness = witness.unwrap_or_else(|| "nothing proves that it bit".to_owned());
                healed.push(format!("{fault} is healed ({witness})"));
            }
            let nothing = || name.map_or("nothing is broken".to_owned(), |name| format!("{name} is not on"));
            Ok(if healed.is_empty() { nothing() } else { healed.join("\n") })
        }
    }
}

/// What is on, what can be put on, and what not here.
fn offer(fitting: Fitting, bites: &[Bite]) -> String {
    let mut text = String::new();
    if !bites.is_empty() {
        let on: String = bites.iter().map(|bite| format!("  {}\n", bite.fault())).collect();
        text += &format!("On, for `heal NAME`:\n{on}\n");
    }
    text += &format!("Faults, for `break`, as {}:\n", list::FORM);
    let mut others = String::new();
    for kind in nemesis::catalogue() {
        match missing(kind, fitting) {
            None => text += &list::fault(kind),
            Some(why) => others += &format!("  {:<4} {:<22} {why}\n", kind.id, kind.name),
        }
    }
    if !others.is_empty() {
        text += &format!("\nNot on this stack:\n{others}");
    }
    text
}

/// Why a stack with this fitting cannot be broken so, if it cannot.
fn missing(kind: &Kind, fitting: Fitting) -> Option<String> {
    let wanted = kind.fitting();
    if fitting.covers(wanted) {
        return None;
    }
    if wanted.needs_namespaces() {
        return Some("takes a network of its own, which only a run has".to_owned());
    }
    Some(match (wanted.standby, wanted.database_shim || wanted.server_shim) {
        (true, _) => "takes a standby; start with `ridethrough-chaos up --standby`".to_owned(),
        (_, true) => "takes a C compiler".to_owned(),
        _ => "takes a proxy before PostgreSQL; start without --standby".to_owned(),
    })
}

/// Tells of processes that ended without anybody asking, once each.
fn tell_ends(stack: &Stack, told: &mut BTreeMap<String, usize>) {
    for service in stack.servers().iter().chain(stack.proxy()) {
        let lives = service.lives();
        let known = told.entry(service.name().to_owned()).or_default();
        for life in lives.iter().skip(*known).filter(|life| !life.planned) {
            if let Some(exit) = life.exit {
                let log = crate::process::log_tail(service.log(), 5);
                say(&format!("{} died by itself: {exit}{log}\n", service.name()));
            }
        }
        *known = lives.iter().take_while(|life| life.exit.is_some()).count();
    }
}

fn welcome(stack: &Stack, proxy: &Service) -> String {
    let mut text = format!("\n  todos        http://{}/\n", proxy.main());
    text += &format!("  proxy admin  http://{}/metrics\n", proxy.admin());
    for server in stack.servers() {
        let (name, main, admin) = (server.name(), server.main(), server.admin());
        text += &format!("  {name}     http://{main}/  (admin http://{admin}/debug/state)\n");
    }
    text += &format!("  database     {}\n", stack.cluster().url());
    text += &format!("  logs         {}\n\n", stack.folder().path().display());
    let program = program();
    text += "Stop it here with Ctrl-C, and in another terminal\n";
    text += &format!("  break it  {program} break db-kill\n");
    text += &format!("            {program} break              what else there is\n");
    text += &format!("  heal it   {program} heal db-kill       or all: {program} heal\n\n");
    text += "What changes at a server is told below.\n";
    text
}

/// As the person called this program, so that the line can be copied.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "ridethrough-chaos".to_owned())
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The address is all that tells two running `up` apart.
fn same(proxy: &str, wanted: Option<SocketAddr>) -> bool {
    wanted.is_none_or(|wanted| proxy.trim().parse() == Ok(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Fault;

    #[test]
    fn every_fault_without_a_network_of_its_own_can_be_put_on_one_of_the_two_stacks_and_the_other_says_how() {
        let full = |standby: bool| Fitting { database_shim: true, server_shim: true, ..fitting(standby) };
        for kind in nemesis::catalogue() {
            let found = [full(false), full(true)].map(|fitting| missing(kind, fitting));
            let is_possible = found.iter().any(Option::is_none);
            assert_eq!(is_possible, !kind.fitting().needs_namespaces(), "{}", kind.name);
        }
        let text = offer(full(false), &[]);
        let (can, cannot) = text.split_once("Not on this stack").unwrap();
        assert!(can.contains("network-blackhole") && can.contains("fsync-slow"), "{text}");
        assert!(cannot.contains("failover") && cannot.contains("up --standby"), "{text}");
        assert!(cannot.contains("packets-lost") && cannot.contains("only a run has"), "{text}");
    }

    #[test]
    fn without_a_compiler_the_faults_of_disks_say_so() {
        let bare = Fitting { database_shim: false, server_shim: false, ..fitting(false) };
        let kind = |name: &str| name.parse::<Fault>().unwrap().kind();
        assert!(missing(kind("fsync-slow"), bare).unwrap().contains("compiler"));
        assert_eq!(missing(kind("network-latency"), bare), None);
    }
}
