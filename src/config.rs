//! Typed configuration: defaults < pipeline file < `.env` < environment < flags. Parsed once; only `pipeline` and
//! `cli` read it, steps get their own options.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::columnar::{ColumnPolicy, PushPolicy};
use crate::lake::{FileEncoding, PartitionTransform};
use crate::pg::{ConnectError, DatabaseUrl};
use crate::push::{MergeOptions, MissingColumns, NewColumns, TargetMode};
use crate::schema::TableName;
use crate::source::RateLimit;
use crate::transform::Severity;

/// The pipeline file looked for in the working folder.
pub const PIPELINE_FILE: &str = "pipeline.toml";
/// The pipeline used where there is no file.
const BUILT_IN: &str = include_str!("../pipeline.toml");
/// The lake when nothing names one.
const DEFAULT_LAKE: &str = "data_lake";
/// Connections of a pull when nothing sets them: more only help where the server has cores to spare.
const DEFAULT_JOBS: usize = 2;
/// Connections of a pull at most; a production server has other users.
const JOBS_MAX: usize = 32;
/// Former live tables that can be kept: each is a whole table on the server's disk.
pub const KEEP_BACKUPS_MAX: u64 = 20;
/// Bytes of a megabyte, the unit of rates.
const MEGABYTE: f64 = 1e6;
/// Variables of libpq that say where a source is when `DATABASE_URL` does not.
const LIBPQ_PLACES: [&str; 4] = ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE"];
/// Dates or events that an audit tries at most; each costs a run of all phases.
const AUDIT_TRIES_MAX: usize = 100;
/// How alike two keys must be for one to be suggested instead of the other.
const SUGGESTION_SIMILARITY: f64 = 0.7;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The pipeline file cannot be read.
    #[error("cannot read the pipeline file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The pipeline file is not what it should be.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file, flag or variable.
        origin: String,
        /// What is wrong, and the nearest known key where one is unknown.
        message: String,
    },
    /// A setting that this command needs is missing.
    #[error("{name} is not set; put it into the environment or into a file named .env, for example {name}={example}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it may look like.
        example: &'static str,
    },
    /// A connection URL cannot be read.
    #[error("{name} is wrong")]
    Url {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        source: ConnectError,
    },
}

/// The pipeline file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The lake, unless the environment or a flag names another.
    pub lake: Option<String>,
    /// Connections of a pull.
    pub jobs: Option<usize>,
    /// DuckDB's memory limit, such as `4GB`.
    pub memory: Option<String>,
    /// How tables are pulled.
    #[serde(default)]
    pub pull: PullConfig,
    /// The source tables.
    pub tables: Vec<TableConfig>,
    /// The dataset that the phases make.
    pub dataset: DatasetConfig,
    /// Where the dataset is pushed.
    pub target: TargetConfig,
    /// Other tables of the phases that are published in the lake.
    #[serde(default)]
    pub outputs: Vec<OutputConfig>,
    /// Limits of the checks.
    #[serde(default)]
    pub validate: ValidateConfig,
    /// Who is told how a rebuild ended.
    pub notify: Option<NotifyConfig>,
}

/// A webhook.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyConfig {
    /// Where a JSON summary is posted; it may hold a secret and is never shown.
    pub url: String,
    /// Which ends it is told of.
    #[serde(default = "all_ends")]
    pub on: Vec<NotifyOn>,
}

impl std::fmt::Debug for NotifyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifyConfig").field("on", &self.on).finish_non_exhaustive()
    }
}

/// How a rebuild can end, or not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyOn {
    /// The live table is the new one.
    Success,
    /// Something broke, or it was cancelled.
    Failure,
    /// A check blocked the push.
    Blocked,
    /// No rebuild began when the schedule wanted one.
    Missed,
}

fn all_ends() -> Vec<NotifyOn> {
    vec![NotifyOn::Success, NotifyOn::Failure, NotifyOn::Blocked, NotifyOn::Missed]
}

