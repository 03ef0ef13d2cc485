//! The events of a CPU model.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::OnceLock;

use crate::archive;
use crate::archive::Arch;
use crate::archive::Archive;
use crate::archive::COLUMNS;
use crate::archive::Model;
use crate::archive::SYSTEM;
use crate::archive::Texts;
use crate::cpu::CpuId;
use crate::error::Error;
use crate::event::Event;
use crate::event::Precise;

/// Columns that hold text themselves; the others hold numbers of texts.
const WORDS: usize = COLUMNS.len() - 2;

/// The events of a CPU model, by name.
#[derive(Debug)]
pub struct Table<'a> {
    model: String,
    lines: String,
    /// Where each line of `lines` begins, and the end.
    starts: Vec<u32>,
    /// For each event, the numbers of its description and its long one.
    numbers: Vec<[Option<u32>; 2]>,
    texts: Texts<'a>,
    decoded_texts: OnceLock<(String, Vec<u32>)>,
}

impl Table<'static> {
    /// The events of a CPU; `None` if there is no table for it. Decodes what it
    /// takes to find them by name, some milliseconds at most.
    pub fn for_cpu(cpu: &CpuId) -> Result<Option<Self>, Error> {
        Self::of(cpu.arch(), |archive| archive.model_of(cpu).cloned())
    }

    /// The events of PMUs outside of the CPU (interconnects, memory controllers of a
    /// board), for which the CPU says nothing: [`Event::is_of_pmu`] and
    /// [`Event::fits`] do.
    pub fn of_system(arch: Arch) -> Result<Option<Self>, Error> {
        Self::of_model(arch, SYSTEM)
    }

    /// The events of a CPU model, by the model's name.
    pub fn of_model(arch: Arch, name: &str) -> Result<Option<Self>, Error> {
        Self::of(arch, |archive| archive.model_named(name).cloned())
    }

    /// The CPU models that have a table, in the order of their names.
    pub fn models(arch: Arch) -> Result<Vec<Model>, Error> {
        let Some(bytes) = arch.bytes() else { return Ok(Vec::new()) };
        let mut models = Archive::parse(bytes)?.models().to_vec();
        models.retain(|m| m.name != SYSTEM);
        Ok(models)
    }

    fn of(
        arch: Arch,
        choose: impl Fn(&Archive<'static>) -> Option<Model>,
    ) -> Result<Option<Self>, Error> {
        let Some(bytes) = arch.bytes() else { return Ok(None) };
        let archive = Archive::parse(bytes)?;
        choose(&archive).map(|model| archive.table(&model)).transpose()
    }
}

impl<'a> Table<'a> {
    pub(crate) fn new(model: &Model, lines: String, texts: Texts<'a>) -> Result<Self, Error> {
        let damaged = |what: &str| Error::damaged(&model.name, what);
        let count =
            model.events.checked_mul(COLUMNS.len()).ok_or_else(|| damaged("too many events"))?;
        let starts = archive::line_starts(&lines, count, &model.name)?;
        let mut table = Self {
            model: model.name.clone(),
            lines,
            starts,
            numbers: vec![[None; 2]; model.events],
            texts,
            decoded_texts: OnceLock::new(),
        };
        for which in 0..2 {
            let mut last = 0;
            for event in 0..model.events {
                let text = table.line(WORDS + which, event);
                if text.is_empty() {
                    continue;
                }
                last = text
                    .parse::<i64>()
                    .ok()
                    .and_then(|step| u32::try_from(i64::from(last).checked_add(step)?).ok())
                    .ok_or_else(|| damaged("a text has no number"))?;
                table.numbers[event][which] = Some(last);
            }
        }
        table.check()?;
        Ok(table)
    }

