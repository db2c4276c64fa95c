//! Reads a file, with those that it includes, into the structs of its role, with all problems at
//! once.
//!
//! serde stops at the first error. Each error is therefore recorded with its position, the value is
//! removed from the tree of the files (a missing one gets a placeholder), and the struct is read
//! again. The result is valid only without problems.

use std::{fmt, path::Path};

use serde::de::DeserializeOwned;

use super::{
    ClientConfig, CommonConfig, Config, LoadedConfig, PortConfig, RoleConfig, ServerConfig,
    Warning,
    error::{ConfigProblem, Fault, FieldPath, InvalidValue, PathSegment, Position, nearest},
    mode::{Mode, fields_of},
    node::{Node, NodeReader, NodeValue},
    read_error::{ReadError, describe},
    secret::SecretSources,
    source_files::{LoadedFiles, SourceFiles, read_files},
    variables::{Expansions, FailedExpansion, Lookup, ValueMask},
    word::{self, Word},
};

/// The maximum number of problems that one error lists. Each takes a pass over the file.
pub(super) const PROBLEMS_MAX: usize = 100;

/// The merged tree of the files with the problems found so far.
pub(super) struct ConfigDocument<'a> {
    files: &'a SourceFiles,
    root: Node,
    mode: Mode,
    sources: SecretSources<'a>,
    expansions: Expansions,
    /// The texts whose variables could not be replaced. The problems contain them already.
    failed: Vec<FieldPath>,
    /// The problems with unknown fields. They come first, because each may explain a missing one.
    unknown: Vec<ConfigProblem>,
    problems: Vec<ConfigProblem>,
}

/// Parses and validates the text of the file at `path`.
pub(super) fn read(
    text: &str,
    path: &Path,
    variable: Lookup<'_>,
) -> Result<LoadedConfig, Vec<ConfigProblem>> {
    let LoadedFiles {
        files,
        root,
        warnings,
    } = read_files(text, path, variable)?;
    let sources = SecretSources {
        folders: files.folders(),
        variable,
    };
    let mut document = ConfigDocument::new(&files, root, sources)?;
    document.check_field_names();
    let common = document.read::<CommonConfig>();
    let role = document.role();
    let mut checks = RoleChecks { document, warnings };
    let config = common.zip(role).map(|(common, mut role)| {
        match &mut role {
            RoleConfig::Master(master) => master.check(&mut checks),
            RoleConfig::Server(server) => server.check(&mut checks),
            RoleConfig::Client(client) => client.check(&mut checks),
        }
        if let Some(admin) = &common.admin {
            admin.check(&role, &mut checks);
        }
        Config { common, role }
    });
    let ConfigDocument {
        unknown, problems, ..
    } = checks.document;
    let problems: Vec<ConfigProblem> = unknown.into_iter().chain(problems).collect();
    match config {
        Some(config) if problems.is_empty() => Ok(LoadedConfig {
            config,
            warnings: checks.warnings,
            files: files.paths(),
        }),
        _ => Err(problems),
    }
}

/// Returns the mode of the files.
fn mode(root: &Node, expansions: &Expansions) -> Result<Mode, Fault> {
    let Some(node) = root.field("mode") else {
        let remedy = "add \"mode\": \"master\", \"server\" or \"client\"";
        return Err(Fault::Missing(remedy));
    };
    let fault = match &node.value {
        NodeValue::Text(found) => match word::parse(found) {
            Ok(mode) => return Ok(mode),
            Err(invalid) => Fault::Invalid(invalid),
        },
        other => Fault::WrongType {
            found: describe(other.unexpected(), false),
            expected: "write \"master\", \"server\" or \"client\"".to_owned(),
        },
    };
    Err(expansions.mask(Some(node)).fault(fault))
}

impl<'a> ConfigDocument<'a> {
    /// Replaces the variables in the tree of the files. Fails when their mode is unknown.
    fn new(
        files: &'a SourceFiles,
        mut root: Node,
        sources: SecretSources<'a>,
    ) -> Result<Self, Vec<ConfigProblem>> {
        let (expansions, failed) = Expansions::new(&mut root, sources.variable);
        let failed = failed.into_iter().take(PROBLEMS_MAX);
        let problem = |failed: FailedExpansion| ConfigProblem {
            position: files.position(failed.place),
            field: failed.field,
            fault: Fault::Invalid(failed.error),
        };
        let mut problems: Vec<ConfigProblem> = failed.map(problem).collect();
        let failed: Vec<_> = problems.iter().map(|one| one.field.clone()).collect();
        let mode = match mode(&root, &expansions) {
            Ok(mode) => mode,
            Err(fault) => {
                let field = FieldPath::root("mode");
                if !failed.contains(&field) {
                    problems.push(ConfigProblem {
                        position: files.position(root.nearest_to(&field).place),
                        field,
                        fault,
                    });
                }
                return Err(problems);
            }
        };
        for field in &failed {
            root.prune(field);
        }
        Ok(Self {
            files,
            root,
            mode,
            sources,
            expansions,
            failed,
            unknown: Vec::new(),
            problems,
        })
    }

