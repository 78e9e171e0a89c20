//! Builds histories by hand: a good eight-second outage, and small changes to it.

use crate::checker::judge;
use crate::history::{
    Action, Canary, Completion, Event, FORMAT, FaultEnd, FaultStart, FinalRow, FinalRows, Got, Invoke,
    Limits, Load, Probe, ProcessExit, ProcessStart, Role, Run, Todo, Usage, WriteStatus,
};
use crate::verdict::Verdict;

pub(crate) fn ms(ms: u64) -> u64 {
    ms * 1_000
}

/// A history in the making.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) limits: Limits,
    pub(crate) rows: Vec<FinalRow>,
    pub(crate) rows_announced: Option<u64>,
    events: Vec<Event>,
    ops: Vec<(Invoke, Option<Event>)>,
    extra_planned: u64,
    /// End of the load.
    pub(crate) until_us: u64,
}

impl Scene {
    /// Only a header and a load: no request, no fault.
    pub(crate) fn empty() -> Self {
        let limits = Limits::default();
        let run = Run {
            format: FORMAT,
            seed: 1,
            scenario: "db-kill".into(),
            rerun: "run db-kill --seed 1".into(),
            limits: limits.clone(),
            ..Run::default()
        };
        let events = vec![Event::Run(Box::new(run))];
        let (rows, ops, until_us) = (Vec::new(), Vec::new(), ms(14_050));
        Self { limits, rows, rows_announced: None, events, ops, extra_planned: 0, until_us }
    }

    /// The database is killed at 4 s and back at 12 s. Ten reads and five writes per second, all good.
    pub(crate) fn outage() -> Self {
        let mut scene = Self::empty();
        for name in ["server-1", "server-2"] {
            scene.start(name, 0);
        }
        (0..5).for_each(|number| scene.warm(number));
        for slot in 0..140 {
            let time = ms(50 + slot * 100);
            let away = (ms(4_000)..ms(12_000)).contains(&time);
            let age = (time.saturating_sub(ms(4_000))).div_ceil(1_000_000) + 1;
            let label = if away { format!("stale; age={age}; reason=database_away") } else { "fresh".into() };
            scene.read(2 + slot as usize % 3, &label, time, time + ms(3));
        }
        for slot in 0..70 {
            let time = ms(70 + slot * 200);
            let away = (ms(4_000)..ms(12_000)).contains(&time);
            let value = if away { format!("during-{slot}") } else { format!("calm-{slot}") };
            let value = if slot == 40 { "during-3".into() } else { value };
            scene.write(Action::Create, &value, None, time);
            scene.end_write(&value, if away { "journaled" } else { "committed" }, Got::Answer, time + ms(5));
            scene.row(&format!("id-{value}"), &value, 1, false);
        }
        scene.fault();
        for time in (0..280).map(|step| ms(step * 50)) {
            scene.probe("server-1", time, time + ms(2), Some(200));
            scene.probe("server-2", time, time + ms(2), Some(200));
        }
        scene
    }

    /// A todo that was there before the load, with its row.
    pub(crate) fn warm(&mut self, number: usize) {
        let (id, title) = (format!("id-warm-{number}"), format!("warm-{number}"));
        let op = self.push(Action::Create, ms(10), false, None, Some(&title));
        self.end(op, "committed", &id, &title, ms(20));
        self.row(&id, &title, 1, false);
    }

    fn fault(&mut self) {
        for time in (0..700).map(|step| ms(step * 20)) {
            let ok = !(ms(4_000)..ms(11_990)).contains(&time);
            let at_us = if ok { time + ms(1) } else { time };
            let at_us = if time == ms(12_000) { time } else { at_us };
            self.events.push(Event::Canary(Canary { sent_us: time, at_us, ok, error: None }));
        }
        self.events.push(Event::FaultStart(FaultStart {
            id: 1,
            fault: "db-kill".into(),
            at_us: ms(4_000),
            database_gone: true,
            way_gone: false,
            asked_us: None,
            witness: Some("the postmaster ended by signal 9".into()),
        }));
        self.events.push(Event::FaultEnd(FaultEnd { id: 1, at_us: ms(11_500), witness: None }));
    }

