//! The committed files, and how they are laid out.
//!
//! One file for each architecture, in `tables`:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | [`MAGIC`], which names the version of the layout |
//! | 4, 4 | length of the index, as stored and decoded, little-endian |
//! | rest | frames: first the index, then those that it names |
//!
//! A frame is one zstd frame with its checksum. What it holds is lines of UTF-8, each
//! ended by a newline. Those of the index are fields with tabs between:
//!
//! | line | fields |
//! |---|---|
//! | `texts` | how many; place |
//! | `model` | name; number of events; place |
//! | `x86` | vendor, family, first and last model number, mask of steppings, which `model` line |
//! | `midr` | MIDR, which `model` line |
//!
//! A place is offset (from the end of the index), length, and length decoded. `x86`
//! lines do not overlap; the first `midr` line counts. The frame of a model has, for
//! n events sorted by name, PMU and `compatible`, n lines for each of [`COLUMNS`], so that like is
//! beside like: it compresses better. The frame `texts` has a description in each
//! line, which models refer to by number: models share most of them.

use std::io::Read as _;

use ruzstd::decoding::StreamingDecoder;

use crate::cpu;
use crate::cpu::CpuId;
use crate::error::Error;
use crate::table::Table;

/// What a file begins with.
pub const MAGIC: &[u8; 8] = b"profpmu1";

/// What is known of an event, in the order of the columns.
///
/// `flags` are letters: `d` deprecated, `g` per package, `a` has the data's address,
/// `p` can be precise, `P` must be. `scale` is factor, space, unit. The last two are
/// numbers of texts, each as the difference to the one before in its column.
pub const COLUMNS: [&str; 10] = [
    "name",
    "pmu",
    "terms",
    "topic",
    "flags",
    "scale",
    "errata",
    "compatible",
    "description",
    "long_description",
];

/// Name of the model that stands for PMUs outside of CPUs, whatever the CPU.
pub const SYSTEM: &str = "system";

/// More than any frame holds: a damaged length must not take all memory.
const MAX_DECODED: usize = 32 << 20;

/// The window that the writer may use: as much as a frame may hold.
const MAX_WINDOW: u64 = MAX_DECODED as u64;

/// What has tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// Intel and AMD.
    X86,
    /// Arm, 64 bits.
    Arm64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86, Self::Arm64];

    /// As the kernel's source calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Arm64 => "arm64",
        }
    }

    /// Name of its file.
    pub fn file(self) -> String {
        format!("{}.tables", self.name())
    }

    /// The committed file; `None` if this was built without the feature
    /// `all-architectures`, for another one.
    pub fn bytes(self) -> Option<&'static [u8]> {
        match self {
            #[cfg(any(feature = "all-architectures", target_arch = "x86_64"))]
            Self::X86 => Some(include_bytes!("../tables/x86.tables")),
            #[cfg(any(feature = "all-architectures", target_arch = "aarch64"))]
            Self::Arm64 => Some(include_bytes!("../tables/arm64.tables")),
            #[allow(unreachable_patterns, reason = "depends on the feature")]
            _ => None,
        }
    }
}

/// A CPU model that has a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Model {
    /// As the kernel's source calls it: `sapphirerapids`, `arm/neoverse-n1`.
    pub name: String,
    /// How many events it has, on all PMUs.
    pub events: usize,
    place: Place,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    offset: usize,
    len: usize,
    decoded: usize,
}

#[derive(Debug)]
enum Rule {
    X86 { vendor: String, family: u32, models: (u32, u32), steppings: u32, model: usize },
    Midr { midr: u64, model: usize },
}

/// One such file, its index decoded.
#[derive(Debug)]
pub struct Archive<'a> {
    /// After the index.
    frames: &'a [u8],
    models: Vec<Model>,
    rules: Vec<Rule>,
    texts: (usize, Place),
}

