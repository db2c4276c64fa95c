//! `report completions`: prints the completions of the command line for a shell.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args, CommandFactory as _};
use clap_complete::{Generator as _, Shell};

use super::Arguments;

/// The arguments of `report completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// Shell that loads the completions
    shell: Shell,
}

/// Prints the completions of all commands and options.
///
/// # Errors
/// Fails when standard output is closed.
pub(super) fn completions(arguments: &CompletionsArguments) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    out.write_all(&script(arguments.shell)?)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Generates the completions in memory. `clap_complete::generate` panics on a closed output.
fn script(shell: Shell) -> io::Result<Vec<u8>> {
    let mut program = Arguments::command();
    let name = program.get_name().to_owned();
    program.set_bin_name(name);
    program.build();
    let mut script = Vec::new();
    shell.try_generate(&program, &mut script)?;
    Ok(script)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    /// The text before and after the name of a command, and before that of an option. A bare name
    /// such as `man` is part of other words.
    const FORMS: [(Shell, [&str; 2], &str); 5] = [
        (Shell::Bash, ["report,", ")\n"], "--"),
        (Shell::Elvish, ["'report;", "'"], "--"),
        (Shell::Fish, [" -a \"", "\""], " -l "),
        (Shell::PowerShell, ["'report;", "'"], "--"),
        (Shell::Zsh, ["'", ":"], "--"),
    ];

    #[test]
    fn every_shell_completes_every_command_and_its_options() {
        let program = Arguments::command();
        assert_eq!(FORMS.len(), Shell::value_variants().len());
        for (shell, [before, after], dashes) in FORMS {
            let script = String::from_utf8(script(shell).expect("generated")).expect("text");
            for command in program.get_subcommands() {
                let name = command.get_name();
                let form = format!("{before}{name}{after}");
                assert!(script.contains(&form), "{shell}: no {form}");
                let options = command
                    .get_arguments()
                    .filter(|option| !option.is_hide_set());
                let names = options.filter_map(|option| option.get_long());
                for option in names.chain(["config", "version"]) {
                    let form = format!("{dashes}{option}");
                    assert!(script.contains(&form), "{shell}: no {form}");
                }
            }
        }
    }

    /// Returns a text that only the completions of a command below another one contain.
    #[cfg(feature = "store")]
    fn nested_form(shell: Shell, parent: &str, name: &str) -> String {
        match shell {
            Shell::Bash => format!("{parent},{name})\n"),
            Shell::Elvish => format!("&'report;{parent};{name}'="),
            Shell::Fish => format!(" {parent}; and __fish_seen_subcommand_from {name}\""),
            Shell::PowerShell => format!("'report;{parent};{name}' {{"),
            _ => format!("'{name}:"),
        }
    }

    #[cfg(feature = "store")]
    #[test]
    fn every_shell_completes_commands_below_commands() {
        let program = Arguments::command();
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell).expect("generated")).expect("text");
            let mut count = 0;
            for parent in program.get_subcommands() {
                for command in parent.get_subcommands() {
                    let form = nested_form(*shell, parent.get_name(), command.get_name());
                    assert!(script.contains(&form), "{shell}: no {form}");
                    count += 1;
                }
            }
            assert!(count > 30, "{shell}: {count} commands");
        }
    }
}
