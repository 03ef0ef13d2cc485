//! From the vendors' keys to terms that the kernel's PMUs take.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use prof_pmu_events::Arch;
use prof_pmu_events::archive::SYSTEM;
use prof_pmu_events::event::Event as Known;
use serde_json::Map;
use serde_json::Value;

use super::source::Source;
use super::source::read;

/// A CPU model and its events, sorted by name and PMU.
#[derive(Debug)]
pub struct Model {
    pub name: String,
    pub events: Vec<Event>,
}

/// An event as it is stored.
#[derive(Debug, Clone, Default)]
pub struct Event {
    pub name: String,
    pub pmu: String,
    pub terms: String,
    pub topic: String,
    pub flags: String,
    pub scale: String,
    pub errata: String,
    pub compatible: String,
    pub description: String,
    pub long_description: String,
}

type Object = Map<String, Value>;

/// Fields of the file → terms of the PMU, in the order in which they are written.
/// One that is 0 is left out.
const TERMS: [(&str, &str); 14] = [
    ("AnyThread", "any"),
    ("PortMask", "ch_mask"),
    ("CounterMask", "cmask"),
    ("EdgeDetect", "edge"),
    ("FCMask", "fc_mask"),
    ("Invert", "inv"),
    ("SampleAfterValue", "period"),
    ("UMask", "umask"),
    ("NodeType", "type"),
    ("RdWrMask", "rdwrmask"),
    ("EnAllCores", "enallcores"),
    ("EnAllSlices", "enallslices"),
    ("SliceId", "sliceid"),
    ("ThreadMask", "threadmask"),
];

/// Other fields that are read.
const READ: [&str; 19] = [
    "ArchStdEvent",
    "BriefDescription",
    "Compat",
    "ConfigCode",
    "Data_LA",
    "Deprecated",
    "Errata",
    "EventCode",
    "EventName",
    "EventidCode",
    "ExtSel",
    "Filter",
    "MSRIndex",
    "MSRValue",
    "PEBS",
    "PerPkg",
    "PublicDescription",
    "ScaleUnit",
    "Unit",
];

/// Fields that are known and of no use here: which counters can count it, what the
/// vendor has not validated, metrics that are in the object of an event.
const LEFT: [&str; 17] = [
    "CollectPEBSRecord",
    "Counter",
    "CounterHTOff",
    "CounterType",
    "ELLC",
    "Experimental",
    "L1_Hit_Indication",
    "MetricExpr",
    "MetricGroup",
    "MetricName",
    "Offcore",
    "PEBScounters",
    "RetirementLatencyMax",
    "RetirementLatencyMean",
    "RetirementLatencyMin",
    "Speculative",
    "TakenAlone",
];

/// Events that the kernel's PMUs call by another code than the vendor, who names the
/// fixed counter; the period is the vendor's for the fixed counter.
const FIXED: [(&str, &str); 6] = [
    ("inst_retired.any", "event=0xc0,period=2000003"),
    ("inst_retired.any_p", "event=0xc0,period=2000003"),
    ("cpu_clk_unhalted.ref", "event=0x0,umask=0x03,period=2000003"),
    ("cpu_clk_unhalted.thread", "event=0x3c,period=2000003"),
    ("cpu_clk_unhalted.core", "event=0x3c,period=2000003"),
    ("cpu_clk_unhalted.thread_any", "event=0x3c,any=1,period=2000003"),
];

/// Vendors' names of units whose PMU is not called `uncore_` and the name.
const PMUS: [(&str, &str); 20] = [
    ("CBO", "uncore_cbox"),
    ("QPI LL", "uncore_qpi"),
    ("SBO", "uncore_sbox"),
    ("iMPH-U", "uncore_arb"),
    ("UPI LL", "uncore_upi"),
    ("hisi_sicl,cpa", "hisi_sicl,cpa"),
    ("hisi_sccl,ddrc", "hisi_sccl,ddrc"),
    ("hisi_sccl,hha", "hisi_sccl,hha"),
    ("hisi_sccl,l3c", "hisi_sccl,l3c"),
    ("imx8_ddr", "imx8_ddr"),
    ("imx9_ddr", "imx9_ddr"),
    ("L3PMC", "amd_l3"),
    ("DFPMC", "amd_df"),
    ("UMCPMC", "amd_umc"),
    ("cpu_core", "cpu_core"),
    ("cpu_atom", "cpu_atom"),
    ("ali_drw", "ali_drw"),
    ("arm_cmn", "arm_cmn"),
    ("software", "software"),
    ("tool", "tool"),
];

