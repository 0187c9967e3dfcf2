//! Pulling only what changed: which rows to ask for, and how they become part of the table.
//!
//! ```text
//! last version's files ──▶ rows whose key came again, or is gone ──▶ files without them ─┐
//!          └── files without such rows ─────────────── by reference ─────────────────────┼─▶ this version
//! rows past the watermark ──▶ files of their own ────────────────────────────────────────┘
//! ```
//! A table for which this cannot be done safely is pulled in full, and the report says why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use futures::StreamExt;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::CancellationToken;

use super::PipelineError;
use crate::lake::{DataFile, Lake, LakeTable, Origin, SourceMark, TableLayout, TableWriter, read_file};
use crate::pg::{RelationInfo, Session, quote_ident, quote_literal, quote_table};
use crate::source::{SourceError, Watermark};
use crate::transform::{Engine, EngineLimits};

/// A table's watermark that is the transaction id of each row.
pub(super) const XMIN: &str = "xmin";
/// What a clock may have been read early: a transaction's time is taken a moment before it shows.
const OVERLAP: &str = "1 minute";
/// Transaction ids are compared modulo 2^32: after half of that, new ones look old. The rest is room.
const TRANSACTIONS_MAX: u64 = 2_000_000_000;
/// Files of a partition beyond which they become one.
const PARTITION_FILES_MAX: usize = 16;
/// Rows of a file of which it is known at once which are dropped, one byte each.
const WINDOW_ROWS: usize = 1 << 16;
/// `text` and `varchar`: of types held as text, those whose equal values are the same bytes.
const TEXT_OIDS: [u32; 2] = [25, 1043];
/// Columns that DuckDB adds to the rows of files.
const FILE_COLUMNS: [&str; 2] = ["filename", "file_row_number"];

/// How one table was pulled.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum PullMode {
    /// All its rows.
    Full {
        /// Why not only what changed, when that was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// Rows past the watermark, merged into the last version.
    Incremental(Merged),
}

/// What a merge did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Rows that came from the server.
    pub received: u64,
    /// Rows of the last version that one of them replaced.
    pub replaced: u64,
    /// Rows of the last version whose key is gone; none when it was not asked for.
    pub removed: Option<u64>,
    /// Rows more than the server has: deleted there, and not looked for.
    pub surplus: u64,
    /// Files of the last version that are part of this one as they are.
    pub files_kept: usize,
    /// Files of the last version that were written anew without some of their rows, or became part of another file.
    pub files_rewritten: usize,
}

/// What one table's incremental pull asks for.
#[derive(Debug)]
pub(super) struct Increment {
    /// The condition on the rows.
    pub(super) condition: String,
    /// Whether an index may find them, so that cutting the table into ranges would only be in the way.
    pub(super) by_index: bool,
    /// Rows of the table in the snapshot.
    rows: u64,
    last: LakeTable,
}

/// A table that may be pulled incrementally.
pub(super) struct Candidate<'a> {
    pub(super) relation: &'a RelationInfo,
    pub(super) schema: &'a SchemaRef,
    /// `xmin`, a column, or nothing.
    pub(super) by: Option<&'a str>,
    /// What this pull will have seen.
    pub(super) mark: &'a SourceMark,
    pub(super) watermark: Option<&'a Watermark>,
    pub(super) last: Option<&'a LakeTable>,
}

