//! What a master shows to the world: its path, its certificate, its fallback, and whom it believes.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{
    FallbackConfig, HostPort, TlsFiles, Warning,
    error::{Fault, FieldPath},
    meaning::root,
    raw::{FALLBACK_FORMS, RawFallback, RawMaster, RawMasterTls, RawPlace},
    reader::Reader,
    written::Document,
};
use crate::text::without_password;

/// A proxy on the same machine.
const TRUSTED_PROXIES: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// The one version of the PROXY protocol that is written.
pub(super) const PROXY_PROTOCOLS: [&str; 1] = ["v2"];

impl Reader<'_> {
    pub(super) fn upgrade_path(&mut self, written: Option<&str>, healthz: bool) -> Option<String> {
        let path = written.unwrap_or("/");
        let message = if !path.starts_with('/')
            || !path.bytes().all(|byte| byte.is_ascii_graphic())
            || path.contains(['?', '#'])
        {
            format!(
                "is \"{path}\": write a path that begins with \"/\", of visible ASCII without ? and #"
            )
        } else if healthz && path == "/healthz" {
            "is \"/healthz\", where the health check answers: choose another, or set \"healthz\" to false".to_owned()
        } else {
            return Some(path.to_owned());
        };
        self.document.problem(&root("path"), Fault::Other(message));
        None
    }

    pub(super) fn master_tls(&mut self, raw: Option<&RawMasterTls>) -> Option<Option<TlsFiles>> {
        let Some(raw) = raw else { return Some(None) };
        let file = |document: &mut Document<'_>, name, file: Option<&Path>, missing| {
            let found = file
                .filter(|file| !file.as_os_str().is_empty())
                .map(|file| self.surroundings.folder.join(file));
            if found.is_none() {
                document.problem(&root("tls").field(name), Fault::Missing(missing));
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
            .map(|file| self.surroundings.folder.join(file));
        Some(Some(TlsFiles {
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
            Some(RawFallback::Text(text)) => self.wrong(
                &path,
                format!("is \"{}\": write {FALLBACK_FORMS}", without_password(text)),
            ),
            Some(RawFallback::Place(place)) => self.place(&path, place),
        }
    }

    fn place(&mut self, path: &FieldPath, place: &RawPlace) -> Option<FallbackConfig> {
        let protocol = place.proxy_protocol.as_deref();
        match (&place.files, &place.server) {
            (Some(folder), None) if protocol.is_none() => self.files(&path.field("files"), folder),
            (None, Some(server)) => {
                let told = protocol.map(|word| {
                    self.word(
                        &path.field("proxy_protocol"),
                        Some(word),
                        "",
                        &PROXY_PROTOCOLS,
                    )
                });
                let address = self.web_server(&path.field("server"), server)?;
                told.is_none_or(|told| told.is_some())
                    .then_some(FallbackConfig::Server {
                        address,
                        proxy_protocol: protocol.is_some(),
                    })
            }
            (Some(_), None) => {
                let message = "has no use beside `files`: remove it".to_owned();
                self.wrong(&path.field("proxy_protocol"), message)
            }
            _ => self.wrong(
                path,
                format!("does not name one thing: write {FALLBACK_FORMS}"),
            ),
        }
    }

    fn files(&mut self, path: &FieldPath, folder: &Path) -> Option<FallbackConfig> {
        let folder: PathBuf = self.surroundings.folder.join(folder);
        if folder.is_dir() {
            return Some(FallbackConfig::Files(folder));
        }
        self.wrong(
            path,
            format!(
                "is \"{}\", which is no folder here: create it, or correct the path",
                folder.display()
            ),
        )
    }

    fn web_server(&mut self, path: &FieldPath, text: &str) -> Option<HostPort> {
        let wrong = |reader: &mut Self, why: &str| {
            let message = format!(
                "is \"{}\", {why}: write \"http://HOST:PORT\", the address of a web server that is asked without TLS",
                without_password(text)
            );
            reader.wrong(path, message)
        };
        let Some(rest) = text.strip_prefix("http://") else {
            return wrong(self, "no http:// URL");
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
        match with_port.parse::<HostPort>().and_then(HostPort::to_dial) {
            Ok(address) => Some(address),
            Err(reason) => {
                self.document.problem(
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
            return self.wrong(
                &root("proxy_protocol"),
                "needs `trusted_proxies`: nobody else may speak it".to_owned(),
            );
        }
        for network in networks
            .iter()
            .flatten()
            .filter(|network| network.prefix_len() == 0)
        {
            let message = format!(
                "holds {network}: ANYBODY can say then that he is somebody else, in the logs and to the throttle"
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
            None => self.wrong(
                path,
                format!("is \"{text}\": write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or an address"),
            ),
        }
    }
}
