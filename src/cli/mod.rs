//! The commands, one file for each: what the arguments ask for, and how a failure is told.
//!
//! | command | file |
//! |---|---|
//! | `report [--config FILE]` | `run`, with `roles` (from a configuration to a running role) and `signals` |
//! | `report bench` | `bench`, with `table` (what it prints for people) |
//! | `report check` | `check` |
//! | `report doctor` | `doctor` |
//! | `report keygen` | `keygen` |
//! | `report quickstart` | `quickstart`, with `configurations` (the three files) and `page` (the built-in web page) |
//!
//! Exit codes: 0 done, 1 failed with a line that says why, 2 wrong arguments, 130 and 143 ended at once by a second signal (`report bench` and
//! `report doctor`: by the first one).

mod bench;
mod check;
mod configurations;
mod doctor;
mod keygen;
mod page;
mod progress;
mod quickstart;
mod roles;
mod run;
mod signals;
mod table;
mod threads;
mod warnings;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::telemetry::shown;

/// A tunnel over WebSockets whose relay is blind and whose connections survive.
///
/// Runs the role that the configuration's `mode` names. For a first look: `report quickstart`.
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
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "config.json")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the way to a server: throughput, round trips, new connections; through a client's configuration, without its listeners
    Bench(bench::BenchArguments),
    /// Says what a configuration means, or what is wrong with it, without running it
    Check(ConfigFile),
    /// Walks the way of a configuration, step by step, and says what holds, what fails, and what to do; disturbs nobody
    Doctor(doctor::DoctorArguments),
    /// Prints a new key that nobody can guess
    Keygen(keygen::KeygenArguments),
    /// Runs a master, a server and a client on this machine, in front of a small web page or of any TCP service
    Quickstart(quickstart::QuickstartArguments),
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version come here too; when nobody reads them, nobody is told.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match arguments.command {
        None => run::run(&arguments.file.config),
        Some(Command::Bench(arguments)) => bench::bench(&arguments),
        Some(Command::Check(file)) => check::check(&file.config),
        Some(Command::Doctor(arguments)) => doctor::doctor(&arguments),
        Some(Command::Keygen(arguments)) => keygen::keygen(&arguments),
        Some(Command::Quickstart(arguments)) => quickstart::quickstart(arguments),
    };
    crate::telemetry::flush();
    outcome.unwrap_or_else(|error| {
        complain(&told(&error));
        ExitCode::FAILURE
    })
}

/// An error with its causes, but for those that are in its words already.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |said, cause| match said.as_str() {
            "" => cause,
            words if words.contains(&cause) => said,
            words => format!("{words}: {cause}"),
        })
}

/// Says it on standard error, each line under our name.
fn complain(message: &str) {
    for line in message.lines() {
        // When nobody reads it, nobody is told.
        let _ = writeln!(io::stderr(), "report: {}", shown(line));
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
    fn without_a_command_the_working_folders_file_is_run() {
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
    fn a_cause_is_told_once() {
        let refused = || anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::AddrInUse));
        let words = refused().to_string();
        let error = refused()
            .context(format!("cannot listen: {words}; choose another"))
            .context("master");
        assert_eq!(
            told(&error),
            format!("master: cannot listen: {words}; choose another")
        );
        assert_eq!(
            told(&refused().context("master")),
            format!("master: {words}")
        );
    }

    #[test]
    fn wrong_arguments_are_a_usage_error() {
        for arguments in [
            vec!["report", "chek"],
            vec!["report", "--confg", "a"],
            vec!["report", "keygen", "now"],
            vec!["report", "--config", "a", "check"],
            vec!["report", "bench", "--seconds", "0"],
            vec!["report", "bench", "--seconds", "soon"],
            vec!["report", "bench", "--connections", "0"],
            vec!["report", "bench", "--connections", "65"],
            vec!["report", "bench", "--data", "prose"],
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
}
