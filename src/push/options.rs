//! What the operator decides about a push.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::columnar::PushPolicy;
use crate::schema::TableName;

/// How rows get into the live table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetMode {
    /// A staging table takes the live table's place in one transaction.
    #[default]
    Swap,
    /// Only rows that differ are deleted, updated and inserted, by key, in one transaction; the table stays itself.
    Merge,
    /// A swap if nothing stands in its way, else a merge.
    Auto,
    /// Rows whose key the live table lacks are inserted; nothing that is there is touched.
    InsertMissing,
}

/// What happens to dataset columns that the live table lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewColumns {
    /// Stop and list them.
    #[default]
    Error,
    /// Leave them out.
    Ignore,
    /// Add them at the end, nullable.
    Add,
}

/// What happens to live columns that the dataset lacks and nothing else fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingColumns {
    /// Stop and list them.
    #[default]
    Error,
    /// Let them be null in every row.
    Null,
    /// Rows that are there keep what they have, found by the key.
    Keep,
}

/// What concerns a merge alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeOptions {
    /// Columns in which a row may differ without counting as changed, such as one that every rebuild sets to now.
    pub ignore_columns: Vec<String>,
    /// Megabytes of write-ahead log per second that the load and the changes may write, with pauses between batches.
    pub max_wal_rate: Option<NonZeroU32>,
}

/// The target of a push, and the limits it keeps.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// The table that readers use.
    pub table: TableName,
    /// How rows get into it.
    pub mode: TargetMode,
    /// The name that the former live table gets, in the same schema.
    pub backup: String,
    /// Former live tables that stay: the newest under that name, the others under that name and a number from 2 on.
    pub keep_backups: usize,
    /// Columns that name a row in messages, and the primary key of a table that the first push creates.
    pub key: Vec<String>,
    /// What happens to dataset columns that the live table lacks.
    pub new_columns: NewColumns,
    /// What happens to live columns that the dataset lacks.
    pub missing_columns: MissingColumns,
    /// The same for single columns, also for those that a default or an identity would fill.
    pub missing: BTreeMap<String, MissingColumns>,
    /// What concerns a merge alone.
    pub merge: MergeOptions,
    /// The least share of the live table's rows that the dataset must have; 0 asks for none.
    pub min_rows_of_live: f64,
    /// What the configuration says about values that the table would change or refuse, by column.
    pub columns: BTreeMap<String, PushPolicy>,
    /// Publications of the table whose subscribers need not have the rows of a push, which are never sent to them.
    pub publications: Vec<String>,
    /// The longest that readers wait behind one attempt to swap; halved `deadlock_timeout` if that is less.
    pub lock_budget: Duration,
    /// How long attempts to swap go on before the push gives up.
    pub swap_deadline: Duration,
    /// A server that takes none of the load and does not answer the swap for this long has gone, or hangs.
    pub silence_max: Duration,
    /// How long the server may be gone after a lost swap before its outcome counts as unknown.
    pub outcome_patience: Duration,
    /// What is pushed, such as a version of the lake; a resumed push must be of the same.
    pub snapshot: Option<String>,
}

impl TargetOptions {
    /// The defaults for a table and its key.
    pub fn new(table: TableName, key: Vec<String>) -> Self {
        Self {
            table,
            mode: TargetMode::default(),
            backup: "_backup_training_push".to_owned(),
            keep_backups: 1,
            key,
            new_columns: NewColumns::default(),
            missing_columns: MissingColumns::default(),
            missing: BTreeMap::new(),
            merge: MergeOptions::default(),
            min_rows_of_live: 0.0,
            columns: BTreeMap::new(),
            publications: Vec::new(),
            lock_budget: Duration::from_millis(400),
            swap_deadline: Duration::from_secs(600),
            silence_max: Duration::from_secs(120),
            outcome_patience: Duration::from_secs(30),
            snapshot: None,
        }
    }

    /// The backup's name with its schema.
    pub fn backup_table(&self) -> TableName {
        TableName::new(self.table.schema(), self.backup.as_str())
    }
}