/// One source table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Its name in the lake.
    pub name: String,
    /// Its name in the source, when it differs from `public.<name>`.
    pub source: Option<TableName>,
    /// The columns that tell its rows apart.
    #[serde(default)]
    pub key: Vec<String>,
    /// How its rows are spread over folders.
    #[serde(default)]
    pub partition_by: Vec<PartitionTransform>,
    /// Whether a rebuild needs rows in it.
    #[serde(default = "yes")]
    pub required: bool,
    /// Columns that are known only when the row's event is over; the first of them is null for rows that took no part.
    #[serde(default)]
    pub outcomes: Vec<String>,
    /// Whether its rows exist only after their event.
    #[serde(default)]
    pub after_event: bool,
    /// What tells which rows an incremental pull takes: a column that every change sets to the present time, or `xmin`.
    pub watermark: Option<String>,
    /// The column by whose ranges several connections share it, where it has no pages to be shared by.
    pub split_by: Option<String>,
    /// What happens to values that do not fit, by column.
    #[serde(default)]
    pub columns: BTreeMap<String, ColumnPolicy>,
    /// How its Parquet files are encoded.
    #[serde(default)]
    pub parquet: FileEncoding,
}

fn yes() -> bool {
    true
}

impl TableConfig {
    /// The table in the source.
    pub fn source_table(&self) -> TableName {
        self.source.clone().unwrap_or_else(|| TableName::new("public", &self.name))
    }
}

/// The dataset that the phases make.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Its name in the lake, and of the table the last phase writes.
    pub name: String,
    /// The columns that tell its rows apart.
    pub key: Vec<String>,
    /// How its rows are spread over folders.
    #[serde(default)]
    pub partition_by: Vec<PartitionTransform>,
    /// The order of its rows in the files; the key when empty.
    #[serde(default)]
    pub order_by: Vec<String>,
    /// Columns that are outcomes, not features.
    #[serde(default)]
    pub labels: Vec<String>,
    /// What the audit needs to know about time.
    pub event: Option<EventConfig>,
    /// The folder of phase files, relative to the pipeline file.
    pub phases: String,
}

/// What happens at one time and is then over, such as a race: no row may know its own event's outcome or a later one's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventConfig {
    /// The column of dataset and source tables that names the event of a row.
    pub column: String,
    /// The source table with one row per event.
    pub table: String,
    /// Its column with the date of the event.
    pub date: String,
    /// The column of the dataset that orders the events of a day: an event may know those of its day with a lower value.
    /// Without it no event may know another of its day.
    pub order: Option<String>,
    /// Columns of the dataset in which two events must agree for that, such as the place.
    #[serde(default)]
    pub within: Vec<String>,
}

/// A table of the phases that is published in the lake beside the dataset.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// Its name in the lake, and of the table that a phase writes.
    pub name: String,
    /// The columns that tell its rows apart.
    pub key: Vec<String>,
    /// How its rows are spread over folders.
    #[serde(default)]
    pub partition_by: Vec<PartitionTransform>,
    /// The order of its rows in the files; the key when empty.
    #[serde(default)]
    pub order_by: Vec<String>,
    /// Where `push NAME` puts it.
    pub target: Option<TargetConfig>,
}

/// A table that the phases make: the dataset or another output.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// Its name in the lake.
    pub name: &'a str,
    /// The columns that tell its rows apart.
    pub key: &'a [String],
    /// How its rows are spread over folders.
    pub partition_by: &'a [PartitionTransform],
    /// The order of its rows in the files.
    pub order_by: &'a [String],
    /// Where it is pushed.
    pub target: Option<&'a TargetConfig>,
}

