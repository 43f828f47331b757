//! Changes to the credentials file, as the command makes them. What is not changed stays as it was written, comments too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};
use tunnel_api::CredentialId;

use super::{Credentials, Token, check_owner, parse_ports};
use crate::{config::ConfigError, private};

/// A token to be made, and what it shall grant.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// Whose it is.
    pub owner: String,
    /// Backends, by name or pattern.
    pub backends: Vec<String>,
    /// Public ports that may be asked for by number, or ranges of them.
    pub ports: Vec<String>,
    /// Host names, or patterns of them.
    pub hosts: Vec<String>,
    /// Networks that may be named in `dial_from`.
    pub dial_from: Vec<IpNet>,
    /// Networks whose clients may be let in.
    pub clients: Vec<IpNet>,
    /// Limits of the owner, by their names in the file, where they are not the default ones.
    pub limits: Vec<(String, String)>,
    /// How long it is good.
    pub expires_in: Option<Duration>,
}

/// Which credentials are meant.
#[derive(Debug, Clone)]
pub enum Which {
    /// The one with this id.
    Id(String),
    /// All of this owner.
    Owner(String),
}

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// As it stands it is no credentials file.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// What should be written is not what such a file has.
    #[error("{0}")]
    Bad(String),
    /// There is no such credential.
    #[error("{}: there is no credential of {which}; `tunnel-server token list` shows what there is", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        which: String,
    },
    /// It cannot be read or written.
    #[error("{}: cannot be changed", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes a token and puts its hash into the file, which is made if there is none.
pub fn add(path: &Path, new: &NewToken) -> Result<(CredentialId, Token), EditError> {
    check_owner(&new.owner).map_err(|why| EditError::Bad(why.to_owned()))?;
    if let Some(ports) = new.ports.iter().find(|ports| parse_ports(ports).is_none()) {
        return Err(EditError::Bad(format!("{ports:?} is no port or range of ports, such as 21000-21099")));
    }
    let token = Token::generate();
    let id = format!("k-{:08x}", rand::random::<u32>());
    change(path, |document| {
        let tokens = document.entry("token").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let tokens = tokens.as_array_of_tables_mut().ok_or_else(|| {
            EditError::Bad("`token` is written in another way than as [[token]] tables; change that first".to_owned())
        })?;
        tokens.push(entry(&id, &token, new)?);
        Ok(())
    })?;
    Ok((CredentialId::new(id), token))
}

/// Takes credentials out of the file; gives their ids.
pub fn remove(path: &Path, which: &Which) -> Result<Vec<String>, EditError> {
    let (key, wanted) = match which {
        Which::Id(id) => ("id", id),
        Which::Owner(owner) => ("owner", owner),
    };
    let is_it = |table: &Table| table.get(key).and_then(Item::as_str) == Some(wanted.as_str());
    let mut removed = Vec::new();
    change(path, |document| {
        for kind in ["token", "certificate"] {
            let Some(tables) = document.get_mut(kind).and_then(Item::as_array_of_tables_mut) else { continue };
            let ids = tables.iter().filter(|table| is_it(table)).filter_map(|table| table.get("id")?.as_str());
            removed.extend(ids.map(str::to_owned));
            tables.retain(|table| !is_it(table));
        }
        if removed.is_empty() {
            return Err(EditError::Missing { path: path.to_owned(), which: format!("{key} {wanted}") });
        }
        Ok(())
    })?;
    Ok(removed)
}

