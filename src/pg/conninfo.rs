//! libpq's connection parameters: read from a URL or `key=value` text, completed from a service file and the
//! environment. Names are libpq's; one that we cannot honour is refused rather than passed over.
//!
//! ```text
//! connection string  >  service file  >  environment  >  defaults
//! ```
//! Source: PostgreSQL documentation, "Connection Strings", "Environment Variables", "The Connection Service File".

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::connect::ConnectError;
use super::service_file;

/// Reads one variable of the environment; empty ones count as absent.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How alike an unknown name must be to a known one for that to be suggested.
const SUGGESTION_SIMILARITY: f64 = 0.7;
const URL_SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What becomes of a parameter.
enum Rule {
    /// It does what libpq's documentation says.
    Honoured,
    /// It may say only what is so anyhow.
    Only(&'static [&'static str]),
    /// It concerns nothing that we do.
    Harmless,
    /// Passing over it would make a connection less safe than was asked for.
    Refused,
}

use Rule::{Harmless, Honoured, Only, Refused};

/// Every parameter of libpq 18, with its variable.
const KNOWN: [(&str, Option<&str>, Rule); 52] = [
    ("service", Some("PGSERVICE"), Honoured),
    ("servicefile", Some("PGSERVICEFILE"), Honoured),
    ("host", Some("PGHOST"), Honoured),
    ("hostaddr", Some("PGHOSTADDR"), Honoured),
    ("port", Some("PGPORT"), Honoured),
    ("dbname", Some("PGDATABASE"), Honoured),
    ("user", Some("PGUSER"), Honoured),
    ("password", Some("PGPASSWORD"), Honoured),
    ("passfile", Some("PGPASSFILE"), Honoured),
    ("application_name", Some("PGAPPNAME"), Honoured),
    ("fallback_application_name", None, Honoured),
    ("options", Some("PGOPTIONS"), Honoured),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT"), Honoured),
    ("keepalives", None, Honoured),
    ("keepalives_idle", None, Honoured),
    ("keepalives_interval", None, Honoured),
    ("keepalives_count", None, Honoured),
    ("tcp_user_timeout", None, Honoured),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Honoured),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Honoured),
    ("channel_binding", Some("PGCHANNELBINDING"), Honoured),
    ("sslmode", Some("PGSSLMODE"), Honoured),
    ("sslnegotiation", Some("PGSSLNEGOTIATION"), Honoured),
    ("sslrootcert", Some("PGSSLROOTCERT"), Honoured),
    ("sslcert", Some("PGSSLCERT"), Honoured),
    ("sslkey", Some("PGSSLKEY"), Honoured),
    ("sslsni", Some("PGSSLSNI"), Honoured),
    ("client_encoding", Some("PGCLIENTENCODING"), Only(&["utf8", "utf-8", "unicode", "auto"])),
    ("replication", None, Only(&["false", "off", "no", "0"])),
    ("sslcertmode", Some("PGSSLCERTMODE"), Only(&["allow"])),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Only(&["tlsv1", "tlsv1.1", "tlsv1.2"])),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Only(&["tlsv1.3"])),
    ("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Only(&["3.0"])),
    ("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), Only(&["3.0", "3.2", "latest"])),
    ("gssencmode", Some("PGGSSENCMODE"), Only(&["disable", "prefer"])),
    ("gssdelegation", Some("PGGSSDELEGATION"), Only(&["0"])),
    ("krbsrvname", Some("PGKRBSRVNAME"), Harmless),
    ("gsslib", Some("PGGSSLIB"), Harmless),
    ("sslcompression", Some("PGSSLCOMPRESSION"), Harmless),
    // An encrypted key cannot be read, and says so itself.
    ("sslpassword", None, Harmless),
    ("sslcrl", Some("PGSSLCRL"), Refused),
    ("sslcrldir", Some("PGSSLCRLDIR"), Refused),
    ("sslkeylogfile", None, Refused),
    ("require_auth", Some("PGREQUIREAUTH"), Refused),
    ("requirepeer", Some("PGREQUIREPEER"), Refused),
    ("requiressl", Some("PGREQUIRESSL"), Refused),
    ("scram_client_key", None, Refused),
    ("scram_server_key", None, Refused),
    ("oauth_issuer", None, Refused),
    ("oauth_client_id", None, Refused),
    ("oauth_client_secret", None, Refused),
    ("oauth_scope", None, Refused),
];

/// The parameters of one connection, each with its final value.
#[derive(Default)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Reads a connection string and completes it.
    ///
    /// # Errors
    /// [`ConnectError::Unusable`], which never quotes a value: a string that is not well formed may have its password
    /// anywhere.
    pub(super) fn resolve(text: &str, variables: Variables<'_>) -> Result<Self, ConnectError> {
        let mut parameters = Self::default();
        for (name, value) in pairs(text)? {
            parameters.0.insert(known(&name)?, value);
        }
        for name in ["service", "servicefile"] {
            parameters.take_variable(name, variables);
        }
        if let Some(service) = parameters.get("service") {
            for (name, value) in service_file::find(service, parameters.get("servicefile"), variables)? {
                parameters.0.entry(known(&name)?).or_insert(value);
            }
        }
        for (name, _, _) in &KNOWN {
            parameters.take_variable(name, variables);
        }
        parameters.0.retain(|_, value| !value.is_empty());
        parameters.check()?;
        Ok(parameters)
    }

    /// A value that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn take_variable(&mut self, name: &'static str, variables: Variables<'_>) {
        let variable = KNOWN.iter().find(|known| known.0 == name).and_then(|known| known.1);
        if let Some(value) = variable.filter(|_| !self.0.contains_key(name)).and_then(variables) {
            self.0.insert(name, value);
        }
    }

    fn check(&self) -> Result<(), ConnectError> {
        for (name, variable, rule) in &KNOWN {
            let Some(value) = self.get(name) else { continue };
            let or_variable = variable.map(|variable| format!(" (or {variable})")).unwrap_or_default();
            match rule {
                Honoured | Harmless => {}
                Only(values) if values.contains(&value.to_ascii_lowercase().as_str()) => {}
                Only(values) => {
                    let values = values.join(", ");
                    return Err(unusable(format!("{name}{or_variable} can only be {values} here")));
                }
                Refused => {
                    return Err(unusable(format!("the parameter {name}{or_variable} is not supported; leave it out")));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn unusable(what: impl Into<String>) -> ConnectError {
    ConnectError::Unusable { what: what.into() }
}

/// The name as it is known, or an error with the nearest one.
fn known(name: &str) -> Result<&'static str, ConnectError> {
    if let Some(known) = KNOWN.iter().find(|known| known.0 == name) {
        return Ok(known.0);
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        // It may be the rest of a password with an unescaped character in it.
        return Err(unusable("a parameter's name has characters other than letters, digits and _"));
    }
    let nearest = KNOWN
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known.0), known.0))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity >= SUGGESTION_SIMILARITY);
    Err(unusable(match nearest {
        Some((_, nearest)) => format!("there is no parameter {name}; did you mean {nearest}?"),
        // It may be the rest of a password as well.
        None => "a parameter's name is none of libpq's, nor like one".to_owned(),
    }))
}

