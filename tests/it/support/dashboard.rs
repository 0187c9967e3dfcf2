//! The dashboard as a process, and a client of its API.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Workspace, eventually};

/// Above what any answer takes; GET /api/validate waits for a whole validation.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What the API says of itself.
static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../assets/openapi.json")).unwrap_or_default());

/// Fails when a described route refuses in a way that its description does not know.
fn check_refusal(method: &str, path: &str, answer: &Answer) -> Result<()> {
    let path = path.split('?').next().unwrap_or_default();
    let is_route = |route: &str| {
        let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
        route.len() == path.len() && route.iter().zip(path).all(|(part, asked)| *part == asked || part.starts_with('{'))
    };
    let mut routes = DESCRIPTION["paths"].as_object().context("paths")?.iter();
    let responses = routes.find(|(route, _)| is_route(route)).map(|(_, methods)| &methods[method.to_lowercase()]);
    // What never came to a route has no kind: the server could not read the request.
    let Some(responses) =
        responses.filter(|known| known.is_object() && answer.status >= 400 && !answer.kind.is_empty())
    else {
        return Ok(());
    };
    let kind = answer.kind.split(';').next().unwrap_or_default();
    let described = &responses["responses"][answer.status.to_string()]["content"][kind];
    ensure!(described.is_object(), "{method} {path}: {} as {kind} is not described: {answer:?}", answer.status);
    Ok(())
}

/// A running `racealpha serve`, or `demo --serve`; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Served {
    child: Child,
    /// What it prints after the line that says where it listens.
    stdout: BufReader<ChildStdout>,
    pub(crate) url: String,
    pub(crate) log: Arc<Mutex<String>>,
    agent: ureq::Agent,
    token: Option<String>,
}

/// An answer: the status and the body, as JSON where it is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("not JSON: {self:?}"))
    }
}

impl Served {
    /// Starts it in a workspace on a free port, with more arguments and variables.
    pub(crate) fn start(workspace: &Workspace, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        Self::start_at(0, workspace, arguments, variables)
    }

    /// The same on this port.
    pub(crate) fn start_at(
        port: u16,
        workspace: &Workspace,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let port = port.to_string();
        let all = ["--json", "--set", "validate.min_rows=1", "serve", "--host", "127.0.0.1", "--port", &port];
        let mut command = workspace.command(all.iter().chain(arguments));
        command.envs(variables.iter().copied());
        let token = variables.iter().find(|(name, _)| *name == "RACEALPHA_TOKEN").map(|(_, token)| (*token).to_owned());
        Self::of(command, token)
    }

    /// Starts a command that serves the dashboard and says where in one line of JSON.
    pub(crate) fn of(mut command: Command, token: Option<String>) -> Result<Self> {
        let mut child = command.spawn()?;
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(mut stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut text = [0; 4096];
                while let Ok(read @ 1..) = stderr.read(&mut text) {
                    let text = String::from_utf8_lossy(&text[..read]).into_owned();
                    log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
                }
            });
        }
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("stdout")?);
        stdout.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| {
            format!("it did not start: {line} {}", log.lock().unwrap_or_else(PoisonError::into_inner))
        })?;
        let url = said["url"].as_str().context("url")?.to_owned();
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent = config.timeout_global(Some(ANSWER_TIMEOUT)).build().into();
        Ok(Self { child, stdout, url, log, agent, token })
    }

    /// Where WebSockets connect.
    pub(crate) fn socket_url(&self) -> String {
        format!("{}/ws/progress", self.url.replace("http", "ws"))
    }

    /// A request with these headers besides the operator's token, where there is one.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match method {
            "GET" => self.agent.run(request.body(())?)?,
            _ => self.agent.run(request.body(body.to_owned())?)?,
        };
        let (parts, body) = response.into_parts();
        let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let bytes = body.into_with_config().limit(1 << 30).read_to_vec()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let answer = Answer { status: parts.status.as_u16(), kind, headers: parts.headers, text };
        check_refusal(method, path, &answer)?;
        Ok(answer)
    }

    fn own_headers(&self) -> Vec<(&str, String)> {
        let token = self.token.iter().map(|token| ("authorization", format!("Bearer {token}")));
        token.chain([("x-racealpha", "1".to_owned())]).collect()
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        let headers = self.own_headers();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send("GET", path, "", &headers)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        let headers = self.own_headers();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send("POST", path, &body.to_string(), &headers)
    }

    /// Starts a job, waits for its end, and gives its state.
    pub(crate) fn job(&self, path: &str, body: &Value) -> Result<String> {
        let accepted = self.post(path, body)?;
        ensure!(accepted.status == 202, "{accepted:?}");
        self.ended()
    }

    /// Waits for the running job and gives the state of the last run on record.
    pub(crate) fn ended(&self) -> Result<String> {
        let mut status = None;
        eventually("the job ends", || {
            let answer = self.get("/api/status");
            let runs = matches!(&answer, Ok(answer) if answer.json().is_ok_and(|status| status["running"].is_object()));
            status = Some(answer);
            !runs
        });
        let status = status.context("the state was asked for")??;
        ensure!(status.status == 200, "the state is told at any time: {status:?}");
        let runs = self.get("/api/runs?limit=1")?.json()?;
        Ok(runs[0]["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Bytes of memory that the process holds.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    /// Ends it as a container's stop does, and gives the exit code.
    pub(crate) fn terminate(self) -> Result<Option<i32>> {
        Ok(self.end()?.0)
    }

    /// The same, and what it printed to the end.
    pub(crate) fn end(mut self) -> Result<(Option<i32>, String)> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        Ok((self.child.wait()?.code(), rest))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
