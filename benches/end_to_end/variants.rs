//! The list of systems: the chain, rePort with its methods, and the installed peers.

use std::path::{Path, PathBuf};

use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

use crate::load_generator::Measure;

/// The data that a system carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Incompressible data.
    Random,
    Text,
    /// Machine code and tables.
    Binary,
}

impl Payload {
    /// All payloads. The index of a payload is its number.
    pub(crate) const ALL: [Payload; 3] = [Payload::Random, Payload::Text, Payload::Binary];
}

/// A system to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant {
    pub name: String,
    pub payload: Payload,
    pub kind: SystemKind,
}

/// The programs of a system and their configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SystemKind {
    /// Three copiers of TCP connections.
    Chain,
    /// Three copiers that also process each byte with the methods.
    WorkingChain(Methods),
    Report {
        program: PathBuf,
        methods: Methods,
    },
    /// Two processes without encryption.
    Rathole(PathBuf),
    /// Two processes without encryption.
    Bore(PathBuf),
}

/// The methods that rePort applies to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Methods {
    pub encrypt: EncryptMethod,
    pub compress: CompressMethod,
    /// TLS at the master, on both hops.
    pub tls: bool,
}

impl Methods {
    const fn without_tls(encrypt: EncryptMethod, compress: CompressMethod) -> Self {
        Methods {
            encrypt,
            compress,
            tls: false,
        }
    }
}

/// rePort's systems without compression: the name, the encryption, and whether the master has TLS.
const UNCOMPRESSED: [(&str, EncryptMethod, bool); 6] = [
    ("plain", EncryptMethod::Plain, false),
    ("aes-128-gcm", EncryptMethod::Aes128Gcm, false),
    ("aes-128-cfb", EncryptMethod::Aes128Cfb, false),
    ("chacha20-poly1305", EncryptMethod::Chacha20Poly1305, false),
    ("plain-tls", EncryptMethod::Plain, true),
    ("tls", EncryptMethod::Aes128Gcm, true),
];