/// The models of an architecture, sorted by name. Fields without a use are counted in
/// `unknown`.
pub fn models(
    source: &Source,
    arch: Arch,
    unknown: &mut BTreeMap<String, usize>,
) -> Result<Vec<Model>> {
    // Events that many Arm CPUs have are described once, beside the models.
    let mut standard = HashMap::new();
    let mut models: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    let files = source.files()?;
    let mut files: Vec<_> =
        files.iter().filter(|f| f.arch == arch && f.name.ends_with(".json")).collect();
    // Those beside the models first.
    files.sort_by_key(|file| file.name.contains('/'));
    for file in files {
        let in_file = |error: anyhow::Error| error.context(file.path.display().to_string());
        let objects: Vec<Object> = serde_json::from_str(&read(&file.path)?)
            .with_context(|| file.path.display().to_string())?;
        let Some((dir, name)) = file.name.rsplit_once('/') else {
            for object in objects.iter().filter(|o| o.contains_key("EventName")) {
                let event = translate(object, &HashMap::new()).map_err(in_file)?;
                let name = event.name.clone();
                let before = standard.insert(name.clone(), event);
                ensure!(before.is_none(), "{}: {name} is there twice", file.path.display());
            }
            continue;
        };
        let model = if Path::new(dir).ends_with("sys") { SYSTEM } else { dir };
        for object in objects {
            // The others are metrics.
            if !object.contains_key("EventName") && !object.contains_key("ArchStdEvent") {
                continue;
            }
            for key in object.keys().map(String::as_str) {
                let term = TERMS.iter().any(|(k, _)| *k == key);
                if !term && !READ.contains(&key) && !LEFT.contains(&key) {
                    *unknown.entry(key.to_owned()).or_default() += 1;
                }
            }
            let mut event = translate(&object, &standard).map_err(in_file)?;
            if event.name.is_empty() {
                // What stands beside the models may be a metric, too.
                continue;
            }
            event.topic = topic(name);
            models.entry(model.to_owned()).or_default().push(event);
        }
    }
    models.into_iter().map(|(name, events)| sorted(name, events)).collect()
}

fn sorted(name: String, mut events: Vec<Event>) -> Result<Model> {
    let key = |e: &Event| (e.name.clone(), e.pmu.clone(), e.compatible.clone());
    events.sort_by_cached_key(key);
    for pair in events.windows(2) {
        ensure!(key(&pair[0]) != key(&pair[1]), "{name}: {} is there twice", pair[0].name);
    }
    Ok(Model { name, events })
}

/// `uncore-memory.json` is on `uncore memory`.
fn topic(file: &str) -> String {
    if file.ends_with("metrics.json") {
        return "metrics".to_owned();
    }
    file.trim_end_matches(".json").replace('-', " ")
}

/// An object of a file as an event; `standard` has those that others refer to.
fn translate(object: &Object, standard: &HashMap<String, Event>) -> Result<Event> {
    let fields = Fields(object);
    let mut event = Event {
        name: fields.text("EventName")?.unwrap_or_default().to_ascii_lowercase(),
        pmu: pmu(fields.text("Unit")?),
        flags: flags(fields)?,
        scale: fields.text("ScaleUnit")?.map(scale).transpose()?.unwrap_or_default(),
        errata: one_line(fields.text("Errata")?.unwrap_or_default()),
        compatible: compatible(fields.text("Compat")?.unwrap_or_default())?,
        description: description(fields.text("BriefDescription")?),
        long_description: description(fields.text("PublicDescription")?),
        terms: String::new(),
        topic: String::new(),
    };
    event.terms = terms(fields).with_context(|| event.name.clone())?;
    if let Some(name) = fields.text("ArchStdEvent")? {
        let Some(of) = standard.get(&name.to_ascii_lowercase()) else {
            // A metric.
            return Ok(Event::default());
        };
        let fill = |own: &mut String, standard: &str| {
            if own.is_empty() {
                standard.clone_into(own);
            }
        };
        event.terms.clone_from(&of.terms);
        fill(&mut event.name, &of.name);
        fill(&mut event.flags, &of.flags);
        fill(&mut event.scale, &of.scale);
        fill(&mut event.compatible, &of.compatible);
        fill(&mut event.description, &of.description);
        fill(&mut event.long_description, &of.long_description);
    }
    if let Some((_, terms)) = FIXED.iter().find(|(name, _)| *name == event.name) {
        (*terms).clone_into(&mut event.terms);
    }
    if event.description.is_empty() {
        event.description = std::mem::take(&mut event.long_description);
    }
    if event.long_description == event.description {
        event.long_description.clear();
    }
    Ok(event)
}

