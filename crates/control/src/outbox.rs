//! What a step of a state machine asks its shell to do.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of stored object. The number is the one in the database and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Counters and cursors of a machine.
    Meta = 1,
    /// Applications.
    Application = 2,
    /// Services.
    Service = 3,
    /// Instances at the root.
    Instance = 4,
    /// Clusters at the root.
    Cluster = 5,
    /// Join tokens.
    Token = 6,
    /// Users.
    User = 7,
    /// Organisations.
    Organization = 8,
    /// Workers of a cluster.
    Worker = 9,
    /// Instances of a cluster, with their placement.
    Placement = 10,
    /// Workloads of a worker.
    Workload = 11,
    /// Instances being taken down, at the root.
    Departure = 12,
    /// Quotas of organisations, at the root.
    Quota = 20,
    /// The audit log, a ring of rows.
    Audit = 21,
    /// What happened, at the root.
    Event = 30,
    /// Secrets of organisations and credentials of registries, sealed, at the root.
    Secret = 31,
    /// Who on a worker calls which service.
    Call = 40,
    /// Services elsewhere, as a worker was told.
    KnownService = 41,
    /// Their instances, as a worker was told.
    Backend = 42,
    /// Other nodes, as a worker was told.
    Peer = 43,
}

impl Table {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::Meta,
        Self::Application,
        Self::Service,
        Self::Instance,
        Self::Cluster,
        Self::Token,
        Self::User,
        Self::Organization,
        Self::Worker,
        Self::Placement,
        Self::Workload,
        Self::Departure,
        Self::Quota,
        Self::Audit,
        Self::Event,
        Self::Secret,
        Self::Call,
        Self::KnownService,
        Self::Backend,
        Self::Peer,
    ];
}

/// One stored object, or its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Kind.
    pub table: Table,
    /// Identity within the kind.
    pub key: String,
    /// JSON document; `None` deletes the row.
    pub document: Option<Vec<u8>>,
}

/// A stored row cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot read stored {table:?} `{key}`")]
pub struct CorruptRow {
    /// Kind.
    pub table: Table,
    /// Identity.
    pub key: String,
    /// Why.
    #[source]
    pub source: serde_json::Error,
}

impl Row {
    /// Reads the document of a loaded row.
    ///
    /// # Errors
    /// The row is empty or does not have the expected form.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, CorruptRow> {
        let document = self.document.as_deref().unwrap_or_default();
        serde_json::from_slice(document).map_err(|source| CorruptRow {
            table: self.table,
            key: self.key.clone(),
            source,
        })
    }
}

/// Rows to commit and, after that, effects to carry out, both in order.
#[derive(Debug)]
pub struct Outbox<E> {
    /// To commit first.
    pub rows: Vec<Row>,
    /// To carry out after the commit.
    pub effects: Vec<E>,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self { rows: Vec::new(), effects: Vec::new() }
    }
}

impl<E> Outbox<E> {
    /// Stores an object.
    pub fn put(&mut self, table: Table, key: impl ToString, value: &impl Serialize) {
        // Serialising our own types to memory fails only for maps with non-text keys, which none of them has.
        let Ok(document) = serde_json::to_vec(value) else { return };
        self.rows.push(Row { table, key: key.to_string(), document: Some(document) });
    }

    /// Removes an object.
    pub fn delete(&mut self, table: Table, key: impl ToString) {
        self.rows.push(Row { table, key: key.to_string(), document: None });
    }

    /// Adds an effect.
    pub fn emit(&mut self, effect: E) {
        self.effects.push(effect);
    }

    /// Takes everything out.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.effects.is_empty()
    }
}
