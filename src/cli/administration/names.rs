//! The names of records on the command line.

use anyhow::bail;
use clap::Args;

use report_proto::id::Id;

/// A credential on the command line.
#[derive(Debug, Args)]
pub(super) struct CredentialName {
    /// Credential as ACCOUNT/NAME or ACCOUNT NAME, or its id
    credential: String,
    /// Name of the credential, if the account precedes it
    #[arg(value_name = "NAME")]
    credential_name: Option<String>,
}

/// The parts of a credential's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CredentialParts<'a> {
    /// The id.
    Id(Id),
    /// The account and the name.
    Named {
        /// The name or the id of the account.
        account: &'a str,
        /// The name of the credential.
        name: &'a str,
    },
}

/// The account of a list on the command line.
#[derive(Debug, Args)]
pub(super) struct ListedAccount {
    /// Name or id of the account
    account: Option<String>,
    /// The same as ACCOUNT
    #[arg(long = "account", value_name = "ACCOUNT", conflicts_with = "account")]
    account_option: Option<String>,
}

impl CredentialName {
    /// Returns the parts of the name.
    ///
    /// # Errors
    /// If the text is neither an id nor an account and a name.
    pub(super) fn parts(&self) -> anyhow::Result<CredentialParts<'_>> {
        let text = self.credential.as_str();
        if let Some(name) = &self.credential_name {
            return Ok(CredentialParts::Named {
                account: text,
                name,
            });
        }
        if let Ok(id) = text.parse::<Id>() {
            return Ok(CredentialParts::Id(id));
        }
        match text.split_once('/') {
            Some((account, name)) => Ok(CredentialParts::Named { account, name }),
            None => bail!(
                "\"{text}\" is not a credential (write ACCOUNT/NAME, ACCOUNT NAME, or its id)"
            ),
        }
    }
}

impl ListedAccount {
    /// Returns the name or the id of the account, if there is one.
    pub(super) fn text(&self) -> Option<&str> {
        self.account.as_deref().or(self.account_option.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(credential: &str, name: Option<&str>) -> CredentialName {
        CredentialName {
            credential: credential.to_owned(),
            credential_name: name.map(str::to_owned),
        }
    }

    #[test]
    fn credentials_are_named_with_a_slash_or_a_space_or_by_id() {
        let named = |account, name| CredentialParts::Named { account, name };
        let slash = name("anna/my/laptop", None);
        assert_eq!(slash.parts().unwrap(), named("anna", "my/laptop"));
        // The account of two words may have a slash.
        let space = name("anna/home", Some("laptop"));
        assert_eq!(space.parts().unwrap(), named("anna/home", "laptop"));
        let text = "0123456789abcdef0123456789abcdef";
        let id = name(text, None);
        assert_eq!(
            id.parts().unwrap(),
            CredentialParts::Id(text.parse().unwrap())
        );
        let error = name("laptop", None).parts().unwrap_err().to_string();
        assert!(
            error.contains("\"laptop\" is not a credential") && error.contains("ACCOUNT NAME"),
            "{error}"
        );
    }
}
