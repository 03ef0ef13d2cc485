//! Holds the tables against what the kernel's own generator makes of the same source.
//!
//! That is `jevents.py`, which writes C: a string that holds all others, and tables of
//! offsets into it. What is compared is what is in the C, by a reader that shares
//! nothing with the translation.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use prof_pmu_events::Arch;
use prof_pmu_events::archive::Archive;
use prof_pmu_events::archive::SYSTEM;

use super::source::Source;
use crate::command::require_program;
use crate::command::status;
use crate::generated::Files;
use crate::scratch::Scratch;

/// How many differences are shown.
const SHOWN: usize = 20;

/// What an event is called: model, PMU, name, what it is compatible with.
type Key = (String, String, String, String);

/// What is compared of an event.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    terms: String,
    topic: String,
    description: String,
    deprecated: bool,
    per_package: bool,
    scale: String,
}

/// Compares each event of the files, and fails if one differs that need not. Some of
/// the generator's are written to `sample`: two of each model, and the first of each
/// combination of terms.
pub fn compare(source: &Source, files: &Files, sample: Option<&Path>) -> Result<()> {
    require_program("python3", "python3")?;
    let mut sampled = String::new();
    let mut differences = Vec::new();
    for arch in Arch::ALL {
        let theirs = generate(source, arch)?;
        let bytes = files.get(&arch.file()).context("no such table")?;
        let ours = read(bytes)?;
        let (mut equal, mut without_value) = (0, 0);
        for (key, event) in &theirs {
            let mut event_terms = event.terms.clone();
            if event_terms.ends_with("=None") {
                // Python's word for the value of a field that is not there.
                without_value += 1;
                event_terms.truncate(event_terms.rfind(',').unwrap_or_default());
            }
            match ours.get(key) {
                None => differences.push(format!("{key:?}: not in the tables")),
                Some(own) if same(own, event, &event_terms) => equal += 1,
                Some(own) => differences.push(format!("{key:?}: {own:?}, not {event:?}")),
            }
        }
        let more = ours.keys().filter(|key| !theirs.contains_key(*key));
        differences.extend(more.map(|key| format!("{key:?}: only in the tables")));
        let models: BTreeSet<_> = theirs.keys().map(|key| &key.0).collect();
        println!(
            "{}: {} events of {} models compared with jevents.py: {equal} equal, of which \
             {without_value} but for a value that it writes as None",
            arch.name(),
            theirs.len(),
            models.len(),
        );
        write_sample(arch, &theirs, &mut sampled)?;
    }
    ensure!(
        differences.is_empty(),
        "{} events differ:\n  {}",
        differences.len(),
        differences[..differences.len().min(SHOWN)].join("\n  ")
    );
    if let Some(path) = sample {
        fs::write(path, sampled).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn same(own: &Event, theirs: &Event, their_terms: &str) -> bool {
    // The generator adds remarks to a description, and has none where only a long one
    // is there.
    let described =
        theirs.description.is_empty() || theirs.description.starts_with(&own.description);
    own.terms == their_terms
        && described
        && own.topic == theirs.topic
        && own.scale == theirs.scale
        && (own.deprecated, own.per_package) == (theirs.deprecated, theirs.per_package)
}

/// The events of a file of tables.
fn read(bytes: &[u8]) -> Result<BTreeMap<Key, Event>> {
    let archive = Archive::parse(bytes)?;
    let mut events = BTreeMap::new();
    for model in archive.models() {
        let table = archive.table(model)?;
        for event in table.iter() {
            let key = key(&model.name, event.pmu, event.name, event.compatible.unwrap_or_default());
            let scale = match event.unit {
                Some(unit) => format!("{}{unit}", event.scale),
                None => String::new(),
            };
            let description = table.description(&event)?.unwrap_or_default().to_owned();
            let event = Event {
                terms: event.terms.to_owned(),
                topic: event.topic.to_owned(),
                description,
                deprecated: event.deprecated,
                per_package: event.per_package,
                scale,
            };
            events.insert(key, event);
        }
    }
    Ok(events)
}

/// As C can name it: no model differs from another in punctuation only.
fn key(model: &str, pmu: &str, name: &str, compatible: &str) -> Key {
    let model = model.replace(['/', '-'], "_");
    (model, pmu.to_owned(), name.to_owned(), compatible.to_owned())
}

/// Runs the generator and reads what it wrote.
fn generate(source: &Source, arch: Arch) -> Result<BTreeMap<Key, Event>> {
    let scratch = Scratch::create(&std::env::temp_dir())?;
    let path = scratch.path.join("pmu-events.c");
    status(
        Command::new("python3")
            // Nothing is to be left in the source's directory.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(source.dir.join("jevents.py"))
            .args([arch.name(), "all"])
            .arg(source.dir.join("arch"))
            .arg(&path),
    )?;
    let c = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    read_c(&c).context("what jevents.py wrote")
}

/// The events in the C; models of its own test are left out.
fn read_c(c: &str) -> Result<BTreeMap<Key, Event>> {
    let strings = strings(c)?;
    // Table of one PMU → offsets.
    let mut tables: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut events = BTreeMap::new();
    let mut lines = c.lines();
    while let Some(line) = lines.next() {
        let name = |kind: &str| {
            let (_, rest) = line.split_once(kind)?;
            rest.trim().strip_suffix("[] = {")
        };
        if let Some(name) = name("struct compact_pmu_event ") {
            let rows = lines.by_ref().take_while(|row| *row != "};");
            let offset =
                |row: &str| row.trim().strip_prefix("{ ")?.split_once(" }")?.0.parse().ok();
            tables.insert(name, rows.filter_map(offset).collect());
        } else if let Some(name) = name("struct pmu_table_entry ") {
            let rows: Vec<&str> = lines.by_ref().take_while(|row| *row != "};").collect();
            let Some(model) = name.strip_prefix("pmu_events__") else { continue };
            if model.starts_with("test_soc") || model == "common" {
                continue;
            }
            let model = if model.ends_with("_sys") { SYSTEM } else { model };
            for pair in rows
                .iter()
                .filter_map(|row| row.trim().split_once(" = "))
                .collect::<Vec<_>>()
                .chunks(3)
            {
                let [(_, table), _, (_, pmu)] = pair else {
                    anyhow::bail!("{name}: {pair:?}");
                };
                let pmu = pmu.trim_start_matches("{ ").split(' ').next().unwrap_or_default();
                let pmu = string(&strings, pmu.parse().context("PMU")?)?.0;
                let offsets = tables.get(table.trim_end_matches(',')).context("no such table")?;
                for offset in offsets {
                    let (name, event, compatible) = event(&strings, *offset)?;
                    events.insert(key(model, &pmu, &name, &compatible), event);
                }
            }
        }
    }
    ensure!(!events.is_empty(), "no tables");
    Ok(events)
}

/// Name, event, what it is compatible with.
fn event(strings: &[u8], offset: usize) -> Result<(String, Event, String)> {
    let mut at = offset;
    let mut next = || -> Result<String> {
        let (text, end) = string(strings, at)?;
        at = end;
        Ok(text)
    };
    let (name, topic, description, terms, compatible, rest) =
        (next()?, next()?, next()?, next()?, next()?, next()?);
    // Two digits, and the scale with its unit.
    let mut flags = rest.chars();
    let (deprecated, per_package) = (flags.next() == Some('1'), flags.next() == Some('1'));
    let scale = normal_scale(flags.as_str());
    let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok((name, Event { terms, topic, description, deprecated, per_package, scale }, compatible))
}

/// Its number as Rust shows it.
fn normal_scale(text: &str) -> String {
    let end = text.find(|c: char| c.is_ascii_alphabetic() && c != 'E').unwrap_or(text.len());
    match text[..end].parse::<f64>() {
        Ok(number) => format!("{number}{}", &text[end..]),
        Err(_) => text.to_owned(),
    }
}

/// The string at an offset, and the offset after its end.
fn string(strings: &[u8], offset: usize) -> Result<(String, usize)> {
    let rest = strings.get(offset..).context("offset")?;
    let len = rest.iter().position(|b| *b == 0).context("no end")?;
    Ok((String::from_utf8(rest[..len].to_vec())?, offset + len + 1))
}

/// The string that holds all others, as a compiler would see it.
fn strings(c: &str) -> Result<Vec<u8>> {
    let (_, rest) = c.split_once("big_c_string =").context("no strings")?;
    let mut strings = Vec::new();
    let mut text = rest;
    loop {
        text = text.trim_start();
        if let Some(comment) = text.strip_prefix("/*") {
            let (inside, after) = comment.split_once("*/").context("comment")?;
            if let Some(offset) = inside.trim().strip_prefix("offset=") {
                ensure!(offset == strings.len().to_string(), "offset {offset}");
            }
            text = after;
        } else if let Some(literal) = text.strip_prefix('"') {
            text = unescape(literal, &mut strings)?;
        } else {
            ensure!(text.starts_with(';'), "no end of the strings");
            return Ok(strings);
        }
    }
}

/// Appends a literal and returns what is after it.
fn unescape<'c>(literal: &'c str, to: &mut Vec<u8>) -> Result<&'c str> {
    let bytes = literal.as_bytes();
    let mut at = 0;
    loop {
        match bytes.get(at).context("literal")? {
            b'"' => return Ok(&literal[at + 1..]),
            b'\\' => {
                let escaped = *bytes.get(at + 1).context("escape")?;
                at += 2;
                match escaped {
                    b'0' => {
                        ensure!(literal[at..].starts_with("00"), "escape");
                        at += 2;
                        to.push(0);
                    }
                    b'n' => to.push(b'\n'),
                    b'r' => to.push(b'\r'),
                    other => to.push(other),
                }
            }
            byte => {
                to.push(*byte);
                at += 1;
            }
        }
    }
}

