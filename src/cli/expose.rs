//! `report expose`: a server for one service, without a configuration file.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

use super::{
    field_options::{ConfigFields, ExposeFields, FieldOptions, OptionNames},
    run::run_fields,
};

/// The fields that are not in the tables of options.
const ARGUMENTS: &[(&str, &str)] = &[("ports.local_address", "to"), ("ports.targets", "to")];

/// The arguments of `report expose`.
#[derive(Debug, Args)]
pub(super) struct ExposeArguments {
    /// Address of the service: HOST:PORT, HOST:FIRST-LAST or unix:PATH; repeatable
    #[arg(long, value_name = "ADDRESS")]
    to: Vec<String>,
    #[command(flatten)]
    options: FieldOptions<ExposeFields>,
}

/// Runs the server until a signal ends it.
///
/// # Errors
/// Fails when the server cannot run.
pub(super) fn expose(arguments: &ExposeArguments) -> anyhow::Result<ExitCode> {
    let fields = arguments.fields(&|name| std::env::var_os(name));
    run_fields(fields, &OptionNames::new(&arguments.options, ARGUMENTS))
}

impl ExposeArguments {
    fn fields(&self, variables: &dyn Fn(&str) -> Option<OsString>) -> ConfigFields {
        let mut fields = ConfigFields::new("server");
        match self.to.as_slice() {
            // A SOCKS5 proxy has no address.
            [] => {}
            [address] => fields.set("ports.local_address", address.as_str()),
            several => fields.set("ports.targets", several),
        }
        fields.set_options(&self.options);
        fields.set_from_environment(&[("ports.port_key", "REPORT_PORT_KEY")], variables);
        let secrets = [
            ("master_key", "REPORT_MASTER_KEY"),
            ("credential", "REPORT_CREDENTIAL"),
        ];
        fields.set_from_environment(&secrets, variables);
        fields
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::config::{Destinations, RoleConfig, ServerConfig};

    /// Returns the server of these arguments, or the problems. All secrets are in the environment.
    fn server(arguments: &[&str]) -> Result<ServerConfig, String> {
        let command = ExposeArguments::augment_args(clap::Command::new("expose"));
        let words = ["expose", "--master", "host:1"].into_iter();
        let words = words.chain(arguments.iter().copied());
        let matches = command.try_get_matches_from(words).expect("parsed");
        let arguments = ExposeArguments::from_arg_matches(&matches).expect("parsed");
        let variables = |name: &str| name.starts_with("REPORT_").then(|| OsString::from(name));
        let names = OptionNames::new(&arguments.options, ARGUMENTS);
        let loaded = arguments.fields(&variables).read(&names, &variables)?;
        match loaded.config.role {
            RoleConfig::Server(server) => Ok(server),
            other => panic!("{}", other.name()),
        }
    }

    #[test]
    fn one_address_or_several_targets_are_exposed() {
        let one = server(&["--to", "127.0.0.1:22"]).expect("valid");
        assert_eq!(one.ports[0].mark, "127.0.0.1:22");
        assert!(matches!(
            one.ports[0].destinations(),
            Destinations::Address(_)
        ));
        let two = server(&["--to", "a:1", "--to", "b:2", "--target-choice", "spread"]);
        let two = two.expect("valid");
        let Destinations::Targets(targets) = two.ports[0].destinations() else {
            panic!("no targets")
        };
        assert_eq!(targets.len(), 2);
        let proxy = server(&["--protocol", "socks5", "--allow", "*.lan:443"]).expect("valid");
        assert_eq!(proxy.ports[0].allow.len(), 1);
    }

    #[test]
    fn a_given_secret_replaces_those_of_the_environment() {
        let server_with = |arguments: &[&str]| {
            let to = ["--to", "a:1"].iter().chain(arguments).copied();
            server(&to.collect::<Vec<_>>()).expect("valid")
        };
        let from_environment = server_with(&[]);
        let master_key = from_environment.master_key.expect("a key");
        assert_eq!(master_key.expose(), "REPORT_MASTER_KEY");
        assert!(from_environment.credential.is_none());
        assert_eq!(
            from_environment.ports[0].port_key.expose(),
            "REPORT_PORT_KEY"
        );
        let given = server_with(&["--master-key", "k", "--no-bench"]);
        assert_eq!(given.master_key.expect("a key").expose(), "k");
        assert!(!given.bench);
    }

    #[test]
    fn problems_name_the_option() {
        let error = server(&[]).expect_err("no service");
        assert!(
            error.starts_with("--to is missing: set the address"),
            "{error}"
        );
        let error = server(&["--to", "a:0"]).expect_err("port 0");
        assert!(error.starts_with("--to (\"a:0\") has port 0"), "{error}");
        let error = server(&["--to", "a:1", "--health-check-kind", "tcp"]).expect_err("no targets");
        assert!(
            error.starts_with("--health-check-kind has no effect without `targets`"),
            "{error}"
        );
        let error = server(&["--to", "a:1", "--credential", "rc"]).expect_err("no credential");
        assert!(error.starts_with("--credential "), "{error}");
        assert!(!error.contains("\"rc\""), "{error}");
    }
}
