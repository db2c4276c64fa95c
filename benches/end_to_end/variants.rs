//! Which systems there are: the floor, rePort with its methods, and the peers whose programs are there. How they are started is in `systems`.

use std::path::{Path, PathBuf};

use report::{compress::CompressMethod, crypto::EncryptMethod};

use crate::load::Measure;

/// What a system carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Which nothing compresses.
    Random,
    Text,
    /// Machine code and tables.
    Binary,
}

impl Payload {
    /// All there are; a payload's number is its place here.
    pub const ALL: [Payload; 3] = [Payload::Random, Payload::Text, Payload::Binary];
}

/// One way to build a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub name: String,
    pub payload: Payload,
    pub way: Way,
}

/// Of which programs a system consists, and how they are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Three copiers of TCP connections.
    Chain,
    /// The same, which do what the methods do to the bytes, and nothing else.
    WorkingChain(Methods),
    Report {
        program: PathBuf,
        methods: Methods,
    },
    /// Two processes, nothing encrypted.
    Rathole(PathBuf),
    /// The same.
    Bore(PathBuf),
}

/// What rePort does to the bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    pub encrypt: EncryptMethod,
    pub compress: CompressMethod,
    /// TLS at the master, on both hops.
    pub tls: bool,
}

impl Way {
    /// Whether it is rePort with the least work.
    fn is_plain(&self) -> bool {
        let plain = Methods {
            encrypt: EncryptMethod::Plain,
            compress: CompressMethod::Null,
            tls: false,
        };
        matches!(self, Way::Report { methods, .. } if *methods == plain)
    }
}

impl Variant {
    /// Everything of ours, in the order of the tables: the floor first, then rePort with the least work.
    pub fn all() -> Vec<Self> {
        use {CompressMethod as Compress, EncryptMethod as Encrypt};
        let mut all = vec![Variant {
            name: "chain".to_owned(),
            payload: Payload::Random,
            way: Way::Chain,
        }];
        for (name, encrypt, tls) in [
            ("plain", Encrypt::Plain, false),
            ("aes-128-gcm", Encrypt::Aes128Gcm, false),
            ("aes-128-cfb", Encrypt::Aes128Cfb, false),
            ("chacha20-poly1305", Encrypt::Chacha20Poly1305, false),
            ("plain-tls", Encrypt::Plain, true),
            ("tls", Encrypt::Aes128Gcm, true),
        ] {
            all.push(Self::report(
                name,
                Payload::Random,
                Methods {
                    encrypt,
                    compress: Compress::Null,
                    tls,
                },
            ));
        }
        for (name, encrypt, compress, payload) in [
            ("plain-s2-text", Encrypt::Plain, Compress::S2, Payload::Text),
            (
                "plain-s2-binary",
                Encrypt::Plain,
                Compress::S2,
                Payload::Binary,
            ),
            (
                "plain-s2-random",
                Encrypt::Plain,
                Compress::S2,
                Payload::Random,
            ),
            (
                "plain-zstd-text",
                Encrypt::Plain,
                Compress::Zstd,
                Payload::Text,
            ),
            (
                "plain-zstd-binary",
                Encrypt::Plain,
                Compress::Zstd,
                Payload::Binary,
            ),
            (
                "plain-zstd-random",
                Encrypt::Plain,
                Compress::Zstd,
                Payload::Random,
            ),
            ("s2-text", Encrypt::Aes128Gcm, Compress::S2, Payload::Text),
            (
                "zstd-text",
                Encrypt::Aes128Gcm,
                Compress::Zstd,
                Payload::Text,
            ),
        ] {
            all.push(Self::report(
                name,
                payload,
                Methods {
                    encrypt,
                    compress,
                    tls: false,
                },
            ));
        }
        for (name, encrypt, compress, payload) in [
            (
                "working-plain",
                Encrypt::Plain,
                Compress::Null,
                Payload::Random,
            ),
            (
                "working-aes-128-gcm",
                Encrypt::Aes128Gcm,
                Compress::Null,
                Payload::Random,
            ),
            (
                "working-s2-text",
                Encrypt::Plain,
                Compress::S2,
                Payload::Text,
            ),
            (
                "working-s2-binary",
                Encrypt::Plain,
                Compress::S2,
                Payload::Binary,
            ),
            (
                "working-zstd-text",
                Encrypt::Plain,
                Compress::Zstd,
                Payload::Text,
            ),
            (
                "working-zstd-binary",
                Encrypt::Plain,
                Compress::Zstd,
                Payload::Binary,
            ),
        ] {
            let way = Way::WorkingChain(Methods {
                encrypt,
                compress,
                tls: false,
            });
            all.push(Variant {
                name: name.to_owned(),
                payload,
                way,
            });
        }
        all
    }

