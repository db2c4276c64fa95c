//! `report forward`: a client for one service, without a configuration file.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    connect::hidden,
    field_options::{ConfigFields, FieldOptions, ForwardFields, OptionNames},
    invite,
    run::run_fields,
};
use crate::config::{Invite, Secret};

/// The fields that are not in the tables of options.
const ARGUMENTS: &[(&str, &str)] = &[("ports.local_address", "listen")];

/// The arguments of `report forward`.
#[derive(Debug, Args)]
pub(super) struct ForwardArguments {
    /// Invitation, in place of --master and the port key
    #[arg(
        value_name = "INVITATION",
        value_parser = hidden,
        conflicts_with = "invite_file"
    )]
    invite: Option<Secret>,
    /// File with an invitation
    #[arg(long, value_name = "FILE")]
    invite_file: Option<PathBuf>,
    /// Address to listen at: HOST:PORT, HOST:FIRST-LAST or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    #[command(flatten)]
    options: FieldOptions<ForwardFields>,
}

/// Runs the client until a signal ends it.
///
/// # Errors
/// Fails when the invitation is invalid, or the client cannot run.
pub(super) fn forward(arguments: &ForwardArguments) -> anyhow::Result<ExitCode> {
    let fields = arguments.fields(&|name| std::env::var_os(name))?;
    run_fields(fields, &OptionNames::new(&arguments.options, ARGUMENTS))
}

impl ForwardArguments {
    fn fields(&self, variables: &dyn Fn(&str) -> Option<OsString>) -> anyhow::Result<ConfigFields> {
        let mut fields = match (&self.invite, &self.invite_file) {
            (Some(text), _) => ConfigFields::of_invite(&text.expose().parse::<Invite>()?),
            (None, Some(path)) => ConfigFields::of_invite(&invite::read_file(path)?),
            (None, None) => ConfigFields::new("client"),
        };
        fields.set("ports.local_address", self.listen.as_str());
        fields.set_options(&self.options);
        for secret in [
            ("ports.port_key", "REPORT_PORT_KEY"),
            ("credential", "REPORT_CREDENTIAL"),
        ] {
            fields.set_from_environment(&[secret], variables);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::config::{ClientConfig, RoleConfig};

    const INVITE: &str = "report+wss://host/tunnel?mark=SSH&compress=zstd&master=ws%3A%2F%2Fother%3A7%2F&pin=0000000000000000000000000000000000000000000000000000000000000000#a%20key";

    /// Returns the client of these arguments, or the problems.
    fn client(arguments: &[&str]) -> Result<ClientConfig, String> {
        let command = ForwardArguments::augment_args(clap::Command::new("forward"));
        let words = ["forward"].into_iter().chain(arguments.iter().copied());
        let matches = command.try_get_matches_from(words).expect("parsed");
        let arguments = ForwardArguments::from_arg_matches(&matches).expect("parsed");
        let variables = |name: &str| {
            (name == "REPORT_PORT_KEY").then(|| OsString::from("from the environment"))
        };
        let fields = arguments
            .fields(&variables)
            .map_err(|error| error.to_string())?;
        let names = OptionNames::new(&arguments.options, ARGUMENTS);
        match fields.read(&names, &variables)?.config.role {
            RoleConfig::Client(client) => Ok(client),
            other => panic!("{}", other.name()),
        }
    }

    #[test]
    fn options_replace_those_of_an_invitation() {
        let plain = client(&[INVITE, "--listen", "127.0.0.1:122"]).expect("valid");
        let masters: Vec<String> = plain.link.masters.iter().map(ToString::to_string).collect();
        assert_eq!(masters, ["wss://host/tunnel", "ws://other:7/"]);
        assert_eq!(plain.link.tls.pin_sha256.map(|pins| pins.len()), Some(1));
        let port = &plain.ports[0];
        assert_eq!(
            (port.mark.as_str(), port.port_key.expose()),
            ("SSH", "a key")
        );
        assert_eq!(port.compress_method.name(), "zstd");
        let changed = client(&[
            "--listen",
            "127.0.0.1:0",
            "--mark",
            "mine",
            "--master",
            "other:1",
            "--port-key",
            "k",
            INVITE,
        ]);
        let changed = changed.expect("valid");
        assert_eq!(changed.link.masters[0].to_string(), "ws://other:1/");
        let port = &changed.ports[0];
        assert_eq!((port.mark.as_str(), port.port_key.expose()), ("mine", "k"));
    }

    #[test]
    fn a_key_may_come_from_the_environment() {
        let client = client(&["--master", "host:1", "--listen", "127.0.0.1:1"]).expect("valid");
        let port = &client.ports[0];
        assert_eq!(port.port_key.expose(), "from the environment");
        assert_eq!(port.mark, "127.0.0.1:1", "the address by default");
        assert!(client.credential.is_none());
    }

    #[test]
    fn problems_name_the_argument_and_hide_the_key() {
        let error = client(&["--master", "host:1", "--listen", "22"]).expect_err("no address");
        assert!(
            error.starts_with("--listen (\"22\") has no host"),
            "{error}"
        );
        let error = client(&["report+wss://host/?hush", "--listen", "a:1"]).expect_err("no key");
        assert!(
            error.contains("no key") && !error.contains("hush"),
            "{error}"
        );
    }
}