fn write_sample(arch: Arch, events: &BTreeMap<Key, Event>, to: &mut String) -> Result<()> {
    let mut by_model: BTreeMap<&str, Vec<(&Key, &Event)>> = BTreeMap::new();
    for (key, event) in events.iter().filter(|(_, event)| !event.terms.ends_with("=None")) {
        by_model.entry(&key.0).or_default().push((key, event));
    }
    let mut combinations = BTreeSet::new();
    for events in by_model.values() {
        for (at, ((model, pmu, name, compatible), event)) in events.iter().enumerate() {
            let keys: Vec<&str> =
                event.terms.split(',').filter_map(|t| Some(t.split_once('=')?.0)).collect();
            let new = combinations.insert(keys);
            if new || at == events.len() / 3 || at == events.len() * 2 / 3 {
                let arch = arch.name();
                writeln!(to, "{arch}\t{model}\t{pmu}\t{name}\t{compatible}\t{}", event.terms)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = r#"
static const char *const big_c_string =
/* offset=0 */
"cpu_core\000"
/* offset=9 */ "l1.\"x\"\000cache\000Says \\ it\\\000event=1\000\00010100ns\000\000" /* also: x */
;

static const struct compact_pmu_event pmu_events__arm_a_b_cpu_core[] = {
	/* l1\000... */
	{ 9 },
};
static const struct pmu_table_entry pmu_events__arm_a_b[] = {
	{
		.entries = pmu_events__arm_a_b_cpu_core,
		.num_entries = ARRAY_SIZE(pmu_events__arm_a_b_cpu_core),
		.pmu_name = { 0 /* cpu_core\000 */ },
	},
};
"#;

    #[test]
    fn the_generator_s_c_is_read() {
        let events = read_c(C).unwrap();
        let (key, event) = events.first_key_value().unwrap();
        assert_eq!(*key, super::key("arm/a-b", "cpu_core", "l1.\"x\"", ""));
        assert_eq!(event.terms, "event=1");
        assert_eq!(event.description, "Says \\ it\\");
        assert_eq!((event.deprecated, event.per_package, &*event.scale), (true, false, "100ns"));
        assert!(read_c(&C.replace("offset=9", "offset=8")).is_err());
    }
}
