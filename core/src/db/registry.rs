//! Typed commands: a service names each kind of its writes as a serde type that knows how to apply itself, and the registry
//! of them is what [`Db::new`](super::Db::new) takes. It finds the type for what the journal holds, whichever version
//! of the program wrote it; how entries are kept and in what order they come is not its business.

use std::{collections::HashMap, fmt, future::Future, marker::PhantomData, time::SystemTime};

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    command::{Applied, ApplyError, Command, Commands, NotKnown, Refusal, Settled},
    overlay::Promise,
    statements::Statements,
};
use crate::cache::{CacheFill, Tags};

/// The payload is none of its command's, in any version: it was damaged, or written by another program.
const UNREADABLE: &str = "unreadable-payload";

/// One kind of write: its data, and what it does. Its payload in the journal is its JSON document.
///
/// What is written once must be readable for ever: give new fields a default, and count [`VERSION`](Self::VERSION) up
/// where a program that does not know them must not apply it.
pub trait TypedCommand: Serialize + DeserializeOwned + Send + Sync + Sized + 'static {
    /// What commands need besides the transaction; the same for all commands of a registry.
    type Service: Send + Sync + 'static;

    /// Its name in the journal and the table of keys, at most 64 bytes; never changed.
    const NAME: &'static str;

    /// The newest form of the payload. Older ones are read by [`read`](Self::read); newer ones wait for a program that
    /// knows them. Default 1.
    const VERSION: u16 = 1;

    /// Whether [`apply_many`](Self::apply_many) is more than one after another. Default no.
    const APPLIES_MANY: bool = false;

    /// As [`Commands::is_important`]. Default no.
    const IMPORTANT: bool = false;

    /// What it changes: commands with the same ordering key take effect in the order of their acceptance. At most 255
    /// bytes.
    fn ordering_key(&self) -> String;

    /// Reads a payload of `version`, which is at most [`VERSION`](Self::VERSION). Default: as serde does, so that fields with
    /// a default upgrade themselves.
    ///
    /// # Errors
    /// Where the payload cannot be understood; such a command is rejected and kept.
    fn read(version: u16, payload: &[u8]) -> Result<Self, serde_json::Error> {
        let _ = version;
        serde_json::from_slice(payload)
    }

    /// As [`Commands::apply`].
    fn apply<'c>(
        service: &'c Self::Service,
        statements: &'c Statements<'c>,
        typed: &'c Typed<'c, Self>,
    ) -> impl Future<Output = Result<Applied, ApplyError>> + Send + 'c;

    /// As [`Commands::apply_many`].
    fn apply_many<'c>(
        service: &'c Self::Service,
        statements: &'c Statements<'c>,
        all: &'c [Typed<'c, Self>],
    ) -> impl Future<Output = Result<Vec<Result<Applied, Refusal>>, ApplyError>> + Send + 'c {
        async move {
            let mut ended = Vec::with_capacity(all.len());
            for typed in all {
                ended.push(Ok(Self::apply(service, statements, typed).await?));
            }
            Ok(ended)
        }
    }

    /// As [`Commands::tags`].
    fn tags(&self) -> Tags {
        Tags::none()
    }

    /// As [`Commands::promise`].
    fn promise(&self, command: &Command) -> Option<Promise> {
        let _ = command;
        None
    }

    /// As [`Commands::accepted`].
    fn accepted(&self, service: &Self::Service, command: &Command) {
        let _ = (service, command);
    }

    /// As [`Commands::settled`].
    fn settled(&self, service: &Self::Service, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        let _ = (service, command, settled, cache);
    }
}

/// A command with its payload read.
#[derive(Debug)]
pub struct Typed<'c, C> {
    /// The payload.
    pub value: C,
    /// Everything else.
    pub command: &'c Command,
    /// Whether it comes out of the journal: others may have changed the same thing since it was accepted.
    pub replayed: bool,
}

impl Command {
    /// The command that `value` is, under `key`. The fingerprint is a digest of the request.
    ///
    /// # Errors
    /// Where serde cannot write the value as JSON.
    pub fn typed<C: TypedCommand>(
        value: &C,
        key: impl Into<String>,
        fingerprint: [u8; 32],
        accepted_at: SystemTime,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            key: key.into(),
            name: C::NAME.to_owned(),
            version: C::VERSION,
            ordering_key: value.ordering_key(),
            payload: serde_json::to_vec(value)?.into(),
            fingerprint,
            accepted_at,
        })
    }
}

