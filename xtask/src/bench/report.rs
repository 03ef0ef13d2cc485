//! What a benchmark found, for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::machine::Machine;
use super::stats::Pairs;

const INTRO: &str = "# Benchmarks\n\n\
    Written by `cargo xtask bench`, a section for each of its parts. Ratios are of runs\n\
    taken in turns, each with the one next to it; absolute times are of the machine named\n\
    and say little about another.\n";

/// A table.
#[derive(Debug)]
pub struct Table {
    /// Heads of the columns; the first is a name, the rest are figures.
    pub columns: Vec<&'static str>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One that compares each of its rows with a base.
    pub fn of_pairs(base: &'static str) -> Self {
        Self::new(&["", base, "with it", "ratio: median", "min–max"])
    }

    /// A row of [`Table::of_pairs`], of samples in seconds.
    pub fn push_pairs(&mut self, name: &str, pairs: &Pairs) {
        let ms = |s: Option<super::stats::Spread>| {
            s.map_or_else(String::new, |s| format!("{:.2} ms", s.median * 1e3))
        };
        let mut row = vec![name.to_owned(), ms(pairs.base()), ms(pairs.other())];
        match pairs.ratio() {
            Some(r) => {
                row.extend([format!("{:.3}", r.median), format!("{:.3}–{:.3}", r.min, r.max)])
            }
            None => row.extend([String::new(), String::new()]),
        }
        self.rows.push(row);
    }

    fn write(&self, out: &mut String) {
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            out.push('|');
            for cell in cells {
                // Names may hold commands, and those pipes.
                out.extend([" ", &cell.replace('|', "\\|"), " |"]);
            }
            out.push('\n');
        };
        line(&mut self.columns.iter().copied());
        let rules =
            self.columns.iter().enumerate().map(|(i, _)| if i == 0 { "---" } else { "--:" });
        line(&mut rules.collect::<Vec<_>>().into_iter());
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
    }
}

/// What one part of the benchmark found.
#[derive(Debug)]
pub struct Section {
    /// The letter of the part.
    pub id: char,
    /// Its heading.
    pub title: &'static str,
    /// How it was measured.
    pub method: String,
    /// Its tables.
    pub tables: Vec<Table>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
    /// Everything, with all samples.
    pub data: Value,
}

impl Section {
    /// As markdown, between marks by which the next run finds it.
    pub fn markdown(&self, machine: &Machine, command: &str) -> String {
        let (open, close) = marks(self.id);
        let mut out = format!("{open}\n## {}\n\n{}\n", self.title, self.method);
        for table in &self.tables {
            out.push('\n');
            table.write(&mut out);
        }
        if !self.skipped.is_empty() {
            out.push('\n');
            for reason in &self.skipped {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "- not measured: {reason}");
            }
        }
        let _ = writeln!(out, "\n`{command}`, {machine}.\n{close}");
        out
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({ "part": self.id.to_string(), "title": self.title, "skipped": self.skipped,
            "data": self.data })
    }
}

fn marks(id: char) -> (String, String) {
    (format!("<!-- bench {id} -->"), format!("<!-- end of bench {id} -->"))
}

/// Puts a section into the document: in place of the one there, else at the end.
pub fn put(document: &str, id: char, section: &str) -> String {
    let (open, close) = marks(id);
    let range = document.find(&open).and_then(|from| {
        let to = document[from..].find(&close)? + from + close.len();
        Some(from..to)
    });
    match range {
        Some(range) => {
            let mut document = document.to_owned();
            document.replace_range(range, section.trim_end());
            document
        }
        None => format!("{}\n\n{section}", document.trim_end()),
    }
}

/// Writes the sections into the document at `path`.
pub fn write(path: &Path, sections: &[(char, String)]) -> Result<()> {
    let mut document = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => INTRO.to_owned(),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    for (id, section) in sections {
        document = put(&document, *id, section);
    }
    fs::write(path, document).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_replace_their_former_selves() {
        let one = put("# Head\n", 'a', "<!-- bench a -->\n1\n<!-- end of bench a -->\n");
        let two = put(&one, 'b', "<!-- bench b -->\n2\n<!-- end of bench b -->\n");
        let three = put(&two, 'a', "<!-- bench a -->\n3\n<!-- end of bench a -->\n");
        assert_eq!(
            three,
            "# Head\n\n<!-- bench a -->\n3\n<!-- end of bench a -->\n\n\
             <!-- bench b -->\n2\n<!-- end of bench b -->\n"
        );
    }

    #[test]
    fn tables() {
        let mut table = Table::of_pairs("bare");
        let samples = vec![(0.001, 0.002), (0.001, 0.004), (0.002, 0.006)];
        table.push_pairs("a|b", &Pairs { samples });
        let mut text = String::new();
        table.write(&mut text);
        assert_eq!(
            text,
            "|  | bare | with it | ratio: median | min–max |\n\
             | --- | --: | --: | --: | --: |\n\
             | a\\|b | 1.00 ms | 4.00 ms | 3.000 | 2.000–4.000 |\n"
        );
    }
}
