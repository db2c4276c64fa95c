//! The tree of a configuration, with the place of each value, as a serde deserializer.
//!
//! The deserializer supports the types of this module beyond those of the formats: a [`FilePath`]
//! starts at the folder of its file, and a [`Secret`] comes from its source.

use serde::{
    Deserializer,
    de::{
        Error as _, Expected, IntoDeserializer, Unexpected, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::Number;

use super::{
    CredentialKey,
    error::{FieldPath, InvalidValue, PathSegment},
    path::{FilePath, FolderPath, visit_path},
    position::Place,
    read_error::ReadError,
    secret::{SECRET_FORMS, Secret, SecretPlace, SecretSources},
    secret_error::{SecretError, SecretKind},
};

/// The text that a placeholder contains. It is a valid host, address, path and key.
const PLACEHOLDER: &str = "placeholder:1";

/// A value of a file.
#[derive(Debug)]
pub(super) struct Node {
    /// Where the value starts.
    pub place: Place,
    pub value: NodeValue,
}

#[derive(Debug)]
pub(super) enum NodeValue {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// The fields in the order of the file, duplicates included.
    Object(Vec<(String, Node)>),
    /// Replaces a missing or invalid value, so that the rest can be read: a valid text, an object
    /// without fields, or an empty list.
    Placeholder,
    /// An element of a list that does not accept a placeholder. Reading skips it.
    Removed,
}

impl Node {
    /// Returns the fields of an object, or none for another value.
    pub(super) fn fields(&self) -> &[(String, Node)] {
        match &self.value {
            NodeValue::Object(fields) => fields,
            _ => &[],
        }
    }

    /// Returns the field of an object. With duplicates, the last.
    pub(super) fn field(&self, name: &str) -> Option<&Node> {
        let found = self.fields().iter().rev().find(|(field, _)| field == name);
        found.map(|(_, node)| node)
    }

    fn child(&self, step: &PathSegment) -> Option<&Node> {
        match (step, &self.value) {
            (PathSegment::Field(name), _) => self.field(name),
            (PathSegment::Index(index), NodeValue::List(elements)) => elements.get(*index),
            (PathSegment::Index(_), _) => None,
        }
    }

    fn child_mut(&mut self, step: &PathSegment) -> Option<&mut Node> {
        match (step, &mut self.value) {
            (PathSegment::Field(name), NodeValue::Object(fields)) => {
                let found = fields.iter_mut().rev().find(|(field, _)| field == name);
                found.map(|(_, node)| node)
            }
            (PathSegment::Index(index), NodeValue::List(elements)) => elements.get_mut(*index),
            _ => None,
        }
    }

    /// Returns the value at `path`.
    pub(super) fn at(&self, path: &FieldPath) -> Option<&Node> {
        path.0.iter().try_fold(self, Node::child)
    }

    /// Returns the value at `path`, or the innermost value on the way to it.
    pub(super) fn nearest_to(&self, path: &FieldPath) -> &Node {
        let mut node = self;
        for step in &path.0 {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    /// Whether the value at this place is this one, or inside it.
    pub(super) fn contains(&self, place: Place) -> bool {
        let is_inside = match &self.value {
            NodeValue::List(elements) => elements.iter().any(|node| node.contains(place)),
            NodeValue::Object(fields) => fields.iter().any(|(_, node)| node.contains(place)),
            _ => false,
        };
        is_inside || self.place == place
    }

    /// Calls `visit` with each text of the tree, its path and its place. `path` is that of this value.
    pub(super) fn visit_texts<F>(&mut self, path: &FieldPath, visit: &mut F)
    where
        F: FnMut(&FieldPath, Place, &mut String),
    {
        match &mut self.value {
            NodeValue::Text(text) => visit(path, self.place, text),
            NodeValue::List(elements) => {
                for (index, node) in elements.iter_mut().enumerate() {
                    node.visit_texts(&path.index(index), visit);
                }
            }
            NodeValue::Object(fields) => {
                for (name, node) in fields {
                    node.visit_texts(&path.field(name), visit);
                }
            }
            _ => {}
        }
    }

    fn at_mut(&mut self, path: &[PathSegment]) -> Option<&mut Node> {
        path.iter().try_fold(self, Node::child_mut)
    }

    /// Adds a placeholder to the object at `path`. Returns whether it did.
    pub(super) fn add_placeholder(&mut self, path: &FieldPath, name: &str) -> bool {
        let Some(node) = self.at_mut(&path.0) else {
            return false;
        };
        if matches!(node.value, NodeValue::Placeholder) {
            node.value = NodeValue::Object(Vec::new());
        }
        let NodeValue::Object(fields) = &mut node.value else {
            return false;
        };
        let placeholder = Node {
            place: node.place,
            value: NodeValue::Placeholder,
        };
        fields.push((name.to_owned(), placeholder));
        true
    }

    /// Removes the field at `path`, or replaces the element of a list by a placeholder. Removes a
    /// placeholder, and then also a field around it that requires it. Returns whether there was a
    /// value to remove.
    pub(super) fn prune(&mut self, path: &FieldPath) -> bool {
        for length in (1..=path.0.len()).rev() {
            let Some((step, parent)) = path.0.get(..length).and_then(<[_]>::split_last) else {
                return false;
            };
            let removed = match (step, self.at_mut(parent).map(|node| &mut node.value)) {
                (PathSegment::Field(name), Some(NodeValue::Object(fields))) => {
                    let index = fields.iter().rposition(|(field, _)| field == name);
                    index.map(|index| fields.remove(index).1.value)
                }
                (PathSegment::Index(index), Some(NodeValue::List(elements))) => {
                    let element = elements.get_mut(*index);
                    element.map(|element| element.value.give_way())
                }
                _ => None,
            };
            match (removed, step) {
                (None, _) | (Some(NodeValue::Placeholder), PathSegment::Field(_)) => {}
                (Some(_), _) => return true,
            }
        }
        false
    }

    /// Returns the path of a value in the file, for a path that the reader counted without removed
    /// elements.
    pub(super) fn path_in_file(&self, path: &FieldPath) -> FieldPath {
        let mut node = Some(self);
        let steps = path.0.iter().map(|step| {
            let step = match (step, node.map(|node| &node.value)) {
                (PathSegment::Index(read), Some(NodeValue::List(elements))) => {
                    let kept = elements.iter().enumerate();
                    let mut kept =
                        kept.filter(|(_, node)| !matches!(node.value, NodeValue::Removed));
                    PathSegment::Index(kept.nth(*read).map_or(*read, |(index, _)| index))
                }
                _ => step.clone(),
            };
            node = node.and_then(|node| node.child(&step));
            step
        });
        FieldPath(steps.collect())
    }
}

impl NodeValue {
    /// Replaces an element of a list by a placeholder, and a placeholder by nothing.
    fn give_way(&mut self) -> NodeValue {
        let next = match self {
            NodeValue::Placeholder => NodeValue::Removed,
            _ => NodeValue::Placeholder,
        };
        std::mem::replace(self, next)
    }

    /// Returns the description of the value for an error.
    pub(super) fn unexpected(&self) -> Unexpected<'_> {
        match self {
            NodeValue::Null => Unexpected::Unit,
            NodeValue::Bool(value) => Unexpected::Bool(*value),
            NodeValue::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Unexpected::Unsigned(number),
                (None, Some(number)) => Unexpected::Signed(number),
                (None, None) => Unexpected::Float(number.as_f64().unwrap_or_default()),
            },
            NodeValue::Text(text) => Unexpected::Str(text),
            NodeValue::List(_) => Unexpected::Seq,
            NodeValue::Object(_) | NodeValue::Placeholder | NodeValue::Removed => Unexpected::Map,
        }
    }
}

/// Deserializes a value of a file.
#[derive(Clone, Copy)]
pub(super) struct NodeReader<'a> {
    node: &'a Node,
    sources: SecretSources<'a>,
    /// Whether the struct to read contains only a part of the fields.
    is_part: bool,
}

impl<'a> NodeReader<'a> {
    /// Reads a struct with a part of the fields of an object.
    pub(super) fn part(node: &'a Node, sources: SecretSources<'a>) -> Self {
        Self {
            node,
            sources,
            is_part: true,
        }
    }

    fn inside(self, node: &'a Node) -> Self {
        Self {
            node,
            is_part: false,
            ..self
        }
    }

    fn text(self, expected: &dyn Expected) -> Result<&'a str, ReadError> {
        match &self.node.value {
            NodeValue::Text(text) => Ok(text),
            NodeValue::Placeholder => Ok(PLACEHOLDER),
            other => Err(ReadError::invalid_type(other.unexpected(), expected)),
        }
    }

    fn path<'de, V: Visitor<'de>>(self, name: &str, visitor: V) -> Result<V::Value, ReadError> {
        let text = self.text(&"a string")?;
        if text.is_empty() && name == FilePath::NAME {
            let invalid = InvalidValue::new("is empty", "write the path of a file");
            return Err(ReadError::Invalid(invalid));
        }
        let folder = self.sources.folder(self.node.place.file);
        visit_path(&folder.join(text), visitor)
    }

    fn secret<'de, V: Visitor<'de>>(
        self,
        kind: SecretKind,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let invalid = |error: SecretError| ReadError::Invalid(error.invalid(kind));
        let (place_kind, place, key) = match &self.node.value {
            NodeValue::Object(fields) => {
                let place = self.secret_place(fields)?;
                let file = self.node.place.file;
                let key = place.load(self.sources, file).map_err(invalid)?;
                let (place_kind, place) = place.into_parts();
                (place_kind, place, key)
            }
            _ => match self.text(&SECRET_FORMS)? {
                "" => return Err(invalid(SecretError::Empty)),
                key => ("text", String::new(), key.to_owned()),
            },
        };
        let parts = [place_kind.to_owned(), place, key].into_iter();
        visitor.visit_seq(SeqDeserializer::new(parts))
    }

    fn secret_place(self, fields: &[(String, Node)]) -> Result<SecretPlace, ReadError> {
        let known = &["file", "env"];
        let is_unknown = |name: &&str| !known.contains(name);
        if let Some(name) = fields
            .iter()
            .map(|(name, _)| name.as_str())
            .find(is_unknown)
        {
            return Err(ReadError::unknown_field(name, known));
        }
        let count = |name: &str| fields.iter().filter(|(field, _)| field == name).count();
        if let Some(name) = known.iter().find(|name| count(name) > 1) {
            return Err(ReadError::duplicate_field(name));
        }
        let text = |name| match self.node.field(name).map(|node| &node.value) {
            None | Some(NodeValue::Null) => Ok(None),
            Some(NodeValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(()),
        };
        match (text("file"), text("env")) {
            (Ok(Some(path)), Ok(None)) => Ok(SecretPlace::File(path.into())),
            (Ok(None), Ok(Some(name))) => Ok(SecretPlace::Env(name.clone())),
            _ => Err(ReadError::invalid_type(Unexpected::Map, &SECRET_FORMS)),
        }
    }
}

impl<'de> IntoDeserializer<'de, ReadError> for NodeReader<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for NodeReader<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Null => visitor.visit_unit(),
            NodeValue::Bool(value) => visitor.visit_bool(*value),
            NodeValue::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            NodeValue::Text(text) => visitor.visit_str(text),
            NodeValue::List(elements) => {
                let is_kept = |node: &&Node| !matches!(node.value, NodeValue::Removed);
                let elements = elements.iter().filter(is_kept);
                let elements = elements.map(|node| self.inside(node));
                visitor.visit_seq(SeqDeserializer::new(elements))
            }
            NodeValue::Object(fields) => {
                let fields = fields.iter();
                let fields = fields.map(|(name, node)| (name.as_str(), self.inside(node)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            NodeValue::Placeholder | NodeValue::Removed => visitor.visit_str(PLACEHOLDER),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Object(fields) => {
                // A null field is an absent one.
                let is_read = |(name, node): &&(String, Node)| match known.contains(&name.as_str())
                {
                    true => !matches!(node.value, NodeValue::Null),
                    false => !self.is_part,
                };
                let fields = fields.iter().filter(is_read);
                let fields = fields.map(|(name, node)| (name.as_str(), self.inside(node)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            NodeValue::Placeholder => self.deserialize_map(visitor),
            NodeValue::List(_) => Err(ReadError::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Placeholder => visitor.visit_map(MapDeserializer::new(std::iter::empty::<(
                &str,
                NodeReader<'_>,
            )>())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Placeholder => {
                visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<NodeReader<'_>>()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match name {
            FilePath::NAME | FolderPath::NAME => self.path(name, visitor),
            Secret::NAME => self.secret(SecretKind::Key, visitor),
            CredentialKey::NAME => self.secret(SecretKind::Credential, visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple tuple_struct enum identifier ignored_any
    }
}
