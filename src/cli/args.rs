//! The arguments. Help texts are written for a person who uses the program for the first time.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::KEEP_BACKUPS_MAX;
use crate::pipeline::RowFormat;
use crate::push::TargetMode;

/// Rebuilds a machine-learning table away from the production database: Postgres to Parquet, SQL phases in DuckDB,
/// checks, and back to Postgres with a swap that can be undone.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    next_help_heading = "Options of every command",
    after_help = "Start with `racealpha demo`: it needs nothing but an installed PostgreSQL server."
)]
pub(super) struct Arguments {
    /// The pipeline file [default: pipeline.toml here, else the built-in RaceAlpha pipeline]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) pipeline: Option<PathBuf>,
    /// Overrides a key of the pipeline file, such as validate.min_rows=1000; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
    /// The lake's folder [default: $RACEALPHA_LAKE, else data_lake]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) lake: Option<String>,
    /// Prints the result as one JSON document
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Shows no progress
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    /// Logs more: -v tables and phases, -vv files and ranges, -vvv everything
    #[arg(long, short, action = clap::ArgAction::Count, global = true)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The name of `--set` among a command's matches.
const OVERRIDES: &str = "overrides";

impl Arguments {
    /// Reads the command line, or ends the program with what is wrong with it.
    ///
    /// clap lets a global argument after the command replace the same before it. Overrides count wherever they stand,
    /// the later after the earlier, so each command has them as an argument of its own.
    pub(super) fn parse_all() -> Self {
        Self::from_all(&Self::full_command().get_matches()).unwrap_or_else(|error| error.exit())
    }

    fn full_command() -> clap::Command {
        let top = Self::command();
        let set = top.get_arguments().find(|argument| argument.get_id() == OVERRIDES).cloned();
        top.mut_subcommands(|command| command.args(set.clone()))
    }

    fn from_all(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Self::from_arg_matches(matches)?;
        let after = matches.subcommand().and_then(|(_, command)| command.get_many::<String>(OVERRIDES));
        arguments.overrides.extend(after.into_iter().flatten().cloned());
        Ok(arguments)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows whether source and target answer, what the lake holds, the backup, the last run
    #[command(after_help = "Example: racealpha status")]
    Status,
    /// Copies source tables into the lake, all in one consistent snapshot
    #[command(
        after_help = "Example: DATABASE_URL=postgres://… racealpha pull --jobs 4\n         racealpha pull --incremental --detect-deletes"
    )]
    Pull(PullArguments),
    /// Runs the SQL phases over the lake and publishes the dataset there
    #[command(after_help = "Example: racealpha run --from 2")]
    Run(RunArguments),
    /// Runs one phase on a sample and shows rows, seconds and nulls; publishes nothing
    #[command(after_help = "Example: racealpha test 2 --sample 500")]
    Test(TestArguments),
    /// Checks tables and dataset; exit code 3 when a finding blocks the push
    #[command(after_help = "Example: racealpha --json validate\n         racealpha validate --audit")]
    Validate(ValidateArguments),
    /// Shows what a push would change; writes nothing
    #[command(after_help = "Example: racealpha preview")]
    Preview(PreviewArguments),
    /// Puts the dataset in the live table's place; the live table becomes the backup
    #[command(visible_alias = "push-copy", after_help = "Example: racealpha preview && racealpha push")]
    Push(PushArguments),
    /// Puts the backup back in the live table's place; doing it twice is a redo
    #[command(after_help = "Example: racealpha rollback")]
    Rollback(MadeArguments),
    /// Pulls, runs, validates and pushes in one go
    #[command(after_help = "Example, every Saturday at four: 0 16 * * 6 racealpha --quiet rebuild")]
    Rebuild(SourceArguments),
    /// Writes a lake table to a folder or a file outside the lake
    #[command(
        after_help = "Example: racealpha export dataset.csv --format csv\n         racealpha export races/ --table races"
    )]
    Export(ExportArguments),
    /// Runs read-only SQL over the lake's tables
    #[command(after_help = "Example: racealpha query \"SELECT location, count(*) FROM races GROUP BY ALL\"")]
    Query(QueryArguments),
    /// Shows the last runs
    #[command(after_help = "Example: racealpha history --limit 5")]
    History(HistoryArguments),
    /// Removes old versions and unreferenced files of the lake, and what dead pushes left on the target
    #[command(after_help = "Example: racealpha gc --dry-run\n         racealpha gc --keep 2")]
    Gc(GcArguments),
    /// Prints what every column of the dataset means, as Markdown
    #[command(after_help = "Example: racealpha features > docs/features.md")]
    Features,
    /// Serves the dashboard and its API
    #[command(
        after_help = "Example: racealpha serve\n         RACEALPHA_TOKEN=… racealpha serve --host 0.0.0.0 --schedule \"0 16 * * 6\" --zone Australia/Sydney"
    )]
    Serve(ServeArguments),
    /// Makes the synthetic source: loads it into a database, or writes CSV files
    #[command(after_help = "Example: racealpha fixtures --races 20000 --load")]
    Fixtures(FixtureArguments),
    /// Shows everything on a private PostgreSQL with synthetic data: all phases, the push, and the views it makes
    #[command(after_help = "Example: racealpha demo --races 20000 --keep")]
    Demo(DemoArguments),
    /// Starts a private PostgreSQL, runs a command with DATABASE_URL set to it, and removes it again
    #[command(hide = true)]
    LocalServer(LocalServerArguments),
    /// Works on one query of the dashboard, which comes on standard input
    #[command(name = crate::pipeline::QUERY_WORKER, hide = true)]
    QueryWorker,
}