    pub(crate) fn add(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Lets what was begun in this time end later by so much.
    pub(crate) fn delay(&mut self, begun: std::ops::Range<u64>, by_us: u64) {
        for (_, end) in self.ops.iter_mut().filter(|(invoke, _)| begun.contains(&invoke.at_us)) {
            if let Some(Event::Ok(done)) = end {
                done.at_us += by_us;
            }
        }
    }

    pub(crate) fn fault_witness(&mut self, text: Option<&str>) {
        for event in &mut self.events {
            if let Event::FaultStart(start) = event {
                start.witness = text.map(str::to_owned);
            }
        }
    }

    /// The fault is one on the way of the servers, which the canary does not go.
    pub(crate) fn only_the_way_is_gone(&mut self) {
        self.canary_never_failed();
        for event in &mut self.events {
            if let Event::FaultStart(start) = event {
                (start.database_gone, start.way_gone) = (false, true);
            }
        }
    }

    /// The fault bites once, and is taken off long after the database is back.
    pub(crate) fn taken_off(&mut self, taken_us: u64) {
        for event in &mut self.events {
            match event {
                Event::FaultStart(start) => start.database_gone = false,
                Event::FaultEnd(end) => end.at_us = taken_us,
                _ => {}
            }
        }
    }

    pub(crate) fn canary_never_failed(&mut self) {
        for event in &mut self.events {
            if let Event::Canary(canary) = event {
                canary.ok = true;
            }
        }
    }

    /// Turns the fresh answers of the first moments after the outage into stale ones.
    pub(crate) fn slow_recovery(&mut self, by_us: u64) {
        for (invoke, end) in &mut self.ops {
            if let Some(Event::Ok(done)) = end
                && !invoke.action.is_write()
                && (ms(12_000)..ms(12_000) + by_us - ms(3)).contains(&invoke.at_us)
            {
                done.freshness = Some("stale; age=60; reason=probe".into());
            }
        }
    }

    pub(crate) fn planned_but_never_begun(&mut self, count: u64) {
        self.extra_planned += count;
    }

    pub(crate) fn start(&mut self, process: &str, at_us: u64) {
        let process = process.to_owned();
        self.events.push(Event::ProcessStart(ProcessStart { process, role: Role::Server, at_us, pid: 1 }));
    }

    pub(crate) fn exit(&mut self, process: &str, at_us: u64, planned: bool) {
        let (process, how) = (process.to_owned(), "signal 9".to_owned());
        self.events.push(Event::ProcessExit(ProcessExit {
            process,
            role: Role::Server,
            at_us,
            planned,
            how,
        }));
    }

    /// What the server held, twice a second: memory and entries grow in the outage, and the entries are gone after this
    /// time.
    pub(crate) fn usage(&mut self, grown_bytes: u64, journal_bytes: u64, gone_after_us: u64) {
        for at_us in (0..28).map(|step| ms(step * 500)) {
            let waits = (ms(4_500)..ms(12_000) + gone_after_us).contains(&at_us);
            self.events.push(Event::Usage(Usage {
                process: "server-1".into(),
                at_us,
                memory_bytes: 50_000_000 + if waits { grown_bytes } else { 0 },
                journal_entries: Some(if waits { 1_000 } else { 0 }),
                journal_bytes,
                fds: None,
                tasks: None,
            }));
        }
    }

    pub(crate) fn probe(&mut self, process: &str, planned_us: u64, at_us: u64, status: Option<u16>) {
        let (process, path) = (process.to_owned(), "/livez".to_owned());
        self.events.push(Event::Probe(Probe { process, path, planned_us, at_us, status, error: None }));
    }

    pub(crate) fn status(&mut self, key: &str, status: &str) {
        self.events.push(Event::WriteStatus(WriteStatus {
            key: key.into(),
            at_us: ms(20_000),
            status: status.into(),
            process: "server-1".into(),
            reason: None,
        }));
    }

    pub(crate) fn row(&mut self, id: &str, title: &str, version: i64, done: bool) {
        self.rows.push(FinalRow { id: id.into(), title: title.into(), version, done });
    }

    /// A measured read of a warm todo that shows what the todo was made with.
    pub(crate) fn read(&mut self, warm: usize, label: &str, at_us: u64, end_us: u64) {
        let op = self.push(Action::Read, at_us, true, Some(&format!("id-warm-{warm}")), None);
        self.finish(
            op,
            Completion {
                freshness: Some(label.into()),
                todos: vec![todo(&format!("id-warm-{warm}"), &format!("warm-{warm}"), false)],
                ..answer(op, end_us, 200)
            },
        );
    }

    /// A fresh read of a warm todo that shows something else.
    pub(crate) fn read_as(&mut self, warm: usize, id: &str, title: &str, done: bool, at_us: u64) {
        let op = self.push(Action::Read, at_us, true, Some(&format!("id-warm-{warm}")), None);
        let todos = vec![todo(id, title, done)];
        let freshness = Some("fresh".into());
        self.finish(op, Completion { freshness, todos, ..answer(op, at_us + ms(3), 200) });
    }

    pub(crate) fn fail_read(&mut self, got: Got, at_us: u64) {
        let op = self.push(Action::Read, at_us, true, Some("id-warm-1"), None);
        let done = Completion { got, status: None, ..answer(op, at_us + ms(100), 0) };
        self.set_end(op, Event::Fail(done));
    }

    /// An update of a warm todo, acknowledged, with its effect in the final row.
    pub(crate) fn update(&mut self, warm: usize, value: &str, outcome: &str, at_us: u64, end_us: u64) {
        let id = format!("id-warm-{warm}");
        let op = self.write(Action::Update, value, Some(&id), at_us);
        self.end(op, outcome, &id, value, end_us);
        self.rows[warm] = FinalRow { id, title: value.into(), version: 2, done: true };
    }

    pub(crate) fn undo_update(&mut self, warm: usize) {
        let (id, title) = (format!("id-warm-{warm}"), format!("warm-{warm}"));
        self.rows[warm] = FinalRow { id, title, version: 1, done: false };
    }

    /// Begins a measured write with the key `key-VALUE`.
    pub(crate) fn write(&mut self, action: Action, value: &str, todo: Option<&str>, at_us: u64) -> u64 {
        self.push(action, at_us, true, todo, Some(value))
    }

    /// Ends the creation of this value: `committed` and `journaled` with the id `id-VALUE`.
    pub(crate) fn end_write(&mut self, value: &str, outcome: &str, got: Got, at_us: u64) {
        let op = self.ops.iter().rfind(|(invoke, _)| invoke.value.as_deref() == Some(value)).unwrap().0.op;
        if matches!(outcome, "committed" | "journaled") {
            return self.end(op, outcome, &format!("id-{value}"), value, at_us);
        }
        let done = Completion { got, outcome: Some(outcome.into()), ..answer(op, at_us, 503) };
        let event = if outcome == "rejected" { Event::Fail(done) } else { Event::Info(done) };
        self.set_end(op, event);
    }

    /// Acknowledges an operation with a todo in the answer.
    pub(crate) fn end(&mut self, op: u64, outcome: &str, id: &str, title: &str, at_us: u64) {
        let updated = self.ops[op as usize].0.action == Action::Update;
        let status = if outcome == "journaled" { 202 } else { 201 };
        let todos = vec![todo(id, title, updated)];
        self.finish(op, Completion { outcome: Some(outcome.into()), todos, ..answer(op, at_us, status) });
    }

    /// The last operations were one client's.
    pub(crate) fn in_session(&mut self, session: &str, count: usize) {
        for (invoke, _) in self.ops.iter_mut().rev().take(count) {
            invoke.session = Some(session.to_owned());
        }
    }

    pub(crate) fn without_promotion(&mut self) {
        self.events.retain(|event| !matches!(event, Event::Promotion(_)));
    }

    fn push(
        &mut self,
        action: Action,
        at_us: u64,
        measured: bool,
        todo: Option<&str>,
        value: Option<&str>,
    ) -> u64 {
        let op = self.ops.len() as u64;
        let invoke = Invoke {
            op,
            action,
            planned_us: at_us,
            at_us,
            measured,
            todo: todo.map(str::to_owned),
            value: value.map(str::to_owned),
            key: value.map(|value| format!("key-{value}")),
            repeat_of: None,
            to: "proxy".into(),
            ..Invoke::default()
        };
        self.ops.push((invoke, None));
        op
    }

    fn finish(&mut self, op: u64, done: Completion) {
        self.set_end(op, Event::Ok(done));
    }

    fn set_end(&mut self, op: u64, event: Event) {
        self.ops[op as usize].1 = Some(event);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = self.events.clone();
        let planned = |writes| {
            let counted = self.ops.iter().filter(|(invoke, _)| invoke.measured);
            counted.filter(|(invoke, _)| invoke.action.is_write() == writes).count() as u64
        };
        let (reads, writes) = (planned(false) + self.extra_planned, planned(true));
        events.push(Event::Load(Load { at_us: ms(50), until_us: self.until_us, reads, writes }));
        for (invoke, end) in &self.ops {
            events.push(Event::Invoke(invoke.clone()));
            events.extend(end.clone());
        }
        events.extend(self.rows.iter().cloned().map(Event::FinalRow));
        let rows = self.rows_announced.unwrap_or(self.rows.len() as u64);
        events.push(Event::FinalRows(FinalRows { at_us: ms(20_000), rows }));
        events
    }

    pub(crate) fn judge(&self) -> Verdict {
        judge(&self.events(), &self.limits)
    }
}

fn answer(op: u64, at_us: u64, status: u16) -> Completion {
    Completion {
        op,
        at_us,
        sent_us: Some(at_us.saturating_sub(1)),
        got: Got::Answer,
        status: Some(status),
        ..Completion::default()
    }
}

fn todo(id: &str, title: &str, updated: bool) -> Todo {
    Todo { id: id.into(), title: title.into(), version: 1 + i64::from(updated), done: updated }
}
