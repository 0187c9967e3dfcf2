//! `serve`: settings of the dashboard, and where it can be opened.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::json;

use super::args::ServeArguments;
use super::commands::Printing;
use super::output::Output;
use crate::config::{ConfigError, early_setting};
use crate::pipeline::{Context, PipelineError};
use crate::server::{self, Schedule, ServeOptions, Tokens};

/// The port when nothing names one.
const PORT: u16 = 8000;

/// Serves until Ctrl-C or SIGTERM.
pub(super) async fn serve(context: &Context, arguments: &ServeArguments, output: Output) -> anyhow::Result<Printing> {
    let schedule = arguments.schedule.as_ref().map(|cron| Schedule::parse(cron, &arguments.zone));
    let schedule = schedule.transpose().map_err(|error| PipelineError::Usage(error.to_string()))?;
    let tokens = Tokens { operator: early_setting("RACEALPHA_TOKEN"), viewer: early_setting("RACEALPHA_VIEW_TOKEN") };
    if tokens.viewer.is_some() && !tokens.is_closed() {
        let message =
            "RACEALPHA_VIEW_TOKEN lets people look, and without RACEALPHA_TOKEN nobody needs it: set both or neither";
        return Err(PipelineError::Usage(message.to_owned()).into());
    }
    let open_host = if tokens.is_closed() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let address = SocketAddr::new(arguments.host.unwrap_or(IpAddr::V4(open_host)), port(arguments.port)?);
    serve_at(context, ServeOptions { address, tokens, schedule }, output).await?;
    Ok(Box::new(|| Ok(std::process::ExitCode::SUCCESS)))
}

/// Serves a demo on a free port of this machine.
pub(super) async fn serve_demo(context: &Context, output: Output) -> anyhow::Result<()> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    serve_at(context, ServeOptions { address, tokens: Tokens::default(), schedule: None }, output).await
}

/// Serves with these options and says where.
async fn serve_at(context: &Context, options: ServeOptions, output: Output) -> anyhow::Result<()> {
    let is_closed = options.tokens.is_closed();
    let ready = move |address: SocketAddr| {
        let host = if address.ip().is_unspecified() { "localhost".to_owned() } else { address.ip().to_string() };
        let url = format!("http://{host}:{}", address.port());
        let text = if output.is_json() {
            json!({ "url": url }).to_string()
        } else if is_closed {
            format!("dashboard at {url}, for those who have the token; Ctrl-C ends it")
        } else {
            format!("dashboard at {url}, for this machine only as RACEALPHA_TOKEN is not set; Ctrl-C ends it")
        };
        if let Err(error) = Output::text(&text) {
            tracing::warn!(%error, "where the dashboard listens could not be printed");
        }
    };
    server::serve(context.clone(), options, ready).await.map_err(|error| match error {
        server::ServeError::Open(_) => PipelineError::Usage(error.to_string()).into(),
        error => anyhow::Error::new(error),
    })
}

fn port(flag: Option<u16>) -> Result<u16, PipelineError> {
    let Some(text) = early_setting("PORT").filter(|_| flag.is_none()) else { return Ok(flag.unwrap_or(PORT)) };
    let message = format!("`{text}` is no port; expected a number from 0 to 65535");
    text.parse().map_err(|_| ConfigError::Invalid { origin: "PORT".to_owned(), message }.into())
}