/// Where the dataset is pushed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// The live table.
    pub table: TableName,
    /// The former live table's name after a swap, in the same schema.
    pub backup: Option<String>,
    /// Former live tables that stay after a swap; 1 when not set.
    pub keep_backups: Option<usize>,
    /// How rows get into the live table.
    #[serde(default)]
    pub mode: TargetMode,
    /// What happens to dataset columns that the live table lacks.
    #[serde(default)]
    pub new_columns: NewColumns,
    /// What happens to columns of the live table that the dataset lacks and nothing else fills.
    #[serde(default)]
    pub missing_columns: MissingColumns,
    /// How long attempts to swap go on before the push ends as loaded and not swapped; 600 when not set.
    pub swap_deadline_seconds: Option<u64>,
    /// Publications of the live table whose subscribers need not have the rows of a push, which are never sent to them.
    #[serde(default)]
    pub publications: Vec<String>,
    /// The same for single columns, also for those that a default or an identity would fill.
    #[serde(default)]
    pub missing: BTreeMap<String, MissingColumns>,
    /// What concerns a merge alone.
    #[serde(default)]
    pub merge: MergeOptions,
    /// The least share of the live table's rows that the dataset must have.
    #[serde(default = "min_rows_of_live")]
    pub min_rows_of_live: f64,
    /// Whether a push also brings the views of the phases for Postgres up to date.
    #[serde(default)]
    pub views: bool,
    /// What happens to values that the table would change or refuse, by column.
    #[serde(default)]
    pub columns: BTreeMap<String, PushPolicy>,
}

/// A table that loses more than one row in ten has rather lost its source.
fn min_rows_of_live() -> f64 {
    0.9
}

/// How tables are pulled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PullConfig {
    /// What happens when a source table has a column that its last version in the lake lacks.
    pub on_added: DriftPolicy,
    /// What happens when it lacks one, or has it under another name.
    pub on_dropped: DriftPolicy,
    /// What happens when a column has another type.
    pub on_retyped: DriftPolicy,
    /// Megabytes (of a million bytes) per second that all connections together may take; no limit when absent.
    pub max_rate: Option<f64>,
}

impl Default for PullConfig {
    fn default() -> Self {
        let if_read = DriftPolicy::ErrorIfRead;
        Self { on_added: DriftPolicy::Accept, on_dropped: if_read, on_retyped: if_read, max_rate: None }
    }
}

/// What happens when a column of a source table changed since the last pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftPolicy {
    /// It is pulled as it is now, and reported.
    Accept,
    /// Nothing is pulled when a phase, a check or a setting names the column; otherwise as `accept`.
    ErrorIfRead,
    /// Nothing is pulled.
    Error,
}

/// Limits of the checks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateConfig {
    /// The least rows a dataset may have.
    pub min_rows: u64,
    /// The least share of the previous dataset's rows.
    pub min_rows_of_previous: f64,
    /// Other severities and limits than the checks' own, by id.
    pub checks: BTreeMap<String, CheckConfig>,
    /// Dates at which the audit cuts the sources.
    pub audit_dates: usize,
    /// Events whose outcomes the audit changes, one at a time.
    pub audit_events: usize,
}

/// What the pipeline file says of one check.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckConfig {
    /// Whether it blocks a push.
    pub severity: Option<Severity>,
    /// What its file sees as `check_limit()`.
    pub limit: Option<f64>,
}

impl Default for ValidateConfig {
    fn default() -> Self {
        Self { min_rows: 1, min_rows_of_previous: 0.9, checks: BTreeMap::new(), audit_dates: 3, audit_events: 8 }
    }
}

impl Pipeline {
    /// Reads `file`, or `pipeline.toml` of the working folder, or the built-in pipeline, and applies `KEY=VALUE`
    /// overrides. The second answer is the folder that relative paths mean; none for the built-in pipeline.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Invalid`].
    pub fn load(file: Option<&Path>, overrides: &[String]) -> Result<(Self, Option<PathBuf>), ConfigError> {
        let found = file.map(Path::to_path_buf).or_else(|| Some(PathBuf::from(PIPELINE_FILE)).filter(|f| f.exists()));
        let (origin, text) = match &found {
            Some(path) => {
                let text =
                    fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                (path.display().to_string(), text)
            }
            None => ("the built-in pipeline".to_owned(), BUILT_IN.to_owned()),
        };
        let pipeline = Self::parse(&origin, &text, overrides)?;
        let folder = found.map(|path| path.parent().map(Path::to_path_buf).unwrap_or_default());
        Ok((pipeline, folder))
    }

