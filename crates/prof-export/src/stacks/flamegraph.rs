//! The `flamegraph` format: an SVG that can be searched and zoomed in, with all that it
//! needs inside; in one HTML page if the file is called `.html`.
//!
//! The kernel's functions are blue, inlined ones yellow, the others red to orange, and
//! what is said of a stack itself is grey.

use std::io;
use std::io::Write;

use inferno::flamegraph;
use inferno::flamegraph::color::Color;
use inferno::flamegraph::color::PaletteMap;
use prof_model::stacks::StackProfile;

use super::StackOptions;
use super::folded;
use super::names;
use super::names::Origin;
use crate::human;

/// Most that all weights may be together: what a page counts in is a double.
const MOST: u128 = 1 << 53;

/// Writes one event of a profile; and with time on the CPU that off it.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    let title = title(profile, options);
    let svg = svg(profile, options, &title)?;
    if options.ends_with("html") || options.ends_with("htm") {
        out.write_all(page(&title, &svg).as_bytes())?;
    } else {
        out.write_all(svg.as_bytes())?;
    }
    out.flush()
}

fn svg(profile: &StackProfile, options: &StackOptions, title: &str) -> io::Result<String> {
    let (sums, spelled) = folded::lines(profile, options);
    let total: u128 = sums.values().map(|w| u128::from(*w)).sum();
    let Some(event) = options.event_of(profile).filter(|_| total > 0) else {
        return Ok(nothing(title));
    };
    let event = &profile.events[event as usize];
    let mut shift = 0;
    while total >> shift > MOST {
        shift += 1;
    }
    let lines: Vec<String> =
        sums.iter().map(|(stack, weight)| format!("{stack} {}", weight >> shift)).collect();
    if shift > 0 && sums.values().all(|w| w >> shift == 0) {
        return Ok(nothing(title));
    }
    let (unit, factor) = match super::is_time(event) {
        // Whole milliseconds say nothing of a short run.
        true if total < 10_000_000_000 => ("µs".to_owned(), 1e-3),
        true => ("ms".to_owned(), 1e-6),
        false => (names::clean(event.name.as_bytes()), 1.0),
    };
    let mut palette = PaletteMap::default();
    for (word, origin) in &spelled {
        palette.insert(word, color(word, *origin));
    }
    let mut o = flamegraph::Options::default();
    o.title = title.to_owned();
    o.count_name = unit;
    o.factor = factor * (1_u64 << shift) as f64;
    // What stands at the root is in no palette.
    o.deterministic = true;
    o.palette_map = Some(&mut palette);
    o.no_sort = true;
    o.text_truncate_direction = flamegraph::TextTruncateDirection::Right;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut o, lines.iter().map(String::as_str), &mut svg)?;
    String::from_utf8(svg).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Command, duration, number of samples.
fn title(profile: &StackProfile, options: &StackOptions) -> String {
    let drawn = options.drawn(profile);
    let count = profile.samples.iter().filter(|s| drawn.contains(&s.event)).count() as u64;
    let names: Vec<_> =
        drawn.iter().map(|e| names::clean(profile.events[*e as usize].name.as_bytes())).collect();
    let of = if names.is_empty() { String::new() } else { format!(" of {}", names.join(" and ")) };
    let mut parts = Vec::new();
    if !profile.command.is_empty() {
        parts.push(super::command(profile));
    }
    parts.push(human::duration(profile.duration_ns));
    parts.push(human::plural(count, "sample", "samples") + &of);
    parts.join(" – ")
}

/// A hue for each origin, and a shade for each name: the same in each graph.
fn color(word: &str, origin: Origin) -> Color {
    let shade =
        word.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let up_to = |n: u32, byte: u32| ((shade >> (8 * byte)) % n) as u8;
    match origin {
        Origin::Kernel => {
            Color { r: 80 + up_to(50, 0), g: 150 + up_to(50, 1), b: 215 + up_to(40, 2) }
        }
        Origin::Note => Color { r: 190, g: 190, b: 190 },
        Origin::User if word.ends_with("_[i]") => {
            Color { r: 225 + up_to(25, 0), g: 205 + up_to(40, 1), b: 60 + up_to(40, 2) }
        }
        Origin::User => Color { r: 205 + up_to(50, 0), g: 60 + up_to(75, 1), b: up_to(55, 2) },
    }
}

/// What is shown if there is nothing to show.
fn nothing(title: &str) -> String {
    let title = escape(title);
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\
         <svg version=\"1.1\" width=\"1200\" height=\"80\" xmlns=\"http://www.w3.org/2000/svg\">\
         <style type=\"text/css\">text {{ font-family:monospace; text-anchor:middle }}</style>\
         <text x=\"50%\" y=\"30\" font-size=\"17\">{title}</text>\
         <text x=\"50%\" y=\"60\" font-size=\"12\">No samples.</text></svg>\n"
    )
}

/// The SVG in a page. It is XML, too, so that whatever reads XML can check it.
fn page(title: &str, svg: &str) -> String {
    // What stands before it, a declaration and a document type, is for files.
    let svg = svg.find("<svg").map_or(svg, |at| &svg[at..]);
    let title = escape(title);
    // The handler of the SVG's `onload` names its argument `evt`, which in a page not
    // every browser gives it.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n\
         <meta charset=\"utf-8\"/>\n<title>{title}</title>\n\
         <style>body {{ margin: 0 }} body > svg {{ display: block; width: 100% }}</style>\n\
         <script>var evt;</script>\n</head>\n<body>\n{svg}\n</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
