//! What the operator decides about a push.

use std::collections::BTreeMap;
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
    /// Columns that name a row in messages, and the primary key of a table that the first push creates.
    pub key: Vec<String>,
    /// What happens to dataset columns that the live table lacks.
    pub new_columns: NewColumns,
    /// What happens to live columns that the dataset lacks.
    pub missing_columns: MissingColumns,
    /// What the configuration says about values that the table would change or refuse, by column.
    pub columns: BTreeMap<String, PushPolicy>,
    /// The longest that readers wait behind one attempt to swap; halved `deadlock_timeout` if that is less.
    pub lock_budget: Duration,
    /// How long attempts to swap go on before the push gives up.
    pub swap_deadline: Duration,
}

impl TargetOptions {
    /// The defaults for a table and its key.
    pub fn new(table: TableName, key: Vec<String>) -> Self {
        Self {
            table,
            mode: TargetMode::default(),
            backup: "_backup_training_push".to_owned(),
            key,
            new_columns: NewColumns::default(),
            missing_columns: MissingColumns::default(),
            columns: BTreeMap::new(),
            lock_budget: Duration::from_millis(400),
            swap_deadline: Duration::from_secs(600),
        }
    }

    /// The backup's name with its schema.
    pub fn backup_table(&self) -> TableName {
        TableName::new(self.table.schema(), self.backup.as_str())
    }
}
