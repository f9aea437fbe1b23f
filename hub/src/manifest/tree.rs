//! YAML as a tree with positions, bounded in every direction.
//!
//! The parser (saphyr-parser, YAML 1.2) gives events; nothing here recurses on
//! input, and a copy of an anchored node counts like the node itself, so an
//! alias bomb ends at [`MAX_NODES`].

use super::MAX_FILE_BYTES;
use super::decode::Decoder;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Nesting of one document; a pod's deepest field is at 9.
const MAX_DEPTH: usize = 32;
/// Nodes of a file, copies by aliases included: a thousand apps of 100 fields.
const MAX_NODES: usize = 100_000;
/// Bytes of text in the tree, copies by aliases included.
const MAX_TEXT_BYTES: usize = 2 * MAX_FILE_BYTES;

/// Where something starts in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Position {
    fn of(marker: &Marker) -> Self {
        let bounded = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: bounded(marker.line().max(1)),
            column: bounded(marker.col().saturating_add(1)),
        }
    }
}

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key, where it is, and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub at: Position,
    pub key: String,
    pub value: Node,
}

/// A text and whether it was written so that YAML may read something else.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub text: String,
    /// Without quotes: `8080`, `no` and `~` are no text then.
    pub plain: bool,
}

/// What a finished node costs when an alias repeats it.
#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    text_bytes: usize,
    height: usize,
}

impl Cost {
    fn add(&mut self, child: Cost) {
        self.nodes = self.nodes.saturating_add(child.nodes);
        self.text_bytes = self.text_bytes.saturating_add(child.text_bytes);
        self.height = self.height.max(child.height + 1);
    }
}

enum Open {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        seen: BTreeMap<String, u32>,
        key: Option<(Position, Option<String>)>,
    },
}

struct Frame {
    at: Position,
    anchor: usize,
    cost: Cost,
    open: Open,
}

/// Why reading stops in the middle.
struct Stop {
    at: Position,
    message: String,
    remedy: &'static str,
}

struct Builder<'d, 'f> {
    decoder: &'d mut Decoder<'f>,
    documents: Vec<Node>,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, (Node, Cost)>,
    total: Cost,
}

/// The documents of a file that are not empty, as far as it can be read;
/// errors go to `decoder`.
pub(super) fn parse(decoder: &mut Decoder<'_>, text: &str) -> Vec<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let start = Position { line: 1, column: 1 };
    if text.len() > MAX_FILE_BYTES {
        let message = format!(
            "the file has {} bytes, more than {MAX_FILE_BYTES}",
            text.len()
        );
        decoder.file_error(start, message, "split it into several files");
        return Vec::new();
    }
    let mut builder = Builder {
        decoder,
        documents: Vec::new(),
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        total: Cost::default(),
    };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let stop = loop {
        match parser.next_event() {
            None => break None,
            Some(Ok((event, span))) => {
                if let Err(stop) = builder.event(event, Position::of(&span.start)) {
                    break Some(stop);
                }
            }
            Some(Err(error)) => {
                let at = Position::of(error.marker());
                break Some(syntax_error(text, at, error.info()));
            }
        }
    };
    if let Some(stop) = stop {
        builder
            .decoder
            .file_error(stop.at, stop.message, stop.remedy);
    }
    builder.documents
}

fn syntax_error(text: &str, at: Position, info: &str) -> Stop {
    if info.contains("recursion limit") {
        return too_deep(at);
    }
    let line = text.lines().nth(at.line as usize - 1).unwrap_or_default();
    let indentation = &line[..line.len() - line.trim_start().len()];
    let remedy = if indentation.contains('\t') || info.contains("tab") {
        "indent with spaces: YAML takes no tabs there"
    } else {
        "check indentation, quotes and the lines just before"
    };
    Stop {
        at,
        message: format!("this is not valid YAML: {info}"),
        remedy,
    }
}