/// The parameters that a text gives, in its order.
fn pairs(text: &str) -> Result<Vec<(String, String)>, ConnectError> {
    let text = text.trim();
    if let Some(rest) = URL_SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return url_pairs(rest);
    }
    if !text.is_empty() && (text.contains("://") || !text.contains('=')) {
        return Err(unusable("expected postgres://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs"));
    }
    key_value_pairs(text)
}

/// `[user[:password]@][host[:port],…][/database][?name=value&…]`, with `%` codes anywhere.
fn url_pairs(rest: &str) -> Result<Vec<(String, String)>, ConnectError> {
    let mut pairs = Vec::new();
    let mut add = |name: &str, text: &str| -> Result<(), ConnectError> {
        if !text.is_empty() {
            pairs.push((name.to_owned(), decoded(text)?));
        }
        Ok(())
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    add("user", user)?;
    add("password", password)?;
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (name, after) = rest.split_once(']').ok_or_else(|| unusable("an IPv6 address has no closing ]"))?;
                let port = if after.is_empty() { Some("") } else { after.strip_prefix(':') };
                (name, port.ok_or_else(|| unusable("only a port may follow an IPv6 address"))?)
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(name);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        add("host", &names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    add("dbname", database)?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(|| unusable("a parameter of the URL has no ="))?;
        match (decoded(name)?.as_str(), decoded(value)?) {
            // What JDBC calls it.
            ("ssl", value) if value == "true" => pairs.push(("sslmode".to_owned(), "require".to_owned())),
            (name, value) => pairs.push((name.to_owned(), value)),
        }
    }
    Ok(pairs)
}

fn decoded(text: &str) -> Result<String, ConnectError> {
    let codes_are_whole = text.split('%').skip(1).all(|after| {
        let code = after.as_bytes().get(..2).unwrap_or_default();
        code.len() == 2 && code.iter().all(u8::is_ascii_hexdigit) && code != b"00"
    });
    if !codes_are_whole {
        return Err(unusable(
            "a % of the URL is not followed by two hexadecimal digits; write %25 for the sign itself",
        ));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| unusable("the % codes of the URL are not UTF-8"))
}

/// `name = value`, with values in single quotes where they are empty or hold spaces, and `\` before `'` and `\`.
fn key_value_pairs(text: &str) -> Result<Vec<(String, String)>, ConnectError> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| unusable("a parameter has no ="))?;
        let name = name.trim();
        if name.contains(char::is_whitespace) {
            return Err(unusable("a parameter has no ="));
        }
        let after = after.trim_start();
        let (quoted, mut chars) = match after.strip_prefix('\'') {
            Some(inside) => (true, inside.char_indices()),
            None => (false, after.char_indices()),
        };
        let mut value = String::new();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => value.extend(chars.next().map(|(_, escaped)| escaped)),
                Some((at, '\'')) if quoted => break Some(at + 2),
                Some((at, space)) if !quoted && space.is_whitespace() => break Some(at),
                Some((_, plain)) => value.push(plain),
                None if quoted => return Err(unusable("a value has no closing quote")),
                None => break None,
            }
        };
        pairs.push((name.to_owned(), value));
        rest = end.map_or("", |end| after[end..].trim_start());
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Parameters, String> {
        let lookup = |name: &str| variables.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
        Parameters::resolve(text, &lookup).map_err(|error| error.to_string())
    }

    fn all(text: &str) -> Vec<(&'static str, String)> {
        resolve(text, &[]).unwrap().0.into_iter().collect()
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        let own = |pairs: &[(&'static str, &str)]| pairs.iter().map(|(k, v)| (*k, (*v).to_owned())).collect::<Vec<_>>();
        assert_eq!(all("postgres://"), own(&[]));
        assert_eq!(all("postgresql:///d"), own(&[("dbname", "d")]));
        assert_eq!(
            all("postgres://ann:p%40ss%2f@h1:1,[::1]:2,h3/my%20db?sslmode=require&connect_timeout=3"),
            own(&[
                ("connect_timeout", "3"),
                ("dbname", "my db"),
                ("host", "h1,::1,h3"),
                ("password", "p@ss/"),
                ("port", "1,2,"),
                ("sslmode", "require"),
                ("user", "ann")
            ])
        );
        assert_eq!(
            all("postgres://%2Ftmp/d?ssl=true"),
            own(&[("dbname", "d"), ("host", "/tmp"), ("sslmode", "require")])
        );
        assert_eq!(
            all(r"host = h  password='it\'s \\ one' dbname=a\ b user=''"),
            own(&[("dbname", "a b"), ("host", "h"), ("password", r"it's \ one")])
        );
    }

    #[test]
    fn what_cannot_be_used_is_named_without_its_value() {
        for (text, said) in [
            ("postgres://u:p@h/d?sslmod=require", "no parameter sslmod; did you mean sslmode?"),
            ("postgres://h/d?require_auth=md5", "require_auth (or PGREQUIREAUTH) is not supported"),
            ("host=h gssencmode=require", "gssencmode (or PGGSSENCMODE) can only be disable, prefer here"),
            ("postgres://u:s3c%ret@h/d", "write %25"),
            ("postgres://u:s3c?ret@h/d", "has no ="),
            ("postgres://u:x?s3c=et@h", "is none of libpq's"),
            ("postgres://h?s3c-ret=1", "characters other than"),
            ("mysql://u:s3cret@h/d", "expected postgres://"),
            ("s3cret", "expected postgres://"),
            ("host='s3cret", "no closing quote"),
            ("host s3cret=1", "has no ="),
        ] {
            let error = resolve(text, &[]).err().unwrap();
            assert!(error.contains(said) && !error.contains("s3c"), "{text}: {error}");
        }
        assert!(resolve("host=h", &[("PGREQUIREPEER", "x")]).err().unwrap().contains("PGREQUIREPEER"));
    }

    #[test]
    fn text_beats_service_beats_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pg_service.conf");
        std::fs::write(&file, "# one\n[stud]\nhost=from_file\nport=7\nuser=from_file\n\n[other]\nhost=x\n").unwrap();
        let file = file.display().to_string();
        let variables =
            [("PGSERVICEFILE", file.as_str()), ("PGSERVICE", "other"), ("PGUSER", "me"), ("PGAPPNAME", "a")];
        let found = resolve("service=stud port=8", &variables).unwrap();
        let values = ["host", "port", "user", "application_name"].map(|name| found.get(name).unwrap().to_owned());
        assert_eq!(values, ["from_file", "8", "from_file", "a"]);
        assert!(resolve("service=none", &variables).err().unwrap().contains("there is no service none in"));
    }
}