/// The commands of a service, each found by its name.
///
/// # Example
/// ```
/// use std::{sync::Arc, time::SystemTime};
///
/// use bytes::Bytes;
/// use ridethrough::db::{Applied, ApplyError, Command, Commands, Registry, Statements, Typed, TypedCommand};
/// use serde::{Deserialize, Serialize};
///
/// /// What all commands of the shop need to be applied.
/// struct Shop;
///
/// #[derive(Serialize, Deserialize)]
/// struct PlaceOrder {
///     order: u64,
///     item: String,
///     /// Since version 2; entries of version 1 are read with one piece.
///     #[serde(default = "one")]
///     pieces: i32,
/// }
///
/// fn one() -> i32 {
///     1
/// }
///
/// impl TypedCommand for PlaceOrder {
///     type Service = Shop;
///     const NAME: &'static str = "order.place";
///     const VERSION: u16 = 2;
///
///     fn ordering_key(&self) -> String {
///         self.order.to_string()
///     }
///
///     async fn apply<'c>(
///         _shop: &'c Shop,
///         statements: &'c Statements<'c>,
///         typed: &'c Typed<'c, Self>,
///     ) -> Result<Applied, ApplyError> {
///         let PlaceOrder { item, pieces, .. } = &typed.value;
///         statements.run("INSERT INTO orders (item, pieces) VALUES ($1, $2)", &[item, pieces]).await?;
///         Ok(Applied::Done(Bytes::from_static(b"ordered")))
///     }
/// }
///
/// let commands: Arc<dyn Commands> = Arc::new(Registry::new(Shop).with::<PlaceOrder>());
/// let order = PlaceOrder { order: 17, item: "milk".to_owned(), pieces: 2 };
/// let command = Command::typed(&order, "key-1", [0; 32], SystemTime::now())?;
/// assert_eq!((command.name.as_str(), command.version, command.ordering_key.as_str()), ("order.place", 2, "17"));
/// assert!(commands.knows(&command).is_ok());
/// // Written by a newer program, it is kept for one.
/// assert!(commands.knows(&Command { version: 3, ..command }).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
pub struct Registry<S> {
    service: S,
    kinds: HashMap<&'static str, Box<dyn Kind<S>>>,
}

impl<S: Send + Sync + 'static> Registry<S> {
    /// A registry without commands; `service` is what they need to be applied.
    #[must_use]
    pub fn new(service: S) -> Self {
        Self { service, kinds: HashMap::new() }
    }

    /// Registers a command.
    ///
    /// # Panics
    /// Where another one has its name: the journal could not tell them apart.
    #[must_use]
    pub fn with<C: TypedCommand<Service = S>>(mut self) -> Self {
        let before = self.kinds.insert(C::NAME, Box::new(Registered::<C>(PhantomData)));
        assert!(before.is_none(), "two commands are named {}", C::NAME);
        self
    }

    fn kind(&self, name: &str) -> Result<&dyn Kind<S>, Refusal> {
        let kind = self.kinds.get(name).ok_or_else(|| Refusal::new(NotKnown::Name.to_string()))?;
        Ok(kind.as_ref())
    }
}

impl<S> fmt::Debug for Registry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}