    fn parse(origin: &str, text: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let invalid = |error: toml::de::Error| ConfigError::Invalid {
            origin: origin.to_owned(),
            message: with_suggestion(error.to_string().trim_end()),
        };
        if overrides.is_empty() {
            // Errors from the text itself show the line.
            return toml::from_str(text).map_err(invalid).and_then(|pipeline: Self| pipeline.checked(origin));
        }
        let mut table: toml::Table = toml::from_str(text).map_err(invalid)?;
        for text in overrides {
            set_key(&mut table, text)?;
        }
        table
            .try_into()
            .map_err(|error| ConfigError::Invalid {
                origin: format!("{origin} with --set"),
                message: with_suggestion(error.to_string().trim_end()),
            })
            .and_then(|pipeline: Self| pipeline.checked(origin))
    }

    fn checked(self, origin: &str) -> Result<Self, ConfigError> {
        let mut names: Vec<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        names.extend(self.made().map(|made| made.name));
        names.sort_unstable();
        let twice =
            names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| format!("table {} is named twice", pair[0]));
        let bad_name = names.iter().find(|name| !is_lake_name(name)).map(|name| {
            format!("'{name}' cannot name a lake table: use letters, digits, '_', '-' and '.', beginning with a letter or '_'")
        });
        let no_key = self
            .made()
            .find(|made| made.key.is_empty())
            .map(|made| format!("the key of {} names no column", made.name));
        let backup = self.made().filter_map(|made| Some((made.name, made.target?))).find_map(|(name, target)| {
            match (target.mode, &target.backup) {
                (TargetMode::Swap | TargetMode::Merge | TargetMode::Auto, None) => {
                    Some(format!("the target of {name} names no backup, which its mode needs"))
                }
                (TargetMode::InsertMissing, Some(_)) => {
                    Some(format!("the target of {name} names a backup, and mode insert_missing makes none"))
                }
                _ => None,
            }
        });
        let jobs = self.jobs.filter(|jobs| !(1..=JOBS_MAX).contains(jobs)).map(|jobs| jobs_message(&jobs.to_string()));
        let no_event_table = self
            .dataset
            .event
            .as_ref()
            .filter(|event| self.table(&event.table).is_none())
            .map(|event| format!("dataset.event.table is {}, which is not one of the [[tables]]", event.table));
        let no_order =
            self.dataset.event.as_ref().filter(|event| event.order.is_none() && !event.within.is_empty()).map(|_| {
                "dataset.event.within says where an order holds, and there is no dataset.event.order".to_owned()
            });
        let audit = [("audit_dates", self.validate.audit_dates), ("audit_events", self.validate.audit_events)]
            .into_iter()
            .find(|(_, count)| !(1..=AUDIT_TRIES_MAX).contains(count))
            .map(|(key, count)| format!("validate.{key} is {count}; expected a number from 1 to {AUDIT_TRIES_MAX}"));
        let no_key = no_key.or_else(|| {
            let marked = self.tables.iter().find(|table| table.watermark.is_some() && table.key.is_empty());
            marked.map(|table| format!("table {} has a watermark and no key to match changed rows by", table.name))
        });
        let backup = backup.or_else(|| {
            let mut kept = self.made().filter_map(|made| Some((made.name, made.target?.keep_backups?)));
            let wrong =
                kept.find(|(_, keep)| !u64::try_from(*keep).is_ok_and(|keep| (1..=KEEP_BACKUPS_MAX).contains(&keep)));
            wrong.map(|(name, keep)| {
                format!("keep_backups of {name} is {keep}; expected a number from 1 to {KEEP_BACKUPS_MAX}")
            })
        });
        let share = self.made().filter_map(|made| Some((made.name, made.target?))).find_map(|(name, target)| {
            let share = target.min_rows_of_live;
            (!(0.0..=1.0).contains(&share))
                .then(|| format!("min_rows_of_live of the target of {name} is {share}; expected a share from 0 to 1"))
        });
        let encoding = self.tables.iter().find_map(|table| {
            table
                .parquet
                .bad_number()
                .map(|message| format!("in the parquet settings of table {}, {message}", table.name))
        });
        let wrong = [twice, bad_name, no_key, backup, share, encoding, jobs, no_event_table, no_order, audit];
        match wrong.into_iter().flatten().next() {
            Some(message) => Err(ConfigError::Invalid { origin: origin.to_owned(), message }),
            None => Ok(self),
        }
    }

    /// The tables that the phases make, the dataset first.
    pub fn made(&self) -> impl Iterator<Item = Made<'_>> {
        let dataset = Made {
            name: &self.dataset.name,
            key: &self.dataset.key,
            partition_by: &self.dataset.partition_by,
            order_by: if self.dataset.order_by.is_empty() { &self.dataset.key } else { &self.dataset.order_by },
            target: Some(&self.target),
        };
        std::iter::once(dataset).chain(self.outputs.iter().map(|output| Made {
            name: &output.name,
            key: &output.key,
            partition_by: &output.partition_by,
            order_by: if output.order_by.is_empty() { &output.key } else { &output.order_by },
            target: output.target.as_ref(),
        }))
    }

    /// The configuration of a lake table that is pulled.
    pub fn table(&self, name: &str) -> Option<&TableConfig> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// A lake table's name is a folder of the lake and a view in DuckDB.