    /// Those of a run without options.
    pub fn is_usual(&self) -> bool {
        ["chain", "plain", "aes-128-gcm", "aes-128-cfb", "plain-tls"].contains(&self.name.as_str())
    }

    fn report(name: &str, payload: Payload, methods: Methods) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_report"));
        Variant {
            name: name.to_owned(),
            payload,
            way: Way::Report { program, methods },
        }
    }

    /// The peers whose programs are in `folder`.
    pub fn peers(folder: &Path) -> Vec<Self> {
        let peers = [
            ("rathole", Way::Rathole(folder.join("rathole"))),
            ("bore", Way::Bore(folder.join("bore"))),
        ];
        let is_there = |way: &Way| matches!(way, Way::Rathole(program) | Way::Bore(program) if program.is_file());
        let there = peers.into_iter().filter(|(_, way)| is_there(way));
        there
            .map(|(name, way)| Variant {
                name: name.to_owned(),
                payload: Payload::Random,
                way,
            })
            .collect()
    }

    /// Where peers are looked for unless a folder is given: `cargo install --root target/peers` puts them there.
    pub fn usual_peers_folder() -> PathBuf {
        let target = Path::new(env!("CARGO_BIN_EXE_report")).ancestors().nth(2);
        target.unwrap_or(Path::new("target")).join("peers/bin")
    }

    /// Whether it is the floor.
    pub fn is_chain(&self) -> bool {
        self.way == Way::Chain
    }

    /// What it is called in tables.
    pub fn label(&self) -> String {
        match self.way {
            Way::Rathole(_) | Way::Bore(_) => {
                format!("{} (two processes, no encryption)", self.name)
            }
            Way::Chain | Way::WorkingChain(_) | Way::Report { .. } => self.name.clone(),
        }
    }

    /// What is measured of it: of a compressor that it keeps up with one connection; all else is that of the null method.
    pub fn is_measured(&self, measure: Measure) -> bool {
        match &self.way {
            Way::Report { methods, .. } | Way::WorkingChain(methods)
                if methods.compress != CompressMethod::Null =>
            {
                matches!(measure, Measure::Up(1) | Measure::Down(1))
            }
            // Connections share something in a tunnel alone, and what is done to their bytes makes no difference there.
            way if measure == Measure::BesideStalled => way.is_plain(),
            // It agrees on keys for each connection anew, which a tunnel does once.
            Way::WorkingChain(_) => !matches!(measure, Measure::Connect | Measure::ConnectAtOnce),
            _ => true,
        }
    }

    /// Whether it is among those that take new connections for long: what a method does to bytes makes no difference there.
    pub fn is_sustained(&self) -> bool {
        match &self.way {
            Way::Report { methods, .. } => {
                methods.compress == CompressMethod::Null
                    && matches!(
                        methods.encrypt,
                        EncryptMethod::Plain | EncryptMethod::Aes128Gcm
                    )
                    && !methods.tls
            }
            Way::WorkingChain(_) => false,
            _ => true,
        }
    }

    /// The same of another build of rePort.
    pub fn of(&self, other: &Path) -> Option<Self> {
        let Way::Report { methods, .. } = self.way else {
            return None;
        };
        let way = Way::Report {
            program: other.to_owned(),
            methods,
        };
        Some(Variant {
            name: format!("other {}", self.name),
            payload: self.payload,
            way,
        })
    }
}
