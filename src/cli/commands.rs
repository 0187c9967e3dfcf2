//! Each command: settings, the pipeline's function, its result to the output.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::args::{Arguments, Command, FixtureArguments, LocalServerArguments, QueryArguments, QueryFormat};
use super::bars::Shown;
use super::output::Output;
use super::{housekeeping, preview_view, serve_command, signals, views};
use crate::config::{Flags, Pipeline, Settings, early_setting};
use crate::fixtures::{self, FixtureOptions};
use crate::pg::{DatabaseUrl, LocalServer, ServerOptions, Session};
use crate::pipeline::{
    self, Context, DemoOptions, FeatureReport, GcOptions, PipelineError, PullOptions, PushOptions, QueryLimits,
    RowFormat, TransformOptions, ValidateOptions,
};
use crate::progress::Progress;

/// Rows that `query` prints as a table.
const TABLE_ROWS_MAX: usize = 1000;
/// The exit code when validation blocks.
const BLOCKED: u8 = 3;

/// Runs the command of the arguments.
pub(super) async fn run(arguments: Arguments, output: &Output) -> anyhow::Result<ExitCode> {
    let output = *output;
    if let Command::QueryWorker = &arguments.command {
        pipeline::work_apart(std::io::stdin().lock(), std::io::stdout(), std::io::stderr())?;
        return Ok(ExitCode::SUCCESS);
    }
    let cancel = CancellationToken::new();
    signals::watch(cancel.clone()).context("cannot watch for signals")?;
    if let Command::LocalServer(command) = &arguments.command {
        return local_server(command, &cancel).await;
    }
    let context = context(&arguments, cancel)?;
    let shown = Shown::start(&context.progress, output);
    let result = command(&context, arguments, output).await;
    shown.stop().await;
    // Results are printed after the bars are gone.
    result?()
}

/// What is left to do when a command has ended: print its result.
pub(super) type Printing = Box<dyn FnOnce() -> anyhow::Result<ExitCode>>;

fn printing(print: impl FnOnce() -> anyhow::Result<()> + 'static) -> Printing {
    Box::new(move || print().map(|()| ExitCode::SUCCESS))
}

async fn command(context: &Context, arguments: Arguments, output: Output) -> anyhow::Result<Printing> {
    Ok(match arguments.command {
        Command::Status => {
            let report = pipeline::status(context).await?;
            printing(move || output.result(&report, views::status))
        }
        Command::Pull(pull) => {
            let (incremental, detect_deletes, snapshot) = (pull.incremental, pull.detect_deletes, pull.snapshot);
            let options = PullOptions { incremental, detect_deletes, snapshot };
            let report = pipeline::pull(context, &pull.tables, options).await?;
            printing(move || output.result(&report, views::pull))
        }
        Command::Run(run) => {
            let report = pipeline::transform(
                context,
                &TransformOptions { from: run.from, to: run.to, with_upcoming: run.with_upcoming },
            )
            .await?;
            printing(move || output.result(&report, views::transform))
        }
        Command::Test(test) => {
            let report = pipeline::test_phase(context, &test.phase, test.sample).await?;
            printing(move || output.result(&report, views::test))
        }
        Command::Validate(validate) => {
            let report = pipeline::validate(context, &ValidateOptions { audit: validate.audit }).await?;
            Box::new(move || {
                output.result(&report, views::validate)?;
                Ok(if report.blocked { ExitCode::from(BLOCKED) } else { ExitCode::SUCCESS })
            })
        }
        Command::Preview(preview) => {
            let report =
                pipeline::preview(context, preview.made.table.as_deref(), preview.mode.mode.map(Into::into)).await?;
            printing(move || output.result(&report, preview_view::preview))
        }
        Command::Push(push) => {
            let table = push.made.table.as_deref();
            if push.drop_backup {
                let report = pipeline::drop_backups(context, table).await?;
                return Ok(printing(move || output.result(&report, housekeeping::dropped)));
            }
            let report = if push.resume {
                pipeline::resume(context, table).await?
            } else {
                let options = PushOptions { force: push.force, mode: push.mode.mode.map(Into::into) };
                pipeline::push(context, table, options).await?
            };
            printing(move || output.result(&report, views::push))
        }
        Command::Rollback(rollback) => {
            let report = pipeline::rollback(context, rollback.table.as_deref()).await?;
            printing(move || output.result(&report, views::rollback))
        }
        Command::Rebuild(_) => {
            let report = pipeline::rebuild_and_notify(context).await?;
            printing(move || output.result(&report, views::rebuild))
        }
        Command::Export(export) => {
            let table = export.table.as_ref().unwrap_or(&context.pipeline.dataset.name);
            let report = pipeline::export(context, table, &export.destination, export.format.into()).await?;
            printing(move || output.result(&report, views::export))
        }
        Command::Query(query) => query_command(context, query, output).await?,
        Command::History(history) => {
            let report = pipeline::history(context, history.limit).await?;
            printing(move || output.result(&report, |runs| views::history(runs)))
        }
        Command::Gc(gc) => {
            let options = GcOptions { keep: gc.keep, now: gc.now, dry_run: gc.dry_run };
            let report = pipeline::gc(context, options).await?;
            printing(move || output.result(&report, housekeeping::gc))
        }
        Command::Features => {
            let report = pipeline::features(context)?;
            printing(move || output.result(&report, FeatureReport::markdown))
        }
        Command::Serve(serve) => serve_command::serve(context, &serve, output).await?,
        Command::Fixtures(fixtures) => fixtures_command(context, fixtures, output).await?,
        Command::Demo(demo) => {
            let options =
                DemoOptions { races: demo.races, seed: demo.seed, keep: demo.keep, lake: arguments.lake.clone() };
            let mut served = Ok(());
            let visit = async |made: &Context| {
                if demo.serve {
                    served = serve_command::serve_demo(made, output).await;
                }
            };
            let report = pipeline::demo(context, &options, visit).await?;
            served?;
            printing(move || output.result(&report, views::demo))
        }
        Command::LocalServer(_) | Command::QueryWorker => unreachable!("handled before settings are read"),
    })
}

