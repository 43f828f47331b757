//! As whom the subjects run. Root may have more pipes and buffers than others, so what root measures is not what users get.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Somebody who is in /etc/passwd.
#[derive(Debug, Clone)]
pub struct User {
    /// By name.
    pub name: String,
    /// By number.
    pub id: u32,
    /// Their first group.
    pub group: u32,
}

impl User {
    /// By name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let text = fs::read_to_string("/etc/passwd").context("who there is")?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name));
        let fields: Vec<_> = line.with_context(|| format!("no user {name} in /etc/passwd"))?.split(':').collect();
        let number = |field: usize| fields.get(field).and_then(|text| text.parse().ok());
        let (id, group) = number(2).zip(number(3)).with_context(|| format!("a malformed line of {name}"))?;
        Ok(Self { name: name.to_owned(), id, group })
    }

    /// Makes a file or a directory theirs.
    ///
    /// # Errors
    /// If we may not.
    pub fn give(&self, path: &Path) -> anyhow::Result<()> {
        std::os::unix::fs::chown(path, Some(self.id), Some(self.group))
            .with_context(|| format!("giving away {}", path.display()))
    }
}