/// The numbers of a table's columns in the catalogue: a column keeps its own when it is renamed.
pub(super) async fn column_numbers(
    session: &Session,
    relation: &RelationInfo,
) -> Result<BTreeMap<String, i16>, SourceError> {
    let sql = "SELECT attname, attnum FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";
    let rows = session.query_typed(sql, &[(&relation.oid, Type::OID)]).await.map_err(SourceError::Snapshot)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

impl Candidate<'_> {
    /// What to ask for, or why the table must be pulled in full.
    ///
    /// # Errors
    /// [`SourceError::Snapshot`] when the server cannot be asked.
    pub(super) async fn plan(&self, session: &Session) -> Result<Result<Increment, String>, SourceError> {
        let (by, last, condition) = match self.condition() {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(why) = self.check_server(session, by).await? {
            return Ok(Err(why));
        }
        let sql = format!("SELECT count(*) FROM {}", quote_table(&self.relation.schema.table));
        let rows: i64 = session.query_typed_one(&sql, &[]).await.map_err(SourceError::Snapshot)?.get(0);
        let (by_index, condition) = condition;
        let rows = u64::try_from(rows).unwrap_or(0);
        Ok(Ok(Increment { condition, by_index, rows, last: last.clone() }))
    }

    /// What the lake and the pipeline file say.
    fn condition(&self) -> Result<(&str, &LakeTable, (bool, String)), String> {
        let by = self.by.ok_or("the pipeline file gives it no watermark")?;
        let last = self.last.ok_or("the lake does not have it yet")?;
        let Origin::Source { mark: Some(then), .. } = &last.origin else {
            return Err("its last pull noted no watermark".to_owned());
        };
        let (Some(since), Some(now)) = (&then.watermark, self.watermark) else {
            return Err("the server does not tell which transactions had ended".to_owned());
        };
        if since.server != now.server {
            return Err(
                "it comes from another server, or one recovered to an older point, than its last pull".to_owned()
            );
        }
        if then.oid != self.mark.oid {
            return Err("it was created anew since its last pull".to_owned());
        }
        if *self.schema != last.schema {
            return Err("its columns changed since its last pull".to_owned());
        }
        if then.key != self.mark.key || then.partition_by != self.mark.partition_by {
            return Err("its key or its partitions changed in the pipeline file since its last pull".to_owned());
        }
        if now.xmin < since.xmin || now.xmax - since.xmin > TRANSACTIONS_MAX {
            return Err("too many transactions passed since its last pull to tell new ones from old".to_owned());
        }
        for column in &self.mark.key {
            self.check_key(column)?;
        }
        // DuckDB's names differ in more than case.
        let named = |name: &str| {
            let fields = self.schema.fields().iter().map(|field| field.name());
            fields.filter(|field| field.eq_ignore_ascii_case(name)).collect::<Vec<_>>()
        };
        if let Some(column) = FILE_COLUMNS.iter().find_map(|name| named(name).first().copied()) {
            return Err(format!("its column {column} has a name that the merge needs"));
        }
        if let Some(column) = self.mark.key.iter().find(|column| named(column).len() > 1) {
            return Err(format!("another column has the name of its key column {column} in other case"));
        }
        let by_transaction = format!("age(xmin) <= age('{}'::xid)", since.xmin & u64::from(u32::MAX));
        let condition = match &since.time {
            Some(time) if by != XMIN => (true, newer(by, time)),
            // Sessions that could not be seen may have written any time; their transactions can be told all the same.
            _ => (false, by_transaction),
        };
        Ok((by, last, condition))
    }

    fn check_key(&self, column: &str) -> Result<(), String> {
        let fits = self.schema.field_with_name(column).is_ok_and(|field| match field.data_type() {
            DataType::Boolean
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Timestamp(_, _)
            | DataType::Decimal128(_, _)
            | DataType::FixedSizeBinary(_) => true,
            DataType::Utf8 => self
                .relation
                .schema
                .columns
                .iter()
                .any(|found| found.name == column && TEXT_OIDS.contains(&found.type_oid)),
            _ => false,
        });
        fits.then_some(()).ok_or_else(|| format!("its key column {column} has a type whose values cannot be matched"))
    }

    /// What the server's catalogue says.
    async fn check_server(&self, session: &Session, by: &str) -> Result<Result<(), String>, SourceError> {
        let sql = "SELECT c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid), \
                          row_security_active(c.oid), \
                          EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid \
                                  AND i.indpred IS NULL AND i.indexprs IS NULL \
                                  AND NOT EXISTS (SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k (attnum) \
                                                  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum \
                                                  WHERE a.attname <> ALL ($2::text[]))), \
                          (SELECT coalesce(bool_and(a.attnotnull AND coalesce(l.collisdeterministic, true)), false) \
                           FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation \
                           WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attname = ANY ($2::text[])), \
                          (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a \
                           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = $3) \
                   FROM pg_class c WHERE c.oid = $1";
        let key = &self.mark.key;
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&self.relation.oid, Type::OID), (key, Type::TEXT_ARRAY), (&by, Type::TEXT)];
        let row = session.query_typed_one(sql, &parameters).await.map_err(SourceError::Snapshot)?;
        let is_plain: bool = row.get(0);
        let watermark_type: Option<String> = row.get(4);
        Ok(if !is_plain {
            Err("it is not a plain table, so rows can come into it without being written".to_owned())
        } else if row.get(1) {
            Err("policies hide rows of it, and may show others by now".to_owned())
        } else if !row.get::<_, bool>(2) {
            Err(format!("no unique index keeps its key ({}) unique", key.join(", ")))
        } else if !row.get::<_, bool>(3) {
            Err(format!("its key ({}) may be null, or different texts of it may be equal", key.join(", ")))
        } else if by != XMIN && watermark_type.as_deref() != Some("timestamp with time zone") {
            let found = watermark_type.unwrap_or_else(|| "not there".to_owned());
            Err(format!("its watermark {by} is {found}, and neither timestamp with time zone nor xmin"))
        } else {
            Ok(())
        })
    }
}