    /// Records the unknown fields of the file itself, and a second mode. The structs that are read
    /// report other duplicates.
    fn check_field_names(&mut self) {
        let known = self.mode.fields();
        let fields = self.root.fields().iter();
        if fields.filter(|(name, _)| name == "mode").count() > 1 {
            self.unknown.push(ConfigProblem {
                position: self.position(&FieldPath::root("mode")),
                field: FieldPath::default(),
                fault: Fault::Duplicate("duplicate field `mode`".to_owned()),
            });
        }
        let names = self.root.fields().iter().map(|(name, _)| name.clone());
        let names: Vec<String> = names
            .filter(|name| !known.contains(&name.as_str()))
            .take(PROBLEMS_MAX)
            .collect();
        for name in names {
            let fault = self.unknown_field(&name, &known);
            self.add_unknown(FieldPath::root(&name), fault);
        }
    }

    fn unknown_field(&self, name: &str, known: &[&'static str]) -> Fault {
        if self.mode == Mode::Client && name == "master_key" {
            return Fault::ClientMasterKey;
        }
        if self.mode != Mode::Master && fields_of::<PortConfig>().contains(&name) {
            let remedy = "write it in an element of `ports`";
            return Fault::Invalid(InvalidValue::new("is a field of a service", remedy));
        }
        let mut modes = Mode::ALL.iter();
        match modes.find(|mode| mode.fields().contains(&name)) {
            Some(owner) => Fault::OtherMode {
                owner: owner.word(),
                mode: self.mode.word(),
            },
            None => Fault::UnknownField {
                nearest: nearest(name, known.iter().copied()),
                known: known.to_vec(),
            },
        }
    }

    fn role(&mut self) -> Option<RoleConfig> {
        match self.mode {
            Mode::Master => self.read().map(RoleConfig::Master),
            Mode::Server => {
                let (link, server): (_, Option<ServerConfig>) = (self.read(), self.read());
                let (link, server) = link.zip(server)?;
                Some(RoleConfig::Server(ServerConfig { link, ..server }))
            }
            Mode::Client => {
                let (link, client): (_, Option<ClientConfig>) = (self.read(), self.read());
                let (link, client) = link.zip(client)?;
                Some(RoleConfig::Client(ClientConfig { link, ..client }))
            }
        }
    }

    /// Reads a struct with a part of the fields of the file. Records its problems. Returns `None`
    /// when it cannot be read even without the invalid values.
    fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        while !self.is_full() {
            let reader = NodeReader::part(&self.root, self.sources);
            let error = match serde_path_to_error::deserialize(reader) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let path = self.root.path_in_file(&path_of(error.path()));
            if !self.repair(&path, error.into_inner()) {
                return None;
            }
        }
        None
    }

    /// Records the error at `path` and removes its cause. Returns whether it could.
    fn repair(&mut self, path: &FieldPath, error: ReadError) -> bool {
        match error {
            ReadError::Missing(name) => {
                let field = path.field(name);
                self.add_problem(&field, Fault::Missing(self.remedy(&field)));
                self.root.add_placeholder(path, name)
            }
            ReadError::Duplicate(name) => {
                let field = path.field(name);
                self.unknown.push(ConfigProblem {
                    position: self.position(&field),
                    field: path.clone(),
                    fault: Fault::Duplicate(error.to_string()),
                });
                self.root.prune(&field)
            }
            ReadError::Unknown { name, known } => {
                // The path contains the field already, unless the type checked its fields itself.
                let is_inside = self.root.nearest_to(path).field(&name).is_some();
                let field = if is_inside || path.name() != name {
                    path.field(&name)
                } else {
                    path.clone()
                };
                let fault = Fault::UnknownField {
                    nearest: nearest(&name, known.iter().copied()),
                    known: known.to_vec(),
                };
                self.add_unknown(field.clone(), fault);
                self.root.prune(&field)
            }
            ReadError::WrongType { found, expected } => {
                self.add_invalid(path, Fault::WrongType { found, expected });
                self.root.prune(path)
            }
            ReadError::Invalid(invalid) => {
                self.add_invalid(path, Fault::Invalid(invalid));
                self.root.prune(path)
            }
        }
    }

