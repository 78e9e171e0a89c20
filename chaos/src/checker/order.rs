//! W4: effects on one object stand in the order in which their writes were acknowledged. Looks at places in that order,
//! not at reads (`register`, `session`).

use crate::checker::Finding;
use crate::checker::index::{Index, Op, Step, Write};
use crate::verdict::{Check, Class};

pub(crate) fn check(index: &Index<'_>) -> Check {
    let mut finding =
        Finding::new("W4", "effects on one object keep the order of their writes", Class::Safety);
    for &(write, one, other) in &index.objects.torn {
        let Some(write) = index.writes.get(write) else { continue };
        let summary = format!("the write of {} has two places in its order, {one} and {other}", write.value);
        finding.violated(summary, || write.lines(&index.ops));
    }
    for object in 0..index.objects.names.len() {
        let steps = index.objects.order.get(object);
        // A todo's creation precedes its update by nature; one step has no order.
        if steps.len() > 1 {
            of_object(index, object, steps, &mut finding);
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no two effects on one object have a known place");
    }
    let (found, examined) = (finding.check.violations, finding.check.examined);
    finding.done(format!("{found} of {examined} effects out of order"))
}

fn of_object(index: &Index<'_>, object: usize, steps: &[Step], finding: &mut Finding) {
    let name = index.objects.names.get(object).copied().unwrap_or_default();
    for pair in steps.windows(2) {
        if let [one, other] = pair
            && one.n == other.n
        {
            let both = [one, other].map(|step| index.writes.get(step.write));
            finding.violated(format!("two effects on {name} have the place {}", one.n), || {
                both.into_iter().flatten().flat_map(|write| write.lines(&index.ops)).collect()
            });
        }
    }
    // The earliest acknowledgement among the effects that come later: committed ones bind every write, journaled ones
    // only those of the same replica.
    let mut committed: Option<(u64, usize)> = None;
    let mut journaled: Vec<(&str, (u64, usize))> = Vec::new();
    for step in steps.iter().rev() {
        let Some(write) = index.writes.get(step.write) else { continue };
        finding.examined(1);
        let replicas = write.sends(&index.ops).filter_map(|op| index.replica(op));
        let on_replica =
            |replica: &str| journaled.iter().find(|(of, _)| *of == replica).map(|(_, first)| *first);
        let first = replicas.filter_map(on_replica).chain(committed).min();
        if let Some((us, later)) = first.filter(|(us, _)| *us < write.begun_us) {
            let later = index.writes.get(later);
            let value = later.map_or("", |later| later.value);
            finding.violated(
                format!(
                    "{name} took {} before {value}, which was acknowledged before it was begun",
                    write.value
                ),
                || {
                    [
                        write.lines(&index.ops),
                        later.map(|later| later.lines(&index.ops)).unwrap_or_default(),
                        vec![format!(
                            "{value} was acknowledged at {}, {} begun at {}",
                            crate::checker::at(us),
                            write.value,
                            crate::checker::at(write.begun_us)
                        )],
                    ]
                    .concat()
                },
            );
            finding.drawn(|| {
                let both = [later, Some(write)].into_iter().flatten();
                both.flat_map(|write| write.spans(&index.ops)).collect()
            });
        }
        note(index, write, step, &mut committed, &mut journaled);
    }
}

fn note<'a>(
    index: &Index<'a>,
    write: &Write<'a>,
    step: &Step,
    committed: &mut Option<(u64, usize)>,
    journaled: &mut Vec<(&'a str, (u64, usize))>,
) {
    if let Some((us, _)) = write.committed {
        let new = (us, step.write);
        *committed = Some(committed.map_or(new, |old| old.min(new)));
    } else if let Some((us, op)) = write.acknowledged {
        let Some(replica) = index.ops.get(op).and_then(|op: &Op<'a>| index.replica(op)) else { return };
        let new = (us, step.write);
        match journaled.iter_mut().find(|(of, _)| *of == replica) {
            Some((_, old)) => *old = (*old).min(new),
            None => journaled.push((replica, new)),
        }
    }
}
