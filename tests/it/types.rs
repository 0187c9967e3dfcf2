//! Every type there and back: the server writes values, they are pulled, read by DuckDB and by the reader of Parquet files,
//! which pushes them into a second table, and the server says whether all are the same.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod seen;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::StreamExt;
use racealpha::lake::{Lake, read_table};
use racealpha::progress::Progress;
use racealpha::push::{self, Dataset, TargetOptions};
use racealpha::schema::TableName;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use crate::support::{TestDb, Workspace, cluster, connect};

/// One column: its type, what DuckDB must call it, hard values, and an expression for arbitrary ones.
struct Case {
    pg: &'static str,
    duckdb: &'static str,
    hard: &'static [&'static str],
    any: &'static str,
}

const fn case(pg: &'static str, duckdb: &'static str, hard: &'static [&'static str], any: &'static str) -> Case {
    Case { pg, duckdb, hard, any }
}

/// Types of the database that the cases use.
const TYPES: &str = "
    CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION cube; CREATE EXTENSION seg;
    CREATE EXTENSION isn;
    CREATE TYPE going AS ENUM ('firm', 'good to soft', 'ünïcödé', '', 'a''b\"c');
    CREATE DOMAIN odds AS numeric(8,2) CHECK (VALUE > 0);
    CREATE DOMAIN odds_list AS numeric(8,2)[];
    CREATE TYPE runner AS (\"Name\" text, weight numeric(5,2), gone int, \"out of\" interval, draw odds);
    ALTER TYPE runner DROP ATTRIBUTE gone;
    CREATE TYPE field AS (race uuid, runners runner[], at tstzrange);
    CREATE TYPE lengths AS RANGE (subtype = float8);
    CREATE TYPE searched AS (words tsvector, n int);";

/// A text of up to twenty characters, some of them not ASCII.
const ANY_TEXT: &str =
    "substr(md5(random()::text), 1, (random() * 20)::int) || CASE WHEN random() < 0.2 THEN 'é🐎\\\"{},()' ELSE '' END";
const ANY_NUMERIC: &str = "((random() - 0.5) * power(10, (random() * 20)::int))::numeric";

const CASES: &[Case] = &[
    case("boolean", "BOOLEAN", &["true", "false"], "random() < 0.5"),
    case("smallint", "SMALLINT", &["-32768", "32767"], "(random() * 65535 - 32768)::int"),
    case("integer", "INTEGER", &["-2147483648", "2147483647"], "(random() * 4294967295 - 2147483648)::bigint"),
    case("bigint", "BIGINT", &["-9223372036854775808", "9223372036854775807"], "((random() - 0.5) * 1.8e19)::bigint"),
    case(
        "real",
        "FLOAT",
        &["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "0.1"],
        "((random() - 0.5) * power(10, (random() * 60 - 30)::int))::real",
    ),
    case(
        "double precision",
        "DOUBLE",
        &["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1"],
        "(random() - 0.5) * power(10, (random() * 600 - 300)::int)",
    ),
    case("numeric(10,2)", "DECIMAL(10,2)", &["0", "-99999999.99", "1.10", "0.01"], "((random() - 0.5) * 1e8)::numeric"),
    case(
        "numeric(38,10)",
        "DECIMAL(38,10)",
        &["9999999999999999999999999999.9999999999", "-0.0000000001"],
        ANY_NUMERIC,
    ),
    case("numeric(5,-3)", "DECIMAL(8,0)", &["99999000", "-1000", "0"], "(random() * 1e7)::numeric"),
    case("numeric(3,6)", "DECIMAL(6,6)", &["0.000999", "-0.000001"], "(random() * 0.0009)::numeric"),
    case(
        "numeric(50,3)",
        "VARCHAR",
        &["12345678901234567890123456789012345678901234567.125", "NaN", "-1"],
        ANY_NUMERIC,
    ),
    case(
        "numeric",
        "VARCHAR",
        &["NaN", "Infinity", "-Infinity", "1e400", "1.10", "1.00001234", "0.00", "-1e-300", "100000000"],
        ANY_NUMERIC,
    ),
    case(
        "money",
        "DECIMAL(19,2)",
        &["-92233720368547758.08", "92233720368547758.07", "0.01"],
        "((random() - 0.5) * 1e6)::numeric::money",
    ),
    case("text", "VARCHAR", &["", "it's", "ünïcödé 🐎", "a\nb\t\\", "NULL", "{}", " "], ANY_TEXT),
    case("varchar(7)", "VARCHAR", &["seven77", "äöüäöüß", "  x  "], "substr(md5(random()::text), 1, 7)"),
    case("char(5)", "VARCHAR", &["a", "äöüßé", "", "  x"], "substr(md5(random()::text), 1, (random() * 5)::int)"),
    case(
        "name",
        "VARCHAR",
        &["pg_class", "a name", "0123456789012345678901234567890123456789012345678901234567890123"],
        "md5(random()::text)",
    ),
    case("citext", "VARCHAR", &["Shergar", "SHERGAR"], ANY_TEXT),
    case("\"char\"", "VARCHAR", &["a", "", "\\200", "\\377"], "chr((random() * 126)::int + 1)"),
    case("bytea", "BLOB", &["", "\\x00ff00", "\\xdeadbeef"], "decode(md5(random()::text), 'hex')"),
    case(
        "date",
        "DATE",
        &["infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "1970-01-01", "0001-01-01"],
        "'2000-01-01'::date + ((random() - 0.5) * 1e6)::int",
    ),
    case("time", "TIME", &["00:00:00", "24:00:00", "23:59:59.999999"], "'00:00'::time + random() * '1 day'::interval"),
    case("time(2)", "TIME", &["00:00:00.12", "24:00:00"], "'00:00'::time + random() * '1 day'::interval"),
    case(
        "timetz",
        "TIME WITH TIME ZONE",
        &["00:00:00+15:59:59", "24:00:00-15:59:59", "12:34:56.123456+05:45", "01:02:03.5+00"],
        "('00:00'::time + random() * '1 day'::interval)::text::time AT TIME ZONE make_interval(mins => ((random() - 0.5) * 1800)::int)",
    ),
    case(
        "timestamp",
        "TIMESTAMP",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "294247-01-10 04:00:54.775806",
            "1999-12-31 23:59:59.999999",
        ],
        "'2000-01-01'::timestamp + (random() - 0.5) * '2000 years'::interval",
    ),
    case(
        "timestamptz",
        "TIMESTAMP WITH TIME ZONE",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00+00 BC",
            "294247-01-10 04:00:54.775806+00",
            "2024-06-01 12:00:00+02",
        ],
        "'2000-01-01'::timestamptz + (random() - 0.5) * '2000 years'::interval",
    ),
    case(
        "interval",
        "INTERVAL",
        &[
            "178000000 years",
            "-178000000 years",
            "1 mon -1 days +00:00:00.000001",
            "2147483647 days",
            "-2562047788:00:54.775807",
        ],
        "make_interval(months => (random() * 1000)::int - 500, days => (random() * 1000)::int, secs => random() * 1e6)",
    ),
    case(
        "uuid",
        "UUID",
        &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
        "gen_random_uuid()",
    ),
    case(
        "json",
        "JSON",
        &["{\"a\": 1e400, \"a\":  2}", "\"\\u0000\"", "null", " [1] "],
        "json_build_object('a', random())",
    ),
    case(
        "jsonb",
        "JSON",
        &["{\"b\": 1.10, \"a\": [null, 12345678901234567890123]}", "null", "\"\""],
        "jsonb_build_object(md5(random()::text), random()::numeric)",
    ),
    case("xml", "VARCHAR", &["<a b=\"c\">d</a>", "x", ""], "xmlelement(name a, random())"),
    case("jsonpath", "VARCHAR", &["$.a[*] ? (@.b > 3)", "strict $"], "('$.a' || (random() * 9)::int)::jsonpath"),
    case("ltree", "VARCHAR", &["Top.Science.Astronomy", "", "a_1"], "('a.' || md5(random()::text))::ltree"),
    case("lquery", "VARCHAR", &["*.foo|bar.*{1,3}", "a%@*"], "'a.*'::lquery"),
    case("ltxtquery", "VARCHAR", &["Europe & Russia*@ & !Transportation"], "'a'::ltxtquery"),
    case(
        "inet",
        "VARCHAR",
        &[
            "192.168.1.1/24",
            "10.0.0.1",
            "0.0.0.0/0",
            "::1",
            "::ffff:1.2.3.4",
            "::1.2.3.4",
            "2001:db8::1/33",
            "fe80::/10",
            "::/0",
            "1:0:0:2::",
        ],
        "'0.0.0.0'::inet + (random() * 4294967295)::bigint",
    ),
    case(
        "cidr",
        "VARCHAR",
        &["192.168.1.0/24", "10.0.0.1/32", "0.0.0.0/0", "2001:db8::/32", "::1/128"],
        "network(set_masklen('10.0.0.0'::inet + (random() * 65535)::bigint, (random() * 32)::int))",
    ),
    case(
        "macaddr",
        "VARCHAR",
        &["08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"],
        "substr(md5(random()::text), 1, 12)::macaddr",
    ),
    case("macaddr8", "VARCHAR", &["08:00:2b:01:02:03:04:05"], "substr(md5(random()::text), 1, 16)::macaddr8"),
    case("bit(11)", "VARCHAR", &["00000000001", "11111111111"], "(random() * 2047)::int::bit(11)"),
    case(
        "varbit",
        "VARCHAR",
        &["", "1", "0000000011111111", "101010101"],
        "((random() * 65535)::int::bit(16))::varbit",
    ),
    case("varbit(9)", "VARCHAR", &["", "101010101"], "((random() * 255)::int::bit(8))::varbit"),
    case("oid", "UINTEGER", &["0", "4294967295"], "(random() * 4294967295)::bigint::oid"),
    case("xid", "UINTEGER", &["3", "4294967295"], "(random() * 2e9)::int::text::xid"),
    case("cid", "UINTEGER", &["0", "4294967295"], "(random() * 2e9)::int::text::cid"),
    case("regclass", "UINTEGER", &["pg_class", "pg_type"], "1259::regclass"),
    case("regtype", "UINTEGER", &["integer", "text[]"], "23::regtype"),
    case("xid8", "UBIGINT", &["0", "18446744073709551615"], "(random() * 2e9)::bigint::text::xid8"),
    case(
        "pg_lsn",
        "UBIGINT",
        &["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"],
        "format('%s/%s', to_hex((random() * 1e6)::int), to_hex((random() * 2e9)::int))::pg_lsn",
    ),
    case(
        "tid",
        "STRUCT(block UINTEGER, \"offset\" USMALLINT)",
        &["(0,1)", "(4294967295,65535)"],
        "format('(%s,%s)', (random() * 1e6)::int, (random() * 100)::int)::tid",
    ),
    case(
        "going",
        "VARCHAR",
        &["firm", "good to soft", "ünïcödé", "", "a'b\"c"],
        "(enum_range(NULL::public.going))[1 + (random() * 4)::int]",
    ),
    case("odds", "DECIMAL(8,2)", &["0.01", "999999.99"], "1 + random() * 100"),
    case(
        "point",
        "STRUCT(x DOUBLE, y DOUBLE)",
        &["(0,-0)", "(NaN,Infinity)", "(1e300,5e-324)"],
        "point(random(), random())",
    ),
    case(
        "line",
        "STRUCT(a DOUBLE, b DOUBLE, c DOUBLE)",
        &["{1,2,3}", "{0,-1,0.1}"],
        "format('{1,%s,%s}', random(), random())::line",
    ),
    case(
        "lseg",
        "STRUCT(x1 DOUBLE, y1 DOUBLE, x2 DOUBLE, y2 DOUBLE)",
        &["[(0,0),(1,1)]"],
        "lseg(point(random(), 0), point(1, random()))",
    ),
    case(
        "box",
        "STRUCT(x1 DOUBLE, y1 DOUBLE, x2 DOUBLE, y2 DOUBLE)",
        &["(0,0),(1,1)", "(5,5),(-3,2)"],
        "box(point(random(), 0), point(1, random()))",
    ),
    case(
        "circle",
        "STRUCT(x DOUBLE, y DOUBLE, r DOUBLE)",
        &["<(1,2),0>", "<(0,0),1e10>"],
        "circle(point(random(), 1), random())",
    ),
    case(
        "path",
        "STRUCT(closed BOOLEAN, points STRUCT(x DOUBLE, y DOUBLE)[])",
        &["[(0,0),(1,1),(2,0)]", "((0,0),(1,1))", "[(3,4)]"],
        "format('[(%s,1),(2,%s)]', random(), random())::path",
    ),
    case(
        "polygon",
        "STRUCT(x DOUBLE, y DOUBLE)[]",
        &["((0,0),(1,1),(2,0))", "((3,4))"],
        "polygon(7, circle(point(random(), 0), 2))",
    ),
    case(
        "int[]",
        "INTEGER[]",
        &["{}", "{1,NULL,-3}", "{NULL}"],
        "ARRAY(SELECT (random() * 100)::int FROM generate_series(1, (random() * 6)::int))",
    ),
    case(
        "text[]",
        "VARCHAR[]",
        &["{}", "{NULL,\"NULL\",\"\",\"a,b\",\"q\\\"\\\\\",ü}"],
        "ARRAY[md5(random()::text), NULL, '{']",
    ),
    case(
        "int[][]",
        "INTEGER[][]",
        &["{}", "{{1,2,3},{4,NULL,6}}", "{{NULL}}"],
        "ARRAY[ARRAY[(random() * 9)::int, 2], ARRAY[3, 4]]",
    ),
    case("numeric(8,2)[]", "DECIMAL(8,2)[]", &["{1.10,NULL}", "{}"], "ARRAY[random() * 1000]"),
    case("numeric[]", "VARCHAR[]", &["{1e400,NaN,NULL,Infinity,1.10}"], "ARRAY[random()::numeric, NULL]"),
    case("float8[]", "DOUBLE[]", &["{NaN,-0,5e-324,Infinity}"], "ARRAY[random(), random()]"),
    case(
        "timestamptz[]",
        "TIMESTAMP WITH TIME ZONE[]",
        &["{infinity,-infinity,NULL,\"2024-01-01 00:00:00+00\"}"],
        "ARRAY[now() + random() * '1 day'::interval]",
    ),
    case(
        "interval[]",
        "INTERVAL[]",
        &["{\"1 mon -1 days\",NULL,00:00:00.000001}"],
        "ARRAY[make_interval(months => (random() * 100)::int)]",
    ),
    case("uuid[]", "UUID[]", &["{00000000-0000-0000-0000-000000000001,NULL}"], "ARRAY[gen_random_uuid()]"),
    case(
        "jsonb[]",
        "JSON[]",
        &["{\"{\\\"a\\\": 1.10}\",NULL,\"null\"}"],
        "ARRAY[jsonb_build_object('a', random()::numeric)]",
    ),
    case("inet[]", "VARCHAR[]", &["{::1,NULL,10.0.0.0/8}"], "ARRAY['10.0.0.1'::inet]"),
    case("bytea[]", "BLOB[]", &["{\"\\\\x00\",NULL,\"\\\\x\"}"], "ARRAY[decode(md5(random()::text), 'hex')]"),
    case("char(3)[]", "VARCHAR[]", &["{a,abc,NULL}"], "ARRAY['x'::char(3)]"),
    case("going[]", "VARCHAR[]", &["{firm,NULL,\"good to soft\",\"\"}"], "enum_range(NULL::public.going)"),
    case("odds[]", "DECIMAL(8,2)[]", &["{1.10,NULL}"], "ARRAY[1 + random()]::numeric[]"),
    case("odds_list", "DECIMAL(8,2)[]", &["{1.10,NULL}", "{}"], "ARRAY[random()]::numeric[]"),
    case("int2vector", "SMALLINT[]", &["1 2 -3"], "'7 8'::int2vector"),
    case("oidvector", "UINTEGER[]", &["1 4294967295"], "'7 8'::oidvector"),
    case(
        "runner",
        "STRUCT(\"Name\" VARCHAR, weight DECIMAL(5,2), \"out of\" INTERVAL, draw DECIMAL(8,2))",
        &["(,,,)", "(\"Red, \"\"Rum\"\"\",58.50,\"1 mon 2 days\",3.5)", "(ü,-1,,0.01)"],
        "ROW(md5(random()::text), (random() * 99)::numeric, make_interval(days => 3), 1.5)",
    ),
    case(
        "runner[]",
        "STRUCT(\"Name\" VARCHAR, weight DECIMAL(5,2), \"out of\" INTERVAL, draw DECIMAL(8,2))[]",
        &["{}", "{NULL,\"(a,1,,)\",\"(,,,)\"}"],
        "ARRAY[ROW(md5(random()::text), 1, NULL, NULL)::public.runner, NULL]",
    ),
    case(
        "field",
        "STRUCT(race UUID, runners STRUCT(\"Name\" VARCHAR, weight DECIMAL(5,2), \"out of\" INTERVAL, draw DECIMAL(8,2))[], \"at\" STRUCT(lower TIMESTAMP WITH TIME ZONE, upper TIMESTAMP WITH TIME ZONE, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN))",
        &["(,,)", "(00000000-0000-0000-0000-000000000001,\"{\"\"(a,1,,)\"\"}\",empty)"],
        "ROW(gen_random_uuid(), ARRAY[ROW('x', 1, NULL, NULL)::public.runner], tstzrange(now(), NULL))",
    ),
    case(
        "int4range",
        "STRUCT(lower INTEGER, upper INTEGER, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN)",
        &["empty", "(,)", "[1,4]", "[1,)", "(,5)"],
        "int4range(1, 2 + (random() * 100)::int)",
    ),
    case(
        "numrange",
        "STRUCT(lower VARCHAR, upper VARCHAR, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN)",
        &["(1.10,2e50]", "[-Infinity,NaN]", "empty"],
        "numrange(random()::numeric, 2)",
    ),
    case(
        "daterange",
        "STRUCT(lower DATE, upper DATE, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN)",
        &["[-infinity,infinity]", "(,)", "[2024-01-01,2024-02-01)"],
        "daterange('2000-01-01', '2000-01-02'::date + (random() * 100)::int)",
    ),
    case(
        "lengths",
        "STRUCT(lower DOUBLE, upper DOUBLE, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN)",
        &["(0.1,NaN]", "[-0,0]"],
        "public.lengths(random(), 2)",
    ),
    case(
        "int4multirange",
        "STRUCT(lower INTEGER, upper INTEGER, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN)[]",
        &["{}", "{[1,3),[5,)}", "{(,)}"],
        "int4multirange(int4range(1, 2), int4range(3, 4 + (random() * 100)::int))",
    ),
    case(
        "int4range[]",
        "STRUCT(lower INTEGER, upper INTEGER, lower_inc BOOLEAN, upper_inc BOOLEAN, empty BOOLEAN)[]",
        &["{NULL,empty,\"[1,4)\"}"],
        "ARRAY[int4range(1, 2)]",
    ),
    case(
        "hstore",
        "MAP(VARCHAR, VARCHAR)",
        &["", "a=>NULL,b=>\"\",\"c d\"=>\"NULL\"", "ü=>\"\\\"\""],
        "public.hstore(md5(random()::text), 'x')",
    ),
    case(
        "hstore[]",
        "MAP(VARCHAR, VARCHAR)[]",
        &["{NULL,\"\\\"a\\\"=>\\\"1\\\"\"}"],
        "ARRAY[public.hstore('a', NULL)]",
    ),
    case("tsvector", "VARCHAR", &["", "'a':1A,2B 'the ''cat''':3"], "to_tsvector('simple', md5(random()::text))"),
    case("tsquery", "VARCHAR", &["", "'a' & !'b':*A <-> 'c'"], "'x & y'::tsquery"),
    case("tsvector[]", "VARCHAR", &["{NULL,\"'a':1\"}"], "ARRAY['x'::tsvector]"),
    case("searched", "VARCHAR", &["(,)", "(\"'a':1\",3)"], "ROW('x', 1)"),
    case("cube", "VARCHAR", &["(1, 2),(3, 4)", "(0.1)"], "public.cube(random())"),
    case("seg", "VARCHAR", &["1.50 .. 2.0", "~3"], "'4 .. 5'::public.seg"),
    case("isbn", "VARCHAR", &["0-393-04002-X"], "'0-393-04002-X'::public.isbn"),
    case("aclitem", "VARCHAR", &[], "makeaclitem(10, 10, 'SELECT', false)"),
    case("txid_snapshot", "VARCHAR", &["10:20:10,14,15"], "txid_current_snapshot()"),
];

/// Rows of arbitrary values.
const ANY_ROWS: usize = 150;

/// The cases that a server of this major version knows.
fn cases(version: u32) -> Vec<&'static Case> {
    let since = |pg| match pg {
        // Scales below zero, or above the precision.
        "numeric(5,-3)" | "numeric(3,6)" => 15,
        "int4multirange" => 14,
        _ => 13,
    };
    CASES.iter().filter(|case| version >= since(case.pg)).collect()
}

