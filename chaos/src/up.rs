//! `up`: a stack left running for a person to use, break and heal. Everything goes when it is stopped.
//! How `break` and `heal` reach it is in `up/control.rs`; what it tells of the servers, in `up/changes.rs`.

mod changes;
mod control;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cli::Interrupts;
use crate::error::Error;
use crate::nemesis::{self, Bite, Fault, Scene};
use crate::stack::{Options, Service, Stack};

pub(crate) use control::ask;

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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    Break(Fault),
    Heal,
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
                let answer = Box::pin(fulfil(request.what, &stack, &mut bites)).await;
                say(&format!("{}\n", answer.as_ref().unwrap_or_else(|error| error)));
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

async fn fulfil(wish: Wish, stack: &Stack, bites: &mut Vec<Bite>) -> Result<String, String> {
    let failed = |error: Error| format!("failed to {error}");
    match wish {
        Wish::Break(fault) => {
            if bites.iter().any(|bite| bite.fault().name() == fault.name()) {
                return Err(format!("{} is on already; `ridethrough-chaos heal` takes it off", fault.name()));
            }
            let scene = Scene::of(stack, 0, false);
            let bite = nemesis::inject(&fault, &scene).await.map_err(failed)?;
            bites.push(bite);
            Ok(format!("{fault} is on"))
        }
        Wish::Heal if bites.is_empty() => Ok("nothing is broken".to_owned()),
        Wish::Heal => {
            let mut healed = Vec::new();
            // In the order of breaking: a server may need its database.
            for bite in bites.drain(..) {
                let fault = bite.fault().clone();
                let witness = bite.heal().await.map_err(failed)?.witness;
                healed.push(format!(
                    "{fault} is healed ({})",
                    witness.unwrap_or_else(|| "no witness".to_owned())
                ));
            }
            Ok(healed.join("\n"))
        }
    }
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
    text += &format!("Break it:  {program} break db-kill   (`{program} list` shows the others)\n");
    text += &format!("Heal it:   {program} heal\n");
    text += "Stop it:   Ctrl-C\n\nWhat changes at a server is told below.\n";
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
