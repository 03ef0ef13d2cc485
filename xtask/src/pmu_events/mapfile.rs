//! Which CPU has which table.
//!
//! On x86 the kernel's maps name CPUs by regular expressions, of which the first that
//! matches counts. A CPU's model number has 8 bits and its stepping 4, so all can be
//! tried here, and `prof` needs only ranges.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use prof_pmu_events::Arch;
use regex::Regex;

use super::source::Source;
use super::source::read;
use super::translate::Model;

/// A line of the index.
#[derive(Debug, PartialEq, Eq)]
pub enum Rule {
    X86 { vendor: String, family: u32, models: (u32, u32), steppings: u32, table: usize },
    Midr { midr: u64, table: usize },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86 { vendor, family, models: (first, last), steppings, table } => {
                write!(f, "x86\t{vendor}\t{family}\t{first}\t{last}\t{steppings:#x}\t{table}")
            }
            Self::Midr { midr, table } => write!(f, "midr\t{midr:#x}\t{table}"),
        }
    }
}

/// The rules of an architecture's map, for those of its models that have events.
pub fn rules(source: &Source, arch: Arch, models: &[Model]) -> Result<Vec<Rule>> {
    let path = source.arch_dir(arch).join("mapfile.csv");
    let text = read(&path)?;
    let mut rows = Vec::new();
    // The first line is a heading, whatever it begins with.
    for line in text.lines().skip(1).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let fields: Vec<&str> = line.split(',').collect();
        let [cpu, _version, model, _kind] = fields[..] else {
            bail!("{}: {line:?} has not four fields", path.display());
        };
        // One with metrics only has no table.
        if let Some(table) = models.iter().position(|m| m.name == model) {
            rows.push((cpu, table));
        }
    }
    match arch {
        Arch::X86 => x86(&rows),
        Arch::Arm64 => rows
            .into_iter()
            .map(|(cpu, table)| {
                let midr = cpu.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
                let midr =
                    midr.and_then(Result::ok).with_context(|| format!("{cpu:?}: no MIDR"))?;
                Ok(Rule::Midr { midr, table })
            })
            .collect(),
    }
}

/// What CPUs a row is for.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
    with_stepping: bool,
    table: usize,
}

fn x86(rows: &[(&str, usize)]) -> Result<Vec<Rule>> {
    let mut families: BTreeMap<(String, u32), Vec<Pattern>> = BTreeMap::new();
    for (pattern, table) in rows {
        let mut parts = pattern.splitn(3, '-');
        let (vendor, family) = (parts.next().unwrap_or_default(), parts.next());
        let family = family.and_then(|f| f.parse().ok());
        let (true, Some(family)) = (vendor.bytes().all(|b| b.is_ascii_alphanumeric()), family)
        else {
            bail!("{pattern:?}: vendor and family must be plain");
        };
        // Three hyphens: with the stepping. Otherwise it is not looked at.
        let with_stepping = pattern.matches('-').count() == 3;
        let regex =
            Regex::new(&format!("^(?:{pattern})$")).with_context(|| (*pattern).to_owned())?;
        families.entry((vendor.to_owned(), family)).or_default().push(Pattern {
            regex,
            with_stepping,
            table: *table,
        });
    }
    let mut rules: Vec<Rule> = Vec::new();
    for ((vendor, family), patterns) in families {
        for model in 0..=0xff {
            // Steppings by table, as the first pattern has it.
            let mut tables: BTreeMap<usize, u32> = BTreeMap::new();
            for stepping in 0..=0xf {
                let short = format!("{vendor}-{family}-{model:X}");
                let long = format!("{short}-{stepping:X}");
                let found = patterns
                    .iter()
                    .find(|p| p.regex.is_match(if p.with_stepping { &long } else { &short }));
                if let Some(pattern) = found {
                    *tables.entry(pattern.table).or_default() |= 1 << stepping;
                }
            }
            for (table, steppings) in tables {
                let before = rules.iter_mut().find_map(|rule| match rule {
                    Rule::X86 { vendor: v, family: f, models, steppings: s, table: t }
                        if (&*v, *f, *t, *s, models.1 + 1)
                            == (&vendor, family, table, steppings, model) =>
                    {
                        Some(models)
                    }
                    _ => None,
                });
                match before {
                    Some(models) => models.1 = model,
                    None => rules.push(Rule::X86 {
                        vendor: vendor.clone(),
                        family,
                        models: (model, model),
                        steppings,
                        table,
                    }),
                }
            }
        }
    }
    ensure!(!rules.is_empty(), "the map of x86 is empty");
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_ranges_that_do_not_overlap() {
        let rows = [
            ("GenuineIntel-6-55-[56789ABCDEF]", 0),
            ("GenuineIntel-6-55-[01234]", 1),
            ("AuthenticAMD-23-([12][0-9A-F]|[0-9A-F])", 2),
            ("AuthenticAMD-23-[[:xdigit:]]+", 3),
        ];
        let lines: Vec<String> = x86(&rows).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "x86\tAuthenticAMD\t23\t0\t47\t0xffff\t2",
                "x86\tAuthenticAMD\t23\t48\t255\t0xffff\t3",
                "x86\tGenuineIntel\t6\t85\t85\t0xffe0\t0",
                "x86\tGenuineIntel\t6\t85\t85\t0x1f\t1",
            ]
        );
        assert!(x86(&[("(GenuineIntel|Other)-6-55", 0)]).is_err());
    }
}
