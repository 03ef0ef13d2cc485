//! Compares the tables of files, or of all files in folders, with what gimli and
//! framehop say, and shows what tables take.
//!
//! ```sh
//! cargo run --release -p prof-unwind --example compare -- /usr/lib/x86_64-linux-gnu
//! ```

#[path = "../tests/oracle/mod.rs"]
mod oracle;

use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use prof_unwind::Error;
use prof_unwind::Limits;
use prof_unwind::RuleSet;
use prof_unwind::Table;

#[derive(Default)]
struct All {
    files: u64,
    functions: u64,
    rows: u64,
    pages: u64,
    refused: u64,
    ms: f64,
    tally: oracle::Tally,
    bad: u64,
}

fn main() -> ExitCode {
    let mut paths = Vec::new();
    let mut alone = false;
    for arg in std::env::args_os().skip(1) {
        if arg == "--tables" {
            alone = true;
        } else {
            collect(Path::new(&arg), &mut paths);
        }
    }
    paths.sort();
    paths.dedup();
    let mut rules = RuleSet::new();
    let mut all = All::default();
    for path in &paths {
        one(path, alone, &mut rules, &mut all);
    }
    println!(
        "\n{} files, {} functions, {} rows ({:.1} MB, {:.2} a function), {} pages, {} rules, {} refused, {:.0} ms",
        all.files,
        all.functions,
        all.rows,
        all.rows as f64 * 4e-6,
        all.rows as f64 / all.functions.max(1) as f64,
        all.pages,
        rules.rules().len(),
        all.refused,
        all.ms,
    );
    if !alone {
        println!("{}", all.tally);
    }
    if all.bad == 0 && all.tally.wrong_total == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn collect(path: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_file() {
        paths.extend(path.canonicalize());
    } else if meta.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| collect(&entry.path(), paths));
    }
}

fn one(path: &Path, alone: bool, rules: &mut RuleSet, all: &mut All) {
    let Ok(file) = File::open(path) else { return };
    let start = Instant::now();
    let table = match Table::from_file(&file, rules, &Limits::default()) {
        Ok(table) => table,
        Err(Error::NotElf | Error::Kind(_) | Error::Class | Error::Machine(_)) => return,
        Err(Error::NoCfi(why)) => return println!("{}: no table: {why}", path.display()),
        Err(e) => {
            all.bad += 1;
            return println!("{}: {e}", path.display());
        }
    };
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let (rows, functions) = (table.rows_total() as u64, table.stats.functions);
    if ms > 20.0 || alone {
        println!(
            "{}: {} bytes, {functions} functions, {rows} rows, {:.1} MB, {ms:.1} ms, {:.0} ns a row",
            path.display(),
            file.metadata().map_or(0, |m| m.len()),
            rows as f64 * 4e-6,
            ms * 1e6 / rows.max(1) as f64,
        );
    }
    all.files += 1;
    all.functions += functions;
    all.rows += rows;
    all.pages += table.pages() as u64;
    all.refused += table.stats.refused.total();
    all.ms += ms;
    if alone {
        return;
    }
    let Ok(data) = fs::read(path) else { return };
    if let Some(tally) = oracle::compare(&data, &path.display().to_string()) {
        if tally.wrong_total > 0 {
            println!("{}: {tally}", path.display());
        }
        all.tally.add(tally);
    }
}