fn context(arguments: &Arguments, cancel: CancellationToken) -> anyhow::Result<Context> {
    let (pipeline, folder) = Pipeline::load(arguments.pipeline.as_deref(), &arguments.overrides)?;
    let source = match &arguments.command {
        Command::Pull(pull) => Some(&pull.source),
        Command::Rebuild(source) => Some(source),
        _ => None,
    };
    let flags = Flags {
        lake: arguments.lake.clone(),
        jobs: source.and_then(|source| source.jobs),
        max_rate: source.and_then(|source| source.max_rate),
        keep_backups: match &arguments.command {
            Command::Push(push) => push.keep_backups,
            _ => None,
        },
    };
    let settings = Settings::load(&flags, &pipeline)?;
    Ok(Context { run_id: None, pipeline, folder, settings, progress: Progress::new(), cancel })
}

async fn fixtures_command(context: &Context, arguments: FixtureArguments, output: Output) -> anyhow::Result<Printing> {
    let options = FixtureOptions { races: arguments.races, seed: arguments.seed };
    let report = if let Some(folder) = arguments.out {
        let write = move || fixtures::write_csv(&options, &folder);
        tokio::task::spawn_blocking(write).await?.map_err(PipelineError::from)?
    } else {
        let url: DatabaseUrl = match arguments.load.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => DatabaseUrl::resolve(url, &early_setting).map_err(PipelineError::from)?,
            None => context.settings.source()?.clone(),
        };
        let mut session = Session::open_lasting(&url, "fixtures").await.map_err(PipelineError::from)?;
        fixtures::load(&mut session, &options, &context.progress, &context.cancel).await.map_err(PipelineError::from)?
    };
    Ok(printing(move || output.result(&report, views::fixtures)))
}

async fn query_command(context: &Context, arguments: QueryArguments, output: Output) -> anyhow::Result<Printing> {
    let limits = QueryLimits::default();
    let format = match arguments.format {
        Some(QueryFormat::Json) => RowFormat::Json,
        Some(QueryFormat::Csv) => RowFormat::Csv,
        Some(QueryFormat::Parquet) => RowFormat::Parquet,
        None if output.is_json() => RowFormat::Json,
        None | Some(QueryFormat::Table) => {
            let (schema, batches, more) = pipeline::query(context, &arguments.sql, &limits, TABLE_ROWS_MAX).await?;
            return Ok(printing(move || Output::text(&views::query(&schema, &batches, more)?)));
        }
    };
    pipeline::query_into(context, &arguments.sql, &limits, format, std::io::stdout()).await?;
    Ok(printing(|| Ok(())))
}

async fn local_server(arguments: &LocalServerArguments, cancel: &CancellationToken) -> anyhow::Result<ExitCode> {
    let server = tokio::task::spawn_blocking(|| LocalServer::start(&ServerOptions::default())).await?;
    let server = server.map_err(PipelineError::from)?;
    let url = server.create_database("racing").await.map_err(PipelineError::from)?;
    let [program, rest @ ..] = arguments.command.as_slice() else { return Ok(ExitCode::SUCCESS) };
    let mut child = tokio::process::Command::new(program)
        .args(rest)
        .env("DATABASE_URL", url.as_str())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let ended = tokio::select! {
        ended = child.wait() => ended.map(|status| status.code()),
        () = cancel.cancelled() => Ok(None),
    };
    drop(child);
    tokio::task::spawn_blocking(move || drop(server)).await?;
    let code = ended.context("the command was lost")?.unwrap_or(130);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
