//! `report forward`: a client for one service, without a configuration file.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    InvalidArguments,
    connect::hidden,
    field_options::{ConfigFields, FieldOptions, ForwardFields, OptionNames},
    invite,
    run::run_fields,
};
use crate::config::{Invite, LocalAddress, Secret};

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
        let invite = match (&self.invite, &self.invite_file) {
            (Some(text), _) => Some(invite::read_text(text.expose())?),
            (None, Some(path)) => Some(invite::read_file(path)?),
            (None, None) => None,
        };
        let mut fields = match &invite {
            Some(invite) => {
                self.check_range(invite)?;
                ConfigFields::of_invite(invite)
            }
            None => ConfigFields::new("client"),
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

    /// Checks that the client has as many addresses as the service.
    fn check_range(&self, invite: &Invite) -> Result<(), InvalidArguments> {
        let listen = self.listen.parse::<LocalAddress>();
        // The reader of the fields reports an invalid address.
        let count = listen.map_or(invite.range, |address| address.count());
        if count == invite.range {
            return Ok(());
        }
        let remedy = match invite.range {
            0 | 1 => "write HOST:PORT or unix:PATH".to_owned(),
            range => format!("write HOST:FIRST-LAST with {range} ports"),
        };
        Err(InvalidArguments(format!(
            "--listen (\"{}\") names {}, but the service of the invitation has {}: {remedy}",
            self.listen,
            addresses(count),
            addresses(invite.range)
        )))
    }
}

fn addresses(count: u16) -> String {
    match count {
        1 => "1 address".to_owned(),
        count => format!("{count} addresses"),
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
    fn invitations_and_options_contain_no_variables() {
        let name = "REPORT_PORT_KEY";
        let invite = format!(
            "report+wss://host/${{{name}}}?query=a%3D%24%7B{name}%7D&mark=%24%7B{name}%7D#$${{{name}}}"
        );
        let invite = [invite.as_str(), "--user-agent", "${HOME}"];
        let read = client(&[&invite[..], &["--listen", "127.0.0.1:1"]].concat()).expect("valid");
        let master = read.link.masters[0].to_string();
        assert_eq!(master, format!("wss://host/${{{name}}}?a=${{{name}}}"));
        let port = &read.ports[0];
        assert_eq!(port.mark, format!("${{{name}}}"));
        assert_eq!(port.port_key.expose(), format!("$${{{name}}}"));
        let user_agent = read.link.user_agent.expect("an option");
        assert_eq!(user_agent.to_string(), "${HOME}");
        let options = ["--master", "host:1", "--listen", "127.0.0.1:1"];
        let options = options.into_iter().chain(["--port-key", "$a${b"]);
        let read = client(&options.collect::<Vec<_>>()).expect("valid");
        assert_eq!(read.ports[0].port_key.expose(), "$a${b");
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
    fn the_size_of_a_range_is_that_of_the_invitation() {
        let range = "report+wss://host/?ports=3#k";
        let valid = client(&[range, "--listen", "127.0.0.1:7-9"]).expect("valid");
        assert_eq!(valid.ports[0].range(), 3);
        for (invite, listen, part) in [
            (
                range,
                "127.0.0.1:7",
                "names 1 address, but the service of the invitation has 3 addresses",
            ),
            (range, "127.0.0.1:7-10", "names 4 addresses"),
            (INVITE, "127.0.0.1:7-8", "write HOST:PORT"),
            (range, "127.0.0.1", "has no port"),
        ] {
            let error = client(&[invite, "--listen", listen]).expect_err(listen);
            assert!(
                error.starts_with(&format!("--listen (\"{listen}\")")) && error.contains(part),
                "{error}"
            );
        }
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