fn newer(column: &str, time: &str) -> String {
    let column = quote_ident(column);
    let time = quote_literal(time);
    format!("({column} IS NULL OR {column} >= {time}::timestamptz - interval '{OVERLAP}')")
}

impl Merged {
    /// Whether the table is as it was.
    pub(super) fn is_unchanged(&self) -> bool {
        self.received == 0 && self.files_rewritten == 0
    }
}

impl Increment {
    /// The last version's files, schema and what its values needed.
    pub(super) fn last(&self) -> &LakeTable {
        &self.last
    }

    /// Columns of the last version of which values became null.
    pub(super) fn last_made_null(&self) -> Vec<String> {
        match &self.last.origin {
            Origin::Source { made_null, .. } => made_null.keys().cloned().collect(),
            Origin::Dataset { .. } => Vec::new(),
        }
    }

    /// Holds the merged rows against the server's count: a row that is missing was written without moving the watermark.
    ///
    /// # Errors
    /// [`PipelineError::Watermark`].
    pub(super) fn verify(&self, table: &str, rows: u64, merged: &mut Merged) -> Result<(), PipelineError> {
        if rows < self.rows || (merged.removed.is_some() && rows != self.rows) {
            return Err(PipelineError::Watermark { table: table.to_owned(), rows, sent: self.rows });
        }
        merged.surplus = rows - self.rows;
        Ok(())
    }

    /// Rows of the table in the snapshot.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }
}

/// A merge of rows received into the last version of a table. Blocking.
pub(super) struct Merge {
    pub(super) lake: Lake,
    pub(super) runtime: Handle,
    pub(super) limits: EngineLimits,
    pub(super) cancel: CancellationToken,
    pub(super) layout: TableLayout,
    pub(super) schema: SchemaRef,
    /// The last version's files.
    pub(super) old: Vec<DataFile>,
    /// Rows received.
    pub(super) received: Vec<DataFile>,
    /// The keys of all rows on the server, when rows that are gone are looked for.
    pub(super) present: Option<Vec<DataFile>>,
    /// The writer's number in the names of the files that it writes.
    pub(super) writer: usize,
    /// Columns whose nulls are counted when rows were replaced.
    pub(super) counted: Vec<String>,
}

/// Nulls of columns that were counted.
type Nulls = BTreeMap<String, u64>;

/// Rows of the old files that are no longer part of the table. DuckDB keeps their places, in memory up to its limit and
/// beyond it on disk, so that there may be any number of them.
struct Dropped {
    engine: Engine,
    /// Of each file that has some, by its path: its number, and how many.
    files: BTreeMap<String, (usize, u64)>,
}

impl Dropped {
    /// Which of [`WINDOW_ROWS`] rows of a file, from one on, are dropped.
    fn window(&self, number: usize, from: u64) -> Result<Vec<bool>, PipelineError> {
        let mut gone = vec![false; WINDOW_ROWS];
        let sql = format!(
            "SELECT place - {from} FROM dropped WHERE file = {number} AND place >= {from} AND place < {from} + {WINDOW_ROWS}"
        );
        self.engine.stream(&sql, |_, batch| {
            for place in batch.column(0).as_primitive::<Int64Type>().values() {
                gone[usize::try_from(*place).expect("places are those of the window")] = true;
            }
            Ok::<(), PipelineError>(())
        })?;
        Ok(gone)
    }
}

