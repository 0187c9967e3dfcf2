//! Tables of every kind and name, and columns whose values need a setting.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{Ran, TestDb, Workspace, connect};

const REST: &str =
    "[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n[target]\ntable = \"d\"\nbackup = \"b\"\n";

/// Pulls with the tables of a pipeline file.
fn pull(url: &str, tables: &str) -> Result<(Workspace, Ran)> {
    let workspace = Workspace::at(url)?;
    std::fs::write(workspace.path().join("pipeline.toml"), format!("{tables}{REST}"))?;
    let ran = workspace.run(["--json", "pull"])?;
    Ok((workspace, ran))
}

/// One value of a query over the lake.
fn value(workspace: &Workspace, sql: &str) -> Result<Value> {
    let rows = workspace.run(["--json", "query", &format!("SELECT ({sql})::VARCHAR AS v")])?.ok()?.json()?;
    Ok(rows[0]["v"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_an_error_or_what_the_setting_says() -> Result<()> {
    let db = TestDb::new("policies").await?;
    db.client()
        .await?
        .batch_execute(
            "CREATE TABLE price (id int, v numeric(6,2), must numeric(6,2) NOT NULL); INSERT INTO price VALUES (1, 1.5, 1), (2, 'NaN', 1), (3, 'NaN', 1);
             CREATE TABLE late (id int, v timestamptz); INSERT INTO late VALUES (1, '294247-01-10 04:00:54.775807+00'), (2, '2024-01-01+00');
             CREATE TABLE shape (id int, v int[]); INSERT INTO shape VALUES (1, '[0:1]={1,2}'), (2, '{{1},{2}}'), (3, '{7}');
             CREATE TABLE box (id int, v int[]); INSERT INTO box VALUES (1, '{{1},{2}}'), (2, NULL), (3, '{}');
             CREATE TABLE wide (id int, v numeric, w numeric); INSERT INTO wide VALUES (1, 1.25, 0.1), (2, -3, 1e300)",
        )
        .await?;
    let table = |name: &str, settings: &str| format!("[[tables]]\nname = \"{name}\"\n[tables.columns]\n{settings}\n");
    let refused = [
        ("price", "", "column v, row 1: NaN", "numeric_special"),
        ("late", "", "column v, row 0: a timestamp later", "out_of_range_time"),
        ("shape", "", "column v, row 0", "array_shape"),
        ("shape", "v.array_dimensions = 2", "column v, row 0", "array_shape"),
        ("wide", "v.numeric_unbounded = \"decimal(5,1)\"", "column v, row 0", "numeric_unbounded"),
        (
            "wide",
            "v.numeric_unbounded = \"decimal(3,2)\"\nw.numeric_unbounded = \"decimal(38,1)\"",
            "column w, row 1",
            "numeric_unbounded",
        ),
        ("price", "must.numeric_special = \"null\"", "column must is not null", "\"text\""),
        ("price", "nosuch.numeric_special = \"null\"", "column nosuch", "public.price"),
    ];
    for (name, settings, place, setting) in refused {
        let (workspace, ran) = pull(db.url(), &table(name, settings))?;
        assert!(matches!(ran.code, Some(1 | 2)), "{name} {settings}: {ran:?}");
        let named = ran.stderr.contains(place) && ran.stderr.contains(setting) && ran.stderr.contains(name);
        assert!(named, "{name} {settings}: {}", ran.stderr);
        assert!(workspace.lake_files("manifest").is_empty() && workspace.lake_files("tables").is_empty());
    }

    for (settings, message) in [
        ("v.numeric_special = \"nil\"", "expected one of `error`, `null`, `text`"),
        ("v.numeric_unbounded = \"decimal(39,1)\"", "decimal(p,s) with at most 38 digits"),
    ] {
        let (_, ran) = pull(db.url(), &table("price", settings))?;
        assert!(ran.code == Some(2) && ran.stderr.contains(message), "{settings}: {ran:?}");
    }

    let tables = [
        table("price", "v.numeric_special = \"null\""),
        table("late", "v.out_of_range_time = \"null\""),
        table("shape", "v.array_shape = \"text\""),
        table("box", "v.array_dimensions = 2"),
        table("wide", "v.numeric_unbounded = \"decimal(9,3)\"\nw.numeric_unbounded = \"double\""),
    ];
    let (workspace, ran) = pull(db.url(), &tables.concat())?;
    let ran = ran.ok()?;
    assert!(ran.stderr.contains("price, column v: 2 values that it cannot hold became null"), "{}", ran.stderr);
    let report = ran.json()?;
    assert_eq!(report["tables"]["price"]["made_null"]["v"], 2, "{report}");
    assert_eq!(report["tables"]["late"]["made_null"]["v"], 1, "{report}");
    for (sql, expected) in [
        ("SELECT count(*) FROM price WHERE v IS NULL", "2"),
        ("SELECT string_agg(v, ' ' ORDER BY id) FROM shape", "[0:1]={1,2} {{1},{2}} {7}"),
        ("SELECT v FROM box WHERE id = 1", "[[1], [2]]"),
        ("SELECT sum(v) FROM wide", "-1.750"),
        ("SELECT max(w) FROM wide", "1e+300"),
    ] {
        assert_eq!(value(&workspace, sql)?, expected, "{sql}");
    }

    let tables = [table("price", "v.numeric_special = \"text\""), table("late", "v.out_of_range_time = \"text\"")];
    let (workspace, ran) = pull(db.url(), &tables.concat())?;
    ran.ok()?;
    assert_eq!(value(&workspace, "SELECT string_agg(v, ' ' ORDER BY id) FROM price")?, "1.50 NaN NaN");
    assert_eq!(value(&workspace, "SELECT v FROM late WHERE id = 1")?, "294247-01-10 04:00:54.775807+00");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_every_kind_and_name_are_pulled() -> Result<()> {
    let db = TestDb::new("sources").await?;
    every_kind_and_name(db.url()).await
}

/// The test, in an empty database of a server of any version.
pub(crate) async fn every_kind_and_name(url: &str) -> Result<()> {
    const LONG: &str = "a_name_of_sixty_three_bytes_which_is_all_that_postgres_ever_kee";
    let client = connect(url).await?;
    let many: String = (0..1600).map(|index| format!("c{index} int{}", if index < 1599 { ", " } else { "" })).collect();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION file_fdw;
             CREATE SCHEMA \"Weird \"\"é\"; CREATE TABLE \"Weird \"\"é\".\"SELECT \"\"1\"\"\" (
                 \"from\" int, gone int, \"A\" int, a int, \"ü \"\"x\"\" 🐎\" text, \"{LONG}\" int, twice int GENERATED ALWAYS AS (a * 2) STORED,
                 \"dot.ted\" text, \"A_1\" int);
             ALTER TABLE \"Weird \"\"é\".\"SELECT \"\"1\"\"\" DROP COLUMN gone;
             INSERT INTO \"Weird \"\"é\".\"SELECT \"\"1\"\"\" VALUES (1, 2, 3, 'x', 4, DEFAULT, 'y', 5);
             CREATE TABLE wide ({many}); INSERT INTO wide DEFAULT VALUES; UPDATE wide SET c1599 = 7;
             CREATE TABLE nothing (id int, v int[], r int4range);
             CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES;
             CREATE TABLE parted (id int, v text) PARTITION BY RANGE (id);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
             CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
             INSERT INTO parted SELECT i, 'v' || i FROM generate_series(0, 19) i;
             CREATE TABLE parent (id int); CREATE TABLE child (extra int) INHERITS (parent);
             INSERT INTO parent VALUES (1); INSERT INTO child SELECT i, i FROM generate_series(2, 5000) i;
             CREATE VIEW seen AS SELECT id, upper(v) AS v, v::tsvector AS words FROM parted;
             CREATE MATERIALIZED VIEW kept AS SELECT * FROM parted WHERE id > 4;
             CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE FOREIGN TABLE far (id int, v text) SERVER files OPTIONS (program 'printf \"1,a\\n2,b\\n\"', format 'csv');"
        ))
        .await?;
    let table = |name: &str, source: &str| format!("[[tables]]\nname = \"{name}\"\nsource = '{source}'\n");
    let kinds = ["wide", "nothing", "parted", "parent", "seen", "kept", "far"];
    let mut tables: String = kinds.iter().map(|name| format!("[[tables]]\nname = \"{name}\"\n")).collect();
    tables.push_str(&table("weird", "Weird \"é.SELECT \"1\""));
    let (workspace, ran) = pull(url, &tables)?;
    let ran = ran.ok()?;
    let warning = "pull       warning: public.far is a foreign table: its rows are not of the snapshot";
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
    let report = ran.json()?;
    let rows = |name: &str| report["tables"][name]["rows"].as_u64().context("a count");
    let found = kinds.iter().map(|name| rows(name)).collect::<Result<Vec<_>>>()?;
    assert_eq!(found, [1, 0, 20, 5000, 20, 15, 2]);
    for (sql, expected) in [
        ("SELECT c1599 FROM wide", "7"),
        ("SELECT count(*) FROM nothing", "0"),
        ("SELECT count(DISTINCT id) FROM parent", "5000"),
        ("SELECT v || words FROM seen WHERE id = 7", "V7'v7'"),
        ("SELECT string_agg(v, '' ORDER BY id) FROM far", "ab"),
        // DuckDB's names differ in more than case, so the second and third get numbers.
        ("SELECT [\"from\", \"A\", a_2, twice, \"A_1\"] FROM weird", "[1, 2, 3, 6, 5]"),
        ("SELECT \"ü \"\"x\"\" 🐎\" || \"dot.ted\" FROM weird", "xy"),
    ] {
        assert_eq!(value(&workspace, sql)?, expected, "{sql}");
    }
    assert_eq!(value(&workspace, &format!("SELECT {LONG} FROM weird"))?, "4");

    let (workspace, ran) = pull(url, &[table("bare", "public.bare"), table("kept", "public.kept")].concat())?;
    let ran = ran.ok()?;
    assert!(ran.stderr.contains("public.bare has no columns"), "{}", ran.stderr);
    let report = ran.json()?;
    let names: Vec<&String> = report["tables"].as_object().context("tables")?.keys().collect();
    assert_eq!(names, ["kept"]);
    // What it was must not pass for what it is.
    client.batch_execute("DROP MATERIALIZED VIEW kept; CREATE TABLE kept ()").await?;
    let ran = workspace.run(["--json", "pull"])?;
    assert!(ran.code == Some(3) && ran.stderr.contains("public.kept has no columns"), "{ran:?}");
    Ok(())
}

/// Leaves have their columns in another order, and are as deep as one likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_copied_leaf_by_leaf_by_those_who_may_read_them() -> Result<()> {
    let db = TestDb::new("leaves").await?;
    let client = db.client().await?;
    let role = format!("through_{}", db.name());
    client
        .batch_execute(&format!(
            "CREATE TABLE parted (id int, v text, w int) PARTITION BY RANGE (id);
             CREATE TABLE low (w int, gone text, id int, v text); ALTER TABLE low DROP gone;
             ALTER TABLE parted ATTACH PARTITION low FOR VALUES FROM (0) TO (40000);
             CREATE TABLE high PARTITION OF parted FOR VALUES FROM (40000) TO (90000) PARTITION BY HASH (id);
             CREATE TABLE high_0 PARTITION OF high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE high_1 PARTITION OF high FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             CREATE TABLE rest PARTITION OF parted DEFAULT;
             INSERT INTO parted SELECT n, repeat('v', 200) || n, -n FROM generate_series(0, 80000) n;
             CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT SELECT ON parted TO {role}"
        ))
        .await?;
    let mut url = url::Url::parse(db.url())?;
    url.set_username(&role).ok().context("a user name")?;
    url.set_password(Some("p")).ok().context("a password")?;
    let sql =
        "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || sum(id) || ' ' || sum(w) || ' ' || max(v) FROM parted";
    let wanted: String = client.query_one(sql, &[]).await?.get(0);
    for (url, is_whole) in [(db.url(), false), (url.as_str(), true)] {
        let workspace = Workspace::at(url)?;
        std::fs::write(workspace.path().join("pipeline.toml"), format!("[[tables]]\nname = \"parted\"\n{REST}"))?;
        let mut child = workspace.command(["--json", "pull", "--jobs", "3", "--max-rate", "8"]).spawn()?;
        let copies = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%'";
        let query = loop {
            match client.query(copies, &[]).await?.first() {
                Some(row) => break row.get::<_, String>(0),
                None => anyhow::ensure!(child.try_wait()?.is_none(), "it ended without a copy"),
            }
        };
        assert_eq!(query.contains("FROM ONLY "), !is_whole, "{query}");
        Ran::from(child.wait_with_output()?).ok()?;
        assert_eq!(value(&workspace, sql)?, Value::String(wanted.clone()), "{url}");
    }
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await?;
    Ok(())
}

/// Views and a foreign table, by keys of every kind, with nulls, infinities and a value that many rows have.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_pages_is_shared_by_ranges_of_its_declared_key() -> Result<()> {
    let db = TestDb::new("ranges").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE TABLE base AS SELECT n, repeat('v', 20) AS v FROM generate_series(1, 120000) n;
             CREATE VIEW by_number AS SELECT CASE WHEN n % 9 = 0 THEN NULL WHEN n % 3 = 0 THEN -7 ELSE n % 30000 END::smallint AS k, n, v FROM base;
             CREATE VIEW by_day AS SELECT n, v, CASE WHEN n % 7 = 0 THEN NULL WHEN n = 5 THEN 'infinity' WHEN n = 6 THEN '-infinity'
                 ELSE date '0001-06-01 BC' + n END::date AS k FROM base;
             CREATE VIEW by_uuid AS SELECT md5(n::text)::uuid AS k, n, v FROM base;
             CREATE VIEW numbered AS SELECT row_number() OVER () AS k, n, v FROM base;
             CREATE VIEW first_of AS SELECT DISTINCT ON (n % 110000) n AS k, n, v FROM base ORDER BY n % 110000, n;
             CREATE VIEW unsteady AS SELECT k, k AS n, 'v' AS v FROM generate_series(1, 110000 + pg_backend_pid() % 100000) k;
             CREATE FOREIGN TABLE far (k int, n int, v text) SERVER files
                 OPTIONS (program 'seq 1 120000 | sed s/.*/\\&,\\&,vvvv/', format 'csv');
             CREATE TABLE plain AS TABLE base",
        )
        .await?;
    let table = |name: &str, key: &str| format!("[[tables]]\nname = \"{name}\"\nsplit_by = \"{key}\"\n");
    let shared = ["by_number", "by_day", "by_uuid", "far"];
    let whole = ["numbered", "first_of"];
    let tables: String = shared.iter().chain(&whole).map(|name| table(name, "k")).collect();
    let workspace = Workspace::at(db.url())?;
    let file = workspace.path().join("pipeline.toml");
    std::fs::write(&file, format!("{tables}{}{REST}", table("plain", "n")))?;
    let mut child = workspace.command(["--json", "pull", "--max-rate", "4"]).spawn()?;
    // A session that has copied a range shows it until the next one.
    let copies = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%'";
    let mut seen = BTreeSet::new();
    while child.try_wait()?.is_none() {
        seen.extend(client.query(copies, &[]).await?.iter().map(|row| row.get::<_, String>(0)));
    }
    let ran = Ran::from(child.wait_with_output()?).ok()?;
    let copied = |name: &str, how: &str| {
        let from = format!("\"{name}\"");
        seen.iter().any(|query| query.contains(&from) && query.contains(how))
    };
    for name in shared {
        assert!(copied(name, " WHERE (\"k\" "), "{name}: {seen:#?}");
    }
    for name in whole {
        assert!(!copied(name, " WHERE "), "{name}: {seen:#?}");
        let warning = format!("public.{name} is copied in one piece: the server would compute all of it");
        assert!(ran.stderr.contains(&warning), "{}", ran.stderr);
    }
    for name in shared.iter().chain(&whole) {
        let sql = format!(
            "SELECT count(*) || ' ' || count(DISTINCT n) || ' ' || count(k) || ' ' || min(n) || ' ' || max(n) FROM {name}"
        );
        let wanted: String = client.query_one(&sql, &[]).await?.get(0);
        assert_eq!(value(&workspace, &sql)?, Value::String(wanted), "{name}");
    }

    for (tables, code, message) in [
        (table("unsteady", "k"), 1, "public.unsteady: "),
        (table("by_day", "v"), 2, "the split_by of public.by_day is v, which is text and neither"),
        (table("by_day", "nosuch"), 2, "public.by_day lacks the column nosuch, which is its split_by"),
    ] {
        let (workspace, ran) = pull(db.url(), &tables)?;
        assert!(ran.code == Some(code) && ran.stderr.contains(message), "{ran:?}");
        assert!(workspace.lake_files("manifest").is_empty(), "{ran:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_hide_rows_are_told() -> Result<()> {
    let db = TestDb::new("hidden").await?;
    let client = db.client().await?;
    let role = format!("reader_{}", db.name());
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT SELECT ON t TO {role};
             CREATE POLICY half ON t TO {role} USING (id = 1)"
        ))
        .await?;
    let mut url = url::Url::parse(db.url())?;
    url.set_username(&role).ok().context("a user name")?;
    url.set_password(Some("p")).ok().context("a password")?;
    let (_, ran) = pull(url.as_str(), "[[tables]]\nname = \"t\"\n")?;
    let ran = ran.ok()?;
    assert!(ran.stderr.contains(&format!("only the rows that role {role} may see")), "{}", ran.stderr);
    assert_eq!(ran.json()?["tables"]["t"]["rows"], 1);
    let (_, ran) = pull(db.url(), "[[tables]]\nname = \"t\"\n")?;
    let ran = ran.ok()?;
    assert!(!ran.stderr.contains("row-level security"), "a role that sees all rows is not warned: {}", ran.stderr);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await?;
    Ok(())
}
