//! The files of a configuration: the given one and those that it includes, merged into one tree.
//!
//! The list `ports` continues in each file. Any other field may be in one of the files.

use std::{
    collections::HashSet,
    fs::Metadata,
    mem,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    document::PROBLEMS_MAX,
    error::{ConfigProblem, Fault, FieldPath, InvalidValue, Position, Warning},
    format::{Format, SyntaxError},
    include_pattern,
    mode::fields_of,
    node::{Node, NodeValue},
    position::{FileId, Place, position_at},
    read_error::describe,
    values::is_default,
    variables::{Lookup, expand},
};
use crate::text::{LONG_FILE_MAX, decode, read_file};

/// The maximum number of files. A wrong pattern may match a whole disk.
const FILES_MAX: usize = 1_000;

/// The fields of a file about the file itself. Each file of a configuration may have them.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileFields {
    /// Files that [continue this one](#includes): paths, or patterns such as `"conf.d/*.json"`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-type" = "list of paths"))]
    pub include: Vec<String>,
    /// The JSON Schema of the file, for editors. rePort ignores it.
    #[serde(default, rename = "$schema", skip_serializing_if = "is_default")]
    pub schema: Option<String>,
}

/// The files of a configuration, in the order of reading.
#[derive(Default)]
pub(super) struct SourceFiles {
    files: Vec<SourceFile>,
    /// The folder of each file.
    folders: Vec<PathBuf>,
}

struct SourceFile {
    path: PathBuf,
    text: String,
    /// The absolute path without links, which identifies the file.
    identity: PathBuf,
    included_by: Option<FileId>,
}

impl SourceFiles {
    fn add(&mut self, path: PathBuf, text: String, included_by: Option<FileId>) -> FileId {
        let id = FileId(self.files.len());
        let folder = path.parent().unwrap_or(Path::new(""));
        self.folders.push(folder.to_owned());
        self.files.push(SourceFile {
            identity: identity(&path),
            path,
            text,
            included_by,
        });
        id
    }

    /// Returns the folder of each file, at which its relative paths start.
    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Returns the paths of all files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    fn path(&self, file: FileId) -> &Path {
        let file = self.files.get(file.0);
        file.map_or(Path::new(""), |file| file.path.as_path())
    }

    /// Returns the position of a place.
    pub(super) fn position(&self, place: Place) -> Option<Position> {
        let text = &self.files.get(place.file.0)?.text;
        Some(self.in_file(place.file, position_at(text, place.offset)?))
    }

    /// Adds the path of an included file to a position in it.
    fn in_file(&self, file: FileId, position: Position) -> Position {
        let is_included = file != FileId::MAIN;
        Position {
            file: is_included.then(|| self.path(file).to_owned()),
            ..position
        }
    }

    /// Returns the file, the line and the column of a place, for an error.
    fn describe(&self, place: Place) -> String {
        let path = self.path(place.file).display();
        match self.position(place) {
            Some(Position { line, column, .. }) => format!("{path}:{line}:{column}"),
            None => path.to_string(),
        }
    }

    /// Returns the paths of the files that include each other from the one with this identity to
    /// `file`, if there are such files.
    fn include_chain(&self, identity: &Path, file: FileId) -> Option<Vec<String>> {
        let start = self.files.get(file.0);
        let chain = std::iter::successors(start, |file| self.files.get(file.included_by?.0));
        let mut names = Vec::new();
        for file in chain {
            names.insert(0, file.path.display().to_string());
            if file.identity == identity {
                return Some(names);
            }
        }
        None
    }
}

fn identity(path: &Path) -> PathBuf {
    let found = path.canonicalize().or_else(|_| std::path::absolute(path));
    found.unwrap_or_else(|_| path.to_owned())
}

/// Returns whether reading may wait forever. Opening a pipe waits for its writer.
fn is_special(found: &Metadata) -> bool {
    !found.is_file() && !found.is_dir()
}

/// The files of a configuration with their merged tree.
pub(super) struct LoadedFiles {
    pub files: SourceFiles,
    /// The fields of all files, without the [`FileFields`].
    pub root: Node,
    /// The warnings about patterns without a file.
    pub warnings: Vec<Warning>,
}

