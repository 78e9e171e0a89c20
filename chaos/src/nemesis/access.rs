//! Faults by which PostgreSQL refuses the service: its password, role, rule or database is not what it was.
//! Live sessions go on unless they are ended on purpose.

use crate::cluster::{APP, Changed, Cluster};
use crate::error::Error;
use crate::nemesis::kind::{Guard, Healing, Kind, Means, Parameter, Scene, Values, YES_NO, boxed};
use crate::nemesis::undo::{Undo, Where, execute};
use crate::nemesis::victim::{newcomer_with, serves};

const DROP: Parameter = Parameter {
    name: "drop",
    default: "yes",
    domain: YES_NO,
    about: "whether the sessions there are end, too",
};

const fn kind(name: &'static str, about: &'static str, inject: InjectFn, needs: &'static [Means]) -> Kind {
    Kind { id: "D16", name, about, parameters: &[DROP], needs, inject }
}

type InjectFn = fn(Scene, Values) -> crate::nemesis::kind::Injecting;

pub(super) const KINDS: &[Kind] = &[
    kind(
        "password-rotated",
        "the service's password is another one (28P01)",
        |scene, with| boxed(Refused::inject(scene, with, How::Password)),
        &[Means::Sql],
    ),
    kind(
        "role-nologin",
        "the service's role may not log in (28000)",
        |scene, with| boxed(Refused::inject(scene, with, How::NoLogin)),
        &[Means::Sql],
    ),
    kind(
        "role-gone",
        "the service's role is not there (28P01)",
        |scene, with| boxed(Refused::inject(scene, with, How::RoleGone)),
        &[Means::Sql],
    ),
    kind(
        "hba-reject",
        "a rule of pg_hba.conf refuses the service (28000)",
        |scene, with| boxed(Refused::inject(scene, with, How::Rule)),
        &[Means::Configuration],
    ),
    Kind {
        id: "D16",
        name: "database-gone",
        about: "the service's database is not there (3D000); its sessions end",
        parameters: &[],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Refused::inject(scene, with, How::Database)),
    },
];

const AWAY: &str = "chaos_away";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Password,
    NoLogin,
    RoleGone,
    Rule,
    Database,
}

impl How {
    fn code(self) -> &'static str {
        match self {
            Self::Password | Self::RoleGone => "28P01",
            Self::NoLogin | Self::Rule => "28000",
            Self::Database => "3D000",
        }
    }

    /// The statement that does it, and the one that takes it back.
    fn statements(self, cluster: &Cluster) -> (String, String) {
        let password = cluster.service_password();
        match self {
            Self::Password => (
                format!("ALTER ROLE {APP} PASSWORD 'another'"),
                format!("ALTER ROLE {APP} PASSWORD '{password}'"),
            ),
            Self::NoLogin => (format!("ALTER ROLE {APP} NOLOGIN"), format!("ALTER ROLE {APP} LOGIN")),
            Self::RoleGone => {
                (format!("ALTER ROLE {APP} RENAME TO {AWAY}"), format!("ALTER ROLE {AWAY} RENAME TO {APP}"))
            }
            // Only a database without sessions can be renamed, and the service reconnects eagerly.
            Self::Database => (
                format!(
                    "ALTER DATABASE {APP} ALLOW_CONNECTIONS false;\n{};\nALTER DATABASE {APP} RENAME TO {AWAY}",
                    end_sessions()
                ),
                format!(
                    "ALTER DATABASE {AWAY} RENAME TO {APP};\nALTER DATABASE {APP} ALLOW_CONNECTIONS true"
                ),
            ),
            Self::Rule => (String::new(), String::new()),
        }
    }
}

/// The service is refused.
#[derive(Debug)]
struct Refused {
    cluster: Cluster,
    undo: Option<Undo>,
    changed: Option<Changed>,
    met: Option<String>,
}

impl Refused {
    async fn inject(scene: Scene, with: Values, how: How) -> Result<Self, Error> {
        let cluster = scene.cluster.clone();
        let mut guard = Self { cluster: cluster.clone(), undo: None, changed: None, met: None };
        if scene.has_teeth() {
            let (statement, back) = how.statements(&cluster);
            match how {
                How::Rule => {
                    let rule = format!("host all {APP} 127.0.0.1/32 reject");
                    guard.changed = Some(cluster.admit_by(&rule).await?);
                }
                _ => {
                    guard.undo = Some(Undo::by(&cluster, Where::Beside, back));
                    execute(&cluster, Where::Beside, &statement).await?;
                }
            }
            if with.yes("drop") {
                execute(&cluster, Where::Beside, &end_sessions()).await?;
            }
        }
        guard.met = newcomer_with(&cluster, "SELECT 1", how.code(), scene.patience()).await;
        Ok(guard)
    }
}

/// The statement that ends every session of the service's role, and no other.
pub(super) fn end_sessions_of_role() -> String {
    format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{APP}'")
}

fn end_sessions() -> String {
    // Of a role under another name too: its sessions are known by their database.
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{APP}' AND pid <> pg_backend_pid()"
    )
}

impl Guard for Refused {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            if let Some(undo) = self.undo.take() {
                undo.now().await?;
            }
            drop(self.changed.take());
            serves(&self.cluster).await?;
            Ok(self.met.take().map(|met| format!("a new session of the service met {met}")))
        })
    }
}
