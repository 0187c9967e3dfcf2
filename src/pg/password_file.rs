//! libpq's password file, `~/.pgpass`: the password of a server, where neither text nor environment has one.
//!
//! Source: PostgreSQL documentation, "The Password File".

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::conninfo::Variables;

/// The user's file, in the home folder.
const USER_FILE: &str = ".pgpass";
/// What anybody but the owner may do with the file: it must be nothing.
const OTHERS: u32 = 0o077;

/// The entries of a password file.
pub(super) struct PasswordFile(String);

impl PasswordFile {
    /// Reads `passfile`, or the user's file. One that others may read is passed over with a warning, as libpq does.
    pub(super) fn read(passfile: Option<&str>, variables: Variables<'_>) -> Self {
        let path = passfile.map(PathBuf::from).or_else(|| Some(PathBuf::from(variables("HOME")?).join(USER_FILE)));
        Self(path.and_then(|path| contents(&path)).unwrap_or_default())
    }

    /// The password of the first entry that matches.
    pub(super) fn password(&self, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        self.0.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let fields = fields(line);
            let [names @ .., password] = fields.as_slice() else { return None };
            let matches = names.len() == wanted.len()
                && names.iter().zip(wanted).all(|(name, wanted)| matches!(name, Field::Any) || name.text() == wanted);
            (matches && !password.text().is_empty()).then(|| password.text().to_owned())
        })
    }
}

fn contents(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    if !found.is_file() {
        tracing::warn!(file = %path.display(), "the password file is not a plain file and is not used");
        return None;
    }
    if found.permissions().mode() & OTHERS != 0 {
        tracing::warn!(file = %path.display(), "others may read the password file, so it is not used; chmod 0600 helps");
        return None;
    }
    fs::read_to_string(path).inspect_err(|error| tracing::warn!(%error, "cannot read the password file")).ok()
}

enum Field {
    /// A bare `*`.
    Any,
    Text(String),
}

impl Field {
    fn text(&self) -> &str {
        match self {
            Self::Any => "*",
            Self::Text(text) => text,
        }
    }
}

/// `host:port:database:user:password`; `\` makes the next character an ordinary one.
fn fields(line: &str) -> Vec<Field> {
    let (mut fields, mut text, mut is_plain) = (Vec::new(), String::new(), true);
    let mut chars = line.chars();
    let field = |text: String, is_plain| if is_plain && text == "*" { Field::Any } else { Field::Text(text) };
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                text.extend(chars.next());
                is_plain = false;
            }
            // The password is the rest, and may hold what it likes.
            ':' if fields.len() < 4 => {
                fields.push(field(std::mem::take(&mut text), is_plain));
                is_plain = true;
            }
            other => text.push(other),
        }
    }
    fields.push(Field::Text(text));
    fields
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn the_first_entry_that_matches_counts() {
        let file = PasswordFile(
            "# comment\nnonsense\nh:5432:d:u:first\nh:5432:d:u:second\n*:*:*:ann:a\\:b\\\\c:d\nh\\:1:*:*:*:colon\n\\*:1:d:u:star\n"
                .to_owned(),
        );
        assert_eq!(file.password("h", 5432, "d", "u").as_deref(), Some("first"));
        assert_eq!(file.password("x", 1, "y", "ann").as_deref(), Some("a:b\\c:d"));
        assert_eq!(file.password("h:1", 9, "d", "u").as_deref(), Some("colon"));
        assert_eq!(file.password("*", 1, "d", "u").as_deref(), Some("star"));
        assert_eq!(file.password("h", 5433, "d", "u"), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(USER_FILE);
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        let home = |name: &str| (name == "HOME").then(|| folder.path().display().to_string());
        for (mode, found) in [(0o600, Some("secret")), (0o640, None), (0o604, None), (0o400, Some("secret"))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(PasswordFile::read(None, &home).password("h", 1, "d", "u").as_deref(), found, "{mode:o}");
        }
    }
}
