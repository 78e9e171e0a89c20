//! S5: what one client was shown does not go backwards, and its own acknowledged writes stay visible to it. Looks at
//! the places of what was shown; without sessions in the history there is nothing to see.

use crate::checker::band::{Banded, Freshness};
use crate::checker::index::{Groups, Index, Map, Shown};
use crate::checker::{Finding, failover};
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

/// What each session saw of each object, by the number of the pair.
#[derive(Default)]
struct Sessions<'s> {
    names: Map<&'s str, u32>,
    pairs: Map<(u32, u32), u32>,
    /// The session and the object of each pair.
    of_pair: Vec<(&'s str, u32)>,
    looks: Vec<(u32, Seen<'s>)>,
}

pub(crate) fn check(index: &Index<'_>, bands: &[Banded]) -> Check {
    let mut finding = Finding::new("S5", "what one client saw and wrote stays visible to it", Class::Safety);
    let mut sessions = Sessions::default();
    sessions.gather_reads(index, bands);
    sessions.gather_writes(index);
    let looks = Groups::of(sessions.of_pair.len(), &sessions.looks);
    for (pair, (session, object)) in sessions.of_pair.iter().enumerate() {
        let looks = looks.get(pair);
        let reads = looks.iter().filter(|(look, _)| look.read).count() as u64;
        if reads > 0 && looks.len() > 1 {
            finding.examined(reads);
            let object = index.objects.names.get(*object as usize).copied().unwrap_or_default();
            judge(index, session, object, looks, &mut finding);
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no session read an object twice, or one that it wrote");
    }
    let (found, examined) = (finding.check.violations, finding.check.examined);
    finding.done(format!("{found} of {examined} answers went back behind what their session knew"))
}

impl<'s> Sessions<'s> {
    fn add(&mut self, session: &'s str, object: usize, seen: Seen<'s>) {
        let new = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
        let next = new(self.names.len());
        let name = *self.names.entry(session).or_insert(next);
        let (object, next) = (new(object), new(self.of_pair.len()));
        let pair = *self.pairs.entry((name, object)).or_insert(next);
        if pair == next {
            self.of_pair.push((session, object));
        }
        self.looks.push((pair, seen));
    }

    fn gather_reads(&mut self, index: &'s Index<'_>, bands: &[Banded]) {
        for (place, (op, banded)) in index.ops.iter().zip(bands).enumerate() {
            let Some((object, shown)) = index.objects.read(place) else { continue };
            let (Some(session), Some(end_us)) = (op.invoke.session.as_deref(), op.ended_us) else { continue };
            let Some(n) = index.objects.n_of(shown) else { continue };
            if matches!(shown, Shown::Write(write) if may_be_taken_back(index, write)) {
                continue;
            }
            let fresh = banded.freshness == Freshness::Fresh;
            let own = !fresh || matches!(shown, Shown::Write(write) if journal_only(index, write));
            let look = Look { op: place, n, begin_us: op.begun_us, end_us, read: true, fresh, own };
            self.add(session, object, (look, index.replica(op)));
        }
    }

    fn gather_writes(&mut self, index: &'s Index<'_>) {
        for object in 0..index.objects.names.len() {
            for step in index.objects.order.get(object) {
                let Some(write) = index.writes.get(step.write) else { continue };
                let Some((end_us, place)) = write.acknowledged else { continue };
                let Some(op) = index.ops.get(place) else { continue };
                let Some(session) = op.invoke.session.as_deref() else { continue };
                let stays = !may_be_taken_back(index, step.write);
                if stays && !matches!(write.status, Some("superseded" | "rejected")) {
                    let own = write.journaled && write.committed.is_none();
                    let (n, begin_us) = (step.n, write.begun_us);
                    let look = Look { op: place, n, begin_us, end_us, read: false, fresh: true, own };
                    self.add(session, object, (look, index.replica(op)));
                }
            }
        }
    }
}

/// What a failover may have taken back, it may have taken back from a session too.
fn may_be_taken_back(index: &Index<'_>, write: usize) -> bool {
    index.writes.get(write).is_some_and(|write| failover::in_window(index, write))
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
