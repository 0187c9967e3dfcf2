//! The dashboard in a real browser: a whole rebuild by clicks, what blocks a push, cancelling, coming back.

use anyhow::{Context, Result};
use fantoccini::key::Key;
use serde_json::json;

use crate::support::{Browser, Served, TestDb, Workspace, racing};

const TARGET: &str = "public.race_training_dataset";
const PAGES: [&str; 9] =
    ["overview", "lake", "lake/race_training_dataset", "features", "validation", "preview", "runs", "logs", "sql"];

async fn served(name: &str, races: u64, arguments: &[&str]) -> Result<(TestDb, Workspace, Served)> {
    let db = racing(name, races).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, arguments, &[])?;
    Ok((db, workspace, served))
}

async fn live_rows(db: &TestDb) -> Result<i64> {
    Ok(db.client().await?.query_one("SELECT count(*) FROM race_training_dataset", &[]).await?.get(0))
}

/// Answers the question before a dangerous action.
async fn confirm(browser: &Browser) -> Result<()> {
    assert_eq!(
        browser.page.execute("return document.getElementById('confirm-ok').disabled", vec![]).await?,
        json!(true)
    );
    browser.type_in("confirm-input", TARGET).await?;
    browser.click("confirm-ok").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_by_clicks_moves_shows_itself_and_can_be_undone() -> Result<()> {
    let (db, workspace, served) = served("clicks", 1500, &[]).await?;
    let before = live_rows(&db).await?;
    let browser = Browser::open(1280, false).await?;
    browser.page.goto(&served.url).await?;
    browser.until_state("idle").await?;
    is_light(&browser).await?;
    browser.picture("overview-before").await?;
    browser.click("btn-rebuild").await?;
    browser.picture("question").await?;
    confirm(&browser).await?;
    browser.until_state("running rebuild").await?;
    browser.until("work shows", "return document.querySelectorAll('[data-testid=work]').length > 3").await?;
    let rate = "return [...document.querySelectorAll('[data-testid=work]')].some((work) => /\\s[kM]B\\/s/.test(work.textContent))";
    browser.until("a rate shows", rate).await?;
    let bar = "return !!document.querySelector('[role=progressbar][aria-valuenow]')";
    browser.until("progress is told to who cannot see it", bar).await?;
    let reasons = "return /are off: rebuild is running/.test(document.getElementById('reasons').textContent)";
    browser.until("why nothing can be pressed shows", reasons).await?;
    browser.picture("overview-running").await?;

    // A second tab sees the same run; the first one closed changes nothing.
    let first = browser.page.window().await?;
    let second = browser.page.new_window(true).await?.handle;
    browser.page.switch_to_window(second).await?;
    browser.page.goto(&served.url).await?;
    browser
        .until("the state shows", "return /rebuild/.test(document.getElementById('run-state')?.textContent)")
        .await?;
    let here = browser.page.window().await?;
    browser.page.switch_to_window(first).await?;
    browser.page.close_window().await?;
    browser.page.switch_to_window(here).await?;
    browser.until_state("rebuild done").await?;
    let rows = live_rows(&db).await?;
    assert_ne!(rows, before);

    browser.click("btn-validate").await?;
    browser.until_state("validate done").await?;
    browser.until("push is off", "return document.getElementById('btn-push').disabled").await?;
    browser.click("btn-validate").await?;
    let compared = "return /last time/.test(document.querySelector('[data-testid=seconds-before]')?.textContent)";
    browser.until("the seconds of the last time show", compared).await?;
    browser.until_state("validate done").await?;
    // Something for the preview to show.
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE moved AS SELECT ctid AS row, row_number() OVER (ORDER BY race_id, horse_slug) AS n FROM race_training_dataset; \
             DELETE FROM race_training_dataset USING moved WHERE race_training_dataset.ctid = row AND n <= 40; \
             UPDATE race_training_dataset SET horse_slug = 'nobody-' || n FROM moved WHERE race_training_dataset.ctid = row AND n BETWEEN 41 AND 60; \
             UPDATE race_training_dataset SET race_number = race_number + 1 FROM moved WHERE race_training_dataset.ctid = row AND n BETWEEN 61 AND 900; \
             DROP TABLE moved",
        )
        .await?;
    let edited = live_rows(&db).await?;
    browser.click("btn-preview").await?;
    browser.until_state("preview done").await?;
    for page in PAGES {
        browser.page.goto(&format!("{}/#/{page}", served.url)).await?;
        browser.until("the page shows", "return !!document.querySelector('main *') && !document.querySelector('main [role=status]')?.textContent.includes('Loading')").await?;
        if page.contains('/') {
            browser
                .until("columns are looked at", "return document.querySelectorAll('.histogram rect').length > 20")
                .await?;
        }
        if page == "runs" {
            // Axes and their numbers are nearly grey.
            let drawn = "const chart = document.querySelector('.u-wrap canvas'); if (!chart) return false; \
                const { data } = chart.getContext('2d').getImageData(0, 0, chart.width, chart.height); \
                let coloured = 0; \
                for (let at = 0; at < data.length; at += 4) { \
                  const [red, green, blue] = [data[at], data[at + 1], data[at + 2]]; \
                  coloured += data[at + 3] > 128 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60; \
                } \
                return coloured > 20";
            browser.until("the durations are drawn", drawn).await?;
        }
        if page == "sql" {
            browser.click("sql-run").await?;
            browser.until("rows show", "return document.querySelectorAll('#sql-result tbody tr').length > 3").await?;
        }
        if page == "preview" {
            browser
                .until("rows show", "return document.querySelectorAll('[data-testid=sample-row]').length === 15")
                .await?;
        }
        browser.until("it has one heading", "return document.querySelectorAll('main h1').length === 1").await?;
        browser.picture(&page.replace('/', "-")).await?;
        browser.is_sound(page).await?;
    }
    let skip = "document.querySelector('.skip').click(); return [location.hash, document.activeElement.id]";
    assert_eq!(browser.page.execute(skip, vec![]).await?, json!(["#/sql", "main"]));
    browser.click("nav-overview").await?;
    browser.click("btn-push").await?;
    browser.picture("question-push").await?;
    confirm(&browser).await?;
    browser.until_state("push done").await?;
    browser.click("btn-rollback").await?;
    confirm(&browser).await?;
    browser.until_state("rollback done").await?;
    assert_eq!(live_rows(&db).await?, edited, "the backup is what the push replaced");
    assert_ne!(edited, rows);
    // What a terminal starts shows as well.
    workspace.run(["pull", "races"])?.ok()?;
    browser.until_state("pull done").await?;
    browser.is_sound("the end").await
}

