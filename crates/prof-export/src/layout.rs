//! Text in columns: what is shown has been made fit for a terminal before.

use anstyle::AnsiColor;
use anstyle::Style;
use unicode_width::UnicodeWidthChar;
use unicode_width::UnicodeWidthStr;

pub const PLAIN: Style = Style::new();
pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
pub const LOUD: Style = AnsiColor::Red.on_default().bold();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const BAR: Style = AnsiColor::Cyan.on_default();

/// `text`, in this style if colours are wanted.
pub fn paint(color: bool, style: Style, text: &str) -> String {
    if color && style != PLAIN && !text.is_empty() {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

/// Columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The start of `text` in at most `max` columns; `…` tells that it was cut.
pub fn fit(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > max {
            break;
        }
        used += w;
        out.push(c);
    }
    if max > 0 {
        out.push('…');
    }
    out
}

/// The end of `text` in at most `max` columns: of a path it tells more than the
/// start.
pub fn fit_end(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mut used = 1;
    let mut from = text.len();
    for (i, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > max {
            break;
        }
        from = i;
    }
    if max == 0 { String::new() } else { format!("…{}", &text[from..]) }
}

/// Text to columns of `max`, at spaces; lines after the first begin with
/// `indent`.
pub fn wrap(text: &str, max: usize, indent: &str) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let w = width(word);
        if used > 0 && used + 1 + w > max {
            out.push('\n');
            out.push_str(indent);
            used = width(indent);
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += w;
    }
    out
}

/// What stands in one place of a table: spans, each with its style.
#[derive(Debug, Clone, Default)]
pub struct Cell(Vec<(Style, String)>);

impl Cell {
    pub fn new(style: Style, text: impl Into<String>) -> Self {
        Self(vec![(style, text.into())])
    }

    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(PLAIN, text)
    }

    #[must_use]
    pub fn and(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    fn width(&self) -> usize {
        self.0.iter().map(|(_, t)| width(t)).sum()
    }

    /// In exactly `max` columns.
    fn render(&self, max: usize, align: Align, color: bool) -> String {
        let mut over = self.width().saturating_sub(max);
        let mut spans = self.0.clone();
        // The longest span gives first: it is the text, the others are marks.
        while over > 0 {
            let Some(i) = (0..spans.len()).max_by_key(|i| width(&spans[*i].1)) else { break };
            let (_, span) = &mut spans[i];
            let w = width(span);
            if w == 0 {
                break;
            }
            let keep = w.saturating_sub(over);
            *span = if align == Align::LeftKeepEnd { fit_end(span, keep) } else { fit(span, keep) };
            over = over.saturating_sub(w - width(span));
        }
        // A wide character that did not fit leaves a column more than was asked.
        let used: usize = spans.iter().map(|(_, t)| width(t)).sum();
        let spare = max.saturating_sub(used);
        let painted: String = spans.iter().map(|(s, t)| paint(color, *s, t)).collect();
        match align {
            Align::Right => " ".repeat(spare) + &painted,
            Align::Left | Align::LeftKeepEnd => painted + &" ".repeat(spare),
        }
    }
}

/// Where a column puts its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    /// Left, and what is too long loses its start.
    LeftKeepEnd,
    Right,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    pub title: String,
    pub align: Align,
    /// When the terminal is narrow, the column with the highest rank goes first;
    /// those with 0 stay.
    pub rank: u8,
}

impl Column {
    pub fn right(title: impl Into<String>, rank: u8) -> Self {
        Self { title: title.into(), align: Align::Right, rank }
    }

    pub fn left(title: impl Into<String>, rank: u8) -> Self {
        Self { title: title.into(), align: Align::Left, rank }
    }
}

/// Columns between two columns.
const GAP: usize = 2;

/// A table within `max` columns: columns are as wide as their content, the first
/// takes what is left, and before it gets less than `first_min`, others go.
pub fn table(
    columns: &[Column],
    rows: &[Vec<Cell>],
    max: usize,
    first_min: usize,
    color: bool,
) -> String {
    table_and_gone(columns, rows, max, first_min, color).0
}

/// A table that is for no terminal: all columns, and all of each cell. They stay in line as
/// far as they fit in `max`; what is longer moves the rest of its row.
pub fn whole_table(columns: &[Column], rows: &[Vec<Cell>], max: usize, color: bool) -> String {
    let content = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(Cell::width).max().unwrap_or(0);
        cells.max(width(&columns[i].title))
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(content).collect();
    let others: usize = widths.iter().skip(1).map(|w| w + GAP).sum();
    if let Some(first) = widths.first_mut() {
        *first = (*first).min(max.saturating_sub(others).max(max / 2));
    }
    let heads: Vec<Cell> = columns.iter().map(|c| Cell::new(BOLD, c.title.clone())).collect();
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let cells = row.iter().zip(&widths).zip(columns);
        let cells: Vec<String> =
            cells.map(|((c, w), of)| c.render((*w).max(c.width()), of.align, color)).collect();
        out.push_str(cells.join(&" ".repeat(GAP)).trim_end());
        out.push('\n');
    }
    out
}