impl Merge {
    /// The files of the merged table, none when it has no row left.
    pub(super) fn run(mut self) -> Result<(Vec<DataFile>, Merged, Nulls), PipelineError> {
        self.old.retain(|file| file.rows > 0);
        self.received.retain(|file| file.rows > 0);
        if let Some(present) = &mut self.present {
            present.retain(|file| file.rows > 0);
        }
        let mut merged = Merged {
            received: self.received.iter().map(|file| file.rows).sum(),
            removed: self.present.as_ref().map(|_| 0),
            ..Merged::default()
        };
        let engine = Engine::open(None, &self.limits, self.cancel.clone())?;
        let _watch = engine.watch_cancel(&self.runtime);
        let dropped = self.find_dropped(engine, &mut merged)?;
        // Files with the number under which rows of them are dropped.
        let mut partitions: BTreeMap<_, Vec<(DataFile, Option<usize>)>> = BTreeMap::new();
        for file in std::mem::take(&mut self.old) {
            match dropped.files.get(&file.path) {
                Some((_, count)) if *count == file.rows => merged.files_rewritten += 1,
                found => {
                    let number = found.map(|(number, _)| *number);
                    partitions.entry(file.partition.clone()).or_default().push((file, number));
                }
            }
        }
        let received: BTreeSet<String> = self.received.iter().map(|file| file.path.clone()).collect();
        for file in std::mem::take(&mut self.received) {
            partitions.entry(file.partition.clone()).or_default().push((file, None));
        }
        let (mut files, mut rewritten) = (Vec::new(), Vec::new());
        for group in partitions.into_values() {
            let compact = group.len() > PARTITION_FILES_MAX;
            for (file, number) in group {
                let (rewrite, is_old) = (compact || number.is_some(), !received.contains(&file.path));
                merged.files_rewritten += usize::from(rewrite && is_old);
                merged.files_kept += usize::from(!rewrite && is_old);
                if rewrite {
                    rewritten.push((file, number));
                } else {
                    files.push(file);
                }
            }
        }
        let (lake, runtime) = (&self.lake, &self.runtime);
        let mut writer =
            TableWriter::new(lake, runtime.clone(), self.layout.clone(), Arc::clone(&self.schema), self.writer)?;
        for (file, number) in &rewritten {
            self.copy_rest(file, number.map(|number| (&dropped, number)), &mut writer)?;
        }
        for (file, _) in rewritten.iter().filter(|(file, _)| received.contains(&file.path)) {
            runtime.block_on(lake.delete(&file.object()?))?;
        }
        files.extend(writer.finish(false)?);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let has_dropped = merged.replaced > 0 || merged.removed.is_some_and(|removed| removed > 0);
        let nulls = if has_dropped { self.count_nulls(&dropped.engine, &files)? } else { Nulls::new() };
        Ok((files, merged, nulls))
    }

    /// Nulls of the columns that are counted, but for those whose name DuckDB may take for another's.
    fn count_nulls(&self, engine: &Engine, files: &[DataFile]) -> Result<Nulls, PipelineError> {
        let fields = self.schema.fields();
        let is_alone =
            |column: &&String| fields.iter().filter(|field| field.name().eq_ignore_ascii_case(column)).count() == 1;
        let columns: Vec<&String> = self.counted.iter().filter(is_alone).collect();
        if columns.is_empty() || files.is_empty() {
            return Ok(columns.into_iter().map(|column| (column.clone(), 0)).collect());
        }
        let files = self.read_list(files);
        let count = |column: &String| {
            let sql = format!("SELECT count(*) FROM read_parquet({files}) WHERE {} IS NULL", quote_ident(column));
            Ok((column.clone(), engine.count(&sql)?))
        };
        columns.into_iter().map(count).collect()
    }

