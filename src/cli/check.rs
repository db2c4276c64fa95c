//! `report check`: validates a configuration and describes its meaning. It reads the files that the
//! configuration names. It opens no listeners and no connections.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::bail;

use super::{config_text::describe, warnings::warnings};
use crate::{
    config::{self, CongestionControl, FieldPath, LinkConfig, MasterAddress, RoleConfig, Warning},
    master::MasterTlsFiles,
    net::{
        congestion_control::LinkCongestionControl,
        dial::Bind,
        tls::{self, TlsError},
    },
    telemetry::escape_text,
};

/// Prints a description of the configuration, and warnings on standard error.
///
/// # Errors
/// Returns everything that is wrong with the file, or why its certificate or `bind_address` is
/// unusable.
pub(super) fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let loaded = config::load(file)?;
    certificates(&loaded.config.role)?;
    let bind_warning = bind_address(&loaded.config.role)?;
    let name = file.display().to_string();
    let mut output = io::stdout();
    writeln!(output, "{} is valid.", escape_text(&name))?;
    for included in loaded.files.iter().skip(1) {
        let included = included.display().to_string();
        writeln!(output, "includes: {}", escape_text(&included))?;
    }
    writeln!(output, "{}", describe(&loaded.config).trim_end())?;
    let warnings = warnings(&loaded).into_iter().chain(bind_warning);
    for warning in warnings.chain(congestion_control(&loaded.config.role)) {
        super::print_error(&format!("warning: {name}: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the TLS files like the role would.
fn certificates(role: &RoleConfig) -> Result<(), TlsError> {
    match role {
        RoleConfig::Master(master) => master
            .tls
            .as_ref()
            .map(|files| MasterTlsFiles::new(files).acceptor())
            .transpose()
            .map(drop),
        RoleConfig::Server(server) => authorities(&server.link),
        RoleConfig::Client(client) => authorities(&client.link),
    }
}

fn authorities(link: &LinkConfig) -> Result<(), TlsError> {
    let has_files = link.tls.ca.is_some() || link.tls.client_cert.is_some();
    if has_files || link.masters.iter().any(MasterAddress::is_secure) {
        tls::client_config(&link.dial_parameters().tls)?;
    }
    Ok(())
}

/// Checks whether this machine can dial from `bind_address` now. A missing address is only a
/// warning, because it may appear later, like the interface of a VPN.
fn bind_address(role: &RoleConfig) -> anyhow::Result<Option<Warning>> {
    let bind = match role {
        RoleConfig::Master(_) => None,
        RoleConfig::Server(server) => server.link.bind_address.as_ref(),
        RoleConfig::Client(client) => client.link.bind_address.as_ref(),
    };
    let Some((bind, error)) = bind.and_then(|bind| Some((bind, bind.check_bindable().err()?)))
    else {
        return Ok(None);
    };
    let cause = match (error.kind(), bind) {
        (io::ErrorKind::Unsupported, _) => bail!("`bind_address` (\"{bind}\"): {error}"),
        (io::ErrorKind::PermissionDenied, _) => {
            "this user lacks the permission: run rePort with CAP_NET_RAW, or write an IP address"
        }
        (_, Bind::Address(_)) => {
            "this machine has no such address now: no master is reachable until the address appears; correct it if it is wrong"
        }
        (_, Bind::Interface(_)) => {
            "this machine has no such interface now: no master is reachable until the interface appears; correct it if it is wrong"
        }
    };
    let message = format!("(\"{bind}\") cannot be used: {cause} ({error})");
    Ok(Some(Warning {
        field: FieldPath::default().field("bind_address"),
        message,
    }))
}

/// Checks whether this process may use the algorithm that `congestion_control` names. Links work
/// without it, so this is only a warning.
fn congestion_control(role: &RoleConfig) -> Option<Warning> {
    let setting = role.congestion_control();
    // `auto` is content with the system's. The doctor reports that.
    if !matches!(setting, CongestionControl::Named(_)) {
        return None;
    }
    let problem = LinkCongestionControl::new(setting).problem()?;
    Some(Warning {
        field: FieldPath::default().field("congestion_control"),
        message: format!("has no effect: {problem}"),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// Creates a folder with a certificate, its key, and the key of another certificate.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let made =
            || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (one, other) = (made(), made());
        fs::write(folder.path().join("cert.pem"), one.cert.pem()).expect("written");
        fs::write(
            folder.path().join("key.pem"),
            one.signing_key.serialize_pem(),
        )
        .expect("written");
        fs::write(
            folder.path().join("other.pem"),
            other.signing_key.serialize_pem(),
        )
        .expect("written");
        folder
    }

    fn written(folder: &tempfile::TempDir, text: &str) -> PathBuf {
        let file = folder.path().join("config.json");
        fs::write(&file, text).expect("written");
        file
    }

    fn master(cert: &str, key: &str) -> String {
        format!(
            r#"{{"mode": "master", "listen_at": "a:1", "master_key": "k", "tls": {{"cert": "{cert}", "key": "{key}"}}}}"#
        )
    }

    fn refused(text: &str) -> String {
        let folder = folder();
        format!("{:#}", check(&written(&folder, text)).expect_err(text))
    }

    #[test]
    fn a_matching_certificate_and_key_are_valid() {
        let folder = folder();
        assert_eq!(
            check(&written(&folder, &master("cert.pem", "key.pem"))).expect("valid"),
            ExitCode::SUCCESS
        );
    }

    #[test]
    fn an_unreadable_certificate_is_named() {
        for (text, file) in [
            (master("none.pem", "key.pem"), "none.pem"),
            (master("cert.pem", "none.pem"), "none.pem"),
        ] {
            let output = refused(&text);
            assert!(
                output.contains("cannot read") && output.contains(file),
                "{output}"
            );
        }
        let output = refused(&master("key.pem", "key.pem"));
        assert!(
            output.contains("no certificate in") && output.contains("key.pem"),
            "{output}"
        );
    }

    #[test]
    fn a_key_of_another_certificate_names_both_files() {
        let output = refused(&master("cert.pem", "other.pem"));
        assert!(
            output.contains("cert.pem")
                && output.contains("other.pem")
                && output.contains("does not belong"),
            "{output}"
        );
    }

    #[test]
    fn unreadable_authorities_are_named() {
        let port = r#"{"local_address": "127.0.0.1:0", "port_key": "k"}"#;
        let client = format!(
            r#"{{"mode": "client", "master": "wss://host/", "tls": {{"ca": "none.pem"}}, "ports": [{port}]}}"#
        );
        let output = refused(&client);
        assert!(output.contains("none.pem"), "{output}");
    }

    #[test]
    fn a_missing_bind_address_is_a_warning() {
        for (bind, says) in [
            (
                "192.0.2.7",
                "(\"192.0.2.7\") cannot be used: this machine has no such address now",
            ),
            ("2001:db8::7", "(\"2001:db8::7\") cannot be used: "),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            (
                "no-such-if0",
                "(\"no-such-if0\") cannot be used: this machine has no such interface now",
            ),
            ("127.0.0.1", ""),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            ("lo", ""),
        ] {
            let port = r#"{"local_address": "127.0.0.1:1", "port_key": "k"}"#;
            let text = format!(
                r#"{{"mode": "client", "master": "a:1", "bind_address": "{bind}", "ports": [{port}]}}"#
            );
            let loaded = config::parse(&text, Path::new("c.json"), &|_| None).expect("loads");
            let output = bind_address(&loaded.config.role)
                .expect("no error")
                .map(|warning| warning.to_string())
                .unwrap_or_default();
            assert_eq!(output.is_empty(), says.is_empty(), "{bind}: {output}");
            assert!(output.contains(says), "{bind}: {output}");
        }
    }
    #[test]
    fn an_algorithm_that_cannot_be_set_is_a_warning() {
        for (name, is_warned) in [("auto", false), ("system", false), ("no_such_one", true)] {
            let text = format!(
                r#"{{"mode": "master", "listen_at": "a:1", "master_key": "k", "congestion_control": "{name}"}}"#
            );
            let loaded = config::parse(&text, Path::new("c.json"), &|_| None).expect("loads");
            let output = congestion_control(&loaded.config.role)
                .map(|warning| warning.to_string())
                .unwrap_or_default();
            let begins = output.starts_with("congestion_control has no effect");
            assert_eq!(begins, is_warned, "{name}: {output}");
        }
    }
}
