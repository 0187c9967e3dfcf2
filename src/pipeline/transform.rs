//! Lake tables to the dataset: phases in DuckDB, the result streamed back as Arrow into Parquet.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use chrono::Utc;
use object_store::path::Path as ObjectPath;
use serde::Serialize;
use tokio::runtime::Handle;

use super::run::with_run;
use super::table_files::{TableFiles, share_memory};
use super::{Context, PipelineError, Run};
use crate::config::Made;
use crate::lake::{FileEncoding, Lake, LakeError, LakeTable, Manifest, Origin, Publication, TableLayout, Version};
use crate::pg::quote_literal;
use crate::progress::Step;
use crate::transform::{
    DictionaryColumn, Engine, EngineLimits, KeptPages, Phase, PhaseReport, PhaseSet, TransformError, check_key,
    create_view, create_views, late_failure, load_data_tables, maker_of, run_phases, select_phases,
};
use crate::validate::check_sources;

/// DuckDB's file in the lake's folder: a cache that a run makes anew.
const DATABASE_FILE: &str = "racealpha.duckdb";
/// The table in it that says which tables and phases it was made from.
const CACHE_TABLE: &str = "racealpha_cache";

/// The name under which the key of a table just written is checked.
const WRITTEN_TABLE: &str = "racealpha_written";
/// Columns unlike the dictionary's that an error shows.
const COLUMNS_SHOWN: usize = 5;

/// Which phases run.
#[derive(Debug, Clone, Default)]
pub struct TransformOptions {
    /// The first phase; the ones before are taken from the last run of the same lake version.
    pub from: Option<String>,
    /// The last phase; no dataset is made when it is not the pipeline's last.
    pub to: Option<String>,
    /// Adds rows for declared runners without a result, with null labels: what a model is served from.
    pub with_upcoming: bool,
}

/// What a run of the phases did.
#[derive(Debug, Clone, Serialize)]
pub struct TransformReport {
    /// The lake version whose tables were read.
    pub from: Version,
    /// The phases in run order.
    pub phases: Vec<PhaseReport>,
    /// The dataset, unless the last phase was left out.
    pub dataset: Option<DatasetReport>,
    /// The other outputs.
    pub outputs: Vec<DatasetReport>,
    /// How long it took.
    pub seconds: f64,
}

/// The dataset or another output that a run made.
#[derive(Debug, Clone, Serialize)]
pub struct DatasetReport {
    /// The lake version with it.
    pub version: Version,
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its columns.
    pub columns: usize,
    /// Bytes of its Parquet files.
    pub parquet_bytes: u64,
    /// Writing alone, in seconds.
    pub write_seconds: f64,
}

/// Runs the phases over the latest lake version and publishes the dataset.
///
/// # Errors
/// [`PipelineError`]; the lake's previous version stays as it was.
pub async fn transform(context: &Context, options: &TransformOptions) -> Result<TransformReport, PipelineError> {
    with_run(context, "run", async |run| transform_in(context, run, options).await).await
}

/// The same as a step of a run.
pub(super) async fn transform_in(
    context: &Context,
    run: &Run,
    options: &TransformOptions,
) -> Result<TransformReport, PipelineError> {
    let started = Instant::now();
    let manifest = run.lake.require_latest().await?;
    let tables: Vec<(&str, bool)> =
        context.pipeline.tables.iter().map(|table| (table.name.as_str(), table.required)).collect();
    let sources = check_sources(&manifest, &tables);
    if sources.is_blocked() {
        return Err(PipelineError::Blocked(sources.blockers()));
    }
    let publication = Publication::prepare(&run.lake, run.id.as_str()).await?;
    let job = TransformJob {
        context: context.clone(),
        lake: run.lake.clone(),
        run_id: run.id.to_string(),
        manifest,
        phases: context.phases()?,
        options: options.clone(),
        version: publication.version(),
        limits: context.engine_limits(&run.lake),
        runtime: Handle::current(),
    };
    let (phases, made, from) =
        tokio::task::spawn_blocking(move || job.run().map(|(p, d)| (p, d, job.manifest.version))).await??;
    if context.cancel.is_cancelled() {
        return Err(PipelineError::Cancelled);
    }
    let mut reports = Vec::with_capacity(made.len());
    for (name, (table, write_seconds)) in &made {
        reports.push(DatasetReport {
            version: publication.version(),
            name: name.clone(),
            rows: table.rows,
            columns: table.schema.fields().len(),
            parquet_bytes: table.bytes,
            write_seconds: *write_seconds,
        });
    }
    if !made.is_empty() {
        publication.publish(made.into_iter().map(|(name, (table, _))| (name, table)).collect()).await?;
    }
    let (rows, bytes) = reports.first().map_or((0, 0), |dataset| (dataset.rows, dataset.parquet_bytes));
    run.record(Step::Transform, started, rows, bytes);
    let outputs = reports.split_off(reports.len().min(1));
    Ok(TransformReport { from, phases, dataset: reports.pop(), outputs, seconds: started.elapsed().as_secs_f64() })
}