    /// Files as DuckDB reads them.
    fn read_list(&self, files: &[DataFile]) -> String {
        let paths = files.iter().map(|file| quote_literal(&self.lake.local_path(&file.path).display().to_string()));
        format!("[{}], hive_partitioning = false", paths.collect::<Vec<_>>().join(", "))
    }

    /// Rows of the old files whose key was received again or is gone.
    fn find_dropped(&self, engine: Engine, merged: &mut Merged) -> Result<Dropped, PipelineError> {
        let mut dropped = Dropped { engine, files: BTreeMap::new() };
        if self.old.is_empty() || (self.received.is_empty() && self.present.is_none()) {
            return Ok(dropped);
        }
        let key = self.layout.key.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        let old = format!(
            "(SELECT filename, file_row_number, {key} FROM read_parquet({}, filename = true, file_row_number = true)) AS old",
            self.read_list(&self.old)
        );
        let mut parts = Vec::new();
        if !self.received.is_empty() {
            let received = self.read_list(&self.received);
            parts.push(format!(
                "SELECT filename, file_row_number, false AS is_gone FROM {old} \
                 SEMI JOIN (SELECT {key} FROM read_parquet({received})) AS received USING ({key})"
            ));
        }
        if let Some(present) = &self.present {
            let but = match present.as_slice() {
                [] => String::new(),
                present => {
                    let present = self.read_list(present);
                    format!(" ANTI JOIN (SELECT {key} FROM read_parquet({present})) AS present USING ({key})")
                }
            };
            parts.push(format!("SELECT filename, file_row_number, true AS is_gone FROM {old}{but}"));
        }
        let numbered = self.old.iter().enumerate().map(|(number, file)| {
            format!("({number}, {})", quote_literal(&self.lake.local_path(&file.path).display().to_string()))
        });
        // In order, so that a window is read without the others.
        dropped.engine.execute(&format!(
            "CREATE TEMP TABLE dropped AS SELECT number AS file, file_row_number AS place, is_gone FROM ({}) AS found \
             JOIN (VALUES {}) AS files (number, path) ON filename = path ORDER BY file, place",
            parts.join(" UNION ALL "),
            numbered.collect::<Vec<_>>().join(", ")
        ))?;
        let counts = "SELECT file::BIGINT, count(*), count(*) FILTER (is_gone) FROM dropped GROUP BY ALL";
        let (_, batches) = dropped.engine.query(counts)?;
        for batch in &batches {
            let [files, rows, gone] = [0, 1, 2].map(|column| batch.column(column).as_primitive::<Int64Type>().values());
            for ((file, rows), gone) in files.iter().zip(rows).zip(gone) {
                let [rows, gone] = [rows, gone].map(|count| u64::try_from(*count).expect("a count is not negative"));
                let number = usize::try_from(*file).expect("files are numbered from 0");
                dropped.files.insert(self.old[number].path.clone(), (number, rows));
                merged.replaced += rows - gone;
                merged.removed = merged.removed.map(|removed| removed + gone);
            }
        }
        Ok(dropped)
    }

    /// Writes the rows of a file that stay.
    fn copy_rest(
        &self,
        file: &DataFile,
        dropped: Option<(&Dropped, usize)>,
        writer: &mut TableWriter,
    ) -> Result<(), PipelineError> {
        let mut batches = Box::pin(self.runtime.block_on(read_file(&self.lake, file))?);
        let (mut place, mut window) = (0, Vec::new().into_iter());
        while let Some(batch) = self.runtime.block_on(batches.next()) {
            if self.cancel.is_cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let batch = batch?;
            let Some((dropped, number)) = dropped else {
                writer.write(batch)?;
                continue;
            };
            let mut stays = Vec::with_capacity(batch.num_rows());
            while stays.len() < batch.num_rows() {
                if window.len() == 0 {
                    window = dropped.window(number, place)?.into_iter();
                }
                let before = stays.len();
                stays.extend(window.by_ref().take(batch.num_rows() - before).map(|is_gone| !is_gone));
                place += (stays.len() - before) as u64;
            }
            let rest = filter_record_batch(&batch, &BooleanArray::from(stays))
                .map_err(|source| PipelineError::Output { path: file.path.clone(), source: source.into() })?;
            writer.write(rest)?;
        }
        Ok(())
    }
}
