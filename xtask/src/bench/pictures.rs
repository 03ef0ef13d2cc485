//! (g) What comes after the samples, and before them: from the end of a program to the
//! picture, and the unwind table of a large file.

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use inferno::collapse::Collapse as _;
use prof_kernel::sampler::Rate;
use prof_kernel::sampler::StackPlan;
use prof_kernel::sampler::gather::Gatherer;
use prof_kernel::session::Backend;
use prof_kernel::session::Plan;
use prof_kernel::session::Session;
use prof_model::stacks::StackProfile;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::prof;
use super::programs;
use super::report::Section;
use super::report::Table;
use super::stats::Pairs;
use super::stats::Spread;
use super::watch;

/// CPU time of the program, ms: a profile of 10 s.
const BURN_MS: u32 = 10_000;
const QUICK_BURN_MS: u32 = 500;
const HZ: &str = "997";

/// How a picture is made.
#[derive(Debug, Clone, Copy)]
enum Way {
    Prof,
    /// `perf record`, then `perf script` piped through inferno.
    Perf(&'static str),
}

/// Seconds from the end of the program to the picture.
fn to_picture(bench: &Bench, way: Way) -> Result<f64> {
    let at = |name: &str| bench.scratch.path.join(name);
    let (svg, data, end) = (at("picture.svg"), at("picture.data"), at("end"));
    let _ = fs::remove_file(&svg);
    let mut command = match way {
        Way::Prof => {
            let mut run = bench.programs.prof("run")?;
            run.args(["-F", HZ, "-o", &format!("flamegraph:{}", svg.display())]);
            run.env("PROF_CACHE_DIR", at("cache"));
            run
        }
        Way::Perf(how) => {
            let mut record = Command::new("perf");
            record.args(["record", "-q", "-e", "cpu-clock", "-F", HZ, "--call-graph", how, "-o"]);
            record.arg(&data);
            record
        }
    };
    let burn = bench.amount(BURN_MS, QUICK_BURN_MS);
    let script = format!("{} burn {burn}; : >{}", bench.programs.target.display(), end.display());
    prof::quietly(command.args(["--", "sh", "-c", &script]))?;
    if let Way::Perf(_) = way {
        picture_of(&data, &svg)?;
    }
    let ended = fs::metadata(&end)?.modified()?;
    let took = SystemTime::now().duration_since(ended).context("the clock went back")?;
    ensure!(fs::metadata(&svg)?.len() > 0, "no picture");
    Ok(took.as_secs_f64())
}

fn picture_of(data: &Path, svg: &Path) -> Result<()> {
    let mut script = Command::new("perf")
        .arg("script")
        .arg("-i")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let text = BufReader::new(script.stdout.take().context("no output")?);
    let mut folded = Vec::new();
    inferno::collapse::perf::Folder::default().collapse(text, &mut folded)?;
    ensure!(script.wait()?.success(), "perf script failed");
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_reader(&mut options, folded.as_slice(), fs::File::create(svg)?)?;
    Ok(())
}

/// A library of 100 MB or more: a compiler's.
fn large_file() -> Result<PathBuf> {
    let out = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let lib = Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("lib");
    let mut large: Vec<_> = fs::read_dir(&lib)?
        .flatten()
        .filter_map(|e| Some((e.metadata().ok()?.len(), e.path())))
        .filter(|(_, path)| path.extension().is_some_and(|e| e == "so"))
        .collect();
    large.sort();
    Ok(large.pop().with_context(|| format!("no library in {}", lib.display()))?.1)
}

/// Seconds until the kernel half has the unwind table of a file.
fn table_of(file: &Path) -> Result<f64> {
    let plan = StackPlan::clock(Rate::Hz(997));
    let session = Session::open(&Plan {
        stacks: Some(plan.clone()),
        ..programs::plan(&watch::rules(1, true), Backend::RawTp)?
    })?;
    let mut sampler = session.sampler(&plan)?;
    let files = [file.to_owned()];
    let mut gatherer = Gatherer::new(&sampler, StackProfile::default(), 0, &files)?;
    let began = Instant::now();
    sampler.prepare(&files)?;
    gatherer.pump(&mut sampler)?;
    Ok(began.elapsed().as_secs_f64())
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let mut data = Map::new();
    let mut skipped = Vec::new();
    let mut pictures = Table::of_pairs("`perf`");
    match prof::perf_fault("record") {
        Some(why) => skipped.push(why),
        None => {
            for how in ["fp", "dwarf"] {
                let name = format!("`prof run -o flamegraph`, by `perf record --call-graph {how}`");
                eprintln!("bench g: {name}");
                let mut perf = || to_picture(bench, Way::Perf(how));
                let mut ours = || to_picture(bench, Way::Prof);
                // Each takes the program's own time first.
                let runs = bench.runs.div_ceil(3);
                let pairs = Pairs::take(0, runs, &mut perf, &mut ours)?;
                pictures.push_pairs(&name, &pairs);
                data.insert(name, pairs.to_json());
            }
        }
    }

    let mut tables = Table::new(&["file", "MB", "made and loaded: median", "min–max"]);
    match large_file() {
        Err(e) => skipped.push(format!("the table of a large file: {e:#}")),
        Ok(file) => {
            eprintln!("bench g: the table of {}", file.display());
            let found = (0..bench.runs).map(|_| table_of(&file)).collect::<Result<Vec<_>>>()?;
            data.insert("s for a table".into(), json!(found));
            if let Some(s) = Spread::of(found) {
                tables.rows.push(vec![
                    file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    format!("{:.0}", fs::metadata(&file)?.len() as f64 / 1e6),
                    format!("{:.0} ms", s.median * 1e3),
                    format!("{:.0}–{:.0} ms", s.min * 1e3, s.max * 1e3),
                ]);
            }
        }
    }

    Ok(Section {
        id: 'g',
        title: "Pictures and tables",
        method: format!(
            "Pictures: `sh -c 'prof-target burn {}'` sampled at {HZ} Hz; the time from the \
             program's end to the finished SVG. perf's is `perf record`'s own end, `perf script`, \
             and inferno. {} pairs each. Table: of the largest library of the Rust compiler, from \
             opening the file to the kernel half's having all of it.",
            bench.amount(BURN_MS, QUICK_BURN_MS),
            bench.runs.div_ceil(3),
        ),
        tables: vec![pictures, tables],
        skipped,
        data: json!({ "found": Value::Object(data) }),
    })
}
