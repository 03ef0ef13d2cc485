//! Writes a file of tables: see `prof_pmu_events::archive` for how it is laid out.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use prof_pmu_events::archive::COLUMNS;
use prof_pmu_events::archive::MAGIC;
use zstd::zstd_safe::CParameter;

use super::mapfile::Rule;
use super::translate::Event;
use super::translate::Model;

/// The highest: it takes seconds, and is paid once.
const LEVEL: i32 = 22;

/// An architecture's file.
pub fn archive(models: &[Model], rules: &[Rule]) -> Result<Vec<u8>> {
    let mut texts = Texts::default();
    let mut frames = Vec::new();
    let mut index = String::new();
    for model in models {
        let place = add(&mut frames, &lines(model, &mut texts)?)?;
        writeln!(index, "model\t{}\t{}\t{place}", model.name, model.events.len())?;
    }
    let place = add(&mut frames, &texts.lines)?;
    writeln!(index, "texts\t{}\t{place}", texts.numbers.len())?;
    for rule in rules {
        writeln!(index, "{rule}")?;
    }
    let compressed = compress(&index)?;
    let mut bytes = MAGIC.to_vec();
    for len in [compressed.len(), index.len()] {
        bytes.extend_from_slice(&u32::try_from(len)?.to_le_bytes());
    }
    bytes.extend_from_slice(&compressed);
    bytes.extend_from_slice(&frames);
    Ok(bytes)
}

/// Appends a frame and says its place.
fn add(frames: &mut Vec<u8>, text: &str) -> Result<String> {
    let frame = compress(text)?;
    let place = format!("{}\t{}\t{}", frames.len(), frame.len(), text.len());
    frames.extend_from_slice(&frame);
    Ok(place)
}

fn compress(text: &str) -> Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).context("zstd")?;
    compressor.set_parameter(CParameter::ChecksumFlag(true)).context("zstd")?;
    compressor.compress(text.as_bytes()).context("zstd")
}

/// The columns of a model, one after the other.
fn lines(model: &Model, texts: &mut Texts) -> Result<String> {
    let words: [fn(&Event) -> &str; 8] = [
        |e| &e.name,
        |e| &e.pmu,
        |e| &e.terms,
        |e| &e.topic,
        |e| &e.flags,
        |e| &e.scale,
        |e| &e.errata,
        |e| &e.compatible,
    ];
    let numbered: [fn(&Event) -> &str; 2] = [|e| &e.description, |e| &e.long_description];
    ensure!(words.len() + numbered.len() == COLUMNS.len());
    let mut lines = String::new();
    for column in words {
        for word in model.events.iter().map(column) {
            ensure!(!word.contains('\n'), "{}: {word:?} is more than a line", model.name);
            writeln!(lines, "{word}")?;
        }
    }
    // A text that is new gets the next number: mostly the step is 1.
    let mut numbers = [vec![None; model.events.len()], vec![None; model.events.len()]];
    for (at, event) in model.events.iter().enumerate() {
        for (column, text) in numbered.iter().enumerate() {
            numbers[column][at] = texts.number(text(event));
        }
    }
    for column in numbers {
        let mut last = 0;
        for number in column {
            if let Some(number) = number {
                write!(lines, "{}", i64::from(number) - i64::from(last))?;
                last = number;
            }
            lines.push('\n');
        }
    }
    Ok(lines)
}

/// Each text once.
#[derive(Debug, Default)]
struct Texts {
    numbers: HashMap<String, u32>,
    lines: String,
}

impl Texts {
    fn number(&mut self, text: &str) -> Option<u32> {
        if text.is_empty() {
            return None;
        }
        if let Some(number) = self.numbers.get(text) {
            return Some(*number);
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.to_owned(), number);
        self.lines.push_str(text);
        self.lines.push('\n');
        Some(number)
    }
}