fn is_lake_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// Sets `a.b.c=value`; the value is TOML where it parses as such, else text.
fn set_key(table: &mut toml::Table, text: &str) -> Result<(), ConfigError> {
    let invalid = |message: &str| ConfigError::Invalid { origin: format!("--set {text}"), message: message.to_owned() };
    let (path, value) = text.split_once('=').ok_or_else(|| invalid("expected KEY=VALUE"))?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut parts: Vec<&str> = path.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut at = table;
    for part in parts {
        at = at
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| invalid("the key leads through something that is not a table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Adds the nearest known key to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let mut quoted =
        message.split_once("unknown field ").map(|(_, rest)| rest.split('`').skip(1).step_by(2)).into_iter().flatten();
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    match nearest(unknown, quoted) {
        Some(known) => format!("{message}\ndid you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// The known name that is meant by an unknown one, if one is near enough.
pub(crate) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity >= SUGGESTION_SIMILARITY)
        .map(|(_, known)| known)
}

fn jobs_message(value: &str) -> String {
    format!("jobs is {value}; expected a number from 1 to {JOBS_MAX}")
}

/// What flags say, before anything else is looked at.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--lake`
    pub lake: Option<String>,
    /// `--jobs`
    pub jobs: Option<usize>,
    /// `--max-rate`
    pub max_rate: Option<f64>,
    /// `--keep-backups`
    pub keep_backups: Option<usize>,
}

/// Settings that differ between machines.
#[derive(Debug, Clone)]
pub struct Settings {
    database_url: Option<DatabaseUrl>,
    target_database_url: Option<DatabaseUrl>,
    /// The lake's URL.
    pub lake: String,
    /// Connections of a pull.
    pub jobs: usize,
    /// Megabytes per second that all connections of a pull together may take.
    pub max_rate: Option<f64>,
    /// DuckDB's memory limit, such as `4GB`.
    pub memory: Option<String>,
    /// Former live tables that stay after a swap, when a flag says so.
    pub keep_backups: Option<usize>,
}

impl Settings {
    /// Settings from flags, environment, a `.env` file in the working folder or above, and the pipeline file.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], [`ConfigError::Url`] for values that cannot be read.
    pub fn load(flags: &Flags, pipeline: &Pipeline) -> Result<Self, ConfigError> {
        // `dotenvy` gives no iterator where there is no file, which is the usual case.
        let dotenv: HashMap<String, String> = match dotenvy::dotenv_iter() {
            Ok(pairs) => pairs
                .collect::<Result<_, _>>()
                .map_err(|error| ConfigError::Invalid { origin: ".env".to_owned(), message: dotenv_message(&error) })?,
            Err(_) => HashMap::new(),
        };
        Self::from_lookup(flags, pipeline, |name| {
            env::var(name).ok().or_else(|| dotenv.get(name).cloned()).filter(|value| !value.is_empty())
        })
    }

    fn from_lookup(
        flags: &Flags,
        pipeline: &Pipeline,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let url = |name: &'static str| {
            let resolve = |text: String| DatabaseUrl::resolve(&text, &lookup);
            lookup(name).map(resolve).transpose().map_err(|source| ConfigError::Url { name, source })
        };
        let jobs = match (flags.jobs, lookup("RACEALPHA_JOBS"), pipeline.jobs) {
            (Some(jobs), _, _) => jobs,
            (None, Some(text), _) => text.parse().map_err(|_| ConfigError::Invalid {
                origin: "RACEALPHA_JOBS".to_owned(),
                message: jobs_message(&text),
            })?,
            (None, None, jobs) => jobs.unwrap_or(DEFAULT_JOBS),
        };
        if !(1..=JOBS_MAX).contains(&jobs) {
            return Err(ConfigError::Invalid { origin: "jobs".to_owned(), message: jobs_message(&jobs.to_string()) });
        }
        let max_rate = flags.max_rate.or(pipeline.pull.max_rate);
        if let Some(rate) = max_rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            let message = format!("max_rate is {rate}; expected megabytes per second, more than 0");
            return Err(ConfigError::Invalid { origin: "pull".to_owned(), message });
        }
        let database_url = match url("DATABASE_URL")? {
            None if LIBPQ_PLACES.iter().any(|name| lookup(name).is_some()) => {
                let source = DatabaseUrl::resolve("", &lookup);
                Some(source.map_err(|source| ConfigError::Url { name: "the environment (PG… variables)", source })?)
            }
            found => found,
        };
        Ok(Self {
            database_url,
            target_database_url: url("TARGET_DATABASE_URL")?,
            lake: flags
                .lake
                .clone()
                .or_else(|| lookup("RACEALPHA_LAKE"))
                .or_else(|| pipeline.lake.clone())
                .unwrap_or_else(|| DEFAULT_LAKE.to_owned()),
            jobs,
            max_rate,
            memory: lookup("RACEALPHA_MEMORY").or_else(|| pipeline.memory.clone()),
            keep_backups: flags.keep_backups,
        })
    }

    /// Settings for a server of our own, as `demo` starts it.
    pub fn for_server(database_url: DatabaseUrl, lake: String, jobs: usize) -> Self {
        let (database_url, target_database_url) = (Some(database_url), None);
        Self { database_url, target_database_url, lake, jobs, max_rate: None, memory: None, keep_backups: None }
    }

    /// What all connections of one pull together may take.
    pub fn rate_limit(&self) -> Option<Arc<RateLimit>> {
        self.max_rate.map(|megabytes| Arc::new(RateLimit::new(megabytes * MEGABYTE)))
    }

    /// The source.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn source(&self) -> Result<&DatabaseUrl, ConfigError> {
        self.database_url.as_ref().ok_or(ConfigError::Missing {
            name: "DATABASE_URL",
            example: "postgres://USER:PASSWORD@HOST:5432/DATABASE",
        })
    }

    /// The target: the source unless `TARGET_DATABASE_URL` names another.
    ///
    /// # Errors
    /// [`ConfigError::Missing`].
    pub fn target(&self) -> Result<&DatabaseUrl, ConfigError> {
        self.target_database_url.as_ref().map_or_else(|| self.source(), Ok)
    }
}