/// A system without TLS: the name, its methods and the data that it carries.
type SystemWithoutTls = (&'static str, EncryptMethod, CompressMethod, Payload);

/// rePort's systems with compression.
const COMPRESSED: [SystemWithoutTls; 8] = [
    (
        "plain-s2-text",
        EncryptMethod::Plain,
        CompressMethod::S2,
        Payload::Text,
    ),
    (
        "plain-s2-binary",
        EncryptMethod::Plain,
        CompressMethod::S2,
        Payload::Binary,
    ),
    (
        "plain-s2-random",
        EncryptMethod::Plain,
        CompressMethod::S2,
        Payload::Random,
    ),
    (
        "plain-zstd-text",
        EncryptMethod::Plain,
        CompressMethod::Zstd,
        Payload::Text,
    ),
    (
        "plain-zstd-binary",
        EncryptMethod::Plain,
        CompressMethod::Zstd,
        Payload::Binary,
    ),
    (
        "plain-zstd-random",
        EncryptMethod::Plain,
        CompressMethod::Zstd,
        Payload::Random,
    ),
    (
        "s2-text",
        EncryptMethod::Aes128Gcm,
        CompressMethod::S2,
        Payload::Text,
    ),
    (
        "zstd-text",
        EncryptMethod::Aes128Gcm,
        CompressMethod::Zstd,
        Payload::Text,
    ),
];

/// The chains whose copiers process each byte.
const WORKING_CHAINS: [SystemWithoutTls; 6] = [
    (
        "working-plain",
        EncryptMethod::Plain,
        CompressMethod::Null,
        Payload::Random,
    ),
    (
        "working-aes-128-gcm",
        EncryptMethod::Aes128Gcm,
        CompressMethod::Null,
        Payload::Random,
    ),
    (
        "working-s2-text",
        EncryptMethod::Plain,
        CompressMethod::S2,
        Payload::Text,
    ),
    (
        "working-s2-binary",
        EncryptMethod::Plain,
        CompressMethod::S2,
        Payload::Binary,
    ),
    (
        "working-zstd-text",
        EncryptMethod::Plain,
        CompressMethod::Zstd,
        Payload::Text,
    ),
    (
        "working-zstd-binary",
        EncryptMethod::Plain,
        CompressMethod::Zstd,
        Payload::Binary,
    ),
];

impl SystemKind {
    /// Returns whether this is rePort with the cheapest methods.
    fn is_plain(&self) -> bool {
        let plain = Methods::without_tls(EncryptMethod::Plain, CompressMethod::Null);
        matches!(self, SystemKind::Report { methods, .. } if *methods == plain)
    }
}

impl Variant {
    /// Returns the chains and rePort's systems, in the order of the tables: first the chain, then
    /// `plain`.
    pub(crate) fn all() -> Vec<Self> {
        let chain = Variant {
            name: "chain".to_owned(),
            payload: Payload::Random,
            kind: SystemKind::Chain,
        };
        let uncompressed = UNCOMPRESSED.into_iter().map(|(name, encrypt, tls)| {
            let compress = CompressMethod::Null;
            let methods = Methods {
                encrypt,
                compress,
                tls,
            };
            Self::report(name, Payload::Random, methods)
        });
        let compressed = COMPRESSED
            .into_iter()
            .map(|(name, encrypt, compress, payload)| {
                Self::report(name, payload, Methods::without_tls(encrypt, compress))
            });
        let working_chains =
            WORKING_CHAINS
                .into_iter()
                .map(|(name, encrypt, compress, payload)| Variant {
                    name: name.to_owned(),
                    payload,
                    kind: SystemKind::WorkingChain(Methods::without_tls(encrypt, compress)),
                });
        std::iter::once(chain)
            .chain(uncompressed)
            .chain(compressed)
            .chain(working_chains)
            .collect()
    }

    /// Returns whether the variant belongs to a run without options.
    pub(crate) fn is_usual(&self) -> bool {
        ["chain", "plain", "aes-128-gcm", "aes-128-cfb", "plain-tls"].contains(&self.name.as_str())
    }

    fn report(name: &str, payload: Payload, methods: Methods) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_report"));
        Variant {
            name: name.to_owned(),
            payload,
            kind: SystemKind::Report { program, methods },
        }
    }

    /// Returns the peers whose programs are in `folder`.
    pub(crate) fn peers(folder: &Path) -> Vec<Self> {
        let peers = [
            ("rathole", SystemKind::Rathole(folder.join("rathole"))),
            ("bore", SystemKind::Bore(folder.join("bore"))),
        ];
        let is_there = |kind: &SystemKind| matches!(kind, SystemKind::Rathole(program) | SystemKind::Bore(program) if program.is_file());
        let there = peers.into_iter().filter(|(_, kind)| is_there(kind));
        there
            .map(|(name, kind)| Variant {
                name: name.to_owned(),
                payload: Payload::Random,
                kind,
            })
            .collect()
    }

    /// Returns the default folder of the peers, where `cargo install --root target/peers` puts
    /// them.
    pub(crate) fn usual_peers_folder() -> PathBuf {
        let target = Path::new(env!("CARGO_BIN_EXE_report")).ancestors().nth(2);
        target.unwrap_or(Path::new("target")).join("peers/bin")
    }

    /// Returns whether this is the chain.
    pub(crate) fn is_chain(&self) -> bool {
        self.kind == SystemKind::Chain
    }

    /// Returns the label for tables.
    pub(crate) fn label(&self) -> String {
        match self.kind {
            SystemKind::Rathole(_) | SystemKind::Bore(_) => {
                format!("{} (two processes, no encryption)", self.name)
            }
            SystemKind::Chain | SystemKind::WorkingChain(_) | SystemKind::Report { .. } => {
                self.name.clone()
            }
        }
    }

    /// Returns whether `measure` applies to the variant.
    ///
    /// Variants with compression only run transfers over one connection. Compression does not
    /// affect the other measurements.
    pub(crate) fn is_measured(&self, measure: Measure) -> bool {
        match &self.kind {
            SystemKind::Report { methods, .. } | SystemKind::WorkingChain(methods)
                if methods.compress != CompressMethod::Null =>
            {
                matches!(measure, Measure::Up(1) | Measure::Down(1))
            }
            // Only connections of a tunnel share buffers, and the methods make no difference there.
            kind if measure == Measure::BesideStalled => kind.is_plain(),
            // A working chain derives keys for each connection. A tunnel does so only once.
            SystemKind::WorkingChain(_) => {
                !matches!(measure, Measure::Connect | Measure::ConnectAtOnce)
            }
            _ => true,
        }
    }

    /// Returns whether the sustained run includes the variant. The other methods do not affect it.
    pub(crate) fn is_sustained(&self) -> bool {
        match &self.kind {
            SystemKind::Report { methods, .. } => {
                methods.compress == CompressMethod::Null
                    && matches!(
                        methods.encrypt,
                        EncryptMethod::Plain | EncryptMethod::Aes128Gcm
                    )
                    && !methods.tls
            }
            SystemKind::WorkingChain(_) => false,
            _ => true,
        }
    }

    /// Returns the same variant for another build of rePort.
    pub(crate) fn of(&self, other: &Path) -> Option<Self> {
        let SystemKind::Report { methods, .. } = self.kind else {
            return None;
        };
        let kind = SystemKind::Report {
            program: other.to_owned(),
            methods,
        };
        Some(Variant {
            name: format!("other {}", self.name),
            payload: self.payload,
            kind,
        })
    }
}
