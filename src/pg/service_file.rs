//! libpq's service files: named sets of connection parameters.
//!
//! Source: PostgreSQL documentation, "The Connection Service File".

use std::fs;
use std::io;
use std::path::PathBuf;

use super::connect::ConnectError;
use super::conninfo::{Variables, unusable};

/// The user's own file, in the home folder.
const USER_FILE: &str = ".pg_service.conf";
/// The file of the whole machine, in the folder that `PGSYSCONFDIR` names.
const SYSTEM_FILE: &str = "pg_service.conf";
/// Where packages look when `PGSYSCONFDIR` names no folder: Debian's, Red Hat's, the sources' own.
const SYSTEM_FOLDERS: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];

/// The parameters of a service, from `file` or the user's file, else from the machine's.
///
/// # Errors
/// [`ConnectError::Unusable`] when no file has the service, or a line of it cannot be read.
pub(super) fn find(
    service: &str,
    file: Option<&str>,
    variables: Variables<'_>,
) -> Result<Vec<(String, String)>, ConnectError> {
    let own = file.map(PathBuf::from).or_else(|| Some(PathBuf::from(variables("HOME")?).join(USER_FILE)));
    let system = match variables("PGSYSCONFDIR") {
        Some(folder) => vec![PathBuf::from(folder).join(SYSTEM_FILE)],
        None => SYSTEM_FOLDERS.iter().map(|folder| PathBuf::from(folder).join(SYSTEM_FILE)).collect(),
    };
    let mut looked_at = Vec::new();
    for path in own.into_iter().chain(system) {
        let shown = path.display().to_string();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unusable(format!("cannot read the service file {shown}: {error}"))),
        };
        if let Some(pairs) = section(&text, service, &shown)? {
            return Ok(pairs);
        }
        looked_at.push(shown);
    }
    let places = if looked_at.is_empty() { "any service file: there is none".to_owned() } else { looked_at.join(", ") };
    Err(unusable(format!("there is no service {service} in {places}")))
}

/// The lines below `[service]`; none when the file has no such section.
fn section(text: &str, service: &str, file: &str) -> Result<Option<Vec<(String, String)>>, ConnectError> {
    let mut pairs: Option<Vec<(String, String)>> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            if pairs.is_some() {
                break;
            }
            if name == service {
                pairs = Some(Vec::new());
            }
        } else if let Some(pairs) = &mut pairs {
            let refused = |what: &str| unusable(format!("line {} of {file} {what}", number + 1));
            let (name, value) = line.split_once('=').ok_or_else(|| refused("has no ="))?;
            if ["service", "servicefile"].contains(&name) {
                return Err(refused("names a service within a service"));
            }
            // As libpq: the first of several counts.
            if pairs.iter().all(|pair| pair.0 != name) {
                pairs.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn the_machines_file_is_asked_after_the_users() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(USER_FILE), "[a]\nhost=own\n").unwrap();
        fs::write(folder.path().join(SYSTEM_FILE), "[a]\nhost=system\n[b]\n host=system \nhost=second\n").unwrap();
        let here = folder.path().display().to_string();
        let variables = |name: &str| ["HOME", "PGSYSCONFDIR"].contains(&name).then(|| here.clone());
        let host = |service: &str| find(service, None, &variables).map(|pairs| pairs[0].1.clone());
        assert_eq!((host("a").unwrap(), host("b").unwrap()), ("own".to_owned(), "system".to_owned()));
        assert!(host("c").unwrap_err().to_string().contains(SYSTEM_FILE));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for (line, said) in [("nonsense", "line 2 of f has no ="), ("service=b", "line 2 of f names a service")] {
            let error = section(&format!("[a]\n{line}\n"), "a", "f").unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
