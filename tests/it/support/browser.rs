//! A real browser: Chromium without a window, driven over WebDriver.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fantoccini::key::Key;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

/// Above what any change of the page takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser and its driver; dropping it ends both.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    pub(crate) page: Client,
    pictures: PathBuf,
}

/// Chromium's own command: lines of the console since the last call.
#[derive(Debug)]
pub(crate) struct ConsoleLines;

impl WebDriverCompatibleCommand for ConsoleLines {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (ureq::http::Method, Option<String>) {
        (ureq::http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

impl Browser {
    /// Opens a window of this width.
    pub(crate) async fn open(width: u32, is_dark: bool) -> Result<Self> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver is not there; script/bootstrap installs it")?;
        let lines = BufReader::new(driver.stdout.take().context("stdout")?).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.rsplit_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_owned())
            })
            .context("chromedriver did not start")?;
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},1000"),
        ];
        if is_dark {
            arguments.push("--force-dark-mode".to_owned());
        }
        let mut options = json!({ "args": arguments });
        if width < 500 {
            // Windows are not made so narrow; phones are.
            let metrics = json!({"width": width, "height": 800, "pixelRatio": 1.0, "mobile": true, "touch": true});
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let capabilities: Capabilities = serde_json::from_value(wanted)?;
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let connected = builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await;
        let page = match connected {
            Ok(page) => page,
            Err(error) => {
                driver.kill()?;
                return Err(anyhow::Error::new(error).context("Chromium did not start; script/bootstrap installs it"));
            }
        };
        let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        std::fs::create_dir_all(&pictures)?;
        Ok(Self { driver, page, pictures })
    }

    /// Clicks what has this id, once it can be clicked.
    pub(crate) async fn click(&self, id: &str) -> Result<()> {
        self.until(
            &format!("#{id} can be clicked"),
            &format!("{{ const e = document.getElementById('{id}'); return !!e && !e.disabled }}"),
        )
        .await?;
        Ok(self.page.find(Locator::Id(id)).await?.click().await?)
    }

    /// Types into what has this id.
    pub(crate) async fn type_in(&self, id: &str, text: &str) -> Result<()> {
        Ok(self.page.find(Locator::Id(id)).await?.send_keys(text).await?)
    }

    /// Presses a key where the focus is.
    pub(crate) async fn press(&self, key: Key) -> Result<()> {
        Ok(self.page.active_element().await?.send_keys(&key.to_string()).await?)
    }

    /// Presses Tab until the focus is on what a selector finds, and fails when it never comes there.
    pub(crate) async fn tab_to(&self, selector: &str) -> Result<()> {
        const STOPS_MAX: usize = 100;
        for _ in 0..STOPS_MAX {
            self.press(Key::Tab).await?;
            let is_there = "return document.activeElement?.matches(arguments[0]) === true";
            if self.page.execute(is_there, vec![json!(selector)]).await? == json!(true) {
                return Ok(());
            }
        }
        anyhow::bail!("{STOPS_MAX} times Tab do not lead to {selector}")
    }

    /// The text of what a selector finds first; empty when there is none.
    pub(crate) async fn text(&self, selector: &str) -> Result<String> {
        let script = "return document.querySelector(arguments[0])?.textContent ?? ''";
        let text = self.page.execute(script, vec![json!(selector)]).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a function's body returns true in the page.
    pub(crate) async fn until(&self, what: &str, script: &str) -> Result<()> {
        let started = Instant::now();
        while self.page.execute(script, vec![]).await? != Value::Bool(true) {
            if started.elapsed() > PATIENCE {
                self.picture("failed").await?;
                anyhow::bail!("not within {PATIENCE:?}: {what}; the page says: {}", self.text("body").await?);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits until the line of state says this.
    pub(crate) async fn until_state(&self, state: &str) -> Result<()> {
        let script = format!("return document.getElementById('run-state')?.textContent.startsWith({})", json!(state));
        self.until(&format!("the state is {state}"), &script).await
    }

    /// Keeps a picture of the window with the other results of the build.
    pub(crate) async fn picture(&self, name: &str) -> Result<()> {
        Ok(std::fs::write(self.pictures.join(format!("{name}.png")), self.page.screenshot().await?)?)
    }

    /// Fails when the page is wider than its window, or the console has an error.
    pub(crate) async fn is_sound(&self, what: &str) -> Result<()> {
        let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        let over = self.page.execute(wide, vec![]).await?;
        ensure!(over == json!(0), "{what} is {over} pixels too wide");
        let lines = self.page.issue_cmd(ConsoleLines).await?;
        let errors: Vec<_> = lines.as_array().into_iter().flatten().filter(|line| line["level"] == "SEVERE").collect();
        ensure!(errors.is_empty(), "{what}: {errors:?}");
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes its browser along.
        if let Ok(pid) = i32::try_from(self.driver.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.driver.wait();
    }
}
