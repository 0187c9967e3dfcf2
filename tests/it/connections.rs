//! Every way to reach a server: plain, encrypted with each kind of trust, and by a socket file. A COPY runs over each,
//! because its rows leave the connection below the client library.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use racealpha::pg::{ConnectError, DatabaseUrl, LocalServer, ServerOptions, Session};
use racealpha::wire::CopyDecoder;
use tempfile::TempDir;

use crate::support::{Standby, Workspace, cluster, connect, password};

/// Rows of the test's COPY: more than one block of them.
const ROWS: u64 = 40_000;
/// Who may log in how; the roles say it in their names.
const LOGINS: &str = "host all by_md5 all md5\nhost all by_password all password\nhostssl all only_tls all scram-sha-256\n\
     hostnossl all only_plain all scram-sha-256\nhostssl all by_certificate all cert\n\
     host all only_tls,only_plain,by_certificate all reject\nhost all all all scram-sha-256\nlocal all all scram-sha-256\n";
/// The socket in the abstract name space, which no file stands for.
const ABSTRACT: &str = "@racealpha-test";

/// A server that speaks TLS with a certificate for `localhost` and listens on a socket file in `folder`. The folder
/// gets the certificates: the server's, a stranger's, and the one that the role `by_certificate` shows.
async fn encrypted_server(folder: &Path) -> Result<LocalServer> {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.join("server.crt"), certificate.cert.pem())?;
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.join("stranger.crt"), stranger.cert.pem())?;
    let mut client = rcgen::CertificateParams::new(Vec::new())?;
    client.distinguished_name.push(rcgen::DnType::CommonName, "by_certificate");
    let client_key = rcgen::KeyPair::generate()?;
    let client = client.self_signed(&client_key)?;
    fs::write(folder.join("client.crt"), client.pem())?;
    fs::write(folder.join("client.key"), client_key.serialize_pem())?;
    fs::set_permissions(folder.join("client.key"), fs::Permissions::from_mode(0o600))?;

    let sockets = format!("{},{ABSTRACT}-{}", folder.display(), std::process::id());
    let options = ServerOptions::default().set("unix_socket_directories", sockets);
    let mut server = LocalServer::start(&options)?;
    let session = connect(server.url().as_str()).await?;
    for (file, text) in [
        ("server.crt", certificate.cert.pem()),
        ("server.key", certificate.signing_key.serialize_pem()),
        ("clients.crt", client.pem()),
        ("pg_hba.conf", LOGINS.to_owned()),
    ] {
        // The server writes its own files: it runs as a user of its own, and refuses a key that others can read.
        let lines: Vec<String> = text.lines().map(|line| format!("('{line}')")).collect();
        session
            .batch_execute(&format!("COPY (VALUES {}) TO PROGRAM 'umask 077; cat > {file}'", lines.join(", ")))
            .await?;
    }
    for role in ["by_md5", "by_password", "only_tls", "only_plain", "by_certificate"] {
        let encryption = if role == "by_md5" { "md5" } else { "scram-sha-256" };
        let create = format!("SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN PASSWORD 'it''s'");
        session.batch_execute(&create).await?;
    }
    for setting in ["ssl = on", "ssl_ca_file = 'clients.crt'"] {
        session.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    server.restart()?;
    Ok(server)
}

/// A folder in which another user's server may create its socket.
fn shared_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("racealpha-tls").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