/// The tables made by name, the dataset first, with the seconds their writing took.
type WrittenTables = Vec<(String, (LakeTable, f64))>;

/// Everything the blocking part needs.
struct TransformJob {
    context: Context,
    lake: Lake,
    run_id: String,
    manifest: Manifest,
    phases: PhaseSet,
    options: TransformOptions,
    version: Version,
    limits: EngineLimits,
    runtime: Handle,
}

impl TransformJob {
    /// Runs the phases.
    fn run(&self) -> Result<(Vec<PhaseReport>, WrittenTables), PipelineError> {
        let selected = select_phases(&self.phases, self.options.from.as_deref(), self.options.to.as_deref())?;
        let _kept = KeptPages::keep();
        let engine = self.open_engine(&selected)?;
        let _watch = engine.watch_cancel(&self.runtime);
        let names = self.context.pipeline.tables.iter().map(|table| table.name.as_str());
        create_views(&engine, &self.lake, &self.manifest, names, None)?;
        prepare_session(&engine, &self.phases, &self.manifest, self.options.with_upcoming)?;
        let reports = run_phases(&engine, &selected, &self.context.progress)?;
        let is_last = self.phases.phases.iter().rfind(|phase| phase.in_lake).map(|phase| &phase.name)
            == selected.last().map(|phase| &phase.name);
        let mut written = WrittenTables::new();
        if is_last {
            check_columns(&engine, &self.context.pipeline.dataset.name, &self.phases)?;
            let slice_bytes_max = share_memory(&engine)?;
            for made in self.context.pipeline.made() {
                written.push((made.name.to_owned(), self.write(&engine, &made, slice_bytes_max)?));
            }
        }
        Ok((reports, written))
    }

    /// A fresh database file, or the last one when earlier phases are to be taken from it.
    fn open_engine(&self, selected: &[&Phase]) -> Result<Engine, PipelineError> {
        let file = self.lake.local_path(DATABASE_FILE);
        let cancel = self.context.cancel.clone();
        let stamp = format!("{} {} {}", self.manifest_stamp(), self.phases.fingerprint, self.options.with_upcoming);
        if self.options.from.is_none() {
            remove_database(&file)?;
            let engine = Engine::open(Some(&file), &self.limits, cancel)?;
            engine.execute(&format!("CREATE TABLE {CACHE_TABLE} AS SELECT {} AS stamp", quote_literal(&stamp)))?;
            return Ok(engine);
        }
        let stale = || {
            let first = selected.first().map_or("", |phase| phase.name.as_str());
            PipelineError::Usage(format!(
                "phases before {first} were not run on these tables with these phase files; run without --from first"
            ))
        };
        if !file.exists() {
            return Err(stale());
        }
        let engine = Engine::open(Some(&file), &self.limits, cancel)?;
        let same = format!("SELECT count(*) FROM {CACHE_TABLE} WHERE stamp = {}", quote_literal(&stamp));
        match engine.count(&same) {
            Ok(1) => Ok(engine),
            Ok(_) | Err(TransformError::Query(_)) => Err(stale()),
            Err(error) => Err(error.into()),
        }
    }

    /// Names the source tables' versions: a new dataset does not make the phase tables stale, a pull does.
    fn manifest_stamp(&self) -> String {
        let tables = self.context.pipeline.tables.iter();
        let versions = tables.filter_map(|table| Some(self.manifest.tables.get(&table.name)?.version.to_string()));
        versions.collect::<Vec<_>>().join(",")
    }

