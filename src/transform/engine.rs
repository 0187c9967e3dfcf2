//! DuckDB with limits. Nothing else in the program calls it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use duckdb::{Config, Connection, InterruptHandle};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::TransformError;
use crate::pg::quote_literal;

/// What one engine may use.
#[derive(Debug, Clone, Default)]
pub struct EngineLimits {
    /// Memory, such as `4GB`; DuckDB's default (80 % of the machine's) when not set. Beyond it data spills to disk.
    pub memory: Option<String>,
    /// Threads; all cores when not set.
    pub threads: Option<usize>,
    /// Where it spills.
    pub spill_folder: Option<PathBuf>,
    /// How much it spills, such as `4GB`; DuckDB's default (90 % of the free disk) when not set.
    pub spill_max: Option<String>,
}

/// One DuckDB session. Calls block: they belong on a thread that may.
pub struct Engine {
    connection: Connection,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Interrupts the running statement when the run is cancelled; dropping it ends the watch.
#[derive(Debug)]
pub struct CancelWatch(tokio::task::JoinHandle<()>);

impl Drop for CancelWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// DuckDB's message on one line, without the excerpt of the statement below it.
fn message(error: &duckdb::Error) -> String {
    let text = match error {
        duckdb::Error::DuckDBFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    };
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

impl Engine {
    /// Opens a database file, or an in-memory database.
    ///
    /// # Errors
    /// [`TransformError::Start`].
    pub fn open(file: Option<&Path>, limits: &EngineLimits, cancel: CancellationToken) -> Result<Self, TransformError> {
        let failed = |error: duckdb::Error| TransformError::Start(message(&error));
        let mut config = Config::default()
            .with("autoload_known_extensions", "false")
            .and_then(|config| config.with("autoinstall_known_extensions", "false"))
            .and_then(|config| config.with("preserve_insertion_order", "false"))
            .map_err(failed)?;
        if let Some(memory) = &limits.memory {
            config = config.max_memory(memory).map_err(failed)?;
        }
        if let Some(threads) = limits.threads.and_then(|threads| i64::try_from(threads).ok()) {
            config = config.threads(threads).map_err(failed)?;
        }
        if let Some(folder) = &limits.spill_folder {
            config = config.with("temp_directory", folder.display().to_string()).map_err(failed)?;
        }
        if let Some(spill) = &limits.spill_max {
            config = config.with("max_temp_directory_size", spill).map_err(failed)?;
        }
        let connection = match file {
            Some(file) => Connection::open_with_flags(file, config),
            None => Connection::open_in_memory_with_flags(config),
        }
        .map_err(failed)?;
        Ok(Self { connection, cancel })
    }

    /// Another session on the same database.
    ///
    /// # Errors
    /// [`TransformError::Start`].
    pub fn another(&self) -> Result<Self, TransformError> {
        let connection = self.connection.try_clone().map_err(|error| TransformError::Start(message(&error)))?;
        Ok(Self { connection, cancel: self.cancel.clone() })
    }

    /// Watches for cancellation while statements run; the caller keeps the answer as long as they do.
    pub fn watch_cancel(&self, runtime: &tokio::runtime::Handle) -> CancelWatch {
        let handle: Arc<InterruptHandle> = self.connection.interrupt_handle();
        let cancel = self.cancel.clone();
        CancelWatch(runtime.spawn(async move {
            cancel.cancelled().await;
            handle.interrupt();
        }))
    }

    /// Allows reading these files and where the engine spills, and nothing else: no other files, no network, no change of
    /// settings.
    ///
    /// # Errors
    /// [`TransformError::Query`].
    pub fn confine(&self, files: &[PathBuf]) -> Result<(), TransformError> {
        let files: Vec<String> = files.iter().map(|file| quote_literal(&file.display().to_string())).collect();
        self.execute(&format!(
            "SET allowed_paths = [{}]; SET enable_external_access = false; SET lock_configuration = true",
            files.join(", ")
        ))
    }

    fn failed(&self, error: &duckdb::Error) -> TransformError {
        match self.cancel.is_cancelled() {
            true => TransformError::Cancelled,
            false => TransformError::Query(message(error)),
        }
    }

    /// Runs statements whose results nobody needs.
    ///
    /// # Errors
    /// [`TransformError::Query`], [`TransformError::Cancelled`].
    pub fn execute(&self, sql: &str) -> Result<(), TransformError> {
        if self.cancel.is_cancelled() {
            return Err(TransformError::Cancelled);
        }
        self.connection.execute_batch(sql).map_err(|error| self.failed(&error))
    }

    /// Whether the text is exactly one statement that only reads.
    ///
    /// # Errors
    /// [`TransformError::Query`] when it does not parse.
    pub fn is_read_only(&self, sql: &str) -> Result<bool, TransformError> {
        // DuckDB's own parser decides: only SELECT-like statements have a JSON form, and it refuses all others.
        let parsed: String = self
            .connection
            .query_row("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [sql], |row| row.get(0))
            .map_err(|error| self.failed(&error))?;
        let parsed: Value = serde_json::from_str(&parsed).map_err(|error| TransformError::Query(error.to_string()))?;
        match (parsed["error"].as_bool(), parsed["error_type"].as_str(), parsed["error_message"].as_str()) {
            (Some(false), _, _) => Ok(parsed["statements"].as_array().is_some_and(|all| all.len() == 1)),
            (_, Some("parser"), Some(message)) => Err(TransformError::Query(message.to_owned())),
            _ => Ok(false),
        }
    }

    /// Streams a query's record batches to `take`, and gives their schema. `E` is the caller's error; it ends the query.
    ///
    /// # Errors
    /// [`TransformError::Query`], [`TransformError::Cancelled`], or what `take` returned.
    pub fn stream<E: From<TransformError>>(
        &self,
        sql: &str,
        mut take: impl FnMut(&SchemaRef, RecordBatch) -> Result<(), E>,
    ) -> Result<SchemaRef, E> {
        if self.cancel.is_cancelled() {
            return Err(TransformError::Cancelled.into());
        }
        let mut statement = self.connection.prepare(sql).map_err(|error| self.failed(&error))?;
        let mut batches = statement.stream_arrow([]).map_err(|error| self.failed(&error))?;
        let schema = batches.get_schema();
        if schema.fields().iter().any(|field| has_time(field.data_type())) {
            // A connection answers one query at a time.
            drop(batches);
            drop(statement);
            self.refuse_zoned_times(sql)?;
            statement = self.connection.prepare(sql).map_err(|error| self.failed(&error))?;
            batches = statement.stream_arrow([]).map_err(|error| self.failed(&error))?;
        }
        for batch in batches {
            take(&schema, batch.map_err(|error| self.failed(&error))?)?;
        }
        Ok(schema)
    }

    /// Arrow has no time of day with a zone, and DuckDB hands such times over without it.
    fn refuse_zoned_times(&self, sql: &str) -> Result<(), TransformError> {
        let mut describe = self.connection.prepare(&format!("DESCRIBE {sql}")).map_err(|error| self.failed(&error))?;
        let columns = describe.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        for column in columns.map_err(|error| self.failed(&error))? {
            let (name, type_name) = column.map_err(|error| self.failed(&error))?;
            if type_name.contains("TIME WITH TIME ZONE") {
                let what =
                    format!("column {name} is a time of day with a zone, which would be lost; cast it to VARCHAR");
                return Err(TransformError::Query(what));
            }
        }
        Ok(())
    }

    /// All record batches of a query with a small result.
    ///
    /// # Errors
    /// As [`Engine::stream`].
    pub fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>), TransformError> {
        let mut batches = Vec::new();
        let schema = self.stream(sql, |_, batch| {
            batches.push(batch);
            Ok::<(), TransformError>(())
        })?;
        Ok((schema, batches))
    }

    /// The first value of a query that counts something; 0 when it is null.
    ///
    /// # Errors
    /// As [`Engine::stream`].
    pub fn count(&self, sql: &str) -> Result<u64, TransformError> {
        let count: Option<i64> =
            self.connection.query_row(sql, [], |row| row.get(0)).map_err(|error| self.failed(&error))?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// Bytes of memory that all sessions of this database may use together.
    ///
    /// # Errors
    /// As [`Engine::stream`].
    pub fn memory_limit(&self) -> Result<u64, TransformError> {
        let sql = "SELECT current_setting('memory_limit')";
        let limit: String =
            self.connection.query_row(sql, [], |row| row.get(0)).map_err(|error| self.failed(&error))?;
        bytes_of(&limit).ok_or_else(|| TransformError::Query(format!("{limit} is no amount of memory")))
    }

    /// Sets that limit.
    ///
    /// # Errors
    /// As [`Engine::execute`]; also when what cannot be given back is more.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), TransformError> {
        self.execute(&format!("SET memory_limit = '{bytes}B'"))
    }

    /// Whether a name of the current schema stands for a view.
    ///
    /// # Errors
    /// As [`Engine::stream`].
    pub fn is_view(&self, name: &str) -> Result<bool, TransformError> {
        let sql = format!(
            "SELECT count(*) FROM duckdb_views() WHERE NOT internal AND schema_name = current_schema() AND view_name = {}",
            quote_literal(name)
        );
        Ok(self.count(&sql)? > 0)
    }

    /// The columns of a table or view of the current schema in order, as names and types.
    ///
    /// # Errors
    /// As [`Engine::stream`].
    pub fn columns(&self, table: &str) -> Result<Vec<(String, String)>, TransformError> {
        let sql = format!(
            "SELECT column_name, data_type FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = {} ORDER BY ordinal_position",
            quote_literal(table)
        );
        let mut statement = self.connection.prepare(&sql).map_err(|error| self.failed(&error))?;
        let rows =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|error| self.failed(&error))?;
        rows.collect::<Result<_, _>>().map_err(|error| self.failed(&error))
    }
}

/// An amount as DuckDB prints it, such as `953.6 MiB`, to a tenth of its unit.
fn bytes_of(amount: &str) -> Option<u64> {
    let (number, unit) = amount.split_once(' ')?;
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let power = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"].iter().position(|name| *name == unit)?;
    let unit = 1024_u64.checked_pow(u32::try_from(power).ok()?)?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(tenths.parse::<u64>().ok()?.checked_mul(unit / 10)?)
}

/// Whether times of day are in it.
fn has_time(data_type: &DataType) -> bool {
    match data_type {
        DataType::Time32(_) | DataType::Time64(_) => true,
        DataType::List(inner)
        | DataType::LargeList(inner)
        | DataType::FixedSizeList(inner, _)
        | DataType::Map(inner, _) => has_time(inner.data_type()),
        DataType::Struct(members) => members.iter().any(|member| has_time(member.data_type())),
        _ => false,
    }
}

/// A batch's rows as JSON objects; nulls are left out.
///
/// # Errors
/// [`TransformError::Query`] for a type that has no JSON form.
pub fn rows_as_json(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>, TransformError> {
    let failed = |error: String| TransformError::Query(format!("a result cannot be shown as JSON: {error}"));
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| failed(error.to_string()))?;
    let text = writer.into_inner();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn a_memory_limit_is_what_was_set_whatever_its_unit() {
        for (set, bytes) in [("512MiB", 512 << 20), ("1536MiB", 3 << 29), ("4GiB", 4 << 30), ("4000KiB", 4000 << 10)] {
            let limits = EngineLimits { memory: Some(set.to_owned()), ..EngineLimits::default() };
            let engine = Engine::open(None, &limits, CancellationToken::new()).unwrap();
            let found = engine.memory_limit().unwrap();
            assert!(found.abs_diff(bytes) <= bytes / 20, "{set} is {found} bytes");
            engine.limit_memory(found / 2).unwrap();
            assert!(engine.memory_limit().unwrap() < found);
        }
    }
}
