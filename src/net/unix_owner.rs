//! The owner of a socket file, from the names or numbers in a configuration.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group`. A name that the system has from another
//! source, such as a directory service, is written as its number.

use std::{fs, io};

/// Where the system lists its users and groups.
const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// The user and the group that a file gets. `None` keeps those of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileOwner {
    /// The id of the user.
    pub user: Option<u32>,
    /// The id of the group.
    pub group: Option<u32>,
}

/// The owner of a socket file cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum FileOwnerError {
    /// A name is not in the file of the system.
    #[error(
        "`socket_owner`: {file} does not contain \"{name}\" (correct the name, or write its number)"
    )]
    Unknown {
        /// The name.
        name: String,
        /// The file.
        file: &'static str,
    },
    /// The file of the system cannot be read.
    #[error("`socket_owner`: cannot read {file}: {source} (write numbers in place of names)")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

impl FileOwner {
    /// Looks up a user and a group, each a name or a number. Reads files of the system.
    ///
    /// # Errors
    /// When a name is unknown, or a file cannot be read.
    pub fn look_up(user: Option<&str>, group: Option<&str>) -> Result<Self, FileOwnerError> {
        Ok(FileOwner {
            user: user.map(|user| number_of(user, USERS)).transpose()?,
            group: group.map(|group| number_of(group, GROUPS)).transpose()?,
        })
    }
}

/// Returns the number of a name. As with chown, a name of digits in the file takes precedence over
/// the number.
fn number_of(name: &str, file: &'static str) -> Result<u32, FileOwnerError> {
    let number = parse(name);
    match fs::read(file) {
        Ok(content) => number_in(name, &String::from_utf8_lossy(&content))
            .or(number)
            .ok_or_else(|| FileOwnerError::Unknown {
                name: name.to_owned(),
                file,
            }),
        Err(source) => number.ok_or(FileOwnerError::Unreadable { file, source }),
    }
}

/// Searches lines of the form `NAME:PASSWORD:NUMBER:…`.
fn number_in(name: &str, content: &str) -> Option<u32> {
    content.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        parse(fields.nth(1)?)
    })
}

/// Parses the number of a user or a group. The greatest number means "unchanged" to the system.
fn parse(number: &str) -> Option<u32> {
    number.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        for name in ["root", "0"] {
            let owner = FileOwner::look_up(Some(name), None).expect("every system has it");
            assert_eq!((owner.user, owner.group), (Some(0), None));
        }
        let owner = FileOwner::look_up(Some("4711"), Some("4712")).expect("no entry is needed");
        assert_eq!((owner.user, owner.group), (Some(4711), Some(4712)));
        let owner = FileOwner::look_up(None, None).expect("nothing to look up");
        assert_eq!(owner, FileOwner::default());
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_it() {
        for name in ["no-such-name", "", "4294967295", "-1"] {
            for (user, group, file) in [(Some(name), None, USERS), (None, Some(name), GROUPS)] {
                let error = FileOwner::look_up(user, group).expect_err(name).to_string();
                let part = format!("{file} does not contain \"{name}\"");
                assert!(error.contains(&part), "{error}");
            }
        }
        let missing = "/no-such-folder/users";
        let error = number_of("root", missing).expect_err("no file").to_string();
        assert!(error.contains(missing), "{error}");
        assert_eq!(number_of("7", missing).expect("a number"), 7);
    }

    #[test]
    fn the_number_is_the_third_field_of_the_exact_name() {
        let content = "# users\n\nrooted:x:1:1::/:/bin/sh\nroot:x:2:3::/:/bin/sh\nbad:x\nodd:x:y:1\nmax:x:4294967295:1\n";
        assert_eq!(number_in("root", content), Some(2));
        assert_eq!(number_in("rooted", content), Some(1));
        for name in ["roo", "bad", "odd", "max", "x", "nobody"] {
            assert_eq!(number_in(name, content), None, "{name}");
        }
    }
}
