//! `report invite`: prints the invitation to a service, which is all that a client needs to reach
//! it. Reads invitations for other commands.

use std::{
    fmt::Display,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use zeroize::Zeroizing;

use super::{ConfigFile, InvalidArguments, configurations::create_private, port_choice::by_mark};
use crate::{
    config::{self, Invite, LinkConfig, PortConfig, RoleConfig},
    text,
};

/// The arguments of `report invite`.
#[derive(Debug, Args)]
pub(super) struct InviteArguments {
    /// Port of a server or client, by its `mark`
    port: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Write the invitation to a new file with private permissions
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Prints the invitation, or writes it to a file. Warns about what it contains, and what not.
///
/// # Errors
/// Fails when the configuration is invalid or a master's, no port has the mark, the file exists, or
/// standard output is closed.
pub(super) fn invite(arguments: &InviteArguments) -> anyhow::Result<ExitCode> {
    let file = &arguments.file.config;
    let loaded = config::load(file)?;
    let (link, has_credential, port) = match &loaded.config.role {
        RoleConfig::Server(server) => (
            &server.link,
            false,
            by_mark(server.enabled_ports(), &arguments.port),
        ),
        RoleConfig::Client(client) => (
            &client.link,
            client.credential.is_some(),
            by_mark(client.enabled_ports(), &arguments.port),
        ),
        RoleConfig::Master(_) => bail!(
            "{} is a master configuration: `report invite` needs that of a server or client",
            file.display()
        ),
    };
    let port = port.with_context(|| file.display().to_string())?;
    let text = Invite::new(link, port).to_text();
    match &arguments.write {
        None => writeln!(io::stdout(), "{}", *text)?,
        Some(path) => {
            write(path, &text)?;
            writeln!(io::stdout(), "wrote an invitation to {}", path.display())?;
        }
    }
    for warning in warnings(link, has_credential, port) {
        super::print_error(&format!("warning: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    create_private(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .with_context(|| {
            format!(
                "cannot write the invitation to {}: choose a file that does not exist",
                path.display()
            )
        })
}

/// Returns the warnings about an invitation. `has_credential` tells whether a client has one.
fn warnings(link: &LinkConfig, has_credential: bool, port: &PortConfig) -> Vec<String> {
    let secret = format!(
        "the invitation contains the port key of \"{}\", which is the access to the service: pass it on in private",
        port.mark
    );
    let credential = has_credential.then_some("`credential`");
    let local: Vec<&str> = credential.into_iter().chain(local_fields(link)).collect();
    let omitted = (!local.is_empty()).then(|| {
        format!(
            "the invitation does not contain {}: add it with options of `report connect` or `report forward` where it is needed",
            local.join(", ")
        )
    });
    [secret].into_iter().chain(omitted).collect()
}

/// Returns the set fields that a client may need to reach the master, and that are not in an
/// invitation: they name files, or belong to this machine and its network.
fn local_fields(link: &LinkConfig) -> impl Iterator<Item = &'static str> {
    let fields = [
        ("`proxy`", link.proxy.is_some()),
        ("`connect_to`", link.connect_to.is_some()),
        ("`host`", link.host.is_some()),
        ("`headers`", !link.headers.is_empty()),
        ("`headers_file`", link.headers_file.is_some()),
        ("`user_agent`", link.user_agent.is_some()),
        ("`tls.ca`", link.tls.ca.is_some()),
        ("`tls.system_ca`", link.tls.system_ca),
        ("`tls.client_cert`", link.tls.client_cert.is_some()),
        ("`tls.server_name`", link.tls.server_name.is_some()),
        ("`tls.insecure_skip_verify`", link.tls.insecure_skip_verify),
    ];
    let set = fields.into_iter().filter(|(_, is_set)| *is_set);
    set.map(|(name, _)| name)
}

/// Returns whether the text may be an invitation, or the rest of one.
pub(super) fn may_contain_key(text: &str) -> bool {
    text.contains("://") && text.contains('#')
}

/// Parses an invitation in the arguments.
///
/// # Errors
/// Fails when the text is no invitation. The error does not contain it.
pub(super) fn read_text(text: &str) -> Result<Invite, InvalidArguments> {
    let parsed = text.parse::<Invite>();
    parsed.map_err(|error| InvalidArguments(error.to_string()))
}

/// Reads the invitation in a file.
///
/// # Errors
/// Fails when the file cannot be read, or contains no invitation. The error does not contain it.
pub(super) fn read_file(path: &Path) -> Result<Invite, InvalidArguments> {
    let invalid = |problem: &dyn Display| {
        let name = path.display();
        InvalidArguments(format!("the invitation in {name}: {problem}"))
    };
    let read = text::read_file(path, text::SHORT_FILE_MAX);
    let bytes = Zeroizing::new(read.map_err(|error| invalid(&error))?);
    let content = Zeroizing::new(text::decode(&bytes).map_err(|error| invalid(&error))?);
    let parsed = content.parse::<Invite>();
    parsed.map_err(|error| invalid(&error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SERVER: &str = r#"{"mode": "server", "master": "wss://host/", "master_key": "hush", "tls": {"ca": "ca.pem"}, "ports": [
        {"mark": "SSH", "local_address": "127.0.0.1:22", "port_key": "a_key"},
        {"mark": "web", "enabled": false, "local_address": "127.0.0.1:80", "port_key": "b"}]}"#;

    fn arguments(folder: &Path, port: &str) -> InviteArguments {
        InviteArguments {
            port: port.to_owned(),
            file: ConfigFile {
                config: folder.join("server.json"),
            },
            write: Some(folder.join("invitation")),
        }
    }

    #[test]
    fn a_written_invitation_is_private_and_can_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("server.json"), SERVER).expect("written");
        let arguments = arguments(folder.path(), "ssh");
        invite(&arguments).expect("written");
        let path = folder.path().join("invitation");
        let written = fs::read_to_string(&path).expect("there");
        assert_eq!(
            written,
            "report+wss://host/?mark=SSH&encrypt=aes-128-gcm&compress=null#a_key\n"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(read_file(&path).expect("an invitation").mark, "SSH");
        let error = invite(&arguments).expect_err("it exists").to_string();
        assert!(error.contains("choose a file"), "{error}");
    }

    #[test]
    fn warnings_name_the_secret_and_what_is_missing() {
        let loaded = config::parse(SERVER, Path::new("s.json"), &|_| None).expect("valid");
        let RoleConfig::Server(mut server) = loaded.config.role else {
            panic!("no server")
        };
        let lines = warnings(&server.link, false, &server.ports[0]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("port key of \"SSH\""), "{lines:?}");
        assert!(lines[1].contains("`tls.ca`:"), "{lines:?}");
        assert!(!lines.concat().contains("a_key"), "{lines:?}");
        server.link.tls.ca = None;
        assert_eq!(warnings(&server.link, false, &server.ports[0]).len(), 1);
        server.link.tls.system_ca = true;
        let lines = warnings(&server.link, true, &server.ports[0]);
        assert!(
            lines[1].contains("`credential`, `tls.system_ca`:"),
            "{lines:?}"
        );
    }

    #[test]
    fn unusable_configurations_and_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("server.json");
        fs::write(&file, SERVER).expect("written");
        let error = invite(&arguments(folder.path(), "web")).expect_err("disabled");
        assert!(format!("{error:#}").contains("\"SSH\""), "{error:#}");
        let master = r#"{"mode": "master", "listen_at": "127.0.0.1:1", "master_key": "k"}"#;
        fs::write(&file, master).expect("written");
        let error = invite(&arguments(folder.path(), "SSH")).expect_err("a master");
        assert!(
            error.to_string().contains("master configuration"),
            "{error}"
        );
        fs::write(&file, "report+wss://host/?hush").expect("written");
        let error = format!("{:#}", read_file(&file).expect_err("no key"));
        assert!(
            error.contains("server.json: the invitation has no key"),
            "{error}"
        );
        assert!(!error.contains("hush"), "{error}");
        assert!(read_file(&folder.path().join("none")).is_err());
    }
}
