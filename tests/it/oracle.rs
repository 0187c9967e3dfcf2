//! Postgres is the oracle: what is pulled prints as what the server prints.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{TestDb, Workspace};

/// Each supported type, hard values of it, and how DuckDB must print the pulled value in terms of Postgres's text.
/// The last item casts the DuckDB column so that both print alike.
const TYPES: [(&str, &[&str], &str); 19] = [
    ("boolean", &["true", "false"], "v::text"),
    ("smallint", &["-32768", "32767"], "v::text"),
    ("integer", &["-2147483648", "2147483647"], "v::text"),
    ("bigint", &["-9223372036854775808", "9223372036854775807"], "v::text"),
    ("numeric(10,2)", &["0", "-99999999.99", "1.10", "0.01"], "v::text"),
    ("numeric(38,10)", &["9999999999999999999999999999.9999999999", "-0.0000000001"], "v::text"),
    ("numeric(5,0)", &["12345", "-1"], "v::text"),
    ("text", &["", "it''s", "ünïcödé 🐎", "a\nb", "back\\slash", "NULL"], "v"),
    ("varchar(7)", &["seven77", "äöüäöüß"], "v"),
    ("date", &["1970-01-01", "2000-01-01", "0001-01-01", "9999-12-31"], "v::text"),
    ("time", &["00:00:00", "23:59:59.999999"], "v::text"),
    ("timestamp", &["2000-01-01 00:00:00", "1999-12-31 23:59:59.999999", "2262-04-12 00:00:00.000001"], "v::text"),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], "v::text"),
    ("json", &["{\"a\": 1e400, \"a\":  2}"], "v::text"),
    ("jsonb", &["{\"b\": 1.10, \"a\": [null, 12345678901234567890123]}"], "v::text"),
    ("numeric", &["1.00001234", "100000000", "-0.000012", "12345.678", "0.00", "1.10"], "text"),
    ("double precision", &["0.1", "-1.7976931348623157e308", "5e-324", "1e15"], "float"),
    ("real", &["0.1", "3.4028235e38"], "float"),
    ("interval", &["1 year 2 mons 3 days 04:05:06.789", "-00:00:00.000001", "00:01:23.45"], "interval"),
];

/// Pulls a table with one column per type and compares text with text.
#[tokio::test(flavor = "multi_thread")]
async fn pulled_values_print_as_the_server_prints_them() -> Result<()> {
    let db = TestDb::new("oracle").await?;
    let client = db.client().await?;
    let mut pipeline = String::new();
    for (index, (name, values, _)) in TYPES.iter().enumerate() {
        let rows: Vec<String> = values.iter().enumerate().map(|(row, v)| format!("({row}, '{v}'::{name})")).collect();
        client
            .batch_execute(&format!(
                "CREATE TABLE t{index} (id integer PRIMARY KEY, v {name}); INSERT INTO t{index} VALUES {}, (1000, NULL)",
                rows.join(", ")
            ))
            .await
            .with_context(|| format!("inserting {name}"))?;
        pipeline.push_str(&format!("[[tables]]\nname = \"t{index}\"\nkey = [\"id\"]\n"));
    }
    pipeline.push_str(
        "[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n[target]\ntable = \"d\"\nbackup = \"b\"\n",
    );
    let workspace = Workspace::at(db.url())?;
    std::fs::write(workspace.path().join("pipeline.toml"), pipeline)?;
    workspace.run(["pull"])?.ok()?;

    for (index, (name, _, how)) in TYPES.iter().enumerate() {
        let sql = match *how {
            "float" => {
                format!("SELECT id, CASE WHEN v IS NOT NULL THEN hex(v) END AS v FROM (SELECT id, v FROM t{index})")
            }
            "interval" => format!(
                "SELECT id, (datepart('year', v) * 12 + datepart('month', v))::text || ' ' || datepart('day', v)::text || ' ' || \
                 (datepart('hour', v)::hugeint * 3600000000 + datepart('minute', v) * 60000000 + datepart('microsecond', v))::text AS v \
                 FROM t{index}"
            ),
            // An unbounded numeric is a decimal of the widest scale seen: equal as a number, with zeros added.
            "text" => format!("SELECT id, rtrim(rtrim(v::text, '0'), '.') AS v FROM t{index}"),
            cast => format!("SELECT id, {cast} AS v FROM t{index}"),
        };
        let server = match *how {
            "float" => String::new(),
            "interval" => format!(
                "SELECT id, (extract(year from v) * 12 + extract(month from v))::int || ' ' || extract(day from v)::int || ' ' || \
                 ((extract(hour from v) * 3600 + extract(minute from v) * 60) * 1000000 + extract(microseconds from v))::bigint \
                 FROM t{index}"
            ),
            "text" => format!("SELECT id, trim_scale(v)::text FROM t{index}"),
            _ => format!("SELECT id, v::text FROM t{index}"),
        };
        if server.is_empty() {
            compare_floats(&workspace, &client, index, name).await?;
            continue;
        }
        let expected: BTreeMap<i32, Option<String>> =
            client.query(&server, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(pulled(&workspace, &sql)?, expected, "{name}");
    }
    Ok(())
}

/// Floats are compared as numbers through JSON, which prints the shortest text that reads back as the same number.
async fn compare_floats(
    workspace: &Workspace,
    client: &tokio_postgres::Client,
    index: usize,
    name: &str,
) -> Result<()> {
    let rows = workspace.run(["--json", "query", &format!("SELECT id, v::double AS v FROM t{index}")])?.ok()?.json()?;
    let ours: BTreeMap<i64, Option<u64>> = rows
        .as_array()
        .context("an array")?
        .iter()
        .map(|row| (row["id"].as_i64().unwrap_or(-1), row["v"].as_f64().map(f64::to_bits)))
        .collect();
    let server = client.query(&format!("SELECT id::bigint, v::float8 FROM t{index}"), &[]).await?;
    let expected: BTreeMap<i64, Option<u64>> =
        server.iter().map(|row| (row.get(0), row.get::<_, Option<f64>>(1).map(f64::to_bits))).collect();
    assert_eq!(ours, expected, "{name}");
    Ok(())
}

fn pulled(workspace: &Workspace, sql: &str) -> Result<BTreeMap<i32, Option<String>>> {
    let rows = workspace.run(["--json", "query", sql])?.ok()?.json()?;
    let of = |row: &Value| {
        let id = i32::try_from(row["id"].as_i64().unwrap_or(-1)).unwrap_or(-1);
        (id, row["v"].as_str().map(str::to_owned))
    };
    Ok(rows.as_array().context("an array")?.iter().map(of).collect())
}

/// A value that Arrow cannot hold ends the pull with table, column and row, and publishes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_held_is_named() -> Result<()> {
    let db = TestDb::new("unheld").await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "CREATE TABLE t (id integer PRIMARY KEY, v numeric(6,2)); INSERT INTO t VALUES (1, 1.5), (2, 'NaN')",
        )
        .await?;
    let workspace = Workspace::at(db.url())?;
    std::fs::write(
        workspace.path().join("pipeline.toml"),
        "[[tables]]\nname = \"t\"\n[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n\
         [target]\ntable = \"d\"\nbackup = \"b\"\n",
    )?;
    let ran = workspace.run(["pull"])?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("public.t") && ran.stderr.contains("column v, row 1: NaN"), "{}", ran.stderr);
    assert!(workspace.lake_files("manifest").is_empty() && workspace.lake_files("tables").is_empty());
    Ok(())
}