    /// Returns what to write into a missing field.
    fn remedy(&self, field: &FieldPath) -> &'static str {
        match field.name() {
            "listen_at" if field.0.len() > 1 => {
                "add \"listen_at\": \"127.0.0.1:9300\", or the path of a unix socket as \"unix:/PATH\""
            }
            "listen_at" => "add \"listen_at\": \"0.0.0.0:51324\" (all addresses, port 51324)",
            "master_key" if self.mode == Mode::Server => {
                "add the key of the master, or the `credential` that its operator has issued"
            }
            "master_key" => {
                "add the key that authenticates servers to the master; `report keygen` generates one. With `store`, credentials can replace it"
            }
            "cert" => "name the certificate chain's PEM file",
            "key" => "name the private key's PEM file",
            "master" => "add the master's address, as \"HOST:PORT\" or \"wss://HOST/PATH\"",
            "ports" => "list at least one service, with mark, local_address and port_key",
            "local_address" if self.mode == Mode::Server => {
                "set the address of the service, as \"HOST:PORT\" or \"unix:/PATH\""
            }
            "local_address" => "set the listen address, as \"127.0.0.1:PORT\"",
            "port_key" => {
                "add the shared secret of client and server; `report keygen` generates one"
            }
            "name" => "add the name of the user",
            "password" => "add the password of the user; `report keygen` generates one",
            _ => "add it",
        }
    }

    fn add_unknown(&mut self, field: FieldPath, fault: Fault) {
        self.unknown.push(ConfigProblem {
            position: self.position(&field),
            field,
            fault,
        });
    }

    /// Records a problem of the value of a field.
    fn add_invalid(&mut self, field: &FieldPath, fault: Fault) {
        let node = self.root.nearest_to(field);
        let fault = self.expansions.mask(Some(node)).fault(fault);
        self.add_problem(field, fault);
    }

    /// Records a problem, unless the field or an object around it has one already. Its value is then
    /// a default or a placeholder. An object with a text that failed to expand is incomplete.
    fn add_problem(&mut self, field: &FieldPath, fault: Fault) {
        let is_around = |problem: &ConfigProblem| field.0.starts_with(&problem.field.0);
        let is_inside = |failed: &FieldPath| failed.0.starts_with(&field.0);
        let is_known = self.problems.iter().any(is_around) || self.failed.iter().any(is_inside);
        if !self.is_full() && !is_known {
            self.problems.push(ConfigProblem {
                position: self.position(field),
                field: field.clone(),
                fault,
            });
        }
    }

    fn is_full(&self) -> bool {
        self.unknown.len().saturating_add(self.problems.len()) >= PROBLEMS_MAX
    }

    /// Returns the position of a field. A missing field has that of the enclosing object.
    fn position(&self, field: &FieldPath) -> Option<Position> {
        self.files.position(self.root.nearest_to(field).place)
    }
}

/// Records the problems and warnings of the rules between fields.
pub(super) struct RoleChecks<'a> {
    document: ConfigDocument<'a>,
    warnings: Vec<Warning>,
}

impl RoleChecks<'_> {
    /// Records a problem, unless the field has one already.
    pub(super) fn problem(&mut self, field: &FieldPath, fault: Fault) {
        let fault = {
            let mask = self.mask(field);
            mask.fault(mask.other_values(fault))
        };
        self.document.add_problem(field, fault);
    }

    /// Returns a mask for messages about a field.
    fn mask(&self, field: &FieldPath) -> ValueMask<'_> {
        let node = self.document.root.at(field);
        self.document.expansions.mask(node)
    }

    /// Records an invalid value. The message follows the name of the field. An [`InvalidValue`]
    /// separates the remedy from the problem.
    pub(super) fn invalid(&mut self, field: &FieldPath, message: impl fmt::Display) {
        self.problem(field, Fault::Invalid(InvalidValue::from_error(&message)));
    }

    /// Whether the field has a problem already.
    pub(super) fn has_problem(&self, field: &FieldPath) -> bool {
        let problems = &self.document.problems;
        problems.iter().any(|problem| problem.field == *field)
    }

    /// Returns the folder at which a relative path in this field starts.
    pub(super) fn folder(&self, field: &FieldPath) -> &Path {
        let node = self.document.root.nearest_to(field);
        self.document.sources.folder(node.place.file)
    }

    /// Records a required field that is empty.
    pub(super) fn missing(&mut self, field: &FieldPath) {
        let remedy = self.document.remedy(field);
        self.problem(field, Fault::Missing(remedy));
    }

    /// Records a warning. The message follows the name of the field.
    pub(super) fn warn(&mut self, field: FieldPath, message: impl fmt::Display) {
        let message = self.mask(&field).warning(&message.to_string());
        self.warnings.push(Warning { field, message });
    }
}

fn path_of(path: &serde_path_to_error::Path) -> FieldPath {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(PathSegment::Index(*index)),
        Segment::Map { key } => Some(PathSegment::Field(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    FieldPath(steps.collect())
}
