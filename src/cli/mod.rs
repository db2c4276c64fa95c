//! The commands, one file each: arguments, and how a failure is printed.
//!
//! | command | file |
//! |---|---|
//! | `report [--config FILE]` | `run`, with `roles` and `port_builder` (build a role from a configuration), `signals` and `restart` (SIGUSR2); `reloads`, with `live_role`, `role_handle` and `admin_switch` (change the role while it runs) |
//! | `report bench` | `bench`, with `bench_report` (the results as text and JSON) |
//! | `report check` | `check`, with `config_text` (the description of a configuration) |
//! | `report completions` | `completions` |
//! | `report connect` | `connect`, with `connect_request` (what the server is to connect to) and `standard_streams` (standard input and output as queues) |
//! | `report doctor` | `doctor`, with `doctor_subject` (what it checks for a configuration) and `doctor_text` (the text output) |
//! | `report expose`, `report forward` | `expose`, `forward`: a server and a client without a file, with `field_options` (options for the fields of a configuration) |
//! | `report invite` | `invite` |
//! | `report keygen` | `keygen` |
//! | `report man` | `man` |
//! | `report reload`, `report master restart` | `control` |
//! | `report quickstart` | `quickstart`, with `configurations` (the three files) and `page` (the built-in web page) |
//! | `report account`, `credential`, `key`, `relay`, `token`, `usage`, `links`, `tunnels`, `status` | `administration` (feature `store`) |
//!
//! Exit codes: 0 success, 1 failure with a message, 2 invalid arguments. 130 and 143 mean that a
//! second signal ended the process at once. `report bench`, `report connect` and `report doctor` end
//! on the first signal.

mod admin_switch;
#[cfg(feature = "store")]
mod administration;
mod bench;
mod bench_report;
mod check;
mod completions;
mod config_text;
mod configurations;
mod connect;
mod connect_request;
mod control;
mod doctor;
mod doctor_subject;
mod doctor_text;
mod expose;
mod field_options;
mod forward;
mod invite;
mod keygen;
mod live_role;
mod man;
mod page;
mod port_builder;
mod port_choice;
mod port_text;
mod progress;
mod quickstart;
mod reloads;
mod restart;
mod role_handle;
mod roles;
mod run;
mod signals;
mod standard_streams;
mod threads;
mod warnings;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{
    Args, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use crate::telemetry::{self, LogFormat, escape_text};

/// A tunnel over WebSockets with a blind relay and resumable connections.
///
/// Runs the role in the `mode` of the configuration. To try it out: `report quickstart`.
#[derive(Debug, Parser)]
#[command(name = "report", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", default_value = "config.json")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure throughput and latency through a client configuration
    Bench(bench::BenchArguments),
    /// Validate a configuration and describe its meaning
    Check(ConfigFile),
    /// Print completions for a shell
    Completions(completions::CompletionsArguments),
    /// Join standard input and output to a service
    Connect(connect::ConnectArguments),
    /// Diagnose connectivity for a configuration
    Doctor(doctor::DoctorArguments),
    /// Run a server for one service without a file
    Expose(expose::ExposeArguments),
    /// Run a client for one service without a file
    Forward(forward::ForwardArguments),
    /// Print all that a client needs to reach a service
    Invite(invite::InviteArguments),
    /// Generate a random key or a credential
    Keygen(keygen::KeygenArguments),
    /// Print the man page, or write those of all commands
    Man(man::ManArguments),
    /// Control a running master
    #[command(subcommand)]
    Master(control::MasterCommand),
    /// Run master, server and client on this machine
    Quickstart(quickstart::QuickstartArguments),
    /// Reload the configuration of a running role
    ///
    /// The role checks the new file as a whole. If it is wrong, the former configuration stays in
    /// force. Connections of ports without a change notice nothing.
    Reload(ConfigFile),
    #[cfg(feature = "store")]
    #[command(flatten)]
    Records(Box<administration::RecordCommand>),
    #[cfg(feature = "store")]
    #[command(flatten)]
    Live(administration::LiveCommand),
}