/// Parses the text of the file at `path`, and reads the files that it includes.
///
/// # Errors
/// If the syntax of a file is wrong, a file cannot be read, or two files have the same field.
pub(super) fn read_files(
    text: &str,
    path: &Path,
    lookup: Lookup<'_>,
) -> Result<LoadedFiles, Vec<ConfigProblem>> {
    let mut reader = FileReader {
        files: SourceFiles::default(),
        pending: Vec::new(),
        remaining: LONG_FILE_MAX,
        lookup,
        warnings: Vec::new(),
        problems: Vec::new(),
    };
    let main = reader.add(path.to_owned(), text.to_owned(), None);
    let Some(mut root) = reader.parse(main) else {
        return Err(reader.problems);
    };
    while let Some(next) = reader.pending.pop() {
        let file = reader.open(next);
        if let Some(added) = file.and_then(|file| reader.parse(file)) {
            reader.merge(&mut root, added);
        }
    }
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    Ok(LoadedFiles {
        files: reader.files,
        root,
        warnings: reader.warnings,
    })
}

/// A file to include, and the element of `include` that names it.
struct PendingFile {
    path: PathBuf,
    field: FieldPath,
    place: Place,
}

/// Reads the files of a configuration.
struct FileReader<'a> {
    files: SourceFiles,
    /// The files to read, the next one last.
    pending: Vec<PendingFile>,
    /// The length that the further files may have together, in bytes.
    remaining: u64,
    lookup: Lookup<'a>,
    warnings: Vec<Warning>,
    problems: Vec<ConfigProblem>,
}