impl<S: Send + Sync + 'static> Commands for Registry<S> {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        match self.kind(&command.name) {
            Ok(kind) => kind.apply(&self.service, statements, command, replayed),
            Err(refusal) => Box::pin(async { Err(refusal.into()) }),
        }
    }

    fn apply_many<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        commands: &'c [&'c Command],
    ) -> BoxFuture<'c, Result<Vec<Result<Applied, Refusal>>, ApplyError>> {
        match self.kind(commands.first().map_or("", |first| &first.name)) {
            Ok(kind) => kind.apply_many(&self.service, statements, commands),
            Err(refusal) => Box::pin(async { Err(refusal.into()) }),
        }
    }

    fn applies_many(&self, name: &str) -> bool {
        self.kinds.get(name).is_some_and(|kind| kind.applies_many())
    }

    fn is_important(&self, name: &str) -> bool {
        self.kinds.get(name).is_some_and(|kind| kind.is_important())
    }

    fn knows(&self, command: &Command) -> Result<(), NotKnown> {
        match self.kinds.get(command.name.as_str()) {
            None => Err(NotKnown::Name),
            Some(kind) if kind.version() < command.version => Err(NotKnown::Version),
            Some(_) => Ok(()),
        }
    }

    fn tags(&self, command: &Command) -> Tags {
        self.kind(&command.name).map_or_else(|_| Tags::none(), |kind| kind.tags(command))
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        self.kind(&command.name).ok()?.promise(command)
    }

    fn accepted(&self, command: &Command) {
        if let Ok(kind) = self.kind(&command.name) {
            kind.accepted(&self.service, command);
        }
    }

    fn settled(&self, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        let _ = self.end(command, settled, cache);
    }

    fn end(&self, command: &Command, settled: &Settled, cache: &CacheFill<'_>) -> Tags {
        let kind = self.kind(&command.name);
        kind.map_or_else(|_| Tags::none(), |kind| kind.end(&self.service, command, settled, cache))
    }
}

/// A command type without its type.
trait Kind<S>: Send + Sync {
    fn version(&self) -> u16;

    fn applies_many(&self) -> bool;

    fn is_important(&self) -> bool;

    fn apply<'c>(
        &'c self,
        service: &'c S,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>>;

    fn apply_many<'c>(
        &'c self,
        service: &'c S,
        statements: &'c Statements<'c>,
        commands: &'c [&'c Command],
    ) -> BoxFuture<'c, Result<Vec<Result<Applied, Refusal>>, ApplyError>>;

    fn tags(&self, command: &Command) -> Tags;

    fn promise(&self, command: &Command) -> Option<Promise>;

    fn accepted(&self, service: &S, command: &Command);

    fn end(&self, service: &S, command: &Command, settled: &Settled, cache: &CacheFill<'_>) -> Tags;
}

struct Registered<C>(PhantomData<fn() -> C>);

fn read<C: TypedCommand>(command: &Command) -> Result<C, Refusal> {
    if command.version > C::VERSION {
        return Err(Refusal::new(NotKnown::Version.to_string()));
    }
    C::read(command.version, &command.payload).map_err(|_| Refusal::new(UNREADABLE))
}

impl<C: TypedCommand> Kind<C::Service> for Registered<C> {
    fn version(&self) -> u16 {
        C::VERSION
    }

    fn applies_many(&self) -> bool {
        C::APPLIES_MANY
    }

    fn is_important(&self) -> bool {
        C::IMPORTANT
    }

