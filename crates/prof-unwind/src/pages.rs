//! Rows laid out in pages.

use crate::cfi::Function;
use crate::cfi::Step;
use crate::error::Error;
use crate::rule::RuleSet;
use crate::table::Limits;
use crate::table::PAGE_BITS;
use crate::table::Row;

/// The rows of all pages, and where those of each begin.
type Pages = (Vec<Row>, Vec<u32>);

/// Lays out functions. Where they overlap, the one that starts later holds: a search
/// for the last that starts before an address would find it.
pub(crate) fn lay_out(
    mut functions: Vec<Function>,
    steps: &[Step],
    end: u64,
    limits: &Limits,
) -> Result<Pages, Error> {
    // Linkers keep them in order, nearly.
    functions.sort_by_key(|f| f.offset);
    let mut writer = Writer {
        rows: Vec::with_capacity(steps.len() + functions.len() / 2),
        starts: vec![0],
        rule: RuleSet::NONE,
        limits,
    };
    let mut next = functions.iter().map(|f| f.offset).skip(1);
    for function in &functions {
        let own = function.offset + u64::from(function.size);
        let stop = next.next().map_or(own, |next| next.min(own));
        let (first, count) = (function.first as usize, function.steps as usize);
        for step in steps.get(first..first + count).unwrap_or_default() {
            let at = function.offset + u64::from(step.at);
            if at >= stop {
                break;
            }
            writer.set(at, step.rule)?;
        }
        if stop == own {
            writer.set(stop, RuleSet::NONE)?;
        }
    }
    writer.finish(end)
}

struct Writer<'a> {
    rows: Vec<Row>,
    /// Where each page begins; the last is the one that is being written.
    starts: Vec<u32>,
    /// What holds at the place that was written last.
    rule: u16,
    limits: &'a Limits,
}

