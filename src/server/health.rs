//! What machines ask: is it alive, is it ready, how much did it do.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Dashboard;
use super::problem::Problem;
use crate::pipeline::PipelineError;

/// The process answers.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// The lake can be read and no end is near.
pub(super) async fn ready(State(dashboard): State<Dashboard>) -> Result<&'static str, Problem> {
    if dashboard.context.cancel.is_cancelled() {
        return Err(Problem::unavailable("the server is stopping"));
    }
    let lake = dashboard.context.lake()?;
    match lake.latest().await {
        Ok(_) => Ok("ready\n"),
        // Who asks this has no token: the reason is in the log.
        Err(error) => {
            tracing::error!(%error, "the lake cannot be read");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the lake cannot be read"))
        }
    }
}

/// Counters in Prometheus' text format.
pub(super) async fn metrics(State(dashboard): State<Dashboard>) -> Result<Response, Problem> {
    let manifest = dashboard.context.lake()?.latest().await.map_err(PipelineError::from)?;
    let running = dashboard.jobs.live().running();
    let tally = dashboard.jobs.tally();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        let _ = writeln!(text, "# HELP racealpha_{name} {help}\n# TYPE racealpha_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "racealpha_{name}{labels} {value}");
        }
    };
    let ended = tally.ended.iter().map(|((command, state), count)| {
        #[allow(clippy::cast_precision_loss, reason = "nobody runs 2^53 jobs")]
        (labels(&[("command", command), ("state", state)]), *count as f64)
    });
    family("runs_total", "counter", "Runs that ended since the server started.", ended.collect());
    let seconds = tally.seconds.iter().map(|(command, seconds)| (labels(&[("command", command)]), *seconds));
    family("run_seconds", "gauge", "How long the last run of a command took.", seconds.collect());
    let now = running.map(|running| (labels(&[("command", &running.command)]), 1.0));
    family("running", "gauge", "The run at work now.", now.into_iter().collect());
    #[allow(clippy::cast_precision_loss, reason = "a lake has fewer than 2^53 versions, rows and bytes")]
    let of_tables = |count: fn(&crate::lake::LakeTable) -> u64| {
        let tables = manifest.iter().flat_map(|manifest| &manifest.tables);
        tables.map(|(name, table)| (labels(&[("table", name)]), count(table) as f64)).collect::<Vec<_>>()
    };
    let (rows, bytes) = (of_tables(|table| table.rows), of_tables(|table| table.bytes));
    family("lake_table_rows", "gauge", "Rows of a lake table.", rows);
    family("lake_table_bytes", "gauge", "Bytes of a lake table's files.", bytes);
    #[allow(clippy::cast_precision_loss, reason = "a lake has fewer than 2^53 versions")]
    let version = manifest.iter().map(|manifest| (String::new(), manifest.version.0 as f64)).collect();
    family("lake_version", "gauge", "The lake's latest version.", version);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}
