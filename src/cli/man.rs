//! `report man`: prints the man page of the program, or writes the pages of all commands.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::Arguments;

/// The exit codes of all commands.
const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "Success. A role also ends with it after a drain."),
    (
        "1",
        "Failure. Standard error names the reason. A failed step of report-doctor(1) counts.",
    ),
    ("2", "Invalid arguments."),
    (
        "129, 130, 143",
        "SIGHUP, SIGINT or SIGTERM ended the process at once: the second signal to a role or to report-quickstart(1), the first to report-bench(1), report-connect(1) or report-doctor(1). A role with a configuration file reloads it at SIGHUP instead.",
    ),
];

/// The description of the default configuration file.
const CONFIG_FILE: &str =
    "The configuration of a role, in the working directory, unless --config names another file.";

/// The arguments of `report man`.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A man page.
struct ManPage {
    file_name: String,
    text: Vec<u8>,
}

/// Prints the man page of the program, or writes all pages into a folder.
///
/// # Errors
/// Fails when standard output is closed, or a page cannot be written.
pub(super) fn man(arguments: &ManArguments) -> anyhow::Result<ExitCode> {
    let program = program();
    match &arguments.dir {
        None => {
            let mut out = io::stdout().lock();
            out.write_all(&program_page(&program)?.text)?;
            out.flush()?;
        }
        Some(folder) => write_pages(&pages(&program)?, folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the command line. Without `help`, which would get a page that repeats the others.
fn program() -> Command {
    let mut program = Arguments::command().disable_help_subcommand(true);
    // Sets the full names of the commands, such as `report-check`.
    program.build();
    program
}

/// Writes the pages into `folder` and creates it if necessary. Replaces pages of another version.
fn write_pages(pages: &[ManPage], folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    for page in pages {
        let path = folder.join(&page.file_name);
        fs::write(&path, &page.text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(io::stdout(), "wrote {}", path.display())?;
    }
    Ok(())
}

/// Returns the page of the program and those of its commands.
fn pages(program: &Command) -> io::Result<Vec<ManPage>> {
    let mut sections = Roff::new();
    sections.control("SH", ["SEE ALSO"]);
    sections.text([bold(program.get_name()), roman("(1)")]);
    let mut pages = vec![program_page(program)?];
    add_pages(program, &sections, &mut pages)?;
    Ok(pages)
}

/// Adds the pages of the commands below a command.
fn add_pages(parent: &Command, sections: &Roff, pages: &mut Vec<ManPage>) -> io::Result<()> {
    for command in parent.get_subcommands() {
        pages.push(page(command, sections)?);
        add_pages(command, sections, pages)?;
    }
    Ok(())
}

fn program_page(program: &Command) -> io::Result<ManPage> {
    let mut sections = Roff::new();
    sections.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        sections.control("TP", []);
        sections.text([bold(code)]).text([roman(meaning)]);
    }
    sections.control("SH", ["FILES"]);
    sections.control("TP", []);
    sections
        .text([bold("config.json")])
        .text([roman(CONFIG_FILE)]);
    sections.control("SH", ["SEE ALSO"]);
    let names = program.get_subcommands().map(|command| {
        let name = command.get_name();
        format!("{}-{name}(1)", program.get_name())
    });
    let names: Vec<String> = names.collect();
    sections.text([roman(names.join(", "))]);
    page(program, &sections)
}

/// Returns the page of a command, with `sections` at its end. clap knows all other texts.
fn page(command: &Command, sections: &Roff) -> io::Result<ManPage> {
    let man = Man::new(command.clone()).source(concat!("report ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    // `to_writer` would repeat the preamble of the page, which only apostrophes need.
    text.extend(sections.to_roff().into_bytes());
    Ok(ManPage {
        file_name: man.get_filename(),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names and texts of all pages.
    fn texts() -> Vec<(String, String)> {
        let pages = pages(&program()).expect("rendered").into_iter();
        let text = |page: ManPage| {
            let text = String::from_utf8(page.text).expect("text");
            (page.file_name, text)
        };
        pages.map(text).collect()
    }

    /// Returns the names of the pages of a command and of those below it.
    fn names(name: &str, command: &Command) -> Vec<String> {
        let below = command.get_subcommands();
        let below = below.flat_map(|command| {
            let name = format!("{name}-{}", command.get_name());
            names(&name, command)
        });
        std::iter::once(name.to_owned()).chain(below).collect()
    }

    #[test]
    fn every_command_has_a_page_that_starts_as_roff() {
        let names = names("report", &Arguments::command());
        let pages = texts();
        assert_eq!(pages.len(), names.len());
        for (name, (file_name, text)) in names.iter().zip(&pages) {
            assert_eq!(*file_name, format!("{name}.1"));
            // The lines before it define the apostrophe.
            let mut lines = text.lines().skip_while(|line| !line.starts_with(".TH "));
            let title = lines.next().unwrap_or_default();
            assert!(title.starts_with(&format!(".TH {name} 1 ")), "{title}");
            assert_eq!(lines.next(), Some(".SH NAME"), "{name}");
            assert!(text.starts_with('.'), "{name}");
            for section in [".SH SYNOPSIS\n", ".SH OPTIONS\n", ".SH \"SEE ALSO\"\n"] {
                assert!(text.contains(section), "no {section} in {name}");
            }
        }
    }

    #[cfg(feature = "store")]
    #[test]
    fn commands_below_a_command_have_pages_with_their_options() {
        let pages = texts();
        let text = |name: &str| {
            let page = pages.iter().find(|(file_name, _)| file_name == name);
            let (_, text) = page.unwrap_or_else(|| panic!("no {name}"));
            text
        };
        for (name, parts) in [
            (
                "report-account-add.1",
                ["\\-\\-max\\-keys", "\\-\\-token\\-file"],
            ),
            ("report-links-block.1", ["\\-\\-for", "\\-\\-ca"]),
            ("report-tunnels-end.1", ["\\-\\-json", "NUMBER"]),
            (
                "report-links.1",
                ["report\\-links\\-end(1)", "report\\-links\\-unblock(1)"],
            ),
        ] {
            for part in parts {
                assert!(text(name).contains(part), "no {part} in {}", text(name));
            }
        }
    }

    #[test]
    fn no_line_of_a_page_is_an_unknown_request() {
        const REQUESTS: [&str; 10] = [
            ".ie ", ".el ", ".TH ", ".SH ", ".TP", ".PP", ".IP ", ".RS", ".RE", ".br",
        ];
        for (name, text) in texts() {
            for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
                let is_known = REQUESTS.iter().any(|request| line.starts_with(request));
                assert!(is_known, "{name}: {line}");
            }
        }
    }

    #[test]
    fn the_page_of_the_program_has_exit_codes_files_and_commands() {
        let (_, text) = texts().swap_remove(0);
        for part in [
            ".SH \"EXIT STATUS\"\n",
            "\\fB129, 130, 143\\fR\n",
            ".SH FILES\n",
            "report\\-completions(1), report\\-connect(1), report\\-doctor(1)",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains("report\\-help"), "{text}");
    }

    #[test]
    fn pages_are_written_and_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("share/man/man1");
        let page = |text: &str| ManPage {
            file_name: "report-check.1".to_owned(),
            text: text.into(),
        };
        for text in ["the old page", "a new one"] {
            write_pages(&[page(text)], &folder).expect("written");
            let written = fs::read_to_string(folder.join("report-check.1")).expect("there");
            assert_eq!(written, text);
        }
    }
}