impl<'a> Archive<'a> {
    /// Decodes the index of a file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let head = || {
            let rest = bytes.strip_prefix(MAGIC)?;
            let (len, rest) = rest.split_first_chunk()?;
            let (decoded, rest) = rest.split_first_chunk()?;
            let place = Place {
                offset: 0,
                len: u32::from_le_bytes(*len) as usize,
                decoded: u32::from_le_bytes(*decoded) as usize,
            };
            Some((place, rest))
        };
        let (place, rest) =
            head().ok_or_else(|| Error::damaged("head", "not of this version, or cut off"))?;
        let index = decode(rest, place, "index")?;
        let frames = rest.get(place.len..).unwrap_or_default();
        let mut archive = Self {
            frames,
            models: Vec::new(),
            rules: Vec::new(),
            texts: (0, Place { offset: 0, len: 0, decoded: 0 }),
        };
        for (number, line) in index.lines().enumerate() {
            archive.read_line(line).ok_or_else(|| {
                Error::damaged("index", format_args!("line {}: {line:?}", number + 1))
            })?;
        }
        Ok(archive)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |text: &str| text.parse::<usize>().ok();
        let small = |text: &str| text.parse::<u32>().ok();
        let place = |offset: &str, len: &str, decoded: &str| {
            Some(Place { offset: number(offset)?, len: number(len)?, decoded: number(decoded)? })
        };
        // Models come first, so a rule's is known.
        let model = |text: &str| number(text).filter(|m| *m < self.models.len());
        match fields[..] {
            ["texts", count, offset, len, decoded] => {
                self.texts = (number(count)?, place(offset, len, decoded)?);
            }
            ["model", name, events, offset, len, decoded] => self.models.push(Model {
                name: name.to_owned(),
                events: number(events)?,
                place: place(offset, len, decoded)?,
            }),
            ["x86", vendor, family, first, last, steppings, of] => self.rules.push(Rule::X86 {
                vendor: vendor.to_owned(),
                family: small(family)?,
                models: (small(first)?, small(last)?),
                steppings: u32::try_from(cpu::hexadecimal(steppings)?).ok()?,
                model: model(of)?,
            }),
            ["midr", midr, of] => {
                self.rules.push(Rule::Midr { midr: cpu::hexadecimal(midr)?, model: model(of)? });
            }
            _ => return None,
        }
        Some(())
    }

    /// The models that have tables, in the order of their names.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model that a CPU is of.
    pub fn model_of(&self, cpu: &CpuId) -> Option<&Model> {
        let fits = |rule: &Rule| match (rule, cpu) {
            (
                Rule::X86 { vendor, family, models, steppings, model: of },
                CpuId::X86 { vendor: v, family: f, model, stepping },
            ) => (vendor == v
                && family == f
                && (models.0..=models.1).contains(model)
                && steppings.checked_shr(*stepping).is_some_and(|s| s & 1 == 1))
            .then_some(*of),
            (Rule::Midr { midr, model: of }, CpuId::Arm64 { midr: m }) => {
                cpu::midr_is_at_least(*m, *midr).then_some(*of)
            }
            _ => None,
        };
        self.models.get(self.rules.iter().find_map(fits)?)
    }

    /// The model of that name.
    pub fn model_named(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|m| m.name == name)
    }

    /// Decodes the events of one of this file's models.
    pub fn table(&self, model: &Model) -> Result<Table<'a>, Error> {
        let lines = decode(self.frames, model.place, &model.name)?;
        Table::new(model, lines, Texts { frames: self.frames, which: self.texts })
    }
}

/// The texts of a file, not decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Texts<'a> {
    frames: &'a [u8],
    which: (usize, Place),
}

impl Texts<'_> {
    /// All texts, and where each line begins, and the end.
    pub(crate) fn decode(self) -> Result<(String, Vec<u32>), Error> {
        let (count, place) = self.which;
        let text = decode(self.frames, place, "texts")?;
        let starts = line_starts(&text, count, "texts")?;
        Ok((text, starts))
    }
}

/// Where each line begins, and the end; fails if there are not that many.
pub(crate) fn line_starts(text: &str, count: usize, place: &str) -> Result<Vec<u32>, Error> {
    let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at as u32 + 1);
    let starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
    let whole = starts.last().is_some_and(|end| *end as usize == text.len());
    if !whole || starts.len() - 1 != count {
        let there = starts.len() - 1;
        return Err(Error::damaged(place, format_args!("{there} lines instead of {count}")));
    }
    Ok(starts)
}

/// The text that a frame holds; `name` is for the error.
fn decode(frames: &[u8], place: Place, name: &str) -> Result<String, Error> {
    let end = place.offset.checked_add(place.len);
    let frame = end
        .and_then(|end| frames.get(place.offset..end))
        .ok_or_else(|| Error::damaged(name, "cut off"))?;
    if place.decoded > MAX_DECODED {
        return Err(Error::damaged(name, format_args!("{} bytes long", place.decoded)));
    }
    let mut decoder = StreamingDecoder::new_with_max_window_size(frame, MAX_WINDOW)
        .map_err(|error| Error::damaged(name, error))?;
    let mut bytes = Vec::with_capacity(place.decoded);
    // One more than there should be, to see whether there is.
    decoder
        .by_ref()
        .take(place.decoded as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::damaged(name, error))?;
    if bytes.len() != place.decoded {
        return Err(Error::damaged(name, "not as long as it should be"));
    }
    let decoder = decoder.into_frame_decoder();
    let sum = decoder.get_checksum_from_data();
    if sum.is_none() || sum != decoder.get_calculated_checksum() {
        return Err(Error::damaged(name, "wrong checksum"));
    }
    String::from_utf8(bytes).map_err(|error| Error::damaged(name, error))
}