    /// Writes one table that the phases made, and gives the seconds it took.
    fn write(&self, engine: &Engine, made: &Made<'_>, slice_bytes_max: u64) -> Result<(LakeTable, f64), PipelineError> {
        let started = Instant::now();
        if engine.columns(made.name)?.is_empty() {
            return Err(PipelineError::Usage(format!(
                "no phase wrote table {}, which the pipeline file names as dataset or output",
                made.name
            )));
        }
        let job = TableFiles {
            lake: &self.lake,
            runtime: &self.runtime,
            progress: &self.context.progress,
            layout: TableLayout {
                table: made.name.to_owned(),
                version: self.version,
                run_id: self.run_id.clone(),
                key: made.key.to_vec(),
                partition_by: made.partition_by.to_vec(),
                encoding: FileEncoding { floats_repeat: true, ..FileEncoding::default() },
            },
            order_by: made.order_by,
            slice_bytes_max,
            events: self.context.pipeline.dataset.event.as_ref(),
            dictionary: if made.name == self.context.pipeline.dataset.name { &self.phases.dictionary } else { &[] },
        };
        let (schema, files) = job.write(engine).map_err(|error| match error {
            PipelineError::Transform(TransformError::Query(message)) => {
                late_failure(engine, &self.phases, made.name, message).into()
            }
            other => other,
        })?;
        let table = LakeTable {
            version: self.version,
            run_id: self.run_id.clone(),
            created: Utc::now(),
            origin: Origin::Dataset { from: self.manifest.version, phases: self.phases.fingerprint.clone() },
            schema,
            rows: files.iter().map(|file| file.rows).sum(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files,
        };
        // The files just written: the phases' own table may be a view, whose joins would all run again.
        create_view(engine, &self.lake, WRITTEN_TABLE, &table)?;
        check_key(engine, WRITTEN_TABLE, made.name, made.key, &maker_of(&self.phases, made.name))?;
        Ok((table, started.elapsed().as_secs_f64()))
    }
}

/// Compares the dataset's columns with the dictionary's: what nobody described is nobody's intention.
fn check_columns(engine: &Engine, dataset: &str, phases: &PhaseSet) -> Result<(), PipelineError> {
    if phases.dictionary.is_empty() {
        return Ok(());
    }
    let columns = engine.columns(dataset)?;
    let described = |name: &str| phases.dictionary.iter().find(|column| column.name == name && !column.is_dropped());
    let mut problems = Vec::new();
    for (name, data_type) in &columns {
        match described(name).map(DictionaryColumn::lake_type) {
            None => problems.push(format!(
                "{dataset} has column {name}, which the dictionary does not have as a column of the dataset"
            )),
            Some(Some(wanted)) if wanted != *data_type => {
                problems.push(format!("column {name} of {dataset} is {data_type}, and the dictionary says {wanted}"));
            }
            Some(_) => {}
        }
    }
    let is_there = |column: &&DictionaryColumn| columns.iter().any(|(name, _)| *name == column.name);
    let missing = phases.dictionary.iter().filter(|column| !column.is_dropped() && !is_there(column));
    problems.extend(missing.map(|column| format!("{dataset} lacks column {}, which the dictionary has", column.name)));
    if problems.is_empty() {
        return Ok(());
    }
    let others = problems.len().saturating_sub(COLUMNS_SHOWN);
    problems.truncate(COLUMNS_SHOWN);
    if others > 0 {
        problems.push(format!("and {others} more"));
    }
    let file = phases.writer_of(dataset).map_or_else(|| "the phases".to_owned(), Phase::file);
    Err(PipelineError::Blocked(format!("{file}: {}", problems.join("; "))))
}

/// Prelude, data tables, and `build_time()`: the snapshot's time rather than the clock, so that the same tables
/// always make the same dataset. And `with_upcoming()`: whether runners without a result get rows.
pub(super) fn prepare_session(
    engine: &Engine,
    phases: &PhaseSet,
    manifest: &Manifest,
    with_upcoming: bool,
) -> Result<(), TransformError> {
    load_data_tables(engine, phases)?;
    let times = manifest.tables.values().filter_map(|table| match &table.origin {
        Origin::Source { time, .. } => Some(time.as_str()),
        Origin::Dataset { .. } => None,
    });
    let time = times.max().unwrap_or("1970-01-01T00:00:00Z").trim_end_matches('Z').replace('T', " ");
    engine.execute(&format!(
        "CREATE OR REPLACE MACRO with_upcoming() AS {with_upcoming}; \
         CREATE OR REPLACE MACRO build_time() AS CAST({} AS TIMESTAMPTZ)",
        quote_literal(&format!("{time}+00"))
    ))
}

/// Removes a DuckDB file and its log, where they are.
pub(super) fn remove_database(file: &Path) -> Result<(), LakeError> {
    for path in [file.to_path_buf(), file.with_extension("duckdb.wal")] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LakeError::Write {
                    path: ObjectPath::from(path.display().to_string()),
                    source: error.into(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}