    fn apply<'c>(
        &'c self,
        service: &'c C::Service,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let typed = Typed { value: read::<C>(command)?, command, replayed };
            C::apply(service, statements, &typed).await
        })
    }

    fn apply_many<'c>(
        &'c self,
        service: &'c C::Service,
        statements: &'c Statements<'c>,
        commands: &'c [&'c Command],
    ) -> BoxFuture<'c, Result<Vec<Result<Applied, Refusal>>, ApplyError>> {
        Box::pin(async move {
            let mut readable = Vec::with_capacity(commands.len());
            let mut refused = Vec::new();
            for (index, &command) in commands.iter().enumerate() {
                match read::<C>(command) {
                    Ok(value) => readable.push(Typed { value, command, replayed: true }),
                    Err(refusal) => refused.push((index, refusal)),
                }
            }
            let mut ended = C::apply_many(service, statements, &readable).await?;
            // From the first place on, so that each lands where it belongs.
            for (index, refusal) in refused {
                ended.insert(index.min(ended.len()), Err(refusal));
            }
            Ok(ended)
        })
    }

    fn tags(&self, command: &Command) -> Tags {
        read::<C>(command).map_or_else(|_| Tags::none(), |value| value.tags())
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        read::<C>(command).ok()?.promise(command)
    }

    fn accepted(&self, service: &C::Service, command: &Command) {
        if let Ok(value) = read::<C>(command) {
            value.accepted(service, command);
        }
    }

    fn end(&self, service: &C::Service, command: &Command, settled: &Settled, cache: &CacheFill<'_>) -> Tags {
        let Ok(value) = read::<C>(command) else { return Tags::none() };
        value.settled(service, command, settled, cache);
        value.tags()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicI64, Ordering},
    };

    use serde::Deserialize;
    use tokio::time::Instant;

    use super::*;
    use crate::cache::{CacheConfig, ReadCache};

    #[derive(Debug, Serialize, Deserialize)]
    struct Deposit {
        account: String,
        cents: i64,
    }

    /// What was told last.
    #[derive(Default)]
    struct Bank(AtomicI64);

    thread_local! {
        static READ: Cell<u32> = const { Cell::new(0) };
    }

    impl TypedCommand for Deposit {
        type Service = Bank;
        const NAME: &'static str = "deposit";
        const VERSION: u16 = 2;

        fn ordering_key(&self) -> String {
            self.account.clone()
        }

        /// Version 1 counted in whole coins.
        fn read(version: u16, payload: &[u8]) -> Result<Self, serde_json::Error> {
            READ.set(READ.get() + 1);
            let read: Self = serde_json::from_slice(payload)?;
            let cents = if version < 2 { read.cents * 100 } else { read.cents };
            Ok(Self { cents, ..read })
        }

        async fn apply<'c>(
            _bank: &'c Bank,
            _statements: &'c Statements<'c>,
            _typed: &'c Typed<'c, Self>,
        ) -> Result<Applied, ApplyError> {
            Err(Refusal::new("no database here").into())
        }

        fn tags(&self) -> Tags {
            Tags::of([self.account.as_str()])
        }

        fn accepted(&self, bank: &Bank, _command: &Command) {
            bank.0.store(self.cents, Ordering::Relaxed);
        }

        fn settled(&self, bank: &Bank, _: &Command, _: &Settled, _: &CacheFill<'_>) {
            bank.0.store(-self.cents, Ordering::Relaxed);
        }
    }

    /// Each replayed entry was read once for the service's hook and once more for its tags.
    #[test]
    fn a_command_is_read_once_at_its_end() {
        let registry = Registry::new(Bank::default()).with::<Deposit>();
        let (cache, now) = (ReadCache::new(CacheConfig::default()), Instant::now());
        let fill = cache.fill_by_write(now, now);
        let applied = Settled::Applied(bytes::Bytes::new());
        READ.set(0);
        let tags = registry.end(&deposit(2), &applied, &fill);
        assert_eq!((READ.get(), tags), (1, Tags::of(["a"])));
        assert_eq!(registry.service.0.load(Ordering::Relaxed), -7, "the service was told");
        let unreadable = Command { payload: "no JSON".into(), ..deposit(2) };
        assert_eq!(registry.end(&unreadable, &applied, &fill), Tags::none());
    }

    fn deposit(version: u16) -> Command {
        let deposit = Deposit { account: "a".to_owned(), cents: 7 };
        let command = Command::typed(&deposit, "k", [0; 32], SystemTime::UNIX_EPOCH).unwrap();
        Command { version, ..command }
    }

    #[test]
    fn a_command_is_found_by_its_name_and_read_in_its_version() {
        let registry = Registry::new(Bank::default()).with::<Deposit>();
        for (version, cents) in [(2, 7), (1, 700)] {
            registry.accepted(&deposit(version));
            assert_eq!(registry.service.0.load(Ordering::Relaxed), cents);
        }
    }

    #[test]
    fn what_another_program_wrote_is_not_known() {
        let registry = Registry::new(Bank::default()).with::<Deposit>();
        assert_eq!(registry.knows(&deposit(1)), Ok(()));
        assert_eq!(registry.knows(&deposit(3)), Err(NotKnown::Version));
        let other = Command { name: "withdraw".to_owned(), ..deposit(1) };
        assert_eq!(registry.knows(&other), Err(NotKnown::Name));
        registry.accepted(&deposit(3));
        registry.accepted(&Command { payload: "no JSON".into(), ..deposit(2) });
        assert_eq!(registry.service.0.load(Ordering::Relaxed), 0, "nobody was told");
    }

    #[test]
    #[should_panic(expected = "two commands are named deposit")]
    fn two_commands_of_one_name_are_refused() {
        let _ = Registry::new(Bank::default()).with::<Deposit>().with::<Deposit>();
    }
}
