//! Every way to reach a server: plain, encrypted with each kind of trust, and by a socket file. A COPY runs over each,
//! because its rows leave the connection below the client library.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use racealpha::pg::{DatabaseUrl, LocalServer, ServerOptions, Session};
use racealpha::wire::CopyDecoder;

use crate::support::connect;

/// Rows of the test's COPY: more than one block of them.
const ROWS: u64 = 40_000;

/// A server that speaks TLS with a certificate for `localhost` and listens on a socket file in `folder`.
async fn encrypted_server(folder: &Path) -> Result<LocalServer> {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.join("server.crt"), certificate.cert.pem())?;
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.join("stranger.crt"), stranger.cert.pem())?;
    let options = ServerOptions::default().set("unix_socket_directories", folder.display().to_string());
    let mut server = LocalServer::start(&options)?;
    let client = connect(server.url().as_str()).await?;
    for (file, pem) in [("server.crt", certificate.cert.pem()), ("server.key", certificate.signing_key.serialize_pem())]
    {
        // The server writes its own files: it runs as a user of its own, and refuses a key that others can read.
        let lines: Vec<String> = pem.lines().map(|line| format!("('{line}')")).collect();
        client
            .batch_execute(&format!("COPY (VALUES {}) TO PROGRAM 'umask 077; cat > {file}'", lines.join(", ")))
            .await?;
    }
    client.batch_execute("ALTER SYSTEM SET ssl = on").await?;
    server.restart()?;
    Ok(server)
}

/// Copies rows over a new session and tells whether it is encrypted.
async fn copy_over(url: &str) -> Result<bool> {
    let url: DatabaseUrl = url.parse()?;
    let mut session = Session::open(&url, "racealpha connection test").await?;
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
    let folder = tempfile::Builder::new().prefix("racealpha-tls").tempdir()?;
    // Another user's server creates its socket here.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
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

    let password = plain.split(['/', ':', '@']).nth(4).context("a URL with a password")?;
    let socket = format!(
        "host={} port={} user=postgres password={password} dbname=postgres",
        folder.path().display(),
        server.port()
    );
    assert!(!copy_over(&socket).await?);
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
    let mut session = Session::open(&url, "racealpha connection test").await?;
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
