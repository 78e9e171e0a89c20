//! The table of all scenarios: which faults come when, under what load, and what counts as good enough. What becomes of a
//! row is in `scenario.rs`.

use crate::scenario::{Scenario, Setting, Step, When};

/// Two servers behind the proxy, under light traffic that is mostly reads.
const USUAL: Setting = Setting {
    servers: 2,
    seconds: 8,
    rate_per_second: 150,
    read_share: 0.7,
    parts: [4, 8, 6],
    is_bounded: false,
    journaled_min: 1,
    is_outage: true,
    bad_max: None,
    is_counted: false,
    recovery_ms: None,
    loss_window_ms: 0,
    required: &[],
    server_env: &[],
    ready_changes_max: None,
    unknown_share_max: None,
};
/// A fault that the canary does not meet: on the service's own role, tables or processes.
const ASIDE: Setting = Setting { is_outage: false, journaled_min: 0, ..USUAL };
/// A failover that takes back what its standby had not got: no more than is declared, a little above what is dialled, and
/// every one of them told by the servers. Mostly writes, so that there is something to lose; those that were under way when
/// the primary was lost are refused, honestly.
const LOSSY: Setting = Setting { read_share: 0.3, bad_max: Some((0.001, 0.02)), required: &["W7"], ..ASIDE };
/// One server, so that all 500 writes per second wait in one journal; and reads enough to tell how quick they are.
const ENDURING: Setting = Setting {
    servers: 1,
    seconds: 18,
    rate_per_second: 625,
    read_share: 0.2,
    parts: [1, 10, 1],
    is_bounded: true,
    ..USUAL
};

/// A fault for the whole outage.
const fn all_of_it(fault: &'static str) -> Step {
    Step { fault, from: When::Share(0.0), until: When::Share(1.0) }
}

const fn scenario(
    name: &'static str,
    about: &'static str,
    steps: &'static [Step],
    setting: Setting,
) -> Scenario {
    Scenario { name, about, steps, in_all: true, setting }
}