/// The exit code of invalid arguments.
const INVALID_ARGUMENTS: u8 = 2;

/// The problems of arguments, one per line. The process ends with [`INVALID_ARGUMENTS`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct InvalidArguments(String);

/// Runs the command in the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            hide_invitation(&mut error);
            // `--help` and `--version` also end here. A closed output is not an error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(INVALID_ARGUMENTS));
        }
    };
    let outcome = match arguments.command {
        None => run::run(&arguments.file.config),
        Some(Command::Bench(arguments)) => bench::bench(&arguments),
        Some(Command::Check(file)) => check::check(&file.config),
        Some(Command::Completions(arguments)) => completions::completions(&arguments),
        Some(Command::Connect(arguments)) => connect::connect(&arguments),
        Some(Command::Doctor(arguments)) => doctor::doctor(&arguments),
        Some(Command::Expose(arguments)) => expose::expose(&arguments),
        Some(Command::Forward(arguments)) => forward::forward(&arguments),
        Some(Command::Invite(arguments)) => invite::invite(&arguments),
        Some(Command::Keygen(arguments)) => keygen::keygen(&arguments),
        Some(Command::Man(arguments)) => man::man(&arguments),
        Some(Command::Master(command)) => control::master(&command),
        Some(Command::Quickstart(arguments)) => quickstart::quickstart(arguments),
        Some(Command::Reload(file)) => control::reload(&file.config),
        #[cfg(feature = "store")]
        Some(Command::Records(command)) => administration::records(*command),
        #[cfg(feature = "store")]
        Some(Command::Live(command)) => administration::live(command),
    };
    let code = outcome.unwrap_or_else(|error| {
        report_failure(&error_text(&error));
        failure_code(&error)
    });
    telemetry::flush();
    code
}

/// Removes an invitation from an error about an unexpected argument. It contains a key.
fn hide_invitation(error: &mut clap::Error) {
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && invite::may_contain_key(text)
        {
            let hidden = ContextValue::String("(an invitation)".to_owned());
            let _ = error.insert(kind, hidden);
            let _ = error.remove(ContextKind::Suggested);
        }
    }
}

fn failure_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<InvalidArguments>() {
        ExitCode::from(INVALID_ARGUMENTS)
    } else {
        ExitCode::FAILURE
    }
}

/// Prints why the process fails. Standard error with JSON logs gets a further log line, so that
/// each of its lines is JSON.
fn report_failure(message: &str) {
    if telemetry::format() == Some(LogFormat::Json) {
        tracing::error!("{message}");
    } else {
        telemetry::flush();
        print_error(message);
    }
}

/// Joins an error and its causes. Skips a cause whose text the message already contains.
fn error_text(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |joined, cause| match joined.as_str() {
            "" => cause,
            text if text.contains(&cause) => joined,
            text => format!("{text}: {cause}"),
        })
}

