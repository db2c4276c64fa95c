//! The party that asks for an operation.

use std::{fmt, net::IpAddr};

use super::AdministrationError;
use crate::policy::{Token, TokenId, TokenRole};

/// The party that asks for an operation. Its text is the actor of an audit row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// How the party has proven itself.
    pub kind: ActorKind,
    /// The address of the party, if it has one.
    pub address: Option<IpAddr>,
}

/// How the party that asks for an operation has proven itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorKind {
    /// With a token of the admin API.
    Token {
        /// The id of the token.
        id: TokenId,
        /// Its name.
        name: String,
        /// Its rights.
        role: TokenRole,
    },
    /// With the permissions of the admin socket.
    LocalSocket,
    /// With the permissions of the database, as a command.
    CommandLine,
}

impl Actor {
    /// Returns the holder of a token at an address.
    #[must_use]
    pub fn token(token: &Token, address: IpAddr) -> Self {
        Actor {
            kind: ActorKind::Token {
                id: token.id,
                name: token.name.clone(),
                role: token.role,
            },
            address: Some(address),
        }
    }

    /// Returns a process that may use the admin socket.
    #[must_use]
    pub fn local_socket() -> Self {
        Actor {
            kind: ActorKind::LocalSocket,
            address: None,
        }
    }

    /// Returns a command that works on the database itself.
    #[must_use]
    pub fn command_line() -> Self {
        Actor {
            kind: ActorKind::CommandLine,
            address: None,
        }
    }

    /// Returns the rights of the party.
    #[must_use]
    pub fn role(&self) -> TokenRole {
        match &self.kind {
            ActorKind::Token { role, .. } => *role,
            ActorKind::LocalSocket | ActorKind::CommandLine => TokenRole::Own,
        }
    }

    /// Checks that the party has these rights.
    ///
    /// # Errors
    /// If it has lesser ones.
    pub fn require(&self, needed: TokenRole) -> Result<(), AdministrationError> {
        if self.role() >= needed {
            return Ok(());
        }
        Err(AdministrationError::Forbidden {
            actor: self.to_string(),
            role: self.role(),
            needed,
        })
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ActorKind::Token { name, .. } => write!(formatter, "token {name}"),
            ActorKind::LocalSocket => formatter.write_str("admin socket"),
            ActorKind::CommandLine => formatter.write_str("command line"),
        }
    }
}