impl Builder<'_, '_> {
    fn event(&mut self, event: Event<'_>, at: Position) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = self.plain(style, tag, at)?;
                let cost = Cost {
                    nodes: 1,
                    text_bytes: text.len(),
                    height: 0,
                };
                self.count(cost, at)?;
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain,
                };
                let node = Node {
                    at,
                    value: Value::Scalar(scalar),
                };
                self.place(node, cost, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_tag(tag, at)?;
                self.open(at, anchor, Open::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.no_tag(tag, at)?;
                let open = Open::Mapping {
                    entries: Vec::new(),
                    seen: BTreeMap::new(),
                    key: None,
                };
                self.open(at, anchor, open)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.stack.pop() else {
                    return Ok(());
                };
                let value = match frame.open {
                    Open::Sequence(items) => Value::Sequence(items),
                    Open::Mapping { entries, .. } => Value::Mapping(entries),
                };
                let node = Node {
                    at: frame.at,
                    value,
                };
                self.place(node, frame.cost, frame.anchor)
            }
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {
                Ok(())
            }
        }
    }

    /// Whether a scalar was written so that YAML may read it as no text. `!!str`
    /// makes text of anything; other tags have no place here.
    fn plain(
        &mut self,
        style: ScalarStyle,
        tag: Option<Cow<'_, Tag>>,
        at: Position,
    ) -> Result<bool, Stop> {
        match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(false),
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(false),
            tag => {
                self.no_tag(tag, at)?;
                Ok(style == ScalarStyle::Plain)
            }
        }
    }

    fn no_tag(&mut self, tag: Option<Cow<'_, Tag>>, at: Position) -> Result<(), Stop> {
        let Some(tag) = tag else { return Ok(()) };
        let plain_collection =
            tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "map" | "seq");
        if plain_collection {
            return Ok(());
        }
        let name: String = tag.to_string().chars().take(80).collect();
        Err(Stop {
            at,
            message: format!("the YAML tag {name} has no meaning here"),
            remedy: "remove it",
        })
    }

    fn open(&mut self, at: Position, anchor: usize, open: Open) -> Result<(), Stop> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        let cost = Cost {
            nodes: 1,
            text_bytes: 0,
            height: 0,
        };
        self.count(cost, at)?;
        self.stack.push(Frame {
            at,
            anchor,
            cost,
            open,
        });
        Ok(())
    }

    fn count(&mut self, cost: Cost, at: Position) -> Result<(), Stop> {
        self.total.add(cost);
        if self.total.nodes > MAX_NODES || self.total.text_bytes > MAX_TEXT_BYTES {
            return Err(Stop {
                at,
                message: format!(
                    "the file has more than {MAX_NODES} values or {MAX_TEXT_BYTES} bytes of text, repeated ones (*alias) included"
                ),
                remedy: "split it into several files, and repeat less by alias",
            });
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Stop> {
        let Some((_, cost)) = self.anchors.get(&anchor) else {
            return Err(Stop {
                at,
                message: "this alias stands inside the value that it repeats".into(),
                remedy: "write the value out",
            });
        };
        let cost = *cost;
        if self.stack.len() + cost.height > MAX_DEPTH {
            return Err(too_deep(at));
        }
        // Counted before it is copied.
        self.count(cost, at)?;
        let node = match self.anchors.get(&anchor) {
            Some((node, _)) => node.clone(),
            None => return Ok(()),
        };
        self.place(node, cost, 0)
    }

    /// Puts a finished node where it belongs: into the open collection, or
    /// among the documents.
    fn place(&mut self, node: Node, cost: Cost, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        let Some(frame) = self.stack.last_mut() else {
            if !is_null(&node) {
                self.documents.push(node);
            }
            return Ok(());
        };
        frame.cost.add(cost);
        match &mut frame.open {
            Open::Sequence(items) => items.push(node),
            Open::Mapping { entries, seen, key } => match key.take() {
                None => *key = Some(take_key(self.decoder, node)),
                Some((_, None)) => {}
                Some((at, Some(name))) => {
                    if let Some(before) = seen.get(&name) {
                        let message = format!("'{name}' is here twice, first in line {before}");
                        self.decoder.file_error(
                            at,
                            message,
                            "keep one of the two and remove the other",
                        );
                    } else {
                        seen.insert(name.clone(), at.line);
                        entries.push(Entry {
                            at,
                            key: name,
                            value: node,
                        });
                    }
                }
            },
        }
        Ok(())
    }
}

/// A key's text; `None`, and an error, for what cannot be a key.
fn take_key(decoder: &mut Decoder<'_>, node: Node) -> (Position, Option<String>) {
    let at = node.at;
    match node.value {
        Value::Scalar(Scalar { text, plain }) if text == "<<" && plain => {
            decoder.file_error(
                at,
                "merge keys (<<) are not read".into(),
                "write the fields out, or repeat a whole value with *alias",
            );
            (at, None)
        }
        Value::Scalar(scalar) => (at, Some(scalar.text)),
        Value::Sequence(_) | Value::Mapping(_) => {
            decoder.file_error(
                at,
                "a list or a mapping cannot be a key".into(),
                "write a word as the key; quote text that has braces or brackets",
            );
            (at, None)
        }
    }
}

fn too_deep(at: Position) -> Stop {
    Stop {
        at,
        message: format!("values are nested more than {MAX_DEPTH} deep"),
        remedy: "no field of a manifest needs that: check brackets and indentation",
    }
}

/// Whether nothing was written, or `~`, or `null`.
pub(super) fn is_null(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(scalar) => {
            scalar.plain && super::scalar::meaning(&scalar.text) == super::scalar::Meaning::Null
        }
        Value::Sequence(_) | Value::Mapping(_) => false,
    }
}