/// Copies rows over a new session and tells whether it is encrypted.
async fn copy_over(url: &str) -> Result<bool> {
    let url: DatabaseUrl = url.parse()?;
    let mut session = Session::open(&url, "test").await?;
    let encrypted = session.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await?.get(0);
    let mut decoder = CopyDecoder::new(2);
    let sql =
        format!("COPY (SELECT n, repeat('x', 20) FROM generate_series(1, {ROWS}) AS n) TO STDOUT (FORMAT binary)");
    let mut copy = session.copy_out(&sql).await?;
    while let Some(block) = copy.next().await? {
        decoder.push_block(block)?;
        decoder.clear_block();
    }
    assert_eq!((decoder.finish()?, copy.rows()), (ROWS, ROWS));
    // The session can be used on.
    assert_eq!(session.query_one("SELECT 7", &[]).await?.get::<_, i32>(0), 7);
    Ok(encrypted)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_over_every_kind_of_connection() -> Result<()> {
    let folder = shared_folder()?;
    let server = encrypted_server(folder.path()).await?;
    let plain = server.url().as_str().to_owned();
    let by_name = plain.replace("127.0.0.1", "localhost");
    let root = |file: &str| format!("sslrootcert={}", folder.path().join(file).display());

    assert!(copy_over(&plain).await?, "TLS is preferred where the server has it");
    assert!(!copy_over(&format!("{plain}?sslmode=disable")).await?);
    assert!(copy_over(&format!("{plain}?sslmode=require")).await?);
    assert!(copy_over(&format!("{plain}?sslmode=require&channel_binding=require")).await?);
    assert!(copy_over(&format!("{plain}?sslmode=verify-ca&{}", root("server.crt"))).await?);
    assert!(copy_over(&format!("{by_name}?sslmode=verify-full&{}", root("server.crt"))).await?);
    for (url, why) in [
        (format!("{plain}?sslmode=verify-full&{}", root("server.crt")), "the certificate is for another name"),
        (format!("{by_name}?sslmode=verify-full&{}", root("stranger.crt")), "somebody else's certificate is trusted"),
        (format!("{plain}?sslmode=verify-ca&{}", root("stranger.crt")), "somebody else's certificate is trusted"),
    ] {
        assert!(copy_over(&url).await.is_err(), "{why}");
    }

    for host in [folder.path().display().to_string(), format!("{ABSTRACT}-{}", std::process::id())] {
        let login = format!("user=postgres password={} dbname=postgres", password(&server)?);
        assert!(!copy_over(&format!("host={host} port={} {login}", server.port())).await?, "{host}");
    }

    // Each way to log in, and the way that sslmode leads to where the server takes only one.
    let of = |role: &str, rest: &str| format!("postgres://{role}:it%27s@127.0.0.1:{}/postgres?{rest}", server.port());
    assert!(copy_over(&of("by_md5", "")).await?);
    assert!(!copy_over(&of("by_password", "sslmode=allow")).await?);
    assert!(copy_over(&of("only_tls", "sslmode=allow")).await?);
    assert!(!copy_over(&of("only_plain", "sslmode=prefer")).await?);
    let certificate = |key: &str| {
        let path = |file: &str| folder.path().join(file).display().to_string();
        of("by_certificate", &format!("sslmode=require&sslcert={}&sslkey={}", path("client.crt"), path(key)))
    };
    assert!(copy_over(&certificate("client.key")).await?);
    for url in [of("only_plain", "sslmode=require"), of("only_tls", "sslmode=disable"), of("by_certificate", "")] {
        let error = copy_over(&url).await.expect_err("the server takes it the other way only");
        assert!(matches!(error.downcast_ref(), Some(ConnectError::LoginRefused { .. })), "{error:?}");
    }
    fs::set_permissions(folder.path().join("client.key"), fs::Permissions::from_mode(0o644))?;
    let error = copy_over(&certificate("client.key")).await.expect_err("others may read the key");
    assert!(format!("{error:#}").contains("others may read this private key"), "{error:#}");

    // The operating system's certificates are whatever it says they are.
    let workspace = Workspace::at(&format!("{by_name}?sslrootcert=system"))?;
    for (trusted, code) in [("server.crt", 0), ("stranger.crt", 1)] {
        let mut command = workspace.command(["--json", "pull", "races"]);
        let output = command.env("SSL_CERT_FILE", folder.path().join(trusted)).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let answers = said.contains("table public.races does not exist");
        assert_eq!(answers, code == 0, "{trusted}: {said}");
        assert!(answers || said.contains("as safe as sslmode asks for"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_it_is_asked_for() -> Result<()> {
    let url = crate::support::cluster().url();
    let error = copy_over(&format!("{}?sslmode=require", url.as_str())).await.expect_err("there is no TLS");
    assert!(format!("{error:#}").contains("does not speak TLS"), "{error:#}");
    assert!(!copy_over(url.as_str()).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_copy_tells_the_servers_reason_after_the_rows_before_it() -> Result<()> {
    let url: DatabaseUrl = crate::support::cluster().url().as_str().parse()?;
    let mut session = Session::open(&url, "test").await?;
    let sql = format!("COPY (SELECT 1 / ({ROWS} - n) FROM generate_series(1, {ROWS}) AS n) TO STDOUT (FORMAT binary)");
    let mut copy = session.copy_out(&sql).await?;
    let error = loop {
        match copy.next().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("the division by zero was not seen"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("22012"));
    assert_eq!(session.query_one("SELECT 7", &[]).await?.get::<_, i32>(0), 7);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_tried_until_one_is_of_the_kind_that_is_wanted() -> Result<()> {
    let primary = LocalServer::start(&ServerOptions::default())?;
    let client = connect(primary.url().as_str()).await?;
    client
        .batch_execute("CREATE TABLE public.races AS SELECT n AS race_id, date '2020-01-01' + n % 700 AS race_date, repeat('x', 30) FROM generate_series(1, 50000) AS n")
        .await?;
    let standby = Standby::of(&primary, &[]).await?;
    let password = password(&primary)?;
    // A host that takes connections and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let silent = silent.local_addr()?.port();
    let (first, second) = (standby.port, primary.port());
    let hosts = |rest: &str| {
        format!(
            "postgres://postgres:{password}@127.0.0.1:{silent},127.0.0.1:1,127.0.0.1:{first},127.0.0.1:{second}/postgres?connect_timeout=1&{rest}"
        )
    };
    let found = async |rest: &str| -> Result<bool> {
        let url: DatabaseUrl = hosts(rest).parse()?;
        let session = Session::open(&url, "test").await?;
        Ok(session.query_typed_one("SELECT pg_is_in_recovery()", &[]).await?.get(0))
    };
    for wanted in ["any", "read-only", "standby", "prefer-standby"] {
        assert!(found(&format!("target_session_attrs={wanted}")).await?, "{wanted}");
    }
    for wanted in ["read-write", "primary"] {
        assert!(!found(&format!("target_session_attrs={wanted}")).await?, "{wanted}");
    }
    assert!(!found("target_session_attrs=primary&load_balance_hosts=random").await?);
    let only = format!("{}?target_session_attrs=standby", primary.url().as_str());
    let error = Session::open(&only.parse()?, "test").await.expect_err("a primary is no standby");
    assert!(matches!(error, ConnectError::WrongKind { .. }) && error.is_unreachable(), "{error}");
    let prefers = format!("{}?target_session_attrs=prefer-standby", primary.url().as_str());
    Session::open(&prefers.parse()?, "test").await?;

    // All connections of a pull go to the server that has the snapshot.
    let lsn: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let watcher = connect(&format!("postgres://postgres:{password}@127.0.0.1:{first}/postgres")).await?;
    loop {
        let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        if watcher.query_one(&caught_up, &[]).await?.get(0) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let workspace = Workspace::at(&hosts("target_session_attrs=standby&load_balance_hosts=random"))?;
    let report = workspace.run(["--json", "pull", "races"])?.ok()?.json()?;
    assert_eq!(report["tables"]["races"]["rows"].as_u64(), Some(50_000), "{report:#}");
    assert!(report["snapshot"]["wal_position"].is_null());
    Ok(())
}

/// Everything that libpq reads from the environment and from files, by the real program.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_a_service_and_the_password_file_complete_a_connection() -> Result<()> {
    let server = cluster();
    let workspace = Workspace::new()?;
    let (home, port) = (workspace.path().to_owned(), server.port().to_string());
    let secret = password(server)?;
    fs::write(home.join(".pgpass"), format!("# ours\n127.0.0.1:{port}:*:postgres:{secret}\n"))?;
    fs::set_permissions(home.join(".pgpass"), fs::Permissions::from_mode(0o600))?;
    fs::write(home.join(".pg_service.conf"), format!("[stud]\nhost=127.0.0.1\nport={port}\nuser=postgres\n"))?;
    let status = |variables: &[(&str, &str)]| -> Result<(String, String)> {
        let mut command = workspace.command(["--json", "-vvv", "status"]);
        command.env("HOME", &home).envs(variables.iter().copied());
        let output = command.output()?;
        Ok((String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };
    let reaches = |variables: &[(&str, &str)]| -> Result<bool> {
        let (stdout, stderr) = status(variables)?;
        assert!(!stdout.contains(&secret) && !stderr.contains(&secret), "{stdout}{stderr}");
        let report: serde_json::Value = serde_json::from_str(&stdout).with_context(|| stderr)?;
        Ok(report["source"]["reachable"] == serde_json::Value::Bool(true))
    };
    let here = [("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")];
    assert!(reaches(&here)?);
    assert!(reaches(&[("PGSERVICE", "stud")])?);
    assert!(reaches(&[("DATABASE_URL", "service=stud dbname=postgres"), ("PGPORT", "1")])?);
    assert!(reaches(&[("DATABASE_URL", "postgres:///postgres?service=stud"), ("PGPASSWORD", &secret)])?);
    assert!(!reaches(&[("DATABASE_URL", "service=stud"), ("PGPASSWORD", "wrong")])?, "the file comes last");
    assert!(!reaches(&[("DATABASE_URL", "service=stud port=1")])?, "the text comes first");
    assert!(!reaches(&[("DATABASE_URL", "service=stud"), ("PGPASSFILE", "/nowhere")])?);
    assert!(!reaches(&[("DATABASE_URL", "service=stud"), ("PGSSLMODE", "require")])?);

    // Others may read the file: it is not used, and the program says so.
    fs::set_permissions(home.join(".pgpass"), fs::Permissions::from_mode(0o644))?;
    let (stdout, stderr) = status(&here)?;
    assert!(stdout.contains("asks for a password"), "{stdout}");
    assert!(stderr.contains("others may read the password file"), "{stderr}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_named_and_a_pull_cannot_write() -> Result<()> {
    let url = cluster().url();
    let named = async |rest: &str| -> Result<String> {
        let session = Session::open(&format!("{}{rest}", url.as_str()).parse()?, "pull").await?;
        Ok(session.query_typed_one("SELECT current_setting('application_name')", &[]).await?.get(0))
    };
    assert_eq!(named("").await?, "racealpha pull");
    assert_eq!(named("?application_name=nightly").await?, "nightly pull");
    let session = Session::open(&format!("{}?options=-c%20work_mem%3D7MB", url.as_str()).parse()?, "test").await?;
    session.begin_read_only(None).await?;
    let row = session
        .query_typed_one(
            "SELECT current_setting('work_mem'), current_setting('transaction_read_only'), \
                    current_setting('transaction_isolation'), current_setting('search_path')",
            &[],
        )
        .await?;
    let settings = [0, 1, 2, 3].map(|column| row.get::<_, String>(column));
    assert_eq!(settings, ["7MB", "on", "repeatable read", "pg_catalog"]);
    let error = session.batch_execute("CREATE TABLE public.written ()").await.expect_err("nothing can be written");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("25006"));
    Ok(())
}

/// The password is in no log at any level, in no error, in no answer, and not among what the server shows of us.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_told_to_nobody() -> Result<()> {
    let db = crate::support::racing("secret", 30).await?;
    let client = db.client().await?;
    let secret = "h0rse-battery";
    client.batch_execute(&format!("CREATE ROLE secretive SUPERUSER LOGIN PASSWORD '{secret}'")).await?;
    let url = format!("postgres://secretive:{secret}@127.0.0.1:{}/{}", cluster().port(), db.name());
    let workspace = Workspace::at(&url)?;
    let wrong = Workspace::at(&url.replace("secretive", "nobody"))?;
    let broken = Workspace::at(&url.replace("127.0.0.1:", "127.0.0.1:x"))?;
    let odd = Workspace::at(&format!("{url}?sslmode=of-{secret}"))?;
    for (workspace, commands) in [
        (&workspace, vec!["status", "pull", "run", "preview", "push", "rollback", "history"]),
        (&wrong, vec!["status", "pull"]),
        (&broken, vec!["status", "pull"]),
        (&odd, vec!["status", "pull"]),
    ] {
        for command in commands {
            let arguments = ["--json", "-vvv", "--set", "validate.min_rows=1", command];
            let output = workspace.command(arguments).env("RUST_LOG", "trace").output()?;
            let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            assert!(said.iter().all(|text| !text.contains(secret)), "{command}: {said:?}");
        }
    }
    for file in ["runs", "manifest"].into_iter().flat_map(|folder| workspace.lake_files(folder)) {
        assert!(!fs::read_to_string(&file)?.contains(secret), "{}", file.display());
    }
    let session = Session::open(&url.parse()?, "test").await?;
    let shown: String = client
        .query_one("SELECT string_agg(a::text, ' ') FROM pg_stat_activity a WHERE usename = 'secretive'", &[])
        .await?
        .get(0);
    assert!(shown.contains("racealpha test") && !shown.contains(secret), "{shown}");
    assert!(!format!("{session:?}").contains(secret));
    drop(session);
    client.batch_execute("ALTER ROLE secretive NOLOGIN").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_stays_within_its_rate() -> Result<()> {
    let db = crate::support::TestDb::new("rate").await?;
    let client = db.client().await?;
    client
        .batch_execute("CREATE TABLE public.races AS SELECT n AS race_id, date '2020-01-01' + n % 700 AS race_date, repeat('x', 100) FROM generate_series(1, 60000) AS n")
        .await?;
    let workspace = Workspace::at(db.url())?;
    let megabytes = 4.0;
    for arguments in [["--max-rate", "4"], ["--set", "pull.max_rate=4"]] {
        let report = workspace.run([["--json", "pull", "races"].as_slice(), &arguments].concat())?.ok()?.json()?;
        let bytes = report["tables"]["races"]["wire_bytes"].as_f64().context("bytes")?;
        let seconds = report["seconds"].as_f64().context("seconds")?;
        assert!(bytes > 6e6, "{report:#}");
        assert!(bytes / seconds <= megabytes * 1e6, "{bytes} bytes in {seconds} s");
    }
    let ran = workspace.run(["pull", "races", "--max-rate", "0"])?;
    assert!(ran.code == Some(2) && ran.stderr.contains("more than 0"), "{ran:?}");
    Ok(())
}