/// All scenarios, in the order of `run all`.
pub const ALL: &[Scenario] = &[
    scenario("db-kill", "the database is killed under load and brought back", &[all_of_it("db-kill")], USUAL),
    scenario(
        "db-hang",
        "the database stops answering, with every connection open, and goes on",
        &[all_of_it("db-hang")],
        USUAL,
    ),
    scenario(
        "herd",
        "the database hangs, and what each server connects and asks is counted on its way",
        &[all_of_it("db-hang")],
        Setting { is_counted: true, ..USUAL },
    ),
    scenario(
        "db-stop-fast",
        "the database is stopped in order, as for maintenance, and started",
        &[all_of_it("db-stop")],
        USUAL,
    ),
    scenario(
        "db-stop-smart",
        "the database takes no new sessions and waits for the old ones to end",
        &[all_of_it("db-stop:mode=smart")],
        Setting { journaled_min: 0, ..USUAL },
    )
    .only_by_name(),
    scenario(
        "db-flapping",
        "the database goes and comes, over and over",
        &[all_of_it("db-flapping:down=1000,up=500")],
        Setting { ready_changes_max: Some(1), ..USUAL },
    ),
    scenario(
        "backend-kill",
        "one session's process dies, and the database ends all others and recovers",
        &[Step { fault: "backend-kill", from: When::Share(0.0), until: When::Share(0.2) }],
        Setting { journaled_min: 0, ..USUAL },
    ),
    scenario(
        "backends-hang",
        "sessions of the service hang while the database serves others",
        &[all_of_it("backends-hang:count=500")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "sessions-terminated",
        "an administrator ends every session, again and again",
        &[all_of_it("sessions-terminated")],
        ASIDE,
    ),
    scenario(
        "connections-exhausted",
        "others take all connections, those of the service too",
        &[all_of_it("connections-exhausted")],
        Setting { journaled_min: 0, ..USUAL },
    )
    .only_by_name(),
    scenario(
        "lock-storm",
        "somebody locks the table and goes for a coffee",
        &[all_of_it("lock-storm")],
        // What waits for the lock for longer than retries last is journaled, and so is who finds no place behind those.
        Setting { journaled_min: 1, ..ASIDE },
    ),
    scenario("read-only", "the database takes no writes", &[all_of_it("read-only")], USUAL),
    scenario(
        "sync-standby-missing",
        "commits hang, because a standby is away that must confirm them",
        &[all_of_it("sync-standby-missing")],
        // Writes that wait behind a row or a key of a hanging commit are refused, honestly.
        Setting { bad_max: Some((0.001, 0.35)), journaled_min: 0, ..USUAL },
    ),
    scenario(
        "password-rotated",
        "the password is another one, and the sessions are ended",
        &[all_of_it("password-rotated")],
        // Who is refused asks again after up to three times the last pause: each try is a line in the log of the database,
        // and a step towards a lock-out.
        Setting { journaled_min: 1, recovery_ms: Some(9_000), ..ASIDE },
    ),
    scenario(
        "cached-plan-invalid",
        "a migration changes a type under prepared statements, twice",
        &[all_of_it("cached-plan-invalid")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "serialization-failures",
        "a third of the writes fails to serialize",
        &[all_of_it("serialization-failures")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "server-kill-in-outage",
        "the database is killed, and in the outage a server with a filled journal too",
        &[
            all_of_it("db-kill"),
            Step { fault: "server-kill", from: When::Share(0.45), until: When::Share(0.6) },
        ],
        USUAL,
    ),
    scenario(
        "rolling-restart-in-outage",
        "a new version is rolled out while the database is away",
        &[
            all_of_it("db-kill"),
            Step { fault: "rolling-restart", from: When::Share(0.3), until: When::Share(0.9) },
        ],
        USUAL,
    ),
    scenario(
        "cold-recovery",
        "the database comes back to three servers with cold caches and full journals, all at once",
        &[
            all_of_it("db-kill"),
            Step {
                fault: "rolling-restart:gap=0,signal=kill",
                from: When::Share(0.6),
                until: When::Share(0.95),
            },
        ],
        // Cold and without a database, a server has nothing to show.
        Setting {
            servers: 3,
            bad_max: Some((0.6, 0.2)),
            is_counted: true,
            required: &["H4"],
            ..USUAL
        },
    )
    .only_by_name(),
    scenario(
        "server-pause",
        "one of two servers stops for a while and goes on, as a virtual machine does",
        &[all_of_it("server-pause")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "ghost-writer",
        "a server is killed while its writes wait in the database, and starts again beside them",
        &[Step {
            fault: "ghost-writer",
            from: When::Share(0.0),
            until: When::Moment("fault 1 begun + 0 ms"),
        }],
        Setting { bad_max: Some((0.01, 0.2)), ..ASIDE },
    ),
    scenario(
        "network-latency",
        "bytes between servers and database take 20 ms longer, each way",
        &[all_of_it("network-latency:delay=20,jitter=5")],
        ASIDE,
    ),
    scenario(
        "network-blackhole",
        "no packet arrives between servers and database, and nobody is told; others reach it",
        &[all_of_it("network-blackhole")],
        // As a hang: what was under way runs out of time and is journaled, also where it waited for a COMMIT's answer.
        Setting { journaled_min: 1, ..ASIDE },
    ),
    scenario(
        "packets-lost",
        "a switch dies: packets to and from the database are lost, for its connections and for new ones",
        &[all_of_it("packets-lost")],
        USUAL,
    )
    .only_by_name(),
    scenario(
        "sessions-forgotten",
        "a NAT forgets the servers' sessions: they fall silent, twice, while new ones work",
        &[
            Step { fault: "sessions-forgotten", from: When::Share(0.0), until: When::Share(0.4) },
            Step { fault: "sessions-forgotten", from: When::Share(0.6), until: When::Share(1.0) },
        ],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "name-moves",
        "the database's name leads to another address, the one before is gone; then the name cannot be looked up",
        &[
            Step { fault: "name-moves", from: When::Share(0.0), until: When::Share(0.5) },
            Step { fault: "name-unknown", from: When::Share(0.6), until: When::Share(1.0) },
        ],
        Setting { bad_max: Some((0.001, 0.03)), ..ASIDE },
    )
    .only_by_name(),
    scenario(
        "slow-start",
        "the database is killed, and its start takes until the end of the outage",
        &[all_of_it("slow-start")],
        USUAL,
    )
    .only_by_name(),
    scenario(
        "commit-cut",
        "the database commits, and the connection ends or falls silent before it can say so",
        &[
            Step { fault: "commit-cut", from: When::Share(0.0), until: When::Share(0.4) },
            Step { fault: "answer-swallowed", from: When::Share(0.5), until: When::Share(1.0) },
        ],
        // Each fault cuts one COMMIT on the way of each server: four of some 360 writes whose outcome is unknown by nature.
        // The service finds out, or journals them under their keys; in no case does anybody else pay, so nothing is added
        // to the usual budget.
        Setting { unknown_share_max: Some(0.012), ..ASIDE },
    ),
    scenario(
        "disk-full-wal",
        "the database has no room for its log, panics, and cannot recover",
        &[all_of_it("wal-disk-full")],
        USUAL,
    ),
    scenario(
        "fsync-fails",
        "the database cannot sync a commit, panics, and recovers",
        &[all_of_it("fsync-fails")],
        Setting { journaled_min: 0, ..USUAL },
    ),
    scenario(
        "failover",
        "the primary is lost, its standby takes over, and the old primary comes back beside it",
        &[all_of_it("old-primary-returns")],
        // The canary waits a failover out, or nearly so.
        Setting { required: &["W7"], ..ASIDE },
    ),
    scenario(
        "failover-lossy",
        "the primary is lost with the last tenth of a second, which its standby never got",
        &[all_of_it("failover:window=100")],
        Setting { loss_window_ms: 400, ..LOSSY },
    )
    .only_by_name(),
    scenario(
        "failover-very-lossy",
        "the primary is lost with its last second, and comes back beside its standby with what that never got",
        &[all_of_it("old-primary-returns:window=1000")],
        Setting { loss_window_ms: 1_300, ..LOSSY },
    )
    .only_by_name(),
    scenario(
        "readiness",
        "one of two servers begins cold while the database is away, and later both drain one after the other",
        &[
            Step { fault: "db-kill", from: When::Share(0.0), until: When::Share(0.5) },
            Step { fault: "server-kill", from: When::Share(0.1), until: When::Share(0.15) },
            Step { fault: "rolling-restart:gap=0", from: When::Share(0.6), until: When::Share(1.0) },
        ],
        // Long enough for somebody to notice a drain.
        Setting {
            seconds: 15,
            server_env: &["RIDETHROUGH_LIMITS__DRAIN_DELAY=1500ms"],
            required: &["L2", "L3", "L4"],
            ..USUAL
        },
    )
    .only_by_name(),
    scenario(
        "long-outage",
        "the database is away while one server takes 500 writes per second; memory, disk, and the way back",
        &[all_of_it("db-kill")],
        ENDURING,
    )
    .only_by_name(),
    scenario(
        "no-fault",
        "control: the usual load and nothing broken",
        &[],
        Setting { journaled_min: 0, ..USUAL },
    ),
];
