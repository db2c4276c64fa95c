//! The three configuration files of a quickstart. The same text is run and written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, bail};

use crate::{
    config::{
        self, ClientConfig, CommonConfig, CompressMethod, Config, HostPort, LinkConfig,
        MasterConfig, PortConfig, RoleConfig, Secret, ServerConfig,
    },
    random,
};
use report_proto::crypto::strength;

/// The addresses of three roles on one machine.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    /// Where the master listens.
    pub master: HostPort,
    /// Where the client listens.
    pub client: HostPort,
    /// The service that the server dials.
    pub service: HostPort,
    /// The name of the service.
    pub mark: String,
}

/// The files with their names.
pub(super) struct Configurations([(&'static str, String); 3]);

impl Configurations {
    /// Creates the three files with new keys.
    ///
    /// # Errors
    /// Fails only on an internal error.
    pub(super) fn new(topology: &Topology) -> anyhow::Result<Self> {
        let [master_key, port_key] =
            [(); 2].map(|()| Secret::new(strength::generate(random::bytes())));
        let port = |address: &HostPort| PortConfig {
            compress_method: CompressMethod::Zstd,
            ..PortConfig::new(
                topology.mark.clone(),
                address.clone().into(),
                port_key.clone(),
            )
        };
        let link = LinkConfig::new(topology.master.to_string().parse()?);
        let master = MasterConfig::new(topology.master.clone(), master_key.clone());
        let server = ServerConfig::new(link.clone(), master_key, vec![port(&topology.service)]);
        let client = ClientConfig::new(link, vec![port(&topology.client)]);
        Ok(Self([
            ("master.json", text(RoleConfig::Master(master))?),
            ("server.json", text(RoleConfig::Server(server))?),
            ("client.json", text(RoleConfig::Client(client))?),
        ]))
    }

    /// Names and texts of master, server and client.
    pub(super) fn files(&self) -> &[(&'static str, String); 3] {
        &self.0
    }

    /// Parses the files of master, server and client.
    ///
    /// # Errors
    /// Fails only on an internal error.
    pub(super) fn load(&self) -> anyhow::Result<[Config; 3]> {
        let [master, server, client] = &self.0;
        let load = |(name, text): &(&str, String)| {
            config::parse(text, Path::new(name), &|_| None).map(|loaded| loaded.config)
        };
        Ok([load(master)?, load(server)?, load(client)?])
    }

    /// Writes the files into `folder` and creates it if necessary. Only the owner can read them,
    /// because they hold keys.
    ///
    /// # Errors
    /// Fails when one of the files already exists, or the system refuses. In the first case nothing
    /// is written.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let paths = self.0.iter().map(|(name, text)| (folder.join(name), text));
        if let Some((path, _)) = paths.clone().find(|(path, _)| path.exists()) {
            bail!(
                "{} already exists and was not changed: use another folder with --write, or move the file",
                path.display()
            );
        }
        for (path, text) in paths {
            let written =
                create_private(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn text(role: RoleConfig) -> anyhow::Result<String> {
    let common = CommonConfig::default();
    Ok(serde_json::to_string_pretty(&Config { common, role })? + "\n")
}

/// Creates a new file that only its owner can read.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        let [master, client, service] =
            ["127.0.0.1:51324", "127.0.0.1:8080", "[::1]:80"].map(|text| text.parse().expect(text));
        Topology {
            master,
            client,
            service,
            mark: "web".to_owned(),
        }
    }

    #[test]
    fn the_three_files_match() {
        let configurations = Configurations::new(&topology()).expect("made");
        let [master, server, client] = configurations
            .load()
            .expect("valid")
            .map(|config| config.role);
        let (RoleConfig::Master(master), RoleConfig::Server(server), RoleConfig::Client(client)) =
            (master, server, client)
        else {
            panic!("other roles")
        };
        assert_eq!(master.master_key, server.master_key);
        assert_eq!(
            (&server.link, server.link.masters[0].to_string().as_str()),
            (&client.link, "ws://127.0.0.1:51324/")
        );
        let (here, there) = (&client.ports[0], &server.ports[0]);
        assert_eq!(
            (&here.port_key, here.encrypt_method),
            (&there.port_key, there.encrypt_method)
        );
        assert_eq!(there.local_address, Some(topology().service.into()));
        assert_ne!(Some(&here.port_key), master.master_key.as_ref());
        assert!(
            !configurations.files()[2].1.contains("master_key"),
            "a client has no master key"
        );
    }

    #[test]
    fn written_files_are_private_and_never_overwrite() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("new");
        let configurations = Configurations::new(&topology()).expect("made");
        configurations.write(&inside).expect("written");
        for (name, text) in configurations.files() {
            assert_eq!(&fs::read_to_string(inside.join(name)).expect("there"), text);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = fs::metadata(inside.join(name))
                    .expect("there")
                    .permissions()
                    .mode();
                assert_eq!(mode & 0o777, 0o600, "{name}");
            }
        }
        fs::remove_file(inside.join("master.json")).expect("removed");
        let error = Configurations::new(&topology())
            .expect("made")
            .write(&inside)
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains("server.json") && error.contains("--write"),
            "{error}"
        );
        assert!(
            !inside.join("master.json").exists(),
            "nothing is written when one file exists"
        );
    }
}