fn terms(fields: Fields<'_>) -> Result<String> {
    let code = |key: &str| fields.text(key)?.map(integer).transpose();
    let mut terms = if let Some(config) = code("ConfigCode")? {
        format!("config={}", short_hex(config))
    } else if let Some(id) = code("EventidCode")? {
        format!("eventid={}", short_hex(id))
    } else {
        // Several if the event needs one of several counters, each with its code.
        let codes = fields.text("EventCode")?.unwrap_or("0");
        let first = integer(codes.split(',').next().unwrap_or_default())?;
        let select = code("ExtSel")?.unwrap_or(0);
        format!("event={}", short_hex(first | select << 8))
    };
    for (key, term) in TERMS {
        let Some(value) = fields.text(key)? else { continue };
        // What is no number is passed on.
        let value = match (integer(value), value.starts_with("0x")) {
            (Ok(0), _) => continue,
            (Ok(number), true) => short_hex(number),
            (Ok(number), false) => number.to_string(),
            (Err(_), _) => value.to_owned(),
        };
        terms += &format!(",{term}={value}");
    }
    if let Some(filter) = fields.text("Filter")? {
        terms += &format!(",{filter}");
    }
    // Registers that hold what does not fit the event's own.
    let register = fields.text("MSRIndex")?;
    // Some have the register and no value, for a latency of 0, which is the default.
    if let (Some(register), Some(value)) = (register, fields.text("MSRValue")?) {
        let first = integer(register.split(',').next().unwrap_or_default())?;
        let term = match first {
            0x1a6 | 0x1a7 | 0x3e0..=0x3e3 => "offcore_rsp",
            0x3f6 => "ldlat",
            0x3f7 => "frontend",
            other => bail!("MSRIndex {other:#x}: no term is known for it"),
        };
        terms += &format!(",{term}={value}");
    }
    ensure!(!terms.contains(['\t', '\n', ' ']), "{terms:?}: has blanks");
    Ok(terms)
}

fn flags(fields: Fields<'_>) -> Result<String> {
    let mut flags = String::new();
    for (key, flag) in [("Deprecated", 'd'), ("PerPkg", 'g'), ("Data_LA", 'a')] {
        match fields.text(key)? {
            None | Some("0") => {}
            Some("1") => flags.push(flag),
            Some(other) => bail!("{key} is {other:?}"),
        }
    }
    match fields.text("PEBS")? {
        None | Some("0") => {}
        Some("1") => flags.push('p'),
        Some("2") => flags.push('P'),
        Some(other) => bail!("PEBS is {other:?}"),
    }
    Ok(flags)
}

fn pmu(unit: Option<&str>) -> String {
    let Some(unit) = unit else { return Known::CORE.to_owned() };
    match PMUS.iter().find(|(name, _)| *name == unit) {
        Some((_, pmu)) => (*pmu).to_owned(),
        None => format!("uncore_{}", unit.to_lowercase()),
    }
}

/// `6.1E-5MiB/sec` as factor, space, unit.
fn scale(text: &str) -> Result<String> {
    // The longest beginning that is a number.
    let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let end = ends.rfind(|end| text[..*end].parse::<f64>().is_ok());
    let end = end.with_context(|| format!("ScaleUnit {text:?} begins with no number"))?;
    Ok(format!("{} {}", &text[..end], one_line(&text[end..])))
}

/// Only as much of a regular expression as `Event::fits` knows.
fn compatible(pattern: &str) -> Result<String> {
    let rest = pattern.strip_suffix(".*").unwrap_or(pattern);
    let rest = rest.strip_prefix('(').and_then(|r| r.split_once(')')).map_or_else(
        || rest.to_owned(),
        |(alternatives, rest)| alternatives.replace('|', "") + rest,
    );
    ensure!(
        rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
        "Compat {pattern:?} is more than names"
    );
    Ok(pattern.to_owned())
}

/// Without the full stop: it is a heading as often as a sentence.
fn description(text: Option<&str>) -> String {
    let line = one_line(text.unwrap_or_default());
    line.strip_suffix('.').unwrap_or(&line).trim_end().to_owned()
}

