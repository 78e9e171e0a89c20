//! Faults on the schema of the service, by SQL: something it relies on has another name, another type, another number.
//! Who may come in is in `access.rs`.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::lock::TABLE;
use crate::nemesis::undo::{LIMIT, Undo, Where, execute};
use crate::nemesis::victim::{Victim, newcomer_with};

const COLUMN: Parameter = Parameter {
    name: "column",
    default: "title",
    domain: Domain::Name,
    about: "the column, of type text where its type is changed",
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D20",
        name: "column-renamed",
        about: "a column of the service has another name (42703)",
        parameters: &[TABLE, COLUMN],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Changed::inject(scene, with, How::Column)),
    },
    Kind {
        id: "D20",
        name: "table-renamed",
        about: "a table of the service has another name (42P01)",
        parameters: &[TABLE],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Changed::inject(scene, with, How::Table)),
    },
    Kind {
        id: "D20",
        name: "cached-plan-invalid",
        about: "a column has another type, so that prepared statements fail once a session (0A000)",
        parameters: &[TABLE, COLUMN],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Changed::inject(scene, with, How::Type)),
    },
    Kind {
        id: "D20",
        name: "sequence-jump",
        about: "a sequence jumps ahead, as after a crash or a failover",
        parameters: &[
            Parameter {
                name: "sequence",
                default: "canary_id_seq",
                domain: Domain::Name,
                about: "the sequence; the default is the harness's own",
            },
            Parameter {
                name: "by",
                default: "1000000",
                domain: Domain::Whole(2, 1_000_000_000_000),
                about: "numbers left out",
            },
        ],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Jump::inject(scene, with)),
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Column,
    Table,
    Type,
}

impl How {
    fn code(self) -> &'static str {
        match self {
            Self::Column => "42703",
            Self::Table => "42P01",
            Self::Type => "0A000",
        }
    }

    /// The statement that does it, and the one that takes it back.
    fn statements(self, table: &str, column: &str) -> (String, String) {
        match self {
            Self::Column => (
                format!("ALTER TABLE public.{table} RENAME COLUMN {column} TO chaos_away"),
                format!("ALTER TABLE public.{table} RENAME COLUMN chaos_away TO {column}"),
            ),
            Self::Table => (
                format!("ALTER TABLE public.{table} RENAME TO chaos_away"),
                format!("ALTER TABLE public.chaos_away RENAME TO {table}"),
            ),
            Self::Type => (
                format!("ALTER TABLE public.{table} ALTER COLUMN {column} TYPE varchar"),
                format!("ALTER TABLE public.{table} ALTER COLUMN {column} TYPE text"),
            ),
        }
    }
}

/// The schema is another one.
#[derive(Debug)]
struct Changed {
    undo: Option<Undo>,
    met: Option<String>,
}

impl Changed {
    async fn inject(scene: Scene, with: Values, how: How) -> Result<Self, Error> {
        let (table, column) = (with.word("table"), with.word("column"));
        let (statement, back) = how.statements(table, column);
        let what = "prepare a statement";
        let victim = Victim::open(&scene.cluster).await?;
        let ask = match how {
            How::Table => format!("SELECT FROM public.{table} LIMIT 1"),
            _ => format!("SELECT {column} FROM public.{table} LIMIT 1"),
        };
        let prepare = format!("PREPARE chaos AS {ask}; EXECUTE chaos");
        victim.client().batch_execute(&prepare).await.map_err(Error::postgres(what))?;
        let mut guard = Self { undo: None, met: None };
        if scene.has_teeth() {
            guard.undo = Some(Undo::by(&scene.cluster, Where::Service, back));
            execute(&scene.cluster, Where::Service, &statement).await?;
        }
        guard.met = match how {
            How::Type => victim.meets("EXECUTE chaos", LIMIT).await.with(how.code()),
            _ => newcomer_with(&scene.cluster, &ask, how.code(), scene.patience()).await,
        };
        Ok(guard)
    }
}

impl Guard for Changed {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            if let Some(undo) = self.undo.take() {
                undo.now().await?;
            }
            Ok(self.met.take().map(|met| format!("a session of the service met {met}")))
        })
    }
}

/// A sequence went on further ahead. It cannot be healed: numbers that were given out would come again.
#[derive(Debug)]
struct Jump {
    cluster: Cluster,
    sequence: String,
    before: i64,
    by: i64,
}

impl Jump {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let by = i64::try_from(with.whole("by")).unwrap_or(i64::MAX);
        let (cluster, sequence) = (scene.cluster.clone(), with.word("sequence").to_owned());
        let before = last_value(&cluster, &sequence).await?;
        if scene.has_teeth() {
            let jump = format!("SELECT setval('public.{sequence}', {})", before.saturating_add(by));
            execute(&cluster, place(&sequence), &jump).await?;
        }
        Ok(Self { cluster, sequence, before, by })
    }
}

fn place(sequence: &str) -> Where {
    if sequence == "canary_id_seq" { Where::Beside } else { Where::Service }
}

async fn last_value(cluster: &Cluster, sequence: &str) -> Result<i64, Error> {
    let what = "read a sequence";
    let client = match place(sequence) {
        Where::Beside => cluster.connect_admin(LIMIT).await?,
        Where::Service => cluster.connect(LIMIT).await?,
    };
    let row = client.query_one(&format!("SELECT last_value FROM public.{sequence}"), &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(Error::postgres(what))
}

impl Guard for Jump {
    fn heal(self: Box<Self>) -> Healing {
        Box::pin(async move {
            let Self { cluster, sequence, before, by } = *self;
            let after = last_value(&cluster, &sequence).await?;
            let witness = format!("{sequence} went from {before} to {after}");
            Ok((after.saturating_sub(before) >= by).then_some(witness))
        })
    }
}
