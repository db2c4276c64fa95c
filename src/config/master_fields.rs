//! The fields of a master's file about its public side: path, certificate, fallback and trusted
//! proxies.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{
    FallbackConfig, HostPort, TlsFilesConfig, Warning,
    document::ConfigDocument,
    error::{Fault, FieldPath},
    raw::{FALLBACK_FORMS, RawFallback, RawFallbackTarget, RawMaster, RawMasterTls},
    reader::FieldReader,
    validate::root,
};
use crate::text::without_password;

/// The default: proxies on the same machine.
const TRUSTED_PROXIES: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// The versions of the PROXY protocol that a master can send.
pub(super) const PROXY_PROTOCOLS: [&str; 1] = ["v2"];

impl FieldReader<'_> {
    pub(super) fn upgrade_path(&mut self, written: Option<&str>, healthz: bool) -> Option<String> {
        let path = written.unwrap_or("/");
        let message = if !path.starts_with('/')
            || !path.bytes().all(|byte| byte.is_ascii_graphic())
            || path.contains(['?', '#'])
        {
            format!(
                "is \"{path}\": write a path that starts with \"/\", of visible ASCII without ? and #"
            )
        } else if healthz && path == "/healthz" {
            "is \"/healthz\", where the health check answers: choose another, or set \"healthz\" to false".to_owned()
        } else {
            return Some(path.to_owned());
        };
        self.document
            .add_problem(&root("path"), Fault::Other(message));
        None
    }

    pub(super) fn master_tls(
        &mut self,
        raw: Option<&RawMasterTls>,
    ) -> Option<Option<TlsFilesConfig>> {
        let Some(raw) = raw else { return Some(None) };
        let file = |document: &mut ConfigDocument<'_>, name, file: Option<&Path>, missing| {
            let found = file
                .filter(|file| !file.as_os_str().is_empty())
                .map(|file| self.sources.folder.join(file));
            if found.is_none() {
                document.add_problem(&root("tls").field(name), Fault::Missing(missing));
            }
            found
        };
        let cert = file(
            &mut self.document,
            "cert",
            raw.cert.as_deref(),
            "name the certificate chain's PEM file",
        );
        let key = file(
            &mut self.document,
            "key",
            raw.key.as_deref(),
            "name the private key's PEM file",
        );
        let client_ca = raw
            .client_ca
            .as_ref()
            .map(|file| self.sources.folder.join(file));
        Some(Some(TlsFilesConfig {
            cert: cert?,
            key: key?,
            client_ca,
        }))
    }

    pub(super) fn fallback(&mut self, raw: Option<&RawFallback>) -> Option<FallbackConfig> {
        let path = root("fallback");
        match raw {
            None => Some(FallbackConfig::NotFound),
            Some(RawFallback::Text(text)) if text == "404" => Some(FallbackConfig::NotFound),
            Some(RawFallback::Text(text)) => self.reject(
                &path,
                format!("is \"{}\": write {FALLBACK_FORMS}", without_password(text)),
            ),
            Some(RawFallback::Target(target)) => self.fallback_target(&path, target),
        }
    }

    fn fallback_target(
        &mut self,
        path: &FieldPath,
        target: &RawFallbackTarget,
    ) -> Option<FallbackConfig> {
        let protocol = target.proxy_protocol.as_deref();
        match (&target.files, &target.server) {
            (Some(folder), None) if protocol.is_none() => self.files(&path.field("files"), folder),
            (None, Some(server)) => {
                let version = protocol.map(|word| {
                    self.word(
                        &path.field("proxy_protocol"),
                        Some(word),
                        "",
                        &PROXY_PROTOCOLS,
                    )
                });
                let address = self.web_server(&path.field("server"), server)?;
                version
                    .is_none_or(|version| version.is_some())
                    .then_some(FallbackConfig::Server {
                        address,
                        proxy_protocol: protocol.is_some(),
                    })
            }
            (Some(_), None) => {
                let message = "has no effect beside `files`: remove it".to_owned();
                self.reject(&path.field("proxy_protocol"), message)
            }
            _ => self.reject(
                path,
                format!("needs exactly one target: write {FALLBACK_FORMS}"),
            ),
        }
    }

    fn files(&mut self, path: &FieldPath, folder: &Path) -> Option<FallbackConfig> {
        let folder: PathBuf = self.sources.folder.join(folder);
        if folder.is_dir() {
            return Some(FallbackConfig::Files(folder));
        }
        self.reject(
            path,
            format!(
                "is \"{}\", which is not a folder on this machine: create it, or correct the path",
                folder.display()
            ),
        )
    }

    fn web_server(&mut self, path: &FieldPath, text: &str) -> Option<HostPort> {
        let wrong = |reader: &mut Self, why: &str| {
            let message = format!(
                "is \"{}\", {why}: write \"http://HOST:PORT\", the address of a web server without TLS",
                without_password(text)
            );
            reader.reject(path, message)
        };
        let Some(rest) = text.strip_prefix("http://") else {
            return wrong(self, "not an http:// URL");
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return wrong(self, "more than an address");
        }
        let with_port = if authority.contains(':') && !authority.ends_with(']') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        match with_port.parse::<HostPort>().and_then(HostPort::dialable) {
            Ok(address) => Some(address),
            Err(reason) => {
                self.document.add_problem(
                    path,
                    Fault::Address {
                        found: authority.to_owned(),
                        reason,
                    },
                );
                None
            }
        }
    }

    pub(super) fn trusted_proxies(&mut self, raw: &RawMaster) -> Option<Vec<IpNet>> {
        let path = root("trusted_proxies");
        let default = || TRUSTED_PROXIES.map(str::to_owned).to_vec();
        let written = raw.trusted_proxies.clone().unwrap_or_else(default);
        let networks: Vec<Option<IpNet>> = written
            .iter()
            .enumerate()
            .map(|(index, text)| self.network(&path.index(index), text))
            .collect();
        let networks: Option<Vec<IpNet>> = networks.into_iter().collect();
        if raw.proxy_protocol == Some(true) && networks.as_ref().is_some_and(Vec::is_empty) {
            return self.reject(
                &root("proxy_protocol"),
                "needs `trusted_proxies`: only they may send PROXY protocol headers".to_owned(),
            );
        }
        for network in networks
            .iter()
            .flatten()
            .filter(|network| network.prefix_len() == 0)
        {
            let message = format!(
                "contains {network}: ANY peer can then claim another address in the logs and to the throttle"
            );
            self.warnings.push(Warning {
                field: path.clone(),
                message,
            });
        }
        networks
    }

    fn network(&mut self, path: &FieldPath, text: &str) -> Option<IpNet> {
        let network = text.parse().ok().or_else(|| {
            text.parse()
                .ok()
                .map(|address: std::net::IpAddr| address.into())
        });
        match network {
            Some(network) => Some(network),
            None => self.reject(
                path,
                format!("is \"{text}\": write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or an address"),
            ),
        }
    }
}