/// One variable of the environment or of the `.env` file, for what starts before [`Settings`] can be read.
pub fn early_setting(name: &str) -> Option<String> {
    // A `.env` file that cannot be read is reported with the settings.
    let from_file = || dotenvy::dotenv_iter().ok()?.flatten().find(|(key, _)| key == name).map(|(_, value)| value);
    env::var(name).ok().or_else(from_file).filter(|value| !value.is_empty())
}

/// The error without the line, which may hold a password.
fn dotenv_message(error: &dotenvy::Error) -> String {
    match error {
        dotenvy::Error::LineParse(_, at) => format!("a line cannot be read (at its character {at})"),
        dotenvy::Error::Io(error) => error.to_string(),
        _ => "cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn pipeline(overrides: &[&str]) -> Result<Pipeline, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Pipeline::parse("pipeline.toml", BUILT_IN, &overrides)
    }

    #[test]
    fn the_built_in_pipeline_is_valid() {
        let pipeline = pipeline(&[]).unwrap();
        assert_eq!(pipeline.tables.len(), 6);
        assert_eq!(pipeline.tables[0].source_table().to_string(), "public.races");
    }

    #[test]
    fn overrides_reach_any_key_and_unknown_ones_name_the_nearest() {
        let set = pipeline(&["validate.min_rows=7", "target.table=ml.runners", "jobs=4"]).unwrap();
        assert_eq!((set.validate.min_rows, set.target.table.to_string(), set.jobs), (7, "ml.runners".into(), Some(4)));
        let error = pipeline(&["validate.min_row=7"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `min_rows`?"), "{error}");
        let error = pipeline(&["target.columns.margin.push_rounding=up"]).unwrap_err().to_string();
        assert!(error.contains("half_up"), "{error}");
        assert!(pipeline(&["target.columns.margin.push_rounding=half_up"]).is_ok());
        assert!(pipeline(&["jobs=0"]).unwrap_err().to_string().contains("from 1 to 32"));
        let refused = |key| pipeline(&[key]).unwrap_err().to_string();
        assert!(refused("validate.audit_events=0").contains("from 1 to 100"));
        assert!(refused("dataset.event.table=rases").contains("dataset.event.table is rases"));
        let unordered =
            "dataset.event={ column = 'race_id', table = 'races', date = 'race_date', within = ['location'] }";
        assert!(refused(unordered).contains("there is no dataset.event.order"));
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let file = pipeline(&["lake=from_file", "jobs=3"]).unwrap();
        let environment = |name: &str| (name == "RACEALPHA_LAKE").then(|| "from_environment".to_owned());
        let settings = Settings::from_lookup(&Flags::default(), &file, environment).unwrap();
        assert_eq!((settings.lake.as_str(), settings.jobs), ("from_environment", 3));
        let flags = Flags { lake: Some("from_flag".into()), jobs: Some(1), ..Flags::default() };
        let settings = Settings::from_lookup(&flags, &file, environment).unwrap();
        assert_eq!((settings.lake.as_str(), settings.jobs), ("from_flag", 1));
    }

    #[test]
    fn the_source_may_be_said_in_libpqs_variables() {
        let lookup = |name: &str| {
            let pairs = [("PGHOST", "h"), ("PGUSER", "u"), ("PGDATABASE", "d"), ("PGPASSWORD", "s3cret")];
            pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
        };
        let settings = Settings::from_lookup(&Flags::default(), &pipeline(&[]).unwrap(), lookup).unwrap();
        assert_eq!(settings.source().unwrap().to_string(), "u@h:5432/d");
        let none = Settings::from_lookup(&Flags::default(), &pipeline(&[]).unwrap(), |_| None).unwrap();
        assert!(matches!(none.source(), Err(ConfigError::Missing { .. })));
    }

    #[test]
    fn a_rate_must_be_more_than_nothing() {
        for rate in ["0", "-1", "nan"] {
            let file = pipeline(&[&format!("pull.max_rate={rate}")]).unwrap();
            let error = Settings::from_lookup(&Flags::default(), &file, |_| None).unwrap_err().to_string();
            assert!(error.contains("more than 0"), "{error}");
        }
    }

    #[test]
    fn a_wrong_url_is_named_and_not_shown() {
        let lookup = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:s3cret@h:port/d".to_owned());
        let error = Settings::from_lookup(&Flags::default(), &pipeline(&[]).unwrap(), lookup).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("DATABASE_URL") && !shown.contains("s3cret"), "{shown}");
    }
}