impl Writer<'_> {
    /// From this offset on a rule holds. Offsets do not go down.
    fn set(&mut self, offset: u64, rule: u16) -> Result<(), Error> {
        self.turn_to(offset >> PAGE_BITS)?;
        let pc_low = offset as u16;
        let start = self.starts.last().map_or(0, |start| *start as usize);
        let page = self.rows.get(start..).unwrap_or_default();
        match page.last() {
            None if rule == RuleSet::NONE => {}
            None => {
                if pc_low > 0 {
                    self.push(Row { pc_low: 0, rule: RuleSet::NONE })?;
                }
                self.push(Row { pc_low, rule })?;
            }
            // A function of which nothing is left, or that follows on the last one.
            Some(last) if last.pc_low == pc_low => {
                self.rows.pop();
                let before = self.rows.get(start..).unwrap_or_default().last();
                if before.map_or(RuleSet::NONE, |row| row.rule) != rule {
                    self.push(Row { pc_low, rule })?;
                }
            }
            Some(last) if last.rule == rule => {}
            Some(_) => self.push(Row { pc_low, rule })?,
        }
        self.rule = rule;
        Ok(())
    }

    /// Begins the pages up to this one.
    fn turn_to(&mut self, page: u64) -> Result<(), Error> {
        while (self.starts.len() as u64) <= page {
            self.starts.push(self.rows.len() as u32);
            if self.rule != RuleSet::NONE {
                self.push(Row { pc_low: 0, rule: self.rule })?;
            }
        }
        Ok(())
    }

    fn push(&mut self, row: Row) -> Result<(), Error> {
        if self.rows.len() as u64 >= self.limits.rows.min(u64::from(u32::MAX)) {
            return Err(Error::TooMuch("rows", self.limits.rows));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Ends the last page that has code.
    fn finish(mut self, end: u64) -> Result<Pages, Error> {
        let pages = end.div_ceil(1 << PAGE_BITS);
        if let Some(last) = pages.checked_sub(1) {
            self.turn_to(last)?;
        }
        self.starts.truncate(pages as usize);
        self.starts.push(self.rows.len() as u32);
        self.rows.shrink_to_fit();
        Ok((self.rows, self.starts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows<'a> = &'a [(u32, u16)];

    /// Functions of (offset, size, rows).
    fn pages(functions: &[(u64, u32, Rows<'_>)], end: u64) -> Vec<Vec<(u16, u16)>> {
        let (mut all, mut steps) = (Vec::new(), Vec::new());
        for (offset, size, rows) in functions {
            let (first, count) = (steps.len() as u32, rows.len() as u32);
            all.push(Function { offset: *offset, size: *size, first, steps: count });
            steps.extend(rows.iter().map(|(at, rule)| Step { at: *at, rule: *rule }));
        }
        let (rows, starts) = lay_out(all, &steps, end, &Limits::default()).unwrap();
        let page = |w: &[u32]| rows[w[0] as usize..w[1] as usize].to_vec();
        starts.windows(2).map(|w| page(w).iter().map(|r| (r.pc_low, r.rule)).collect()).collect()
    }

    #[test]
    fn holes_and_order() {
        let found = pages(&[(0x200, 0x20, &[(0, 5), (4, 6)]), (0x100, 0x20, &[(0, 5)])], 0x300);
        assert_eq!(
            found,
            [vec![(0, 0), (0x100, 5), (0x120, 0), (0x200, 5), (0x204, 6), (0x220, 0)]]
        );
    }

    #[test]
    fn functions_that_follow_on_each_other() {
        let found = pages(&[(0, 0x10, &[(0, 5), (8, 6)]), (0x10, 0x10, &[(0, 6), (8, 5)])], 0x20);
        assert_eq!(found, [vec![(0, 5), (8, 6), (0x18, 5), (0x20, 0)]]);
    }

    #[test]
    fn a_function_over_pages_is_repeated_at_their_start() {
        let found = pages(&[(0xfff0, 0x20020, &[(0, 5), (0x10, 6)])], 0x40000);
        assert_eq!(
            found,
            [vec![(0, 0), (0xfff0, 5)], vec![(0, 6)], vec![(0, 6)], vec![(0, 6), (0x10, 0)]]
        );
    }

    #[test]
    fn a_function_that_ends_with_its_page() {
        let found = pages(&[(0xfff0, 0x10, &[(0, 5)]), (0x20000, 4, &[(0, 5)])], 0x20010);
        assert_eq!(found, [vec![(0, 0), (0xfff0, 5)], vec![], vec![(0, 5), (4, 0)]]);
        // The rule of the page before does not hold in the next one.
        let found = pages(&[(0xfff0, 0x10, &[(0, 5)]), (0x10004, 4, &[(0, 5)])], 0x10010);
        assert_eq!(found, [vec![(0, 0), (0xfff0, 5)], vec![(0, 0), (4, 5), (8, 0)]]);
        // And nothing of it is left where the code ends there.
        assert_eq!(pages(&[(0xfff0, 0x10, &[(0, 5)])], 0x10000), [vec![(0, 0), (0xfff0, 5)]]);
    }

    #[test]
    fn of_functions_that_overlap_the_later_holds_to_its_end() {
        let found = pages(&[(0, 0x100, &[(0, 5), (0x50, 7)]), (0x40, 0x10, &[(0, 6)])], 0x100);
        assert_eq!(found, [vec![(0, 5), (0x40, 6), (0x50, 0)]]);
        let found = pages(&[(0, 0x10, &[(0, 5)]), (0, 0x20, &[(0, 6)])], 0x20);
        assert_eq!(found, [vec![(0, 6), (0x20, 0)]]);
    }

    #[test]
    fn rows_have_a_limit() {
        let functions = vec![Function { offset: 0, size: u32::MAX, first: 0, steps: 1 }];
        let limits = Limits { rows: 1000, ..Limits::default() };
        let pages = lay_out(functions, &[Step { at: 0, rule: 5 }], 1 << 40, &limits);
        assert!(matches!(pages, Err(Error::TooMuch("rows", 1000))));
    }
}