#[derive(Debug, Args)]
pub(super) struct SourceArguments {
    /// Connections to the source [default: $RACEALPHA_JOBS, else 2]
    #[arg(long, short, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// Megabytes per second that all connections take together at most [default: no limit]
    #[arg(long, value_name = "MB/S")]
    pub(super) max_rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(super) struct PullArguments {
    /// Tables to pull [default: all of the pipeline file]
    pub(super) tables: Vec<String>,
    /// Takes only rows that changed since the last pull, of tables to which the pipeline file gives a watermark
    #[arg(long)]
    pub(super) incremental: bool,
    /// Compares all keys with the lake's and removes rows that are gone
    #[arg(long, requires = "incremental")]
    pub(super) detect_deletes: bool,
    /// Reads the snapshot that another session has exported with pg_export_snapshot() and keeps
    #[arg(long, value_name = "ID")]
    pub(super) snapshot: Option<String>,
    #[command(flatten)]
    pub(super) source: SourceArguments,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The first phase, such as 2 or 8b; earlier ones are taken from the last run on the same tables
    #[arg(long, value_name = "N")]
    pub(super) from: Option<String>,
    /// The last phase; no dataset is published when it is not the last of all
    #[arg(long, value_name = "N")]
    pub(super) to: Option<String>,
    /// Adds rows for declared runners of races to come, with null labels
    #[arg(long)]
    pub(super) with_upcoming: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestArguments {
    /// The phase, such as 2 or 8b
    pub(super) phase: String,
    /// How many races the sample has
    #[arg(long, value_name = "RACES", default_value_t = 1000)]
    pub(super) sample: u64,
}

#[derive(Debug, Args)]
pub(super) struct ValidateArguments {
    /// Proves that no feature knows its own race's outcome or a later race: changes outcomes, cuts and shuffles the
    /// sources, makes the dataset anew each time and compares; takes a few times as long as a run
    #[arg(long)]
    pub(super) audit: bool,
}

#[derive(Debug, Args)]
pub(super) struct MadeArguments {
    /// An output of the pipeline file that has a target [default: the dataset]
    pub(super) table: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PushArguments {
    #[command(flatten)]
    pub(super) made: MadeArguments,
    #[command(flatten)]
    pub(super) mode: ModeArgument,
    /// Pushes in spite of findings that block, and of a dataset with far fewer rows than the live table
    #[arg(long)]
    pub(super) force: bool,
    /// Swaps in what an earlier push loaded and could not swap because the live table was in use (exit code 6)
    #[arg(long, conflicts_with = "force")]
    pub(super) resume: bool,
    /// Former live tables that stay [default: target.keep_backups of the pipeline file, else 1]
    #[arg(long, value_name = "N", value_parser = backups_to_keep())]
    pub(super) keep_backups: Option<usize>,
    /// Removes all backups of the live table, and pushes nothing
    #[arg(long, conflicts_with_all = ["force", "resume", "keep_backups"])]
    pub(super) drop_backup: bool,
}

fn backups_to_keep() -> impl clap::builder::TypedValueParser<Value = usize> {
    clap::builder::RangedU64ValueParser::<usize>::new().range(1..=KEEP_BACKUPS_MAX)
}

#[derive(Debug, Args)]
pub(super) struct PreviewArguments {
    #[command(flatten)]
    pub(super) made: MadeArguments,
    #[command(flatten)]
    pub(super) mode: ModeArgument,
}

#[derive(Debug, Args)]
pub(super) struct ModeArgument {
    /// How rows get into the live table [default: the target's mode in the pipeline file]
    #[arg(long, value_enum)]
    pub(super) mode: Option<Mode>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Mode {
    /// A new table takes the live table's place
    Swap,
    /// Only rows that differ are changed, in one transaction
    Merge,
    /// A swap if nothing stands in its way, else a merge
    Auto,
}

impl From<Mode> for TargetMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Swap => Self::Swap,
            Mode::Merge => Self::Merge,
            Mode::Auto => Self::Auto,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    /// A file, when the name ends in .parquet, .csv or .arrow like the format; else a folder
    pub(super) destination: PathBuf,
    /// The lake table [default: the dataset]
    #[arg(long)]
    pub(super) table: Option<String>,
    /// The format of the files
    #[arg(long, value_enum, default_value_t = FileFormat::Parquet)]
    pub(super) format: FileFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FileFormat {
    /// Apache Parquet
    Parquet,
    /// Comma-separated values with a header
    Csv,
    /// Arrow IPC, also known as Feather
    Arrow,
}

impl From<FileFormat> for RowFormat {
    fn from(format: FileFormat) -> Self {
        match format {
            FileFormat::Parquet => Self::Parquet,
            FileFormat::Csv => Self::Csv,
            FileFormat::Arrow => Self::Arrow,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct QueryArguments {
    /// One SELECT; tables have their lake names
    pub(super) sql: String,
    /// How rows are printed [default: table, or json with --json]
    #[arg(long, value_enum)]
    pub(super) format: Option<QueryFormat>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum QueryFormat {
    /// For people; the first 1000 rows
    Table,
    /// One array of objects
    Json,
    /// Comma-separated values with a header
    Csv,
    /// A Parquet file, for a pipe or a redirection
    Parquet,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArguments {
    /// How many runs, the newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) limit: usize,
}

#[derive(Debug, Args)]
pub(super) struct GcArguments {
    /// Versions of each lake table that stay
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub(super) keep: usize,
    /// Removes also versions that were the latest within the last hour, which somebody may be reading, and what pushes
    /// of the last 24 hours left
    #[arg(long)]
    pub(super) now: bool,
    /// Shows what would be removed, with sizes, and removes nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct FixtureArguments {
    /// How many races; each has about twelve runners
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(super) races: u64,
    /// The same seed gives the same rows
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(super) seed: u64,
    /// Loads into a database that must not have the tables yet: $DATABASE_URL, or URL, whose password others would see in
    /// the list of processes
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "", conflicts_with = "out")]
    pub(super) load: Option<String>,
    /// Writes CSV files into this folder instead
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// How many races the synthetic source has; each has about twelve runners
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(super) races: u64,
    /// The same seed gives the same rows
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(super) seed: u64,
    /// Leaves server and lake in place and prints how to reach and remove them
    #[arg(long)]
    pub(super) keep: bool,
    /// Serves the dashboard over them at the end, until Ctrl-C
    #[arg(long)]
    pub(super) serve: bool,
}

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// Where to listen; beyond this machine only with RACEALPHA_TOKEN set [default: 0.0.0.0 with a token, else 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) host: Option<IpAddr>,
    /// The port; 0 takes a free one [default: $PORT, else 8000]
    #[arg(long, value_name = "N")]
    pub(super) port: Option<u16>,
    /// Rebuilds at the times of a cron expression: minute hour day month weekday
    #[arg(long, value_name = "CRON")]
    pub(super) schedule: Option<String>,
    /// The schedule's time zone
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "schedule")]
    pub(super) zone: String,
}

#[derive(Debug, Args)]
pub(super) struct LocalServerArguments {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn overrides(line: &str) -> Vec<String> {
        let matches = Arguments::full_command().try_get_matches_from(line.split(' ')).unwrap();
        Arguments::from_all(&matches).unwrap().overrides
    }

    #[test]
    fn overrides_count_before_and_after_the_command() {
        assert_eq!(overrides("racealpha --set a=1 --set b=2 push --set a=3 --force"), ["a=1", "b=2", "a=3"]);
        assert_eq!(overrides("racealpha status"), [""; 0]);
        assert_eq!(overrides("racealpha local-server racealpha --set a=1"), [""; 0], "those of the inner command");
    }
}