/// Blanks and ends of lines as one space, nothing that a terminal would obey.
fn one_line(text: &str) -> String {
    let text = text.replace(|c: char| c.is_control(), " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// 0 to 9, then hexadecimal.
fn short_hex(number: u64) -> String {
    if number < 10 { number.to_string() } else { format!("{number:#x}") }
}

fn integer(text: &str) -> Result<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .with_context(|| format!("{text:?} is no number"))
}

/// The fields of an object, all of them text.
#[derive(Debug, Clone, Copy)]
struct Fields<'a>(&'a Object);

impl<'a> Fields<'a> {
    fn text(self, key: &str) -> Result<Option<&'a str>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|t| !t.is_empty()).map(|t| &**t)),
            Some(other) => bail!("{key}: {other} is no text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms_of(json: &str) -> String {
        translate(&serde_json::from_str(json).unwrap(), &HashMap::new()).unwrap().terms
    }

    #[test]
    fn fields_become_terms() {
        for (json, terms) in [
            (
                r#"{"EventCode": "0xB7, 0xBB", "UMask": "0x1", "MSRIndex": "0x1a6,0x1a7",
                "MSRValue": "0x10001", "SampleAfterValue": "100003"}"#,
                "event=0xb7,period=100003,umask=1,offcore_rsp=0x10001",
            ),
            (
                r#"{"EventCode": "0x79", "CounterMask": "1", "EdgeDetect": "1", "Invert": "1",
                "AnyThread": "1", "UMask": "0x30"}"#,
                "event=0x79,any=1,cmask=1,edge=1,inv=1,umask=0x30",
            ),
            (
                r#"{"EventCode": "0xcd", "MSRIndex": "0x3F6", "MSRValue": "0x80", "UMask": "0"}"#,
                "event=0xcd,ldlat=0x80",
            ),
            (
                r#"{"EventCode": "0x83", "PortMask": "0x001", "FCMask": "0x07",
                "Filter": "ch_mask=0x1f"}"#,
                "event=0x83,ch_mask=1,fc_mask=7,ch_mask=0x1f",
            ),
            (r#"{"EventCode": "0x02", "ExtSel": "1"}"#, "event=0x102"),
            (r#"{"ConfigCode": "0x10"}"#, "config=0x10"),
            (r#"{"EventidCode": "0x9", "NodeType": "0xa"}"#, "eventid=9,type=0xa"),
            (r#"{"EventName": "INST_RETIRED.ANY", "UMask": "0x1"}"#, "event=0xc0,period=2000003"),
            (r#"{"EventCode": "0x0b", "MSRIndex": "0x3F6"}"#, "event=0xb"),
        ] {
            assert_eq!(terms_of(json), terms, "{json}");
        }
    }

    #[test]
    fn what_has_no_translation_is_an_error() {
        for json in [
            r#"{"EventCode": "1", "MSRIndex": "0x123", "MSRValue": "1"}"#,
            r#"{"EventCode": "x"}"#,
            r#"{"EventCode": 1}"#,
            r#"{"PEBS": "3"}"#,
            r#"{"Compat": "[ab]"}"#,
            r#"{"ScaleUnit": "MiB"}"#,
        ] {
            let object = serde_json::from_str(json).unwrap();
            assert!(translate(&object, &HashMap::new()).is_err(), "{json}");
        }
    }

    #[test]
    fn an_architecture_s_event_gives_what_the_model_does_not_say() {
        let object = |json| serde_json::from_str::<Object>(json).unwrap();
        let of = object(
            r#"{"EventName": "L1D_CACHE", "EventCode": "0x04", "BriefDescription": "Short.",
                "PublicDescription": "Long\n text."}"#,
        );
        let of = translate(&of, &HashMap::new()).unwrap();
        let standard = HashMap::from([(of.name.clone(), of)]);
        let event = object(r#"{"ArchStdEvent": "L1D_CACHE", "BriefDescription": "Own."}"#);
        let event = translate(&event, &standard).unwrap();
        assert_eq!((&*event.name, &*event.terms), ("l1d_cache", "event=4"));
        assert_eq!((&*event.description, &*event.long_description), ("Own", "Long text"));
    }

    #[test]
    fn scales_are_split_from_their_units() {
        assert_eq!(scale("6.103515625E-5MiB/sec").unwrap(), "6.103515625E-5 MiB/sec");
        assert_eq!(scale("64Bytes").unwrap(), "64 Bytes");
        assert_eq!(scale("6000000000ns").unwrap(), "6000000000 ns");
        assert_eq!(scale("100%").unwrap(), "100 %");
    }
}