/// Prints a message on standard error, each line with the prefix `report: `.
fn print_error(message: &str) {
    for line in message.lines() {
        // Ignore a closed standard error: there is no other place to report it.
        let _ = writeln!(io::stderr(), "report: {}", escape_text(line));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_default_command_runs_config_json() {
        let arguments = Arguments::try_parse_from(["report"]).expect("parses");
        assert!(arguments.command.is_none());
        assert_eq!(arguments.file.config, PathBuf::from("config.json"));
        let arguments = Arguments::try_parse_from(["report", "check", "--config", "other.json"])
            .expect("parses");
        let Some(Command::Check(file)) = arguments.command else {
            panic!("not check")
        };
        assert_eq!(file.config, PathBuf::from("other.json"));
    }

    #[test]
    fn repeated_causes_print_once() {
        let refused = || anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::AddrInUse));
        let text = refused().to_string();
        let error = refused()
            .context(format!("cannot listen: {text}; choose another"))
            .context("master");
        assert_eq!(
            error_text(&error),
            format!("master: cannot listen: {text}; choose another")
        );
        assert_eq!(
            error_text(&refused().context("master")),
            format!("master: {text}")
        );
    }

    #[test]
    fn an_unexpected_invitation_is_not_printed() {
        for arguments in [
            &["report", "report+wss://host/#hush"][..],
            &["report", "doctor", "report+wss://host/#hush"],
            &["report", "connect", "SSH", "report+wss://host/#hush"],
            &["report", "connect", "SSH", "port+wss://host/?mark=a#hush"],
        ] {
            let mut error = Arguments::try_parse_from(arguments).expect_err("refused");
            hide_invitation(&mut error);
            let text = error.to_string();
            assert!(text.contains("(an invitation)"), "{text}");
            assert!(!text.contains("hush"), "{text}");
        }
        let mut error = Arguments::try_parse_from(["report", "chek"]).expect_err("refused");
        hide_invitation(&mut error);
        assert!(error.to_string().contains("'chek'"), "{error}");
    }

    #[test]
    fn invalid_arguments_have_a_separate_exit_code() {
        let invalid = || anyhow::Error::from(InvalidArguments("--to is missing".to_owned()));
        let usage = ExitCode::from(INVALID_ARGUMENTS);
        assert_eq!(failure_code(&invalid()), usage);
        assert_eq!(failure_code(&invalid().context("more")), usage);
        assert_eq!(
            failure_code(&anyhow::anyhow!("no server")),
            ExitCode::FAILURE
        );
    }

    #[test]
    fn wrong_arguments_are_a_usage_error() {
        for arguments in [
            vec!["report", "chek"],
            vec!["report", "--confg", "a"],
            vec!["report", "keygen", "now"],
            vec!["report", "completions"],
            vec!["report", "completions", "tcsh"],
            vec!["report", "man", "check"],
            vec!["report", "--config", "a", "check"],
            vec!["report", "bench", "--seconds", "0"],
            vec!["report", "bench", "--seconds", "soon"],
            vec!["report", "bench", "--connections", "0"],
            vec!["report", "bench", "--connections", "65"],
            vec!["report", "bench", "--data", "prose"],
            vec!["report", "connect"],
            vec!["report", "connect", "SSH", "--log-level", "loud"],
            vec!["report", "connect", "SSH", "--invite-file", "f"],
            vec!["report", "forward", "--master", "host:1"],
            vec!["report", "forward", "--listen", "a:1", "--allow", "*:1"],
            vec!["report", "expose", "--to", "a:1", "--socket-mode", "0600"],
            vec!["report", "invite"],
            vec!["report", "quickstart", "--to", "nowhere"],
            vec!["report", "quickstart", "--port", "70000"],
        ] {
            assert_eq!(
                Arguments::try_parse_from(&arguments)
                    .expect_err("refused")
                    .exit_code(),
                2,
                "{arguments:?}"
            );
        }
    }

    /// Splits a line of a shell into words. Double quotes keep spaces.
    #[cfg(feature = "store")]
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut is_quoted = false;
        for character in line.chars() {
            match character {
                '"' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.push(String::new()),
                '#' if !is_quoted && words.last().is_some_and(String::is_empty) => break,
                other => words.last_mut().expect("a word").push(other),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[cfg(feature = "store")]
    #[test]
    fn the_commands_of_the_documents_exist() {
        let english = include_str!("../../README.md");
        let chinese = include_str!("../../README.zh-CN.md");
        let commands = |page: &'static str| {
            let lines = page.lines().filter(|line| line.starts_with("report "));
            lines.collect::<Vec<_>>()
        };
        assert!(commands(english).len() > 5);
        assert_eq!(commands(english), commands(chinese));
        let api = include_str!("../../docs/admin-api.md");
        for line in commands(english).into_iter().chain(commands(api)) {
            if let Err(error) = Arguments::try_parse_from(words(line)) {
                panic!("{line}: {error}");
            }
        }
    }
}