    /// What `event` and `find` rely on.
    fn check(&self) -> Result<(), Error> {
        let key = |event| [0, 1, 7].map(|column| self.line(column, event));
        for event in 0..self.len() {
            let name = self.line(0, event);
            let wrong = if event > 0 && key(event - 1) >= key(event) {
                "not sorted"
            } else if name.bytes().any(|b| b.is_ascii_uppercase()) {
                "not in lower case"
            } else if scale(self.line(5, event)).is_none() {
                "no scale"
            } else {
                continue;
            };
            return Err(Error::damaged(&self.model, format_args!("{name:?}: {wrong}")));
        }
        Ok(())
    }

    /// Name of the CPU model, as the kernel's source calls it.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// How many events there are, on all PMUs.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The events of that name, whatever its case: more than one if several PMUs have
    /// it, as with the two kinds of cores of a hybrid CPU.
    pub fn find(&self, name: &str) -> impl Iterator<Item = Event<'_>> {
        let name = name.to_ascii_lowercase();
        let first = self.partition(|event| event.cmp(&*name) == Ordering::Less);
        let end = self.partition(|event| event.cmp(&*name) != Ordering::Greater);
        self.events(first..end)
    }

    /// All events, sorted by name, then PMU.
    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        self.events(0..self.len())
    }

    /// What it counts, in the vendor's words, in a line; `None` if the vendor says
    /// nothing. The first call decodes the descriptions of all models, some 10 ms.
    pub fn description(&self, event: &Event<'_>) -> Result<Option<&str>, Error> {
        self.text(event.texts[0])
    }

    /// The same at length; `None` if there is no more to say.
    pub fn long_description(&self, event: &Event<'_>) -> Result<Option<&str>, Error> {
        self.text(event.texts[1])
    }

    fn text(&self, number: Option<u32>) -> Result<Option<&str>, Error> {
        let Some(number) = number else { return Ok(None) };
        let (text, starts) = match self.decoded_texts.get() {
            Some(decoded) => decoded,
            None => {
                let decoded = self.texts.decode()?;
                self.decoded_texts.get_or_init(|| decoded)
            }
        };
        line(text, starts, number as usize)
            .map(Some)
            .ok_or_else(|| Error::damaged(&self.model, format_args!("there is no text {number}")))
    }

    /// The first event that is not (any more) as asked.
    fn partition(&self, before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.line(0, middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn events(&self, range: Range<usize>) -> impl Iterator<Item = Event<'_>> {
        range.map(|event| self.event(event))
    }

    fn event(&self, event: usize) -> Event<'_> {
        let flags = self.line(4, event);
        let (scale, unit) = scale(self.line(5, event)).unwrap_or((1.0, None));
        let unless_empty = |column| Some(self.line(column, event)).filter(|text| !text.is_empty());
        Event {
            name: self.line(0, event),
            pmu: self.line(1, event),
            terms: self.line(2, event),
            topic: self.line(3, event),
            unit,
            scale,
            per_package: flags.contains('g'),
            deprecated: flags.contains('d'),
            precise: if flags.contains('P') {
                Precise::Must
            } else if flags.contains('p') {
                Precise::Can
            } else {
                Precise::Unsaid
            },
            data_address: flags.contains('a'),
            errata: unless_empty(6),
            compatible: unless_empty(7),
            texts: self.numbers.get(event).copied().unwrap_or_default(),
        }
    }

    /// A column of an event.
    fn line(&self, column: usize, event: usize) -> &str {
        // Both are in range: `starts` has a line for each.
        line(&self.lines, &self.starts, column * self.len() + event).unwrap_or_default()
    }
}

/// A line without its end.
fn line<'t>(text: &'t str, starts: &[u32], number: usize) -> Option<&'t str> {
    let start = *starts.get(number)? as usize;
    let end = *starts.get(number.checked_add(1)?)? as usize;
    text.get(start..end.checked_sub(1)?)
}

/// Factor and unit.
fn scale(text: &str) -> Option<(f64, Option<&str>)> {
    if text.is_empty() {
        return Some((1.0, None));
    }
    let (factor, unit) = text.split_once(' ')?;
    let factor: f64 = factor.parse().ok().filter(|f: &f64| f.is_finite())?;
    Some((factor, Some(unit).filter(|unit| !unit.is_empty())))
}