impl FileReader<'_> {
    fn add(&mut self, path: PathBuf, text: String, included_by: Option<FileId>) -> FileId {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.remaining = self.remaining.saturating_sub(length);
        self.files.add(path, text, included_by)
    }

    fn problem(&mut self, field: FieldPath, position: Option<Position>, fault: Fault) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(ConfigProblem {
                position,
                field,
                fault,
            });
        }
    }

    fn problem_at(&mut self, field: FieldPath, place: Place, fault: Fault) {
        let position = self.files.position(place);
        self.problem(field, position, fault);
    }

    /// Parses a file, and returns its fields without the [`FileFields`].
    fn parse(&mut self, file: FileId) -> Option<Node> {
        let source = self.files.files.get(file.0)?;
        let format = Format::of_file(&source.path);
        let mut root = match format.parse(&source.text, file) {
            Ok(root) => root,
            Err(error) => {
                self.syntax_problem(file, format, error);
                return None;
            }
        };
        let NodeValue::Object(fields) = &mut root.value else {
            // A wrong path may name the file of a key.
            let fault = Fault::NotAnObject(describe(root.value.unexpected(), true));
            let position = self.files.position(root.place);
            let position = position.filter(|position| position.file.is_some());
            self.problem(FieldPath::default(), position, fault);
            return None;
        };
        let known = fields_of::<FileFields>();
        let all = mem::take(fields).into_iter();
        let (own, rest) = all.partition(|(name, _)| known.contains(&name.as_str()));
        *fields = rest;
        self.read_file_fields(own);
        Some(root)
    }

    fn syntax_problem(&mut self, file: FileId, format: Format, error: SyntaxError) {
        let start = Place { file, offset: 0 };
        let position = match error.position {
            Some(position) => Some(self.files.in_file(file, position)),
            None => self.files.position(start),
        };
        let fault = Fault::Syntax {
            format: format.name(),
            message: error.message,
            hint: error.hint,
        };
        self.problem(FieldPath::default(), position, fault);
    }

    /// Reads the [`FileFields`] of a file. The files that it includes are the next to read.
    fn read_file_fields(&mut self, fields: Vec<(String, Node)>) {
        let mut included = Vec::new();
        for (index, (name, node)) in fields.iter().enumerate() {
            let field = FieldPath::root(name);
            if fields.iter().take(index).any(|(other, _)| other == name) {
                let fault = Fault::Duplicate(format!("duplicate field `{name}`"));
                self.problem_at(FieldPath::default(), node.place, fault);
                continue;
            }
            match (name.as_str(), &node.value) {
                (_, NodeValue::Null) => {}
                ("include", NodeValue::List(elements)) => {
                    for (index, element) in elements.iter().enumerate() {
                        included.extend(self.included(field.index(index), element));
                    }
                }
                ("include", _) => {
                    self.wrong_type(field, node, "write a list of paths, [\"conf.d/*.json\"]");
                }
                (_, NodeValue::Text(_)) => {}
                _ => self.wrong_type(field, node, "write the address of a schema, in quotes"),
            }
        }
        self.pending.extend(included.into_iter().rev());
    }

    fn wrong_type(&mut self, field: FieldPath, node: &Node, expected: &str) {
        let fault = Fault::WrongType {
            found: describe(node.value.unexpected(), false),
            expected: expected.to_owned(),
        };
        self.problem_at(field, node.place, fault);
    }

    /// Returns the files that an element of `include` names.
    fn included(&mut self, field: FieldPath, element: &Node) -> Vec<PendingFile> {
        let NodeValue::Text(written) = &element.value else {
            self.wrong_type(field, element, "write a path or a pattern, in quotes");
            return Vec::new();
        };
        let place = element.place;
        let paths = match self.find(place.file, written) {
            Ok(paths) => paths,
            Err(invalid) => {
                self.problem_at(field, place, Fault::Invalid(invalid));
                return Vec::new();
            }
        };
        if paths.is_empty() {
            let file = self.files.path(place.file).display();
            let message = format!(
                "(\"{written}\" in {file}) matches no file: correct the pattern, or add a file"
            );
            self.warnings.push(Warning {
                field: field.clone(),
                message,
            });
        }
        let pending = |path| PendingFile {
            path,
            field: field.clone(),
            place,
        };
        paths.into_iter().map(pending).collect()
    }

    fn find(&self, file: FileId, written: &str) -> Result<Vec<PathBuf>, InvalidValue> {
        let text = expand(written, self.lookup)?.text;
        if text.is_empty() {
            let remedy = "write the path of a file, or a pattern such as \"conf.d/*.json\"";
            return Err(InvalidValue::new("is empty", remedy));
        }
        let folder = self.files.path(file).parent().unwrap_or(Path::new(""));
        include_pattern::find(folder, &text, FILES_MAX).map_err(|error| {
            InvalidValue::new(format!("(\"{written}\") {}", error.problem), error.remedy)
        })
    }

    /// Reads a file that is included.
    fn open(&mut self, next: PendingFile) -> Option<FileId> {
        let PendingFile { path, field, place } = next;
        match self.text_of(&path, place.file) {
            Ok(text) => Some(self.add(path, text, Some(place.file))),
            Err(invalid) => {
                self.problem_at(field, place, Fault::Invalid(invalid));
                None
            }
        }
    }

    fn text_of(&self, path: &Path, included_by: FileId) -> Result<String, InvalidValue> {
        let name = path.display();
        let identity = identity(path);
        if let Some(chain) = self.files.include_chain(&identity, included_by) {
            let chain = chain.join(" > ");
            let problem = format!("is an include loop: {chain} > {name}");
            return Err(InvalidValue::new(
                problem,
                "remove it, or narrow the pattern",
            ));
        }
        let mut files = self.files.files.iter();
        if files.any(|file| file.identity == identity) {
            let problem = format!("names the file {name}, which is included already");
            return Err(InvalidValue::new(problem, "include each file once"));
        }
        if self.files.files.len() >= FILES_MAX {
            let problem = format!("leads to more than {FILES_MAX} files");
            return Err(InvalidValue::new(problem, "narrow the pattern"));
        }
        if path.metadata().is_ok_and(|found| is_special(&found)) {
            let problem = format!("names {name}, which is a pipe, a device or a socket");
            return Err(InvalidValue::new(
                problem,
                "include files, or narrow the pattern",
            ));
        }
        let bytes = read_file(path, self.remaining).map_err(|error| {
            let problem = format!("names the file {name}, which cannot be read ({error})");
            InvalidValue::new(problem, "create it, or correct the path")
        })?;
        decode(&bytes).map_err(|error| {
            InvalidValue::from_error(&format!("names the file {name}, which {error}"))
        })
    }

    /// Adds the fields of an included file to those of the files before it.
    fn merge(&mut self, root: &mut Node, added: Node) {
        let (NodeValue::Object(fields), NodeValue::Object(added)) = (&mut root.value, added.value)
        else {
            return;
        };
        let mut names = HashSet::new();
        for (name, node) in added {
            // The reader of the tree reports a field that is twice in one file.
            let is_first = names.insert(name.clone());
            let earlier = fields.iter_mut().find(|(field, _)| *field == name);
            match earlier.filter(|_| is_first) {
                Some((_, earlier)) => self.join(&name, earlier, node),
                None => fields.push((name, node)),
            }
        }
    }

    /// Joins the values of a field that is in two files.
    fn join(&mut self, name: &str, earlier: &mut Node, node: Node) {
        // A null field is an absent one.
        if matches!(node.value, NodeValue::Null) {
            return;
        }
        if matches!(earlier.value, NodeValue::Null) {
            *earlier = node;
            return;
        }
        let (place, earlier_place) = (node.place, earlier.place);
        if name == "ports"
            && let (NodeValue::List(ports), NodeValue::List(more)) =
                (&mut earlier.value, node.value)
        {
            ports.extend(more);
            return;
        }
        let problem = format!("is also in {}", self.files.describe(earlier_place));
        self.problem_at(FieldPath::root(name), place, Fault::Duplicate(problem));
    }
}