/// Whether a server of this major version takes the value.
fn takes(version: u32, pg: &str, value: &str) -> bool {
    match value {
        // The only interval whose microseconds are the least there are.
        "-2562047788:00:54.775807" => version >= 15,
        _ => version >= 14 || !(pg.starts_with("num") && value.contains("Infinity")),
    }
}

fn columns(cases: &[&Case]) -> String {
    cases.iter().enumerate().map(|(index, case)| format!(", c{index} {}", case.pg)).collect()
}

/// A table of hard and arbitrary values, one column per type, the last row null everywhere.
async fn fill(client: &Client, version: u32) -> Result<usize> {
    let cases = cases(version);
    let hard = cases.iter().map(|case| case.hard.len()).max().unwrap_or(0);
    let rows = hard + ANY_ROWS + 1;
    client
        .batch_execute(&format!(
            "{TYPES} CREATE TABLE source (id int PRIMARY KEY{0}); CREATE TABLE target (LIKE source INCLUDING ALL);
             INSERT INTO source SELECT generate_series(1, {rows}); SELECT setseed(0.5)",
            columns(&cases)
        ))
        .await?;
    for (index, case) in cases.iter().enumerate() {
        for (row, value) in case.hard.iter().enumerate().filter(|(_, value)| takes(version, case.pg, value)) {
            let sql = format!("UPDATE source SET c{index} = $1::text::{} WHERE id = {}", case.pg, row + 1);
            client.execute(&sql, &[value]).await.with_context(|| format!("{value} as {}", case.pg))?;
        }
    }
    let mut sql = String::from("UPDATE source SET id = id");
    for (index, case) in cases.iter().enumerate() {
        write!(sql, ", c{index} = ({})::{}", case.any, case.pg)?;
    }
    write!(sql, " WHERE id > {hard} AND id < {rows}")?;
    client.batch_execute(&sql).await?;
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_goes_there_and_back_unchanged() -> Result<()> {
    let db = TestDb::new("types").await?;
    there_and_back(db.url(), cluster().major_version()).await
}

/// The test, in an empty database of a server of any version.
pub(crate) async fn there_and_back(url: &str, version: u32) -> Result<()> {
    let client = connect(url).await?;
    let cases = cases(version);
    // Settings that would change how values print, were the sessions to take them over.
    let name: String = client.query_one("SELECT current_database()::text", &[]).await?.get(0);
    client
        .batch_execute(&format!(
            "ALTER DATABASE {name} SET DateStyle = 'SQL, DMY'; ALTER DATABASE {name} SET IntervalStyle = 'sql_standard';
             ALTER DATABASE {name} SET TimeZone = 'Asia/Kathmandu'; ALTER DATABASE {name} SET extra_float_digits = -3;
             ALTER DATABASE {name} SET bytea_output = 'escape'"
        ))
        .await?;
    let rows = fill(&client, version).await?;

    let workspace = Workspace::at(url)?;
    std::fs::write(
        workspace.path().join("pipeline.toml"),
        "[[tables]]\nname = \"source\"\nkey = [\"id\"]\nwatermark = \"xmin\"\n[dataset]\nname = \"d\"\nkey = [\"id\"]\nphases = \"sql\"\n\
         [target]\ntable = \"d\"\nbackup = \"b\"\n",
    )?;
    workspace.run(["pull"])?.ok()?;
    duckdb_types(&workspace, &cases)?;
    seen::compare(&workspace, &client, &cases).await?;
    push_back(&workspace, url, rows, "r1").await?;
    compare(&client, &cases).await?;

    // Rows that the merge of an incremental pull copies from file to file, and rows that it takes from the server.
    client.batch_execute("UPDATE source SET c0 = NOT c0 WHERE id % 3 = 0").await?;
    let merged = workspace.run(["--json", "pull", "--incremental"])?.ok()?.json()?;
    assert_eq!(merged["tables"]["source"]["mode"], "incremental", "{merged}");
    push_back(&workspace, url, rows, "r2").await?;
    compare(&client, &cases).await
}

/// DuckDB sees the best type of every column.
fn duckdb_types(workspace: &Workspace, cases: &[&Case]) -> Result<()> {
    let described =
        workspace.run(["--json", "query", "SELECT column_name, column_type FROM (DESCRIBE source)"])?.ok()?.json()?;
    let described: BTreeMap<&str, &str> = described
        .as_array()
        .context("an array")?
        .iter()
        .filter_map(|row| Some((row["column_name"].as_str()?, row["column_type"].as_str()?)))
        .collect();
    let wrong: Vec<String> = cases
        .iter()
        .enumerate()
        .filter_map(|(index, case)| {
            let found = described.get(format!("c{index}").as_str()).copied().unwrap_or("nothing");
            (found != case.duckdb).then(|| format!("{}: {found} instead of {}", case.pg, case.duckdb))
        })
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    let citext = cases.iter().position(|case| case.pg == "citext").context("a column of citext")?;
    let alike = format!("SELECT count(*) AS n FROM source WHERE c{citext} = 'shergar'");
    let alike = workspace.run(["--json", "query", alike.as_str()])?.ok()?.json()?;
    assert_eq!(alike[0]["n"], 2, "upper and lower case are alike");
    let zoned = cases.iter().position(|case| case.pg == "timetz").context("a column of timetz")?;
    let dropped = workspace.run(["query", &format!("SELECT c{zoned} FROM source")])?;
    assert!(dropped.code == Some(1) && dropped.stderr.contains("cast it to VARCHAR"), "{dropped:?}");
    workspace.run(["query", &format!("SELECT c{zoned}::VARCHAR, '12:00'::TIME FROM source")])?.ok()?;
    Ok(())
}

/// Pushes the table of the lake over `target`.
async fn push_back(workspace: &Workspace, url: &str, rows: usize, run: &str) -> Result<()> {
    let lake = Lake::open(workspace.lake().to_str().context("a path in UTF-8")?)?;
    let manifest = lake.require_latest().await?;
    let table = &manifest.tables["source"];
    let dataset = Dataset {
        schema: Arc::clone(&table.schema),
        rows: u64::try_from(rows)?,
        batches: read_table(&lake, table).map(|batch| batch.map_err(Into::into)).boxed(),
    };
    let options = TargetOptions::new(TableName::new("public", "target"), vec!["id".to_owned()]);
    let report = push::push(&url.parse()?, &options, dataset, run, &Progress::new(), &CancellationToken::new()).await?;
    assert!(report.notes.iter().any(|note| note.contains("cast by the server")), "{:?}", report.notes);
    Ok(())
}

/// The server compares both tables, as text and with the types' own equality.
async fn compare(client: &Client, cases: &[&Case]) -> Result<()> {
    client.batch_execute("SET extra_float_digits = 1").await?;
    let mut different = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let column = format!("c{index}");
        let both = format!(
            "WITH a AS (SELECT id, {column}::text AS v FROM source), b AS (SELECT id, {column}::text AS v FROM target)
             SELECT 'sent ' || x::text FROM (TABLE a EXCEPT ALL TABLE b) x
             UNION ALL SELECT 'came ' || x::text FROM (TABLE b EXCEPT ALL TABLE a) x LIMIT 6"
        );
        let rows = client.query(&both, &[]).await.with_context(|| case.pg.to_owned())?;
        different.extend(rows.iter().map(|row| format!("{}: {}", case.pg, row.get::<_, String>(0))));
        let equal = format!(
            "SELECT count(*) FROM source JOIN target USING (id) WHERE source.{column} IS DISTINCT FROM target.{column}"
        );
        match client.query_one(&equal, &[]).await {
            Ok(row) if row.get::<_, i64>(0) == 0 => {}
            Ok(row) => different.push(format!("{}: {} rows are not equal", case.pg, row.get::<_, i64>(0))),
            // Some types have no equality; then text decides.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => {}
            Err(error) => return Err(error).context(case.pg),
        }
    }
    assert_eq!(different, Vec::<String>::new());
    Ok(())
}
