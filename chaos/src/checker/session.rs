//! S5: what one client was shown does not go backwards, and its own acknowledged writes stay visible to it. Looks at
//! the places of what was shown; without sessions in the history there is nothing to see.

use crate::checker::Finding;
use crate::checker::band::Freshness;
use crate::checker::index::{Index, Map};
use crate::verdict::{Check, Class};

/// One moment at which a session learned, or asked for, the place of an object.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Place of the operation.
    op: usize,
    n: i64,
    begin_us: u64,
    end_us: u64,
    read: bool,
    fresh: bool,
    /// Whether other replicas may not know it yet: the value came from a journal, or the answer from a cache.
    own: bool,
}

/// A look and the replica that gave it.
type Seen<'s> = (Look, Option<&'s str>);
/// What each session saw of each object.
type Sessions<'s> = Map<(&'s str, &'s str), Vec<Seen<'s>>>;

pub(crate) fn check(index: &Index<'_>) -> Check {
    let mut finding = Finding::new("S5", "what one client saw and wrote stays visible to it", Class::Safety);
    let mut sessions = Sessions::new();
    gather_reads(index, &mut sessions);
    gather_writes(index, &mut sessions);
    let mut ordered: Vec<_> = sessions.into_iter().collect();
    ordered.sort_unstable_by_key(|(key, _)| *key);
    for ((session, object), looks) in ordered {
        let reads = looks.iter().filter(|(look, _)| look.read).count() as u64;
        if reads > 0 && looks.len() > 1 {
            finding.examined(reads);
            judge(index, session, object, &looks, &mut finding);
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no session read an object twice, or one that it wrote");
    }
    let (found, examined) = (finding.check.violations, finding.check.examined);
    finding.done(format!("{found} of {examined} answers went back behind what their session knew"))
}

fn gather_reads<'s>(index: &'s Index<'_>, sessions: &mut Sessions<'s>) {
    for (place, op) in index.ops.iter().enumerate() {
        let Some(session) = op.invoke.session.as_deref() else { continue };
        let Some((object, shown)) = index.objects.read(place) else { continue };
        let (Some(n), Some((_, done))) = (index.objects.n_of(shown), op.end) else { continue };
        let Some(name) = index.objects.names.get(object) else { continue };
        let fresh = Freshness::of(done) == Freshness::Fresh;
        let own = !fresh
            || matches!(shown, crate::checker::index::Shown::Write(write) if journal_only(index, write));
        let (begin_us, end_us) = (op.invoke.at_us, done.at_us);
        let look = Look { op: place, n, begin_us, end_us, read: true, fresh, own };
        sessions.entry((session, name)).or_default().push((look, index.replica(op)));
    }
}

fn gather_writes<'s>(index: &'s Index<'_>, sessions: &mut Sessions<'s>) {
    for (place, write) in index.writes.iter().enumerate() {
        let Some((end_us, op_place)) = write.acknowledged else { continue };
        let (Some(op), Some(n)) = (index.ops.get(op_place), index.objects.n.get(place).copied().flatten())
        else {
            continue;
        };
        let (Some(session), Some(name)) = (op.invoke.session.as_deref(), write.changes()) else { continue };
        if matches!(write.status, Some("superseded" | "rejected")) {
            continue;
        }
        let own = journal_only(index, place);
        let look = Look { op: op_place, n, begin_us: write.begun_us, end_us, read: false, fresh: true, own };
        sessions.entry((session, name)).or_default().push((look, index.replica(op)));
    }
}

fn journal_only(index: &Index<'_>, write: usize) -> bool {
    index.writes.get(write).is_some_and(|write| write.journaled && write.committed.is_none())
}

/// Goes through the answers in the order of their beginning, with the highest place known before each. What all
/// replicas must know binds fresh answers of every one; what only one replica can know binds that one.
fn judge(index: &Index<'_>, session: &str, object: &str, looks: &[Seen<'_>], finding: &mut Finding) {
    let mut by_end: Vec<&Seen<'_>> = looks.iter().collect();
    by_end.sort_unstable_by_key(|(look, _)| (look.end_us, look.op));
    let mut by_begin: Vec<&Seen<'_>> = looks.iter().filter(|(look, _)| look.read).collect();
    by_begin.sort_unstable_by_key(|(look, _)| (look.begin_us, look.op));
    let mut ended = by_end.into_iter().peekable();
    let mut shared: Option<Look> = None;
    let mut of_replica: Vec<(&str, Look)> = Vec::new();
    for (look, replica) in by_begin {
        while let Some((known, at)) = ended.next_if(|(known, _)| known.end_us <= look.begin_us) {
            if !known.own && shared.is_none_or(|highest| highest.n < known.n) {
                shared = Some(*known);
            }
            // A write binds its replica's fresh answers only, so it is no part of what a cache may not go behind.
            let Some(at) = at.filter(|_| known.read || known.own) else { continue };
            match of_replica.iter_mut().find(|(of, _)| *of == at) {
                Some((_, highest)) if highest.n < known.n => *highest = *known,
                Some(_) => {}
                None => of_replica.push((at, *known)),
            }
        }
        let own = of_replica.iter().find(|(of, _)| Some(*of) == *replica).map(|(_, known)| *known);
        let own = own.filter(|known| look.fresh || known.read);
        let bound = shared.filter(|_| look.fresh).into_iter().chain(own).max_by_key(|known| known.n);
        if let Some(known) = bound.filter(|known| known.n > look.n) {
            let what = if known.read { "was shown before" } else { "wrote itself" };
            finding.violated(format!("session {session} read of {object} less than it {what}"), || {
                let ops = [known.op, look.op].into_iter().filter_map(|place| index.ops.get(place));
                ops.map(|op| op.line()).collect()
            });
        }
    }
}