/// As [`table`], and which columns went.
pub fn table_and_gone(
    columns: &[Column],
    rows: &[Vec<Cell>],
    max: usize,
    first_min: usize,
    color: bool,
) -> (String, Vec<usize>) {
    let content = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(Cell::width).max().unwrap_or(0);
        cells.max(width(&columns[i].title))
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(content).collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let first_wanted = widths.first().copied().unwrap_or(0);
    let left_for_first = |shown: &[usize], widths: &[usize]| {
        let others: usize = shown.iter().skip(1).map(|i| widths[*i] + GAP).sum();
        max.saturating_sub(others)
    };
    while left_for_first(&shown, &widths) < first_wanted.min(first_min) {
        let goes = shown.iter().copied().filter(|i| columns[*i].rank > 0);
        let Some(goes) = goes.max_by_key(|i| columns[*i].rank) else { break };
        shown.retain(|i| *i != goes);
    }
    if let Some(first) = shown.first() {
        // Never nothing at all: better a line too long than one without a name.
        widths[*first] = first_wanted.min(left_for_first(&shown, &widths).max(8));
    }
    let heads: Vec<Cell> = columns.iter().map(|c| Cell::new(BOLD, c.title.clone())).collect();
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let cells: Vec<String> = shown
            .iter()
            .filter_map(|i| Some(row.get(*i)?.render(widths[*i], columns[*i].align, color)))
            .collect();
        out.push_str(cells.join(&" ".repeat(GAP)).trim_end());
        out.push('\n');
    }
    let gone = (0..columns.len()).filter(|i| !shown.contains(i)).collect();
    (out, gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_columns_not_bytes() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(fit_end("/usr/lib/cc1", 6), "…b/cc1");
        assert_eq!(fit_end("日本語", 4), "…語");
    }

    #[test]
    fn words_wrap_with_an_indent() {
        assert_eq!(wrap("one two three", 7, "  "), "one two\n  three");
        assert_eq!(wrap("toolongtobreak x", 4, " "), "toolongtobreak\n x");
    }

    #[test]
    fn a_narrow_table_loses_columns_by_rank_and_then_cuts_names() {
        let columns = [
            Column::left("NAME", 0),
            Column::right("A", 1),
            Column::right("B", 2),
            Column::right("C", 0),
        ];
        let cell = Cell::plain;
        let rows = [vec![cell("process-one"), cell("111"), cell("222"), cell("333")]];
        let at = |w| table(&columns, &rows, w, 8, false);
        assert_eq!(at(40), "NAME           A    B    C\nprocess-one  111  222  333\n");
        assert_eq!(at(18), "NAME        A    C\nprocess…  111  333\n");
        assert_eq!(at(17), "NAME           C\nprocess-one  333\n");
        assert_eq!(at(5), "NAME        C\nprocess…  333\n");
    }

    #[test]
    fn a_whole_table_loses_nothing() {
        let columns = [Column::left("NAME", 0), Column::right("A", 1), Column::left("B", 2)];
        let cell = Cell::plain;
        let rows = [
            vec![cell("a name that is long"), cell("1"), cell("/x")],
            vec![cell("short"), cell("22"), cell("/a/longer/path")],
        ];
        assert_eq!(
            whole_table(&columns, &rows, 20, false),
            "NAME         A  B\na name that is long   1  /x\nshort       22  /a/longer/path\n"
        );
    }

    #[test]
    fn columns_stay_in_line_where_a_wide_character_is_cut() {
        let cell = Cell::plain("日本語").and(DIM, " +1");
        assert_eq!(cell.render(8, Align::Left, false), "日本… +1");
        assert_eq!(cell.render(7, Align::Left, false), "日… +1 ");
        assert_eq!(cell.render(0, Align::Left, false), "");
    }

    #[test]
    fn colours_do_not_count_as_columns() {
        let columns = [Column::left("N", 0), Column::right("V", 0)];
        let rows = [vec![Cell::new(BAD, "x"), Cell::plain("1")]];
        let plain = table(&columns, &rows, 20, 4, false);
        let colored = table(&columns, &rows, 20, 4, true);
        assert_eq!(plain, "N  V\nx  1\n");
        assert_eq!(colored, "\u{1b}[1mN\u{1b}[0m  \u{1b}[1mV\u{1b}[0m\n\u{1b}[31mx\u{1b}[0m  1\n");
    }
}