/// Reads the file, changes it, and puts it back whole, if what comes of it is good. Nobody else does so meanwhile.
fn change(path: &Path, edit: impl FnOnce(&mut DocumentMut) -> Result<(), EditError>) -> Result<(), EditError> {
    let failed = |source| EditError::Io { path: path.to_owned(), source };
    let _lock = private::lock_directory_of(path).map_err(failed)?;
    let (header, text) = match fs::read_to_string(path) {
        Ok(text) => ("", text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (HEADER, String::new()),
        Err(error) => return Err(failed(error)),
    };
    Credentials::parse(&text, path)?;
    let mut document: DocumentMut = text.parse().map_err(|error| EditError::Bad(format!("{error}")))?;
    edit(&mut document)?;
    let text = format!("{header}{document}");
    // What is wrong now is what was asked for, and stands on no line of the file.
    Credentials::parse(&text, path).map_err(|error| EditError::Bad(what_is_wrong(error)))?;
    private::replace(path, text.as_bytes()).map_err(failed)
}

fn what_is_wrong(error: ConfigError) -> String {
    match error {
        ConfigError::Malformed { message, .. } => message.split_once(": ").map_or(message.clone(), |(line, why)| {
            if line.starts_with("line ") { why.to_owned() } else { message.clone() }
        }),
        error => error.to_string(),
    }
}

fn entry(id: &str, token: &Token, new: &NewToken) -> Result<Table, EditError> {
    let now = SystemTime::now();
    let mut table = Table::new();
    table.insert("id", value(id));
    table.insert("owner", value(&new.owner));
    table.insert("hash", value(token.hash().to_string()));
    table.insert("created", value(moment(now)?));
    if let Some(expires_in) = new.expires_in {
        let too_late = || EditError::Bad("that is too far in the future".to_owned());
        table.insert("expires", value(moment(now.checked_add(expires_in).ok_or_else(too_late)?)?));
    }
    table.insert("grants", Item::Table(grants(new)));
    if !new.limits.is_empty() {
        let mut limits = Table::new();
        for (key, limit) in &new.limits {
            limits.insert(key, number_or_text(limit));
        }
        table.insert("limits", Item::Table(limits));
    }
    Ok(table)
}

fn grants(new: &NewToken) -> Table {
    let networks = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut grants = Table::new();
    for (key, values) in [
        ("backends", new.backends.clone()),
        ("ports", new.ports.clone()),
        ("hosts", new.hosts.clone()),
        ("dial_from", networks(&new.dial_from)),
        ("clients", networks(&new.clients)),
    ] {
        if !values.is_empty() {
            grants.insert(key, value(Array::from_iter(values)));
        }
    }
    grants
}

fn number_or_text(text: &str) -> Item {
    let count = text.parse::<i64>().map(value);
    count.or_else(|_| text.parse::<f64>().map(value)).unwrap_or_else(|_| value(text))
}

/// In whole seconds.
fn moment(time: SystemTime) -> Result<toml_edit::Datetime, EditError> {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.parse().map_err(|_| EditError::Bad(format!("{text} is too far in the future")))
}

const HEADER: &str = "\
# Who may open tunnels on this server, and which. The server follows this file while it runs. Add and take away with
# `tunnel-server token new` and `tunnel-server token revoke`, or by hand. Tokens themselves are not here, only their hashes.
#
# [token.grants]: backends (by name), ports (that may be asked for by number), hosts, dial_from and clients (networks).
# What is absent is not granted; \"*\" stands for any characters in names.

";

#[cfg(test)]
mod tests {
    use super::*;

    fn new(owner: &str) -> NewToken {
        NewToken {
            owner: owner.to_owned(),
            backends: vec!["*".to_owned()],
            ports: vec!["21000-21099".to_owned()],
            clients: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            expires_in: Some(Duration::from_secs(3600)),
            ..NewToken::default()
        }
    }

    #[test]
    fn what_is_added_is_good_and_what_was_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.toml");
        let (alice_id, alice) = add(&path, &new("alice")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# mine\n{text}")).unwrap();
        let (_, bob) = add(&path, &new("bob")).unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# mine\n# Who may"), "{text}");
        assert!(!text.contains(alice.expose()) && !text.contains(bob.expose()));
        let credentials = Credentials::from_file(&path).unwrap();
        let now = SystemTime::now();
        let owner = |token| credentials.by_token(token, now).map(|found| found.owner.to_string());
        assert_eq!(owner(&alice).as_deref(), Some("alice"));
        assert_eq!(owner(&bob).as_deref(), Some("bob"));

        assert_eq!(remove(&path, &Which::Owner("alice".to_owned())).unwrap(), [alice_id.to_string()]);
        let credentials = Credentials::from_file(&path).unwrap();
        assert!(credentials.by_token(&alice, now).is_none() && credentials.by_token(&bob, now).is_some());
        let again = remove(&path, &Which::Id(alice_id.to_string())).unwrap_err().to_string();
        assert!(again.contains("token list"), "{again}");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.toml");
        add(&path, &new("alice")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_would_not_be_good_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.toml");
        let limited =
            |key: &str, limit: &str| NewToken { limits: vec![(key.to_owned(), limit.to_owned())], ..new("alice") };
        for bad in [
            NewToken { ports: vec!["9-1".to_owned()], ..new("alice") },
            limited("tunels", "1"),
            limited("tunnels", "many"),
            limited("tunnels", "0"),
            new("local"),
            new("a/b"),
            new(""),
        ] {
            add(&path, &bad).expect_err(&format!("{bad:?}"));
        }
        assert!(!path.exists());
        fs::write(&path, "[[token]]\nid = 1\n").unwrap();
        add(&path, &new("alice")).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[[token]]\nid = 1\n");
    }
}
