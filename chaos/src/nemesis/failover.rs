//! Faults with a standby: it takes over, with or without a loss, and the old primary may come back beside it. How a failover
//! is done is in `cluster/failover.rs`.

use crate::cluster::{Pair, SplitBrain, Window};
use crate::error::Error;
use crate::nemesis::kind::{
    CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed,
};
use crate::nemesis::victim::serves;

const WINDOW: Parameter = Parameter {
    name: "window",
    default: "0",
    domain: Domain::Whole(0, 60_000),
    about: "milliseconds before it of which the standby gets nothing; what commits then is lost",
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D14",
        name: "failover",
        about: "the primary is lost and its standby takes over, for good",
        parameters: &[WINDOW],
        needs: &[Means::Standby],
        inject: |scene, with| boxed(FailedOver::inject(scene, with, false)),
    },
    Kind {
        id: "D15",
        name: "old-primary-returns",
        about: "after a failover the old primary starts again and takes writes, too",
        parameters: &[WINDOW],
        needs: &[Means::Standby],
        inject: |scene, with| boxed(FailedOver::inject(scene, with, true)),
    },
];

/// The standby has taken over.
#[derive(Debug)]
struct FailedOver {
    pair: Pair,
    window: Option<Window>,
    returns: bool,
    split: Option<SplitBrain>,
}

impl FailedOver {
    async fn inject(scene: Scene, with: Values, returns: bool) -> Result<Self, Error> {
        let Some(pair) = scene.equipment.pair().cloned() else {
            return Err(Error::state("fail over", "the database has no standby"));
        };
        let mut guard = Self { pair, window: None, returns, split: None };
        if scene.has_teeth() {
            guard.window = Some(guard.pair.fail_over(with.millis("window")).await?);
            if returns {
                guard.split = Some(guard.pair.return_old_primary().await?);
            }
        }
        Ok(guard)
    }
}

impl Guard for FailedOver {
    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    fn window(&self) -> Option<Window> {
        self.window
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let split = self.split.take();
            let returned = split.as_ref().and_then(SplitBrain::witness);
            // The old primary ends here; nothing brings the new one back to where it was.
            drop(split);
            serves(self.pair.current()).await?;
            let window = self.window.map(|window| window.witness());
            Ok(match (window, returned) {
                (Some(window), Some(returned)) => Some(format!("{window}; {returned}")),
                (window, _) => window.filter(|_| !self.returns),
            })
        })
    }
}
