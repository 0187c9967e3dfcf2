//! A table that is being pulled: what is asked for, and what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono::Utc;

use super::drift::ColumnDrift;
use super::incremental::Increment;
use crate::columnar::{ColumnPolicy, NumericSeen, schema_for};
use crate::config::TableConfig;
use crate::lake::{DataFile, FileEncoding, LakeTable, Origin, PartitionTransform, SourceMark, TableLayout, Version};
use crate::pg::RelationInfo;
use crate::progress::Work;
use crate::schema::TableName;
use crate::source::SnapshotInfo;

/// What the folder of a table's keys has after the table's name; no lake table can be called so.
const KEYS: &str = "@keys";

/// A table to pull.
#[derive(Debug, Clone)]
pub(super) struct TablePull {
    pub(super) name: String,
    pub(super) source: TableName,
    pub(super) key: Vec<String>,
    pub(super) partition_by: Vec<PartitionTransform>,
    /// `xmin`, a column, or nothing.
    pub(super) watermark: Option<String>,
    /// The column by which it is cut where it has no pages.
    pub(super) split_by: Option<String>,
    pub(super) columns: BTreeMap<String, ColumnPolicy>,
    pub(super) parquet: FileEncoding,
}

impl From<&TableConfig> for TablePull {
    fn from(table: &TableConfig) -> Self {
        Self {
            name: table.name.clone(),
            source: table.source_table(),
            key: table.key.clone(),
            partition_by: table.partition_by.clone(),
            watermark: table.watermark.clone(),
            split_by: table.split_by.clone(),
            columns: table.columns.clone(),
            parquet: table.parquet.clone(),
        }
    }
}

/// A table that is being pulled, shared by all workers.
pub(super) struct Pulling {
    pub(super) table: TablePull,
    pub(super) relation: RelationInfo,
    pub(super) schema: SchemaRef,
    pub(super) layout: TableLayout,
    pub(super) work: Work,
    pub(super) mark: SourceMark,
    pub(super) drift: Vec<ColumnDrift>,
    pub(super) part: Part,
}

/// Which rows are pulled.
pub(super) enum Part {
    /// All; with the reason why it is not only those that changed, when that was asked for.
    Whole(Option<String>),
    /// Those that changed.
    Changed(Box<Increment>),
    /// The keys of all rows of the table at this place, which precedes.
    KeysOf(usize),
}

impl Pulling {
    pub(super) fn condition(&self) -> Option<&str> {
        match &self.part {
            Part::Changed(increment) => Some(&increment.condition),
            Part::Whole(_) | Part::KeysOf(_) => None,
        }
    }

    /// The keys of all rows, as a table of their own that no manifest names.
    pub(super) fn keys(&self, index: usize, work: Work) -> Self {
        let mut relation = self.relation.clone();
        relation.schema.columns.retain(|column| self.table.key.contains(&column.name));
        let layout = TableLayout {
            table: format!("{}{KEYS}", self.table.name),
            partition_by: Vec::new(),
            ..self.layout.clone()
        };
        Self {
            table: self.table.clone(),
            schema: schema_for(&relation.schema),
            relation,
            layout,
            work,
            mark: self.mark.clone(),
            drift: Vec::new(),
            part: Part::KeysOf(index),
        }
    }
}

/// What one worker's share of a table came to.
#[derive(Default)]
pub(super) struct Share {
    pub(super) files: Vec<DataFile>,
    /// Rows that the server says it sent.
    pub(super) rows_sent: u64,
    pub(super) seen: Vec<Option<NumericSeen>>,
    /// Values that became null, by column.
    pub(super) made_null: Vec<u64>,
}

impl Share {
    /// Takes in what unbounded numerics of the last version needed, and what became null in it: its rows are part of
    /// the table, but for those that were replaced. Of these it is not known which had such a value; no column has more
    /// than it has nulls.
    pub(super) fn widen(&mut self, schema: &SchemaRef, last: &LakeTable, nulls: &BTreeMap<String, u64>) {
        let Origin::Source { numeric_seen, made_null, .. } = &last.origin else { return };
        self.made_null.resize(schema.fields().len(), 0);
        for (count, field) in self.made_null.iter_mut().zip(schema.fields()) {
            *count += made_null.get(field.name()).copied().unwrap_or(0);
            *count = nulls.get(field.name()).map_or(*count, |nulls| (*count).min(*nulls));
        }
        self.seen.resize(schema.fields().len(), None);
        for (seen, field) in self.seen.iter_mut().zip(schema.fields()) {
            if let Some((integer_digits, scale, special)) = numeric_seen.get(field.name()).copied() {
                let before = NumericSeen { integer_digits, scale, special };
                *seen = Some(seen.as_ref().map_or(before, |seen| seen.union(before)));
            }
        }
    }
}

/// The table as a manifest has it.
pub(super) fn lake_table(
    pulling: &Pulling,
    share: Share,
    version: Version,
    run_id: &str,
    snapshot: &SnapshotInfo,
) -> LakeTable {
    let fields = pulling.schema.fields().iter();
    let made_null = fields.clone().zip(share.made_null).filter(|(_, count)| *count > 0);
    let made_null = made_null.map(|(field, count)| (field.name().clone(), count)).collect();
    let numeric_seen = fields
        .zip(share.seen)
        .filter_map(|(field, seen)| {
            let seen = seen?;
            Some((field.name().clone(), (seen.integer_digits, seen.scale, seen.special)))
        })
        .collect();
    LakeTable {
        version,
        run_id: run_id.to_owned(),
        created: Utc::now(),
        origin: Origin::Source {
            table: pulling.table.source.to_string(),
            fingerprint: pulling.relation.schema.fingerprint(),
            pg_snapshot: snapshot.id.clone(),
            time: snapshot.time.clone(),
            wal_position: snapshot.wal_position.clone(),
            source_rows: share.rows_sent,
            numeric_seen,
            mark: Some(Box::new(pulling.mark.clone())),
            made_null,
        },
        schema: Arc::clone(&pulling.schema),
        rows: share.files.iter().map(|file| file.rows).sum(),
        bytes: share.files.iter().map(|file| file.bytes).sum(),
        files: share.files,
    }
}

/// Values of a table that became null, by column.
pub(super) fn made_null_in(table: &LakeTable) -> BTreeMap<String, u64> {
    match &table.origin {
        Origin::Source { made_null, .. } => made_null.clone(),
        Origin::Dataset { .. } => BTreeMap::new(),
    }
}