/// Fails when what the first page loads, as it travels, is too much for a slow line.
async fn is_light(browser: &Browser) -> Result<()> {
    const BYTES_MAX: u64 = 100_000;
    let loaded = "return [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')] \
        .map((entry) => [entry.name, entry.encodedBodySize, entry.decodedBodySize])";
    browser.until("all is loaded", "return document.querySelectorAll('main dl.facts').length > 0").await?;
    let loaded: Vec<(String, u64, u64)> = serde_json::from_value(browser.page.execute(loaded, vec![]).await?)?;
    let has = |name: &str| {
        loaded.iter().any(|(path, encoded, decoded)| path.ends_with(name) && 0 < *encoded && encoded < decoded)
    };
    assert!(has("/") && has("/assets/app.js") && has("/assets/vendor/uplot.js"), "compressed: {loaded:?}");
    let bytes: u64 = loaded.iter().map(|(_, encoded, _)| encoded).sum();
    assert!(bytes < BYTES_MAX, "{bytes} bytes: {loaded:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyboard_is_enough() -> Result<()> {
    let (db, _workspace, served) = served("keyboard", 60, &[]).await?;
    let before = live_rows(&db).await?;
    let browser = Browser::open(1280, false).await?;
    browser.page.goto(&served.url).await?;
    browser.until_state("idle").await?;
    for (button, state) in [
        ("#btn-pull", "pull done"),
        ("#btn-run", "run done"),
        ("#btn-validate", "validate done"),
        ("#btn-preview", "preview done"),
    ] {
        browser
            .until("it can be pressed", &format!("return document.querySelector('{button}')?.disabled === false"))
            .await?;
        browser.tab_to(button).await?;
        browser.press(Key::Enter).await?;
        browser.until_state(state).await?;
    }
    let can_push = "return document.getElementById('btn-push').disabled === false";
    browser.until("push can be pressed", can_push).await?;
    let is_open = "return !!document.querySelector('dialog[open]')";
    browser.tab_to("#btn-push").await?;
    browser.press(Key::Enter).await?;
    browser.until("it asks", is_open).await?;
    browser.press(Key::Escape).await?;
    browser.until("it asks no more", "return !document.querySelector('dialog')").await?;
    assert_eq!(live_rows(&db).await?, before);
    browser.tab_to("#btn-push").await?;
    browser.press(Key::Enter).await?;
    browser.until("it asks", is_open).await?;
    browser.until("the focus is where to type", "return document.activeElement.id === 'confirm-input'").await?;
    browser.type_in("confirm-input", TARGET).await?;
    browser.until("it can be confirmed", "return !document.getElementById('confirm-ok').disabled").await?;
    browser.press(Key::Enter).await?;
    browser.until_state("push done").await?;

    // A download is a link to what the API gives.
    browser.tab_to(".exports a[href$=parquet]").await?;
    for format in ["parquet", "csv", "arrow"] {
        let link = "return document.activeElement.getAttribute('href')";
        let link = browser.page.execute(link, vec![]).await?;
        assert_eq!(link, json!(format!("/api/export/race_training_dataset?format={format}")));
        assert_eq!(served.get(link.as_str().context("a link")?)?.status, 200);
        browser.press(Key::Tab).await?;
    }
    browser.click("nav-lake").await?;
    let each = "return document.querySelectorAll('tbody .exports').length === document.querySelectorAll('tbody tr').length \
        && document.querySelectorAll('tbody .exports a').length > 3";
    browser.until("every table has its exports", each).await?;
    browser.is_sound("the end").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_rebuild_shows_why_and_so_does_the_next_server() -> Result<()> {
    let many = ["--set", "validate.min_rows=1000000"];
    let (_db, workspace, served) = served("why", 60, &many).await?;
    let url = served.url.clone();
    let port = url.rsplit_once(':').context("port")?.1.parse()?;
    let browser = Browser::open(1280, true).await?;
    browser.page.goto(&url).await?;
    browser.click("btn-rebuild").await?;
    confirm(&browser).await?;
    browser.until_state("rebuild blocked").await?;
    let red = "return document.querySelector('[data-testid=step-validate]').classList.contains('stopped')";
    browser.until("the step that blocked is red", red).await?;
    browser.picture("overview-blocked-dark").await?;
    browser.click("nav-validation").await?;
    let why = "return /blocks the push/.test(document.querySelector('[data-testid=verdict]')?.textContent) \
        && document.querySelectorAll('[data-testid=finding]').length > 10";
    browser.until("the findings show", why).await?;
    drop(served);
    browser.until("the server is gone", "return /reconnecting/.test(document.body.textContent)").await?;
    let _again = Served::start_at(port, &workspace, &many, &[])?;
    browser.until("it is back", "return !/reconnecting/.test(document.body.textContent)").await?;
    browser.page.refresh().await?;
    browser.until("the findings still show", why).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_blocks_the_push_and_says_why() -> Result<()> {
    let (db, _workspace, served) = served("blocked", 60, &["--set", "validate.min_rows=1000000"]).await?;
    let wrong =
        "UPDATE races SET location = 'ZZ' WHERE race_id IN (SELECT race_id FROM races ORDER BY race_id LIMIT 3)";
    db.client().await?.batch_execute(wrong).await?;
    let before = live_rows(&db).await?;
    let browser = Browser::open(1280, true).await?;
    browser.page.goto(&served.url).await?;
    for (button, state) in [("btn-pull", "pull done"), ("btn-run", "run done"), ("btn-validate", "validate done")] {
        browser.click(button).await?;
        browser.until_state(state).await?;
    }
    browser
        .until(
            "push says why",
            "return /validation blocks/.test(document.querySelector('[data-testid=push-reason]')?.textContent)",
        )
        .await?;
    browser.click("nav-validation").await?;
    browser.until("findings show", "return document.querySelectorAll('[data-testid=finding]').length > 10").await?;
    let worst = browser.text("[data-testid=finding]").await?;
    assert!(worst.contains("V06") && worst.contains("fail"), "{worst}");
    let open =
        "document.querySelectorAll('[data-testid=finding] details').forEach((all) => (all.open = true)); return true";
    browser.page.execute(open, vec![]).await?;
    let rows = "return document.querySelectorAll('[data-testid=finding] details tbody tr').length > 1";
    browser.until("offending rows show", rows).await?;
    browser.picture("validation-blocked-dark").await?;
    browser.click("nav-overview").await?;
    browser.click("btn-rebuild").await?;
    confirm(&browser).await?;
    browser.until_state("rebuild blocked").await?;
    assert_eq!(live_rows(&db).await?, before);
    browser.is_sound("the end").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_and_the_page_survives_the_server() -> Result<()> {
    let (_db, workspace, served) = served("restart", 3000, &[]).await?;
    let url = served.url.clone();
    let port = url.rsplit_once(':').context("port")?.1.parse()?;
    let browser = Browser::open(1280, false).await?;
    browser.page.goto(&url).await?;
    browser.click("btn-rebuild").await?;
    confirm(&browser).await?;
    browser.click("btn-cancel").await?;
    browser.until_state("rebuild interrupted").await?;
    drop(served);
    browser.until("it says so", "return /reconnecting/.test(document.body.textContent)").await?;
    let _again = Served::start_at(port, &workspace, &[], &[])?;
    browser.until("it is back", "return !/reconnecting/.test(document.body.textContent)").await?;
    browser.click("nav-runs").await?;
    browser.until("the run shows", "return /interrupted/.test(document.querySelector('table')?.textContent)").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_logs_in_and_reads_every_page() -> Result<()> {
    let db = racing("phone", 200).await?;
    let workspace = Workspace::at(db.url())?;
    let served = Served::start(&workspace, &[], &[("RACEALPHA_TOKEN", "right"), ("RACEALPHA_VIEW_TOKEN", "look")])?;
    assert_eq!(served.job("/api/pull", &json!({}))?, "done");
    assert_eq!(served.job("/api/transform", &json!({}))?, "done");
    let browser = Browser::open(375, true).await?;
    browser.page.goto(&served.url).await?;
    browser.type_in("token", "wrong").await?;
    browser.click("login").await?;
    browser.until("it says that it is wrong", "return document.getElementById('wrong')?.hidden === false").await?;
    browser.picture("phone-login").await?;
    browser.type_in("token", "look").await?;
    browser.click("login").await?;
    browser.until("the viewer is in", "return document.getElementById('role')?.textContent === 'viewer'").await?;
    browser.until("nothing can be pressed", "return document.getElementById('btn-rebuild')?.disabled").await?;
    // The refused login is in the console, as it should be.
    browser.page.issue_cmd(crate::support::ConsoleLines).await?;
    for page in PAGES {
        browser.page.goto(&format!("{}/#/{page}", served.url)).await?;
        browser.until("the page shows", "return !!document.querySelector('main *')").await?;
        browser.picture(&format!("phone-{}", page.replace('/', "-"))).await?;
        browser.is_sound(page).await?;
    }
    Ok(())
}
