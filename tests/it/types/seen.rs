//! What DuckDB reads from the lake, said in Postgres's words, is what the server has.
//!
//! DuckDB alone turns every value into text; the text goes to the server, which reads it as a value of the column's type
//! and compares. DuckDB prints some types otherwise than Postgres: [`words`] lists these differences.

use anyhow::{Context, Result};
use tokio_postgres::Client;

use super::Case;
use crate::support::Workspace;

/// The server's side of a text that the type takes as it is.
const PLAIN: &str = "{v}::{t}";
/// The server's side of a JSON array that has the elements' texts.
const LIST: &str = "CASE WHEN {v} IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text({v}::jsonb)) END::{t}";
/// The server's side of a JSON object that has the attributes of a row type.
const ROW: &str = "CASE WHEN {v} IS NOT NULL THEN jsonb_populate_record(NULL::{t}, {v}::jsonb) END";
/// The server's side of JSON that stays JSON.
const JSON: &str = "{v}::jsonb";

/// How DuckDB turns a value of the type into text, and how the server makes a value of that: `{c}` is DuckDB's column,
/// `{v}` the text, `{t}` the type.
fn words(pg: &str) -> (String, &'static str) {
    let (duckdb, server) = match pg {
        // The era is in brackets.
        "date" | "timestamp" | "timestamptz" => ("replace({c}::VARCHAR, '(BC)', 'BC')", PLAIN),
        // Bytes that are letters print as letters.
        "bytea" => ("'\\x' || hex({c})", PLAIN),
        "bytea[]" => ("to_json(['\\x' || hex(b) for b in {c}])::VARCHAR", LIST),
        // These are numbers.
        "pg_lsn" => ("printf('%X/%X', {c} // 4294967296, {c} % 4294967296)", PLAIN),
        "regclass" => ("{c}::VARCHAR", "{v}::oid::{t}"),
        // Structs, and lists of them, have names where Postgres has brackets.
        "tid" => ("'(' || {c}.block || ',' || {c}.\"offset\" || ')'", PLAIN),
        "point" => ("'(' || {c}.x || ',' || {c}.y || ')'", PLAIN),
        "line" => ("'{' || {c}.a || ',' || {c}.b || ',' || {c}.c || '}'", PLAIN),
        "lseg" | "box" => ("'(' || {c}.x1 || ',' || {c}.y1 || '),(' || {c}.x2 || ',' || {c}.y2 || ')'", PLAIN),
        "circle" => ("'<(' || {c}.x || ',' || {c}.y || '),' || {c}.r || '>'", PLAIN),
        "path" => (
            "CASE WHEN {c}.closed THEN '(' ELSE '[' END \
             || array_to_string(['(' || p.x || ',' || p.y || ')' for p in {c}.points], ',') \
             || CASE WHEN {c}.closed THEN ')' ELSE ']' END",
            PLAIN,
        ),
        "polygon" => ("'(' || array_to_string(['(' || p.x || ',' || p.y || ')' for p in {c}], ',') || ')'", PLAIN),
        "runner" => ("to_json({c})::VARCHAR", ROW),
        "runner[]" => (
            "to_json({c})::VARCHAR",
            "(jsonb_populate_record(NULL::field, jsonb_build_object('runners', {v}::jsonb))).runners",
        ),
        "field" => {
            let at = range("{c}.\"at\"");
            let json = format!("to_json({{'race': {{c}}.race, 'runners': {{c}}.runners, 'at': {at}}})::VARCHAR");
            return (format!("CASE WHEN {{c}} IS NOT NULL THEN {json} END"), ROW);
        }
        "int4multirange" => {
            return (format!("'{{' || array_to_string([{} for r in {{c}}], ',') || '}}'", range("r")), PLAIN);
        }
        "int4range[]" => return (format!("to_json([{} for r in {{c}}])::VARCHAR", range("r")), LIST),
        _ if pg.ends_with("range") || pg == "lengths" => return (range("{c}"), PLAIN),
        "hstore" | "hstore[]" | "int[][]" => ("to_json({c})::VARCHAR", JSON),
        "int2vector" | "oidvector" => ("array_to_string({c}, ' ')", PLAIN),
        // The lake has the server's text of the whole array.
        "tsvector[]" => ("{c}", PLAIN),
        _ if pg.ends_with("[]") || pg == "odds_list" => ("to_json({c}::VARCHAR[])::VARCHAR", LIST),
        _ => ("{c}::VARCHAR", PLAIN),
    };
    (duckdb.to_owned(), server)
}

/// DuckDB's struct of a range as Postgres writes it.
fn range(value: &str) -> String {
    "CASE WHEN {r} IS NULL THEN NULL WHEN {r}.empty THEN 'empty' ELSE CASE WHEN {r}.lower_inc THEN '[' ELSE '(' END \
     || coalesce({r}.lower::VARCHAR, '') || ',' || coalesce({r}.upper::VARCHAR, '') \
     || CASE WHEN {r}.upper_inc THEN ']' ELSE ')' END END"
        .replace("{r}", value)
}

/// Reads the table of the lake through DuckDB and has the server compare it with its own.
pub(super) async fn compare(workspace: &Workspace, client: &Client, cases: &[&Case]) -> Result<()> {
    let (mut read, mut columns) = (String::from("SELECT id"), String::new());
    for (index, case) in cases.iter().enumerate() {
        let column = format!("c{index}");
        read.push_str(&format!(", {} AS {column}", words(case.pg).0.replace("{c}", &column)));
        columns.push_str(&format!(", {column} text"));
    }
    let seen = workspace.run(["--json", "query", &format!("{read} FROM source")])?.ok()?.stdout;
    client
        .batch_execute(&format!(
            "SET extra_float_digits = 1; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
             CREATE TEMP TABLE seen (id int PRIMARY KEY{columns})"
        ))
        .await?;
    let filled = "INSERT INTO seen SELECT * FROM json_populate_recordset(NULL::seen, $1::text::json)";
    let rows = client.execute(filled, &[&seen]).await?;
    let all: i64 = client.query_one("SELECT count(*) FROM source", &[]).await?.get(0);
    assert_eq!(i64::try_from(rows)?, all);

    let mut different = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let (_, server) = words(case.pg);
        let theirs = server.replace("{v}", &format!("seen.c{index}")).replace("{t}", case.pg);
        let ours = if server == JSON { format!("to_jsonb(source.c{index})") } else { format!("source.c{index}") };
        let sql = format!(
            "SELECT format('%s: %s instead of %s', $1::text, coalesce(seen.c{index}, 'null'), coalesce(({ours})::text, 'null'))
             FROM source JOIN seen USING (id) WHERE ({theirs})::text IS DISTINCT FROM ({ours})::text LIMIT 3"
        );
        let rows = client.query(&sql, &[&case.pg]).await.with_context(|| case.pg.to_owned())?;
        different.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    assert_eq!(different, Vec::<String>::new());
    Ok(())
}
